"""README.md, docs/answers.md, the docstrings, and the benchmark name only what is there."""

import re
import shlex

import benchmark
import pytest
from conftest import LESSONS, ROOT, load_lesson

README = (ROOT / "README.md").read_text(encoding="utf-8")
ANSWERS = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")


def check_commands(text):
    """Parse every command that runs a file of this repository; return the files' names."""
    names = []
    text = re.sub(r"\\\n|`\n", " ", text)  # commands that go on in the next line
    for command in re.findall(r"(?:python|%run) ((?:tests/)?\w+\.py[^\n`;&)]*)", text):
        name, *arguments = shlex.split(command.partition("   ")[0], comments=True)
        names.append(name)
        if name == "tests/benchmark.py":
            benchmark.parse_args(arguments)
        else:
            assert name.removesuffix(".py") in LESSONS
            load_lesson(name[:2]).parse_args([word for word in arguments if word != "--help"])
    return names


@pytest.mark.parametrize("text", [README, ANSWERS], ids=["README", "answers"])
def test_commands_and_links_name_what_exists(text):
    assert len(check_commands(text)) >= 5
    folder = ROOT if text is README else ROOT / "docs"
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (folder / link).exists(), link
    for alt, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
        assert len(alt) > 10, path


def test_docstrings_name_what_exists():
    for name in LESSONS:
        docstring = load_lesson(name).__doc__
        run = docstring.partition("\nRun\n")[2].partition("\nChanges from the video\n")[0]
        assert check_commands(run)[0] == f"{name}.py"
        assert len(docstring.splitlines()) <= 40


def test_every_question_has_an_answer():
    for name in LESSONS:
        questions = load_lesson(name).__doc__.partition("\nTry it (")[2].partition("\nVideo\n")[0]
        section = ANSWERS.partition(f"\n## {name[:2]} ")[2].partition("\n## ")[0]
        assert section.count("\n- ") == questions.count("\n    - ") > 0, name


def test_readme_links_every_lesson_at_its_moment_in_the_video():
    link = r"watch\?v=c36lUUr864M&t=(\d+)s"
    rows = re.findall(rf"^\| \[(\w+)\.py\]\(\1\.py\) .*?\[([\d:]+)\]\([^)]*{link}\)", README, re.M)
    assert [name for name, _, _ in rows] == LESSONS
    for name, clock, seconds in rows:
        hours, minutes, rest = (int(part) for part in clock.split(":"))
        assert 3600 * hours + 60 * minutes + rest == int(seconds)
        assert f"&t={seconds}s (about {clock})" in load_lesson(name).__doc__


def test_benchmark_reads_a_lesson_and_averages_over_seeds():
    output = "*** note ***\n07 Net | device: cpu | data: digits, 9 images\nTest accuracy: 98.5%"
    output += ", 1,234.50 with more (digits)\nFigure: a.png\n"
    assert benchmark.read_head(output) == ("cpu", "digits, 9 images")
    result = benchmark.read_result(output)
    assert result == "Test accuracy: 98.5%, 1,234.50 with more"
    other = "Test accuracy: 99.5%, 1,234.50 with more"
    assert benchmark.average([result, other]) == "Test accuracy: 99.0 ± 0.7%, 1234.50 with more"
