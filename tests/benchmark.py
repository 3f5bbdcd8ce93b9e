"""Run lessons as a user does and print the table of results that stands in README.md.

Each run is a process of its own, `python FILE` with the lesson's defaults, so the seconds and the
memory are those of imports, data, training and figure together. Linux and macOS.

    python tests/benchmark.py --dataset digits
    python tests/benchmark.py 07 09 --dataset auto --runs 3
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(ROOT.glob("[0-9][0-9]_*.py"))

# A lesson's headline metric: the start of the result line that ends its output, as in
# "Test accuracy: 95.8% with logits, 61.8% with a softmax too many (8x8 digits)".
RESULT = r"^(Loss|Box error|Test accuracy|Best validation accuracy): ([\d.]+%?)( pixels)?"


class Run(NamedTuple):
    """What one run of a lesson printed, how long it took, and the most memory it held."""

    output: str
    seconds: float
    megabytes: float


def run(command: list[str]) -> Run:
    """Run a command to its end. Raises RuntimeError with what it printed where it fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        environment = {**os.environ, "PYTHONUTF8": "1"}
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)  # as wait(), and tells the memory
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return Run(text, seconds, usage.ru_maxrss * bytes_per_unit / 1e6)


def read_head(output: str) -> tuple[str, str]:
    """Return device and dataset from a lesson's first line."""
    return re.match(r".* \| device: (\S+) \| data: (.*)", output).groups()


def read_result(output: str) -> tuple[str, float, str]:
    """Return name, value and unit of a lesson's headline metric."""
    name, value, unit = re.search(RESULT, output, re.MULTILINE).groups(default="")
    return name, float(value.rstrip("%")), "%" if value.endswith("%") else unit


def measure(lesson: Path, arguments: list[str], n_runs: int) -> str:
    """Run a lesson and return its row of the table, of medians."""
    command = [sys.executable, str(lesson), *arguments]
    runs = [run(command) for _ in range(n_runs)]
    device, data = read_head(runs[0].output)
    results = [read_result(one.output) for one in runs]
    name, _, unit = results[0]
    value = statistics.median(result[1] for result in results)
    seconds = statistics.median(one.seconds for one in runs)
    megabytes = statistics.median(one.megabytes for one in runs)
    cells = (
        lesson.name,
        data,
        f"{name.lower()} {value:g}{unit}",
        f"{seconds:.1f}",
        f"{megabytes:.0f}",
    )
    return f"| {' | '.join([*cells, device])} |"


def describe_machine() -> str:
    """Return the machine, Python and torch in words."""
    # Another process asks torch: a process that is started from here counts as at least as large.
    code = (
        "import torch; print(torch.__version__); "
        "print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no CUDA')"
    )
    version, gpu = run([sys.executable, "-c", code]).output.splitlines()
    processor = f"{os.cpu_count()} CPU cores ({platform.machine()}, {platform.system()}), {gpu}"
    return f"{processor}, Python {platform.python_version()}, torch {version}"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, or the command line where it is None."""
    parser = argparse.ArgumentParser(
        description="Run lessons and print their results, wall times and memory as a table.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    numbers = [lesson.name[:2] for lesson in LESSONS]
    add = parser.add_argument
    add("lessons", nargs="*", metavar="NN", help="numbers of lessons; all where none is given")
    add("--dataset", metavar="NAME", help="for the lessons that have a choice: auto, digits, ...")
    add("--data-dir", type=Path, metavar="DIR", help="for the lessons that have a choice")
    add("--runs", type=int, default=1, metavar="N", help="runs of each lesson; medians are shown")
    args = parser.parse_args(argv)
    args.lessons = args.lessons or numbers
    if args.runs < 1 or not set(args.lessons) <= set(numbers):
        parser.error(f"--runs must be at least 1, and lessons among {' '.join(numbers)}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the lessons and print the table."""
    args = parse_args(argv)
    if not hasattr(os, "wait4"):
        sys.exit("The benchmark needs os.wait4, which this system lacks: use Linux or macOS.")
    print("| lesson | dataset | result | seconds | peak MB | device |")
    print("| --- | --- | --- | ---: | ---: | --- |")
    for lesson in LESSONS:
        if lesson.name[:2] not in args.lessons:
            continue
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--output-dir", folder]
            source = lesson.read_text(encoding="utf-8")
            for flag, value in (("--dataset", args.dataset), ("--data-dir", args.data_dir)):
                if value is not None and f'add("{flag}"' in source:
                    arguments += [flag, str(value)]
            if 'add("--log-dir"' in source:
                arguments += ["--log-dir", folder]
            print(measure(lesson, arguments, args.runs), flush=True)
    print(f"\n{describe_machine()}; the median of {args.runs} run(s).")


if __name__ == "__main__":
    main()
