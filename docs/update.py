"""Bring the numbers and the figures of README.md up to date.

    python docs/update.py           # all lessons
    python docs/update.py 02 05     # only these

Each run of a lesson is a process of its own, `python FILE`, in a temporary folder, and with the
lesson's defaults. Its time thus includes imports, data, training, and figure.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
NUMBER = r"\d[\d,]*\.\d+"

LESSONS = {path.name[:2]: path for path in sorted(ROOT.glob("[0-9][0-9]_*.py"))}
# The lessons that have a row in the table of results, and how many runs it summarizes, with seeds
# 0, 1, ... The others run once, for figure and time. The figure is always that of seed 0.
RUNS = {"02": 5, "05": 5, "06": 5, "07": 3, "08": 5, "09": 3, "10": 5}
# The dataset that a lesson is reported on (default: its own), and how README writes some names
DATASETS = {"07": "cifar10", "08": "digits", "09": "mnist"}
NAMES = {"cifar10": "CIFAR-10", "mnist": "MNIST"}


def run(lesson: Path, flags: list[str], folder: Path) -> str:
    """Run a lesson in `folder`; return what it printed, also if it failed."""
    result = subprocess.run(
        [sys.executable, str(lesson), *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUTF8": "1"},
        encoding="utf-8",
    )
    return result.stdout


def read_result(output: str) -> tuple[str, str]:
    """Return a lesson's result, which is the line before "Figure:", and the dataset at its end."""
    found = re.search(r"^(.+) \(([^()]+)\)\nFigure: ", output, re.MULTILINE)
    return found.groups() if found else sys.exit(output)


def average(results: list[str]) -> str:
    """Return the result with each number replaced by mean ± standard deviation."""
    columns = iter(zip(*(re.findall(NUMBER, result) for result in results)))

    def replace(match: re.Match) -> str:
        decimals = len(match.group().rpartition(".")[2])
        values = [float(number.replace(",", "")) for number in next(columns)]
        mean = f"{statistics.mean(values):.{decimals}f}"
        if max(values) == min(values):
            return mean
        return f"{mean} ± {statistics.stdev(values):.{decimals}f}"

    return re.sub(NUMBER, replace, results[0])


def format_time(seconds: float) -> str:
    """Return a time as a reader wants to know it: 8 s, or 4 min."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def replace_time(text: str, number: str, time: str) -> str:
    """Return README's text with this time in the last cell of the lesson's row."""
    return re.sub(
        rf"^(\| \[{number}_.+\| ).*( \|)$", rf"\g<1>{time}\g<2>", text, flags=re.MULTILINE
    )


def replace_row(text: str, number: str, row: str) -> str:
    """Return README's text with this row in the table of results, between its two markers."""
    before, table, after = re.split("(?<=<!-- results -->)|(?=<!-- /results -->)", text)
    head, *rows = table.strip().splitlines(keepends=False)[1:]
    rows = [old for old in rows if not old.startswith(f"| {number} |")]
    header = "| Lesson | Data | Result |"
    table = "\n".join([header, head, *sorted([*rows, f"| {number} | {row} |"])])
    return f"{before}\n\n{table}\n\n{after}"


def update(number: str, flags: list[str]) -> None:
    """Run a lesson with each of its seeds; write its figure, its time, and its row of results."""
    lesson = LESSONS[number]
    results, seconds = [], []
    for seed in range(RUNS.get(number, 1)):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            output = run(lesson, [*flags, "--seed", str(seed)], Path(folder))
            seconds.append(time.perf_counter() - start)
            result, data = read_result(output)
            results.append(result)
            if seed == 0:
                shutil.copy(Path(folder, "outputs", f"{lesson.stem}.png"), IMAGES)
        print(f"{lesson.name}, seed {seed}: {seconds[-1]:.1f} s, {result}", flush=True)
    text = replace_time(README.read_text("utf-8"), number, format_time(statistics.median(seconds)))
    if number in RUNS:
        row = f"{NAMES.get(data, data)} | {average(results)}"
        text = replace_row(text, number, row)
        print(row, flush=True)
    README.write_text(text, "utf-8", newline="\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", metavar="NN", help="lessons (default: all)")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data", help="for lessons 07-09")
    args = parser.parse_args(argv)
    args.lessons = args.lessons or list(LESSONS)
    if not set(args.lessons) <= set(LESSONS):
        parser.error(f"lessons must be among {' '.join(LESSONS)}")
    return args


def data_flags(number: str, data_dir: Path) -> list[str]:
    """Return the flags that choose the dataset that a lesson is reported on."""
    if number not in DATASETS:
        return []
    return ["--dataset", DATASETS[number], "--data-dir", str(data_dir.resolve())]


def main(argv: list[str] | None = None) -> None:
    """Update each lesson's figure, time, and results."""
    args = parse_args(argv)
    for number in args.lessons:
        update(number, data_flags(number, args.data_dir))
    torch = importlib.metadata.version("torch")
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}, {platform.system()})"
    print(f"\n{machine}, Python {platform.python_version()}, torch {torch}")


if __name__ == "__main__":
    main()
