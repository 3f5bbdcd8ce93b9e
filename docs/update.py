"""Bring the numbers and the figures of this repository up to date.

    python docs/update.py                  # README's table of results, and docs/images
    python docs/update.py 02 05            # only the rows and the figures of these lessons
    python docs/update.py --answers 02 07  # print what docs/answers.md quotes, and write nothing

Each run of a lesson is a process of its own, `python FILE`, in a temporary folder, and with the
lesson's defaults. Its seconds thus include imports, data, training, and figure.
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
HEADER = "| Lesson | Data | Result | Seconds |\n| --- | --- | --- | ---: |\n"

LESSONS = {path.name[:2]: path for path in sorted(ROOT.glob("[0-9][0-9]_*.py"))}
# The lessons that have a row in the table, and how many runs it summarizes, with seeds 0, 1, ...
# The others run once, for the figure, which is always that of seed 0.
RUNS = {"02": 5, "05": 5, "06": 5, "07": 3, "08": 5, "09": 3, "10": 5}
# The dataset that a lesson is reported on (default: its own), and how README writes some names
DATASETS = {"07": "cifar10", "08": "digits", "09": "mnist"}
NAMES = {"cifar10": "CIFAR-10", "mnist": "MNIST"}

# What docs/answers.md quotes: for each lesson, runs with these flags and changes of the source. A
# change is a pair (old text, new text); the old text must appear exactly once in the lesson.
VARIANTS = {
    "01": [
        ("--lr 0.01", []),
        ("--lr 0.01 --epochs 500", []),
        ("--lr 0.9", []),
        ("--lr 1", []),
        ("", [("    y = y.view(y.shape[0], 1)", "    # y.view(y.shape[0], 1)")]),
    ],
    "02": [
        ("--lr 0.01 --epochs 1000", []),
        (
            "",
            [
                ("    X_train = sc.fit_transform(X_train)", "    # sc.fit_transform(X_train)"),
                ("    X_test = sc.transform(X_test)", "    # sc.transform(X_test)"),
            ],
        ),
        ("", [("careful = 0.9\n", "careful = 0.99\n")]),
    ],
    "03": [
        ("--num-workers 2", []),
        ("--lr 5", []),
        (
            "",
            [
                (
                    "batch_size=4, shuffle=True, num_workers=args",
                    "batch_size=4, shuffle=False, num_workers=args",
                )
            ],
        ),
    ],
    "04": [
        ("--seed 1", []),
        ("", [("v2.ToDtype(torch.float32, scale=True),", "v2.ToDtype(torch.float32),")]),
        (
            "",
            [
                ("v2.Resize(256),", "v2.CenterCrop(224),  #"),
                ("v2.CenterCrop(224),\n", "v2.Resize(256),\n"),
            ],
        ),
    ],
    "05": [
        ("--epochs 2000", []),
        ("", [("    x = torch.tensor([2.0, 1.0, 0.1])", "    x = torch.tensor([1.0, 1.0, 1.0])")]),
        ("", [("model(X_test).view(-1) > 0", "model(X_test).view(-1) > 0.5")]),
    ],
    "06": [
        ("--epochs 3000", []),
        ("", [("for i in range(9):", "for i in range(19):")]),
        ("", [("train(nn.ReLU(), X_train", "train(nn.Tanh(), X_train")]),
    ],
    "07": [
        ("--dataset digits", [("nn.Linear(16 * 5 * 5, 120)", "nn.Linear(16 * 6 * 6, 120)")]),
        (
            "--dataset digits",
            [
                ("nn.Linear(16 * 5 * 5, 120)", "nn.Linear(16 * 6 * 6, 120)"),
                ("x.view(-1, 16 * 5 * 5)", "x.view(-1, 16 * 6 * 6)"),
            ],
        ),
        ("--dataset digits --lr 0.2", []),
        ("", [("    print_table(", "    print(matrix)\n    print_table(")]),
    ],
    "08": [
        ("--seed 1", []),
        ("--seed 2", []),
        ("--seed 3", []),
        ("--epochs 25", []),
    ],
    "09": [("--lr 0.03", []), ("--epochs 20", []), ("", [])],
    "10": [
        (
            "",
            [
                (
                    '\n    model.load_state_dict(checkpoint["model_state"])',
                    "\n    model.load_state_dict(checkpoint)",
                )
            ],
        ),
        (
            "",
            [
                (
                    "    model = Model(n_input_features=6)\n    optimizer",
                    "    model = Model(n_input_features=5)\n    optimizer",
                )
            ],
        ),
        ("", [("torch.set_rng_state(", "id(")]),
        ("", [('"epoch": 90,', '"epoch": __import__("numpy").float64(90),')]),
    ],
}
LAST_LINES = 35  # of a variant's output are printed


def run(lesson: Path, flags: list[str], folder: Path, check: bool = True) -> str:
    """Run a lesson in `folder`; return what it printed. With `check`, exit if the lesson fails."""
    result = subprocess.run(
        [sys.executable, str(lesson), *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUTF8": "1"},
        encoding="utf-8",
    )
    if check and result.returncode != 0:
        sys.exit(f"{result.stdout}\n{lesson.name} {' '.join(flags)} failed.")
    return result.stdout


def read_result(output: str) -> tuple[str, str]:
    """Return a lesson's result, which is the line before "Figure:", and the dataset at its end."""
    return re.search(r"^(.+) \(([^()]+)\)\nFigure: ", output, re.MULTILINE).groups()


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


