"""Lesson 10: what is saved comes back bit for bit, and no crash or stranger spoils it."""

import inspect
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import load_lesson, one_line
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import TensorDataset

lesson = load_lesson("10")


@pytest.fixture(scope="module")
def dataset():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(100, 64, generator=generator), torch.arange(100) % 10)


@pytest.fixture(scope="module", autouse=True)
def saving(tmp_path_factory):
    """Save a large checkpoint again and again, in a process beside the other tests of this file."""
    path = tmp_path_factory.mktemp("saving") / "checkpoint.pth"
    training = lesson.Training(lr=0.01)
    training.losses = 10**6 * [1.0]  # they take long to write
    training.save(path)
    code = f"""
import sys, torch
from pathlib import Path
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset
device = "cpu"
{inspect.getsource(lesson.Training)}
training, path = Training(lr=0.01), Path(sys.argv[1])
training.load(path)
while True:
    training.save(path)
"""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command) as process:
        yield process, path
        process.kill()


@pytest.fixture
def trained(dataset, tmp_path):
    """Train two epochs, save the checkpoint, train four more; return the training and the file."""
    torch.manual_seed(0)
    training = lesson.Training(lr=0.01)
    training.train(dataset, 2)
    training.save(tmp_path / "checkpoint.pth")
    training.train(dataset, 6)
    return training, tmp_path / "checkpoint.pth"


def test_metrics_and_files_at_the_defaults(tmp_path, capsys, spy_on):
    trainings = spy_on(lesson, "Training")
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    for name in ("whole_model_error", "state_dict_error", "resume_error"):
        assert metrics[name] == 0
    assert metrics["hostile_blocked"] == 1
    out = capsys.readouterr().out
    created = [line.endswith("True") for line in out.splitlines() if "Folder created" in line]
    assert created == [False, True]  # the same file does harm where it is allowed to
    assert "torch.load(FILE) fails today: Weights only load failed" in out
    assert ("CUDA is not available" in out) == (not torch.cuda.is_available())
    assert out.count("the outputs differ by 0\n") == 3  # whole model, state dict, checkpoint
    assert out.count("'lr': 0.01") == 2 and "Checkpoint of epoch 90" in out

    X, y = load_digits(return_X_y=True)
    _, X_test, _, y_test = train_test_split(X / 16, y, random_state=0)
    X_test = torch.from_numpy(X_test).float().to(lesson.device)
    with torch.no_grad():  # resumed, in another object, it is the same network
        predicted = trainings[1].model.eval()(X_test).argmax(dim=1).cpu().numpy()
    assert metrics["accuracy"] == pytest.approx((predicted == y_test).mean())
    assert metrics["accuracy"] > 0.95
    assert metrics["eval_difference"] > 1
    assert plt.gcf().axes[0].lines[2].get_xdata()[0] == 5.5  # saved halfway
    assert len(trainings[1].losses) == 10 and trainings[1].losses == trainings[0].losses
    assert trainings[1].scheduler.last_epoch == 10
    assert trainings[1].model[1].num_batches_tracked == 10 * (1347 // 32)  # trained in train mode
    assert trainings[1].optimizer.param_groups[0]["lr"] == 0.01 / 4  # halved every four epochs

    model = lesson.Model(6)  # a plain torch.load reads all three files
    model.load_state_dict(torch.load(tmp_path / "10_save_load_model.pth"))
    checkpoint = torch.load(tmp_path / "10_save_load_checkpoint.pth")
    assert checkpoint["epoch"] == 90 and checkpoint["optim_state"]["param_groups"][0]["lr"] == 0.01
    assert torch.equal(checkpoint["model_state"]["linear.weight"], model.linear.weight)
    assert torch.load(tmp_path / "10_save_load_training.pth")["epoch"] == 10
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("lost", ["rng_state", "optim_state", "scheduler_state"])
def test_nothing_in_the_checkpoint_is_superfluous(dataset, trained, lost):
    """With one part taken from another training, the resumed one diverges."""
    training, path = trained
    checkpoint = torch.load(path)
    torch.manual_seed(99)
    lesson.Training(lr=0.02).save(path)
    torch.save(checkpoint | {lost: torch.load(path)[lost]}, path)
    resumed = lesson.Training(lr=0.01)
    resumed.load(path)
    resumed.train(dataset, 6)
    assert resumed.losses != training.losses


def test_resume_continues_from_the_file(tmp_path):
    common = ["--limit", "256", "--output-dir", str(tmp_path)]
    once = lesson.main([*common, "--epochs", "6"])
    lesson.main([*common, "--epochs", "4"])
    file = tmp_path / "10_save_load_training.pth"
    assert torch.load(file)["epoch"] == 4
    assert lesson.main([*common, "--epochs", "6", "--resume", str(file), "--lr", "5"]) == once
    with pytest.raises(SystemExit) as stop:  # nothing is left to do
        lesson.main([*common, "--epochs", "6", "--resume", str(file)])
    assert "--epochs" in one_line(stop)


@pytest.mark.parametrize("kind", ["missing", "half", "empty", "text", "other dict", "hostile"])
def test_resume_from_a_bad_file_is_one_line_and_writes_nothing(trained, tmp_path, kind):
    path, whole = tmp_path / "bad.pth", trained[1].read_bytes()
    contents = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"not a checkpoint\n"}
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind != "missing":
        torch.save(
            {"epoch": 3} if kind == "other dict" else lesson.Hostile(tmp_path / "made"), path
        )
    with pytest.raises(SystemExit) as stop:
        lesson.main(["--resume", str(path), "--output-dir", str(tmp_path / "out")])
    assert str(path) in one_line(stop)
    assert not (tmp_path / "out").exists() and not (tmp_path / "made").exists()


def test_killed_while_it_saves_the_checkpoint_stands(saving):
    process, path = saving
    deadline = time.monotonic() + 60
    while not path.with_name(path.name + ".tmp").exists():
        assert process.poll() is None and time.monotonic() < deadline
    process.kill()
    assert process.wait() and lesson.Training(lr=0.01).load(path) == 10**6
