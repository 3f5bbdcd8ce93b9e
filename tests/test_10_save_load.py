"""Lesson 10: what is saved is restored bit for bit; a crash or a hostile file does no harm."""

import inspect
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import load_lesson, one_line, spy

lesson = load_lesson("10")
SAVE_FOREVER = f"""
from __future__ import annotations
import pathlib, sys, torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
device = "cpu"
{inspect.getsource(lesson.Training)}
training = Training(lr=0.01)
training.losses = 10**6 * [1.0]  # they take long to write
while True:
    training.save(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture(scope="module", autouse=True)
def saving(tmp_path_factory):
    """Save a large checkpoint again and again, in a process beside the other tests of this file."""
    path = tmp_path_factory.mktemp("saving") / "checkpoint.pth"
    with subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(path)]) as process:
        yield process, path
        process.kill()


def test_metrics_and_files_at_the_defaults(tmp_path, capsys):
    with spy(lesson.Training, "__init__") as init:
        metrics = lesson.main(["--output-dir", str(tmp_path)])
    once, resumed = (call.args[0] for call in init.mock_calls)
    assert metrics["whole_model_error"] == metrics["state_dict_error"] == 0
    assert metrics["resume_error"] == 0 and metrics["hostile_blocked"] == 1
    out = capsys.readouterr().out
    assert "refused. Folder created: False" in out and "loaded. Folder created: True" in out
    assert "torch.load(FILE) fails today: Weights only load failed" in out
    assert out.count("the outputs differ by 0\n") == 3  # whole model, state dict, checkpoint
    assert out.count("'lr': 0.01") == 2 and "Checkpoint of epoch 90" in out
    assert metrics["accuracy"] > 0.95 and metrics["eval_difference"] > 1
    assert plt.gcf().axes[0].lines[2].get_xdata()[0] == 5.5  # saved halfway
    assert len(resumed.losses) == 10 and resumed.losses == once.losses
    assert resumed.model[1].num_batches_tracked == 10 * (1347 // 32)  # by batch norm, in train mode
    assert once.model[1].num_batches_tracked == 10 * (1347 // 32) + 1  # without eval(), on purpose
    assert resumed.optimizer.param_groups[0]["lr"] == 0.01 / 4  # halved every four epochs
    model = lesson.Model(6)  # a plain torch.load reads both files
    model.load_state_dict(torch.load(tmp_path / "10_save_load_model.pth"))
    checkpoint = torch.load(tmp_path / "10_save_load_checkpoint.pth")
    assert checkpoint["epoch"] == 90 and checkpoint["optim_state"]["param_groups"][0]["lr"] == 0.01
    assert torch.equal(checkpoint["model_state"]["linear.weight"], model.linear.weight)


def test_resume_continues_from_the_file(tmp_path):
    common = ["--limit", "256", "--output-dir", str(tmp_path)]
    once = lesson.main([*common, "--epochs", "6"])
    lesson.main([*common, "--epochs", "4"])
    resume = [*common, "--resume", str(tmp_path / "10_save_load_training.pth"), "--epochs", "6"]
    assert lesson.main([*resume, "--lr", "5"]) == once  # the checkpoint has the learning rate
    with pytest.raises(SystemExit) as stop:  # nothing is left to do
        lesson.main(resume)
    assert "--epochs" in one_line(stop)


@pytest.mark.parametrize("kind", ["missing", "truncated", "hostile"])
def test_resume_from_a_bad_file_is_one_line_and_writes_nothing(tmp_path, kind):
    path = tmp_path / "bad.pth"
    if kind == "truncated":
        lesson.Training(lr=0.01).save(path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "hostile":
        torch.save(lesson.Hostile(tmp_path / "made"), path)
    with pytest.raises(SystemExit) as stop:
        lesson.main(["--resume", str(path), "--output-dir", str(tmp_path / "out")])
    assert str(path) in one_line(stop)
    assert not (tmp_path / "out").exists() and not (tmp_path / "made").exists()


def test_a_kill_while_saving_leaves_a_complete_checkpoint(saving):
    process, path = saving
    deadline = time.monotonic() + 60
    while len(list(path.parent.iterdir())) < 2:  # the checkpoint, and the next one, half written
        assert process.poll() is None and time.monotonic() < deadline
    process.kill()
    assert process.wait() and lesson.Training(lr=0.01).load(path) == 10**6
