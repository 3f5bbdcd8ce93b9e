"""README.md, the docstrings and the lists of dependencies say only what is there."""

import ast
import re
import shlex
import sys

import benchmark
import pytest
from conftest import LESSONS, ROOT, load_lesson

README = (ROOT / "README.md").read_text(encoding="utf-8")
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PARTS = ["You will learn", "Run", "Since the video", "Try it", "Video"]
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "torchvision"}  # torchvision requires Pillow

each_lesson = pytest.mark.parametrize("name", LESSONS)


def readme_commands():
    """Return each command of the README's code blocks, and those in its sentences."""
    blocks = re.findall(r"```(?:sh|powershell)\n(.*?)```", README, re.DOTALL)
    inline = re.findall(r"`(python [^`]+)`", README)
    commands = [part for line in "\n".join(blocks).splitlines() for part in re.split("&&|;", line)]
    return [command.strip() for command in commands + inline if command.strip()]


def check_command(command):
    """Fail unless the command's files, flags and values are there."""
    words = shlex.split(command.replace("\\", "/"))
    match words:
        case ["python" | "python3", "-m", "venv", ".venv"] | ["python", "-m", "pytest"]:
            pass
        case [".", ".venv/bin/activate"] | [".venv/Scripts/Activate.ps1"]:
            pass
        case ["python", "-m", "pip", "install", "-r", name]:
            assert (ROOT / name).exists()
        case ["conda", "env", "create", "-f", name]:
            assert (ROOT / name).exists()
        case ["conda", "activate", name]:
            environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
            assert f"name: {name}\n" in environment
        case ["python", "tests/benchmark.py", *arguments]:
            benchmark.parse_args(arguments)
        case ["python", name, "--help"]:
            assert name in LESSONS
        case ["python", name, *arguments]:
            assert name in LESSONS
            load_lesson(name.removesuffix(".py")).parse_args(arguments)
        case _:
            pytest.fail(f"nobody checks this command: {command}")


def docstring_parts(name):
    """Return a lesson's title line, and the text of each part of its docstring by its heading."""
    text = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8")))
    pieces = re.split(rf"^({'|'.join(PARTS)})\n", text, flags=re.MULTILINE)
    assert pieces[1::2] == PARTS, "parts missing, twice, or in another order"
    return pieces[0], dict(zip(PARTS, pieces[2::2], strict=True))


def video_times(text):
    """Return (seconds of the link, h:mm:ss that the reader sees) for each moment in the text."""
    link = r"watch\?v=c36lUUr864M&t=(\d+)s"
    found = re.findall(rf"\[(\d:\d\d:\d\d)\]\([^)]*{link}\)", text)
    found += [(clock, t) for t, clock in re.findall(rf"{link} \(about (\d:\d\d:\d\d)\)", text)]
    return [(int(t), clock) for clock, t in found]


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands_name_what_exists(command):
    check_command(command)


def test_the_test_command_is_the_same_everywhere():
    for path in (".ci/run", ".github/workflows/tests.yml"):
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        commands = [line.strip().removeprefix("- run: ") for line in lines]
        assert "python -m pytest" in commands, path
    assert README.count("\npython -m pytest\n") == 4


def test_readme_flags_exist():
    known = {flag for name in LESSONS for flag in vars(load_lesson(name[:3]).parse_args([]))}
    flags = set(re.findall(r"`--([a-z-]+)", README))
    assert flags >= {"epochs", "limit", "dataset", "show"}
    assert {flag.replace("-", "_") for flag in flags - {"help"}} <= known


def test_readme_links_every_lesson_at_its_moment_and_shows_its_result():
    lessons = README.partition("## Lessons")[2].partition("## ")[0]
    results = README.partition("## Results")[2].partition("## ")[0]
    assert re.findall(r"^\| \[(\S+)\]\(\1\)", lessons, re.MULTILINE) == LESSONS
    assert [name for name in LESSONS if f"| {name} |" in results] == LESSONS
    in_docstrings = [video_times(docstring_parts(name)[1]["Video"])[0] for name in LESSONS]
    assert video_times(lessons) == in_docstrings
    for seconds, clock in in_docstrings:
        hours, minutes, rest = map(int, clock.split(":"))
        assert seconds == 3600 * hours + 60 * minutes + rest


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            heading = target[1:].replace("-", " ")
            assert re.search(rf"^## {heading}$", README, re.MULTILINE | re.IGNORECASE), target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_every_image_is_small_and_used():
    used = re.findall(r"!\[[^\]]{20,}\]\((docs/images/[^)]+)\)", README)  # with words for the blind
    images = sorted((ROOT / "docs" / "images").iterdir())
    assert sorted(used) == [f"docs/images/{path.name}" for path in images]
    for path in images:
        assert path.stat().st_size < 150_000, path.name
    for name in LESSONS:
        assert any(path.stem == name.removesuffix(".py") for path in images), name


def test_dependencies_are_those_that_are_imported():
    listed = re.findall(r"^([a-z-]+)>=[\d.]+$", REQUIREMENTS, re.MULTILINE)
    assert len(listed) == len(REQUIREMENTS.splitlines())
    imported = {"tensorboard"}  # torch.utils.tensorboard imports it
    for path in [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules = [node.module]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            tops = {module.partition(".")[0] for module in modules}
            imported |= tops - set(sys.stdlib_module_names) - {"conftest", "benchmark"}
    assert {DISTRIBUTIONS.get(name, name) for name in imported} == set(listed)
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "- -r requirements.txt" in environment and "- python=3.12" in environment


@each_lesson
def test_docstring_has_its_parts_and_commands_that_parse(name):
    idea, parts = docstring_parts(name)
    title = idea.splitlines()[0]
    assert title.startswith(f"{name[:2]} · ") and len(idea.splitlines()) >= 3
    commands = [line.strip() for line in parts["Run"].splitlines() if line.strip()]
    assert commands[0] == f"python {name}" and len(commands) == 2
    for command in commands:
        check_command(command)
    flags = vars(load_lesson(name[:3]).parse_args([]))
    for flag in re.findall(r"`[^`]*?--([a-z-]+)", parts["Try it"]):
        assert flag.replace("-", "_") in flags, flag
    assert len(re.findall(r"^ +- ", parts["You will learn"], re.MULTILINE)) in (3, 4, 5)


@pytest.mark.skipif(not hasattr(benchmark.os, "wait4"), reason="Linux and macOS only")
def test_benchmark_measures_a_process_of_its_own():
    # From a small process: one that is started from here would count as at least as large as this.
    code = (
        f"import sys; sys.path.append({str(ROOT / 'tests')!r}); import benchmark\n"
        "work = 'import time; x = b\"1\" * 200_000_000; time.sleep(0.3); print(1)'\n"
        "result = benchmark.run([sys.executable, '-c', work])\n"
        "print(result.output.strip(), result.seconds, result.megabytes)"
    )
    result = benchmark.run([sys.executable, "-c", code])
    printed, seconds, megabytes = map(float, result.output.split())
    assert printed == 1 and 0.3 < seconds < 60 and 200 < megabytes < 300
    with pytest.raises(RuntimeError, match="out of cheese"):
        benchmark.run([sys.executable, "-c", "raise SystemExit('out of cheese')"])
