"""README, docs, docstrings, and `docs/update.py` name only what is there, and forget no lesson."""

import re
import shlex

import pytest
import update
from helpers import LESSONS, ROOT, load_lesson

README, ANSWERS = "README.md", "docs/answers.md"
TEXTS = {f: (ROOT / f).read_text("utf-8") for f in (README, ANSWERS, "docs/CONTRIBUTING.md")}
SECTIONS = ["You will learn", "Run", "Changes from the video", "Try it", "Video"]
each_lesson = pytest.mark.parametrize("name", LESSONS)


def check_commands(text):
    """Parse each command that runs a file of this repository."""
    commands = re.findall(r"(?:python|%run) ([\w/]+\.py[^\n`;&(#]*)", text)
    for file, *arguments in map(shlex.split, commands):
        module = update if file == "docs/update.py" else load_lesson(file.removesuffix(".py"))
        module.parse_args(arguments)
    assert commands


@pytest.mark.parametrize("file", TEXTS)
def test_commands_links_and_images_are_right(file):
    check_commands(TEXTS[file])
    for text, link in re.findall(r"\[([^]]*)\]\(([^)#]+)\)", TEXTS[file]):
        assert text, f"{link} has no alt text"
        assert link.startswith("https://") or ((ROOT / file).parent / link).exists(), link


@each_lesson
def test_the_docstring_has_all_sections_in_40_lines_and_commands_that_work(name):
    docstring = load_lesson(name).__doc__
    check_commands(docstring)
    assert re.findall(rf"\n\n({'|'.join(SECTIONS)})\b", docstring) == SECTIONS
    assert len(docstring.splitlines()) <= 40


@each_lesson
def test_the_lesson_has_a_test_file_and_in_readme_a_figure_and_the_time_in_the_video(name):
    assert (ROOT / "tests" / f"test_{name}.py").exists()
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
def test_update_can_run_the_variants_of_the_lesson(name):
    for arguments, changes in update.VARIANTS.get(name[:2], []):
        compile(update.edit((ROOT / f"{name}.py").read_text("utf-8"), changes), name, "exec")
        load_lesson(name).parse_args(shlex.split(arguments))
