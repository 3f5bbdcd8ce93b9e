"""docs/errors.md: the lines raise the message, the fix does not, and lessons have what it cites."""

import re
import sys
import traceback
import types

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
FIRST_LINES = re.search("```python\n(.+?)```", PAGE, re.S)[1]
parts = re.split("\n## (?:TensorBoard|On a GPU)", PAGE)
RAISED, (TENSORBOARD,), NOT_RUN = (re.findall("^### (.+)", part, re.M) for part in parts)


def parse(title):
    """Return the messages of an entry, each with the lines that raise it, and its fix."""
    entry = PAGE.partition(f"\n### {title}\n")[2].partition("\n##")[0]
    found = re.fullmatch("(.+```\n)(?!```).+?\n```python\n(.+?)```\n", entry, re.S)
    assert found, "an entry must have a message, a reason, and a fix"
    return re.findall("```text\n(.+?)\n```\n(?:```python\n(.+?)```)?", found[1], re.S), found[2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("title", RAISED)
def test_the_lines_raise_the_message_and_the_fix_raises_nothing(title, empty_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    script = vars(sys.modules["__main__"])
    exec(FIRST_LINES, script)
    messages, fix = parse(title)
    for message, lines in messages:
        with pytest.raises(Exception) as raised:  # noqa: B017
            exec(lines, script)
        printed = " ".join("".join(traceback.format_exception_only(raised.value)).split())
        assert any(" ".join(form.split()) in printed for form in message.split("\nor\n")), printed
    exec(fix, script)


def test_tensorboard_gets_logs_only_by_the_fix(empty_folder):
    [(message, lines)], fix = parse(TENSORBOARD)
    for code, n_logs in [(lines, 0), (fix, 1)]:
        exec(FIRST_LINES + code, {})
        assert len(list(empty_folder.glob("runs/**/events*"))) == n_logs


def test_all_entries_are_complete_and_the_lessons_have_the_words_that_they_cite():
    assert len(RAISED) >= 15 and NOT_RUN
    for title in NOT_RUN:
        parse(title)
    places = re.findall(r'\[lesson \d\d\]\(\.\./(\S+\.py)\),\s"(.+?)"', PAGE)
    assert len(places) == PAGE.count("](") >= 20
    for lesson, words in places:
        assert words in (ROOT / lesson).read_text("utf-8"), f"{words} is not in {lesson}"
