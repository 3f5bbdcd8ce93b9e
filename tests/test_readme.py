"""README.md, the docstrings, and the benchmark name only what is there."""

import re
import shlex

import benchmark
import pytest
from conftest import LESSONS, ROOT, load_lesson

README = (ROOT / "README.md").read_text(encoding="utf-8")


def readme_commands():
    """Return each command of the README's code blocks, and those in its sentences."""
    blocks = re.findall(r"```(?:sh|powershell)\n(.*?)```", README, re.DOTALL)
    inline = re.findall(r"`(python [^`]+)`", README)
    commands = [part for line in "\n".join(blocks).splitlines() for part in re.split("&&|;", line)]
    return [command.strip() for command in commands + inline if command.strip()]


def check_command(command):
    """Fail unless the command's files, flags, and values are there."""
    words = shlex.split(command.replace("\\", "/"), comments=True)
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
        case ["tensorboard", "--logdir", "runs"]:
            pass
        case ["python", "tests/benchmark.py", *arguments]:
            benchmark.parse_args(arguments)
        case ["python" | "%run", name, *arguments] | [
            "CUDA_VISIBLE_DEVICES=",
            "python",
            name,
            *arguments,
        ]:
            assert name.removesuffix(".py") in LESSONS
            if arguments != ["--help"]:
                load_lesson(name[:2]).parse_args(arguments)
        case _:
            pytest.fail(f"nobody checks this command: {command}")


def test_readme_commands_name_what_exists():
    commands = readme_commands()
    assert commands.count("python -m pytest") >= 2
    for command in commands:
        check_command(command)


def test_docstring_commands_name_what_exists():
    for name in LESSONS:
        run = load_lesson(name).__doc__.partition("\nRun\n")[2].partition("\nSince the video\n")[0]
        commands = [line.strip() for line in run.splitlines() if line.strip()]
        assert commands[0] == f"python {name}.py"
        for command in commands:
            check_command(command.partition("  ")[0])


def test_readme_links_every_lesson_at_its_moment_in_the_video():
    link = r"watch\?v=c36lUUr864M&t=(\d+)s"
    rows = re.findall(rf"^\| \[(\w+)\.py\]\(\1\.py\) .*?\[([\d:]+)\]\([^)]*{link}\)", README, re.M)
    assert [name for name, _, _ in rows] == LESSONS
    for name, clock, seconds in rows:
        hours, minutes, rest = (int(part) for part in clock.split(":"))
        assert 3600 * hours + 60 * minutes + rest == int(seconds)
        assert f"&t={seconds}s (about {clock})" in load_lesson(name).__doc__


def test_readme_images_exist_and_have_alt_text():
    images = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", README)
    names = {path for _, path in images}
    assert all(len(alt) > 10 and (ROOT / path).exists() for alt, path in images)
    assert names == {f"docs/images/{path.name}" for path in (ROOT / "docs/images").iterdir()}


def test_benchmark_reads_a_lesson_and_averages_over_seeds():
    output = "*** note ***\n07 Net | device: cpu | data: digits, 9 images\nTest accuracy: 98.5%"
    output += ", 1,234.50 with more (digits)\nFigure: a.png\n"
    assert benchmark.read_head(output) == ("cpu", "digits, 9 images")
    result = benchmark.read_result(output)
    assert result == "Test accuracy: 98.5%, 1,234.50 with more"
    other = "Test accuracy: 99.5%, 1,234.50 with more"
    assert benchmark.average([result, other]) == "Test accuracy: 99.0 ± 0.7%, 1234.50 with more"


def test_the_test_command_is_the_same_everywhere():
    for path in (".ci/run", ".github/workflows/tests.yml"):
        assert "python -m pytest\n" in (ROOT / path).read_text(encoding="utf-8")
