"""docs/errors.md: the lines raise the message, the fix does not, and lessons have what it cites.

An entry of the page is a title, then a message and the lines that raise it (some have two of both),
the reason, and the fix, which continues these lines:

    ### Title

    ```text
    message, as it is printed
    or
    another form of it
    ```
    ```python
    lines that raise it
    ```
    The reason.
    ```python
    the fix
    ```
"""

import re
import sys
import traceback
import types

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
FIRST_LINES = re.search("```python\n(.+?)```", PAGE, re.S)[1]  # all entries assume them
RAISED, TENSORBOARD, NOT_RUN = [
    re.findall("^### (.+)", part, re.M) for part in re.split("\n## (?:TensorBoard|On a GPU)", PAGE)
]


def parse(title):
    """Return the messages of an entry, each with its lines ("" if there are none), and the fix."""
    entry = PAGE.partition(f"\n### {title}\n")[2].partition("\n##")[0]
    assert entry.endswith("```\n")
    rest, _, fix = entry.removesuffix("```\n").rpartition("```python\n")  # the last block
    raising, _, reason = rest.rpartition("```\n")  # the reason is between the last two blocks
    messages = re.findall("```text\n(.+?)\n```\n(?:```python\n(.+?)```)?", raising + "```\n", re.S)
    assert messages and reason.strip() and fix
    return messages, fix


def in_one_line(text):
    return " ".join(text.split())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("title", RAISED)
def test_the_lines_raise_the_message_and_the_fix_raises_nothing(title, empty_folder, monkeypatch):
    # The lines run as those of a script: loading a model looks for its class in __main__
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    script = vars(sys.modules["__main__"])
    exec(FIRST_LINES, script)
    messages, fix = parse(title)
    for message, lines in messages:
        with pytest.raises(Exception) as raised:  # noqa: B017
            exec(lines, script)
        printed = in_one_line("".join(traceback.format_exception_only(raised.value)))
        assert any(in_one_line(form) in printed for form in message.split("\nor\n")), printed
    exec(fix, script)


def test_tensorboard_gets_logs_only_by_the_fix(empty_folder):
    (title,) = TENSORBOARD
    [(message, lines)], fix = parse(title)
    exec(FIRST_LINES + lines, {})
    assert not list(empty_folder.glob("runs/**/events*"))
    exec(FIRST_LINES + fix, {})
    assert len(list(empty_folder.glob("runs/**/events*"))) == 1


def test_there_are_enough_entries_and_those_that_are_not_run_are_complete():
    assert len(RAISED) >= 15 and NOT_RUN
    for title in NOT_RUN:
        parse(title)


def test_each_link_names_words_that_the_lesson_has():
    places = re.findall(r'\[lesson \d\d\]\(\.\./(\S+\.py)\),\s"(.+?)"', PAGE)
    n_links = PAGE.count("](")
    assert len(places) == n_links >= 20
    for lesson, words in places:
        assert words in (ROOT / lesson).read_text("utf-8"), f"{words} is not in {lesson}"
