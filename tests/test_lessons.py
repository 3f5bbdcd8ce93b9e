"""The promises that every lesson keeps."""

import math
import random
import re
import runpy
import warnings

import benchmark
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import LESSONS, ROOT, load_lesson, tiny_args

each_lesson = pytest.mark.parametrize("name", LESSONS)
TEXT_METRICS = ("dataset", "log_dir")

BAD_FLAGS = {
    "epochs": ["0", "-1", "1.5"],
    "batch_size": ["0", "-8"],
    "limit": ["0", "-3", "many"],
    "lr": ["0", "-0.1", "nan", "inf"],
    "seed": ["one"],
    "num_workers": ["-1"],
    "dataset": ["imagenet"],
}


@each_lesson
def test_runs_on_a_tiny_subset(name, tmp_path, capsys):
    lesson = load_lesson(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = lesson.main(tiny_args(lesson, tmp_path))
    for key, value in metrics.items():
        assert isinstance(value, str) if key in TEXT_METRICS else math.isfinite(value), key

    assert metrics.get("repeat_difference", 0) == 0  # of lesson 04

    lines = capsys.readouterr().out.splitlines()
    title = lesson.__doc__.splitlines()[0].replace(" · ", " ")
    assert re.fullmatch(rf"{title} \| device: (cpu|cuda) \| data: .*\d.*", lines[0])
    figure = tmp_path / "outputs" / f"{name}.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []
    for path in (tmp_path / "outputs").iterdir():
        assert name in path.name
    assert benchmark.read_result("\n".join(lines))
    assert re.search(r"\(.+\)$", lines[lines.index(f"Figure: {figure}") - 1])  # the dataset


@each_lesson
def test_import_has_no_side_effects(name, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    runpy.run_path(str(ROOT / f"{name}.py"), run_name="imported")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@each_lesson
def test_bad_flags_exit_2_and_write_nothing(name, tmp_path, capsys):
    lesson = load_lesson(name)
    flags = vars(lesson.parse_args([]))
    bad = [(flag, value) for flag, values in BAD_FLAGS.items() for value in values if flag in flags]
    for flag, value in [*bad, ("no_such_flag", "1")]:
        arguments = [*tiny_args(lesson, tmp_path), f"--{flag.replace('_', '-')}={value}"]
        with pytest.raises(SystemExit) as stop:
            lesson.main(arguments)
        assert stop.value.code == 2, (flag, value)
        assert capsys.readouterr().err.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []


def test_help_shows_every_default(capsys):
    for name in LESSONS:
        lesson = load_lesson(name)
        with pytest.raises(SystemExit):
            lesson.parse_args(["--help"])
        text = "".join(capsys.readouterr().out.split())  # argparse wraps lines
        for flag, default in vars(lesson.parse_args([])).items():
            assert f"--{flag.replace('_', '-')}" in text
            assert f"(default:{''.join(str(default).split())})" in text, (name, flag)


def test_same_seed_same_metrics(tmp_path):
    lesson = load_lesson("07")
    runs = [lesson.main([*tiny_args(lesson, tmp_path), "--seed", seed]) for seed in "33"]
    for metrics in runs:
        metrics.pop("seconds", None)
        metrics.pop("log_dir", None)
    assert runs[0] == runs[1]


def test_show_opens_a_window_once(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    lesson = load_lesson("01")
    lesson.main([*tiny_args(lesson, tmp_path), "--show"])
    assert shown == [[1]]


def test_runs_as_a_script_with_a_worker_from_a_folder_with_spaces_and_accents(script):
    process, folder = script
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    written = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    assert written == ["outputs/03_dataset_dataloader.png"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@each_lesson
def test_runs_on_cuda(name, tmp_path, capsys):
    lesson = load_lesson(name)
    metrics = lesson.main(tiny_args(lesson, tmp_path))
    assert "device: cuda" in capsys.readouterr().out
    assert all(isinstance(value, str) or math.isfinite(value) for value in metrics.values())
