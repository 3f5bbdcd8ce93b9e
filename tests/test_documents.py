"""README, docs, docstrings, and `docs/update.py` name only what is there, and forget no lesson."""

import re
import shlex

import pytest
import update
from helpers import LESSONS, ROOT, flags, load_lesson

README, ANSWERS, CONTRIBUTING = "README.md", "docs/answers.md", "docs/CONTRIBUTING.md"
TEXTS = {file: (ROOT / file).read_text("utf-8") for file in (README, ANSWERS, CONTRIBUTING)}
SECTIONS = ["You will learn", "Run", "Changes from the video", "Try it", "Video"]
each_lesson = pytest.mark.parametrize("name", LESSONS)


def check_commands(text):
    """Parse each command that runs a file of this repository; return the number of commands."""
    commands = re.findall(r"(?:python|%run) ([\w/]+\.py[^\n`;&(#]*)", text)
    for file, *arguments in map(shlex.split, commands):
        assert (ROOT / file).exists(), file
        (update if file == "docs/update.py" else load_lesson(file[:2])).parse_args(arguments)
    return len(commands)


@pytest.mark.parametrize("file", TEXTS)
def test_commands_links_and_images_are_right(file):
    assert check_commands(TEXTS[file]) > 0
    for text, link in re.findall(r"\[([^]]*)\]\(([^)#]+)\)", TEXTS[file]):
        assert text, f"{link} has no alt text"
        assert link.startswith("https://") or ((ROOT / file).parent / link).exists(), link


@each_lesson
def test_the_docstring_has_all_sections_in_40_lines_and_commands_that_work(name):
    docstring = load_lesson(name).__doc__
    assert re.findall(rf"\n\n({'|'.join(SECTIONS)})\b", docstring) == SECTIONS
    assert check_commands(docstring) > 0 and len(docstring.splitlines()) <= 40


@each_lesson
def test_readme_has_the_lesson_with_its_figure_and_the_time_in_the_video(name):
    row = rf"\({name}\.py\) \| \[((\d+):(\d\d):(\d\d))\]\((\S+)&t=(\d+)s\)"
    time, hours, minutes, seconds, link, t = re.search(row, TEXTS[README]).groups()
    assert int(t) == 3600 * int(hours) + 60 * int(minutes) + int(seconds)
    assert f"{link}&t={t}s (about {time})" in load_lesson(name).__doc__
    assert f"](docs/images/{name}.png)" in TEXTS[README]


@each_lesson
def test_each_question_has_an_answer(name):
    questions = load_lesson(name).__doc__.partition("\nTry it")[2].partition("\nVideo")[0]
    answers = TEXTS[ANSWERS].partition(f"\n## {name[:2]} ")[2].partition("\n## ")[0]
    assert answers.count("\n- ") == questions.count("\n    - ") > 0


@each_lesson
def test_update_can_run_the_lesson_and_its_variants(name):
    number, lesson = name[:2], load_lesson(name)
    assert number in update.RUNS and (number in update.DATASETS) == ("--dataset" in flags(lesson))
    for arguments, changes in update.VARIANTS.get(number, []):
        compile(update.edit((ROOT / f"{name}.py").read_text("utf-8"), changes), name, "exec")
        lesson.parse_args(shlex.split(arguments))


def test_update_averages_over_seeds_and_replaces_a_row():
    output = "Loss: {}%, 1,234.50 with more (digits)\nFigure: a.png"
    results = [update.read_result(output.format(loss)) for loss in (98.5, 99.5)]
    assert (
        update.average([result for result, _ in results]) == "Loss: 99.0 ± 0.7%, 1234.50 with more"
    )
    text = "a <!-- results -->\n| 01 | old |\n| 05 | kept |\n<!-- /results --> b"
    rows = re.findall(r"\| \d\d .*", update.replace_row(text, "01", "new"))
    assert rows == ["| 01 | new |", "| 05 | kept |"]