def replace_row(text: str, number: str, row: str) -> str:
    """Return README's text with this row in the table between its two markers."""
    before, rest = text.split("<!-- results -->")
    table, after = rest.split("<!-- /results -->")
    rows = re.findall(r"^\| \d\d \|.*\n", table, re.MULTILINE)
    rows = [old for old in rows if not old.startswith(f"| {number} |")]
    table = HEADER + "".join(sorted([*rows, f"| {number} | {row} |\n"]))
    return f"{before}<!-- results -->\n\n{table}\n<!-- /results -->{after}"


def update(number: str, lesson: Path, flags: list[str]) -> None:
    """Run a lesson with each of its seeds, copy the figure of seed 0, and write README's row."""
    results = []
    seconds = []
    for seed in range(RUNS.get(number, 1)):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            output = run(lesson, [*flags, "--seed", str(seed)], Path(folder))
            seconds.append(time.perf_counter() - start)
            if seed == 0:
                shutil.copy(Path(folder, "outputs", f"{lesson.stem}.png"), IMAGES)
        if number in RUNS:
            result, data = read_result(output)
            results.append(result)
        print(f"{lesson.name}, seed {seed}: {seconds[-1]:.1f} s", flush=True)
    if results:
        data = NAMES.get(data, data)
        row = f"{data} | {average(results)} | {statistics.median(seconds):.0f}"
        text = replace_row(README.read_text("utf-8"), number, row)
        README.write_text(text, "utf-8", newline="\n")
        print(row, flush=True)


def update_screenshot(lesson: Path, flags: list[str]) -> None:
    """Take a picture of TensorBoard with the test curves of lesson 09 at two learning rates."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        print("09_tensorboard.png was left as it is: there is no Chromium on the PATH.")
        return
    with tempfile.TemporaryDirectory() as folder:
        for more in ([], ["--lr", "0.03"]):
            run(lesson, [*flags, *more], Path(folder))
        for log in Path(folder, "runs").glob("*/train"):
            shutil.rmtree(log)  # four runs would be drawn in similar colors
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--port", "0"]
        server = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, encoding="utf-8")
        try:
            for line in server.stderr:  # "TensorBoard 2.21.0 at http://localhost:6006/ (...)"
                if url := re.search(r" at (http://\S+)", line):
                    break
            time.sleep(10)  # by then, it has read the logs
            command = [
                browser,
                "--headless=new",
                "--no-sandbox",  # root needs this, and TensorBoard's is the only page
                "--hide-scrollbars",
                "--window-size=720,830",
                "--virtual-time-budget=20000",  # milliseconds for the page to draw its charts
                f"--user-data-dir={Path(folder, 'browser')}",
                f"--screenshot={IMAGES / '09_tensorboard.png'}",
                f"{url[1]}#scalars&regexInput=test&_smoothingWeight=0",
            ]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        finally:
            server.terminate()
            server.wait()


def edit(source: str, changes: list[tuple[str, str]]) -> str:
    """Return the source of a lesson with each old text replaced by the new one."""
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{source.count(old)} times in the lesson, not once: {old!r}")
        source = source.replace(old, new)
    return source


def print_answers(number: str, lesson: Path, flags: list[str]) -> None:
    """Run the variants of a lesson, and print how the output of each ends."""
    for more, changes in VARIANTS.get(number, []):
        print(f"\n## python {lesson.name} {more}".rstrip())
        for old, new in changes:
            print(f"{old!r} -> {new!r}")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, lesson.name)
            copy.write_text(edit(lesson.read_text("utf-8"), changes), "utf-8")
            # Some questions are about an error, so that a variant may fail
            output = run(copy, [*flags, *more.split()], Path(folder), check=False)
        print("...", *output.splitlines()[-LAST_LINES:], sep="\n", flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    title = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("lessons", nargs="*", metavar="NN", help="lessons (default: all)")
    parser.add_argument("--answers", action="store_true", help="only run and print VARIANTS")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data", help="for lessons 07-09")
    args = parser.parse_args(argv)
    args.lessons = args.lessons or list(LESSONS)
    if not set(args.lessons) <= set(LESSONS):
        parser.error(f"lessons must be among {' '.join(LESSONS)}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Update each lesson's row and figure, or print what the answers quote."""
    args = parse_args(argv)
    for number in args.lessons:
        lesson = LESSONS[number]
        flags = []
        if number in DATASETS:
            data_dir = args.data_dir.resolve()  # lessons run in folders of their own
            flags = ["--dataset", DATASETS[number], "--data-dir", str(data_dir)]
        if args.answers:
            print_answers(number, lesson, flags)
            continue
        update(number, lesson, flags)
        if number == "09":
            update_screenshot(lesson, flags)
    torch = importlib.metadata.version("torch")
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}, {platform.system()})"
    print(f"\n{machine}, Python {platform.python_version()}, torch {torch}")


if __name__ == "__main__":
    main()
