"""README, docs, docstrings, and the tools in docs name only what is there, and forget no lesson."""

import re
import shlex

import pytest
import update  # docs/update.py
import variants  # docs/variants.py, the lessons as changed for docs/answers.md
from helpers import LESSONS, ROOT, load_lesson

README, ANSWERS = "README.md", "docs/answers.md"
SECTIONS = ["You will learn", "Run", "Changes from the video", "Try it", "Video"]
each_lesson = pytest.mark.parametrize("name", LESSONS)


def read(file):
    return (ROOT / file).read_text("utf-8")


def check_commands(text):
    """Parse each command that runs a file of this repository."""
    # A command ends at a comment, the end of a quotation or line, or ; & (
    commands = re.findall(r"(?:python|%run) ([\w/]+\.py[^\n`;&(#]*)", text)
    assert commands
    for file, *arguments in map(shlex.split, commands):
        # docs/variants.py uses the parser of docs/update.py, too
        module = update if file.startswith("docs/") else load_lesson(file.removesuffix(".py"))
        assert (ROOT / file).exists()
        module.parse_args(arguments)


@pytest.mark.parametrize("file", [README, ANSWERS, "docs/CONTRIBUTING.md"])
def test_commands_links_and_images_are_right(file):
    check_commands(read(file))
    for text, link in re.findall(r"\[([^]]*)\]\(([^)]+)\)", read(file)):
        assert text, f"{link} has no alt text"
        assert link.startswith("https://") or ((ROOT / file).parent / link).exists(), link


@each_lesson
def test_the_docstring_has_all_sections_in_40_lines_and_commands_that_work(name):
    docstring = load_lesson(name).__doc__
    check_commands(docstring)
    assert re.findall(rf"\n\n({'|'.join(SECTIONS)})\b", docstring) == SECTIONS
    assert len(docstring.splitlines()) <= 40


@each_lesson
def test_the_lesson_has_tests_a_figure_in_readme_and_an_answer_to_each_question(name):
    assert (ROOT / "tests" / f"test_{name}.py").exists()
    assert f"](docs/images/{name}.png)" in read(README)
    questions = load_lesson(name).__doc__.partition("\nTry it")[2].partition("\nVideo")[0]
    answers = read(ANSWERS).partition(f"\n## {name[:2]} ")[2].partition("\n## ")[0]
    assert answers.count("\n- ") == questions.count("\n    - ") > 0


@each_lesson
def test_the_lesson_and_its_row_in_readme_give_the_same_time_in_the_video(name):
    # ...](NAME.py) | [1:27:14](LINK&t=5234s)
    row = rf"\({name}\.py\) \| \[(?P<time>[\d:]+)\]\((?P<link>\S+&t=(?P<total>\d+)s)\)"
    found = re.search(row, read(README))
    hours, minutes, seconds = map(int, found["time"].split(":"))
    assert int(found["total"]) == 3600 * hours + 60 * minutes + seconds
    assert f"{found['link']} (about {found['time']})" in load_lesson(name).__doc__


@pytest.mark.parametrize("number", variants.VARIANTS)
def test_the_variants_of_a_lesson_can_be_made(number):
    lesson = load_lesson(number)
    for flags, changes, n_seeds in variants.VARIANTS[number]:
        source = variants.edit(read(f"{lesson.__name__}.py"), changes)  # fails if it does not fit
        compile(source, number, "exec")
        lesson.parse_args(flags.split())


def test_results_are_averaged_over_seeds_with_a_spread_if_they_differ():
    results = ["Accuracy: 90.0%, without 1.5%", "Accuracy: 92.0%, without 1.5%"]
    assert update.average(results) == "Accuracy: 91.0 ± 1.4%, without 1.5%"


def test_readmes_row_and_time_are_replaced_and_nothing_else():
    old = read(README)
    new = update.replace_time(update.replace_row(old, "05", "digits | 2.0%"), "05", "3 days")
    pairs = zip(old.splitlines(), new.splitlines(), strict=True)
    # A row of the table of lessons, whose last cell is the time, and one of the table of results
    (timed, new_timed), (result, new_result) = (pair for pair in pairs if pair[0] != pair[1])
    assert timed.startswith("| [05_")
    assert new_timed == f"{timed.rpartition(' | ')[0]} | 3 days |"
    assert result.startswith("| 05 |") and new_result == "| 05 | digits | 2.0% |"
