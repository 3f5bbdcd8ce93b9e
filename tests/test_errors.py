"""docs/errors.md: the lines raise the message, the fix raises nothing, and the links are right.

Each entry has a title, a block of text with the message (and, after "or", another form of it), a
block of Python that raises it, the reason, and last the fix, which continues the lines above it.
"""

import re
import sys
import types

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
CODE = "```(text|python)\n(.+?)```"
FIRST_LINES = re.search(CODE, PAGE, re.S)[2]  # all entries assume them
# TensorBoard raises nothing. The entries after "A question" need a GPU, or another system.
RAISED, TENSORBOARD, _ = re.split("\n## TensorBoard|\n## A question", PAGE)
ENTRIES = dict(part.split("\n", 1) for part in RAISED.split("\n### ")[1:])  # by title


def in_one_line(text):
    return " ".join(text.split())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("title", ENTRIES)
def test_the_lines_raise_the_message_and_the_fix_raises_nothing(title, empty_folder, monkeypatch):
    # The lines run as those of a script: loading a model looks for its class in __main__
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    script = vars(sys.modules["__main__"])
    exec(FIRST_LINES, script)
    *blocks, (_, fix) = re.findall(CODE, ENTRIES[title], re.S)
    assert len(blocks) in (2, 4)  # one message or two, each followed by its lines
    for language, code in blocks:
        if language == "text":
            forms = code.split("\nor\n")
        else:
            with pytest.raises(Exception) as raised:  # noqa: B017
                exec(code, script)
            printed = in_one_line(raised.exconly())
            assert any(in_one_line(form) in printed for form in forms), printed
    exec(fix, script)


def test_tensorboard_gets_logs_only_by_the_fix(empty_folder):
    (_, _), (_, lines), (_, fix) = re.findall(CODE, TENSORBOARD, re.S)
    exec(FIRST_LINES + lines, {})
    assert not list(empty_folder.glob("runs/**/events*"))  # where --logdir runs looks
    exec(FIRST_LINES + fix, {})
    assert len(list(empty_folder.glob("runs/**/events*"))) == 1


def test_each_link_names_words_that_the_lesson_has():
    places = re.findall(r'\[lesson \d\d\]\(\.\./(\S+\.py)\),\s"(.+?)"', PAGE)
    assert len(places) == PAGE.count("](")  # each link
    for lesson, words in places:
        assert words in (ROOT / lesson).read_text("utf-8"), f"{words} is not in {lesson}"
