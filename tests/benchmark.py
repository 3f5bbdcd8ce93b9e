"""Run lessons as a user does, and print the table of results that appears in README.md.

Each run is a process of its own, `python FILE` with the lesson's defaults, so the seconds include
imports, data, training, and figure. Results are the mean and the standard deviation over seeds,
seconds the median.

    python tests/benchmark.py --dataset digits --seeds 5
    python tests/benchmark.py 07 09 --data-dir DIR --seeds 3
    python tests/benchmark.py --dataset digits --images docs/images
"""

import argparse
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
LESSONS = sorted(ROOT.glob("[0-9][0-9]_*.py"))
NUMBER = r"\d[\d,]*\.\d+"


def run(command: list[str]) -> tuple[str, float]:
    """Run a command; return what it printed and the seconds. Raises RuntimeError if it fails."""
    start = time.perf_counter()
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUTF8": "1"},
        encoding="utf-8",
    )
    seconds = time.perf_counter() - start
    if result.returncode != 0:
        command = " ".join(command)
        raise RuntimeError(f"{command} exited with {result.returncode}:\n{result.stdout}")
    return result.stdout, seconds


def read_head(output: str) -> tuple[str, str]:
    """Return the device and the data from the line that opens a lesson's output."""
    return re.search(r"^\d\d .* \| device: (\S+) \| data: (.*)$", output, re.MULTILINE).groups()


def read_result(output: str) -> str:
    """Return a lesson's result: the line before "Figure:", without the dataset at its end."""
    return re.search(r"^(.+) \([^()]+\)\nFigure: ", output, re.MULTILINE).group(1)


def average(results: list[str]) -> str:
    """Return the result with each number replaced by mean ± standard deviation."""
    columns = iter(zip(*(re.findall(NUMBER, result) for result in results)))

    def replace(match: re.Match) -> str:
        decimals = len(match.group().rpartition(".")[2])
        values = [float(number.replace(",", "")) for number in next(columns)]
        mean = f"{statistics.mean(values):.{decimals}f}"
        if len(values) == 1 or max(values) == min(values):
            return mean
        return f"{mean} ± {statistics.stdev(values):.{decimals}f}"

    return re.sub(NUMBER, replace, results[0])


def measure(lesson: Path, arguments: list[str], n_seeds: int) -> str:
    """Run a lesson with each seed, and return its row of the table."""
    command = [sys.executable, str(lesson), *arguments, "--seed"]
    runs = [run([*command, str(seed)]) for seed in reversed(range(n_seeds))]  # seed 0 comes last
    _, data = read_head(runs[0][0])
    result = average([read_result(output) for output, _ in runs])
    seconds = statistics.median(seconds for _, seconds in runs)
    return f"| {lesson.stem[:2]} | {data.partition(',')[0]} | {result} | {seconds:.0f} |"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    numbers = [lesson.name[:2] for lesson in LESSONS]
    parser.add_argument("lessons", nargs="*", metavar="NN", help="lessons (default: all)")
    parser.add_argument("--dataset", help="for lessons 07-09: auto, digits, ...")
    parser.add_argument("--data-dir", type=Path, help="for lessons 07-09")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each lesson: seeds 0, 1, ...")
    parser.add_argument("--images", type=Path, help="folder to copy the figures of seed 0 to")
    args = parser.parse_args(argv)
    args.lessons = args.lessons or numbers
    if args.seeds < 1 or not set(args.lessons) <= set(numbers):
        parser.error(f"--seeds must be at least 1, and lessons among {' '.join(numbers)}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the lessons and print the table."""
    args = parse_args(argv)
    print("| lesson | data | result | seconds |")
    print("| --- | --- | --- | ---: |")
    for lesson in LESSONS:
        if lesson.name[:2] not in args.lessons:
            continue
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--output-dir", folder]
            source = lesson.read_text(encoding="utf-8")
            for flag, value in (("--dataset", args.dataset), ("--data-dir", args.data_dir)):
                if value is not None and f'"{flag}"' in source:
                    arguments += [flag, str(value)]
            if '"--log-dir"' in source:
                arguments += ["--log-dir", folder]
            print(measure(lesson, arguments, args.seeds), flush=True)
            if args.images:
                shutil.copy(Path(folder, f"{lesson.stem}.png"), args.images)
    system = f"{os.cpu_count()} CPU cores ({platform.machine()}, {platform.system()})"
    code = "import torch; print(torch.__version__, 'CUDA:', torch.cuda.is_available())"
    versions = f"Python {platform.python_version()}, torch {run([sys.executable, '-c', code])[0]}"
    print(f"\n{system}, {versions.strip()}; seeds: {args.seeds}")


if __name__ == "__main__":
    main()
