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
    for command in re.findall(r"(?:python|%run) ((?:tests/)?\w+\.py[^\n`;&)]*)", text):
        name, *arguments = shlex.split(command)
        names.append(name)
        assert (ROOT / name).exists()
        module = benchmark if name == "tests/benchmark.py" else load_lesson(name[:2])
        module.parse_args(arguments)
    return names


@pytest.mark.parametrize("folder, text", [(ROOT, README), (ROOT / "docs", ANSWERS)])
def test_commands_and_links_name_what_exists(folder, text):
    assert len(check_commands(text)) >= 5
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (folder / link).exists(), link
    assert "![](" not in text  # images have alt text


@pytest.mark.parametrize("name", LESSONS)
def test_docstrings_name_what_exists_and_every_question_has_an_answer(name):
    docstring = load_lesson(name).__doc__
    assert check_commands(docstring)[0] == f"{name}.py" and len(docstring.splitlines()) <= 40
    questions = docstring.partition("\nTry it (")[2].partition("\nVideo\n")[0]
    section = ANSWERS.partition(f"\n## {name[:2]} ")[2].partition("\n## ")[0]
    assert section.count("\n- ") == questions.count("\n    - ") > 0
    row = re.search(rf"\({name}\.py\) \| \[([\d:]+)\]\(.*&t=(\d+)s\)", README)
    assert f"&t={row[2]}s (about {row[1]})" in docstring


def test_benchmark_averages_over_seeds():
    output = "Loss: {}%, 1,234.50 with more (digits)\nFigure: a.png"
    results = [benchmark.read_result(output.format(loss)) for loss in (98.5, 99.5)]
    assert benchmark.average(results) == "Loss: 99.0 ± 0.7%, 1234.50 with more"
