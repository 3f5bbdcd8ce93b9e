"""Lesson 10: what is saved comes back bit for bit, and no crash or stranger spoils it."""

import os
import random
import signal
import time

import pytest
import torch
from conftest import load_lesson
from torch.utils.data import TensorDataset

lesson = load_lesson("10")


@pytest.fixture(scope="module")
def dataset():
    torch.manual_seed(0)
    return TensorDataset(torch.rand(100, 64), torch.arange(100) % 10)


@pytest.fixture
def trained(dataset, tmp_path):
    """Train two epochs, save the checkpoint, train two more; return the training and the file."""
    torch.manual_seed(0)
    training = lesson.Training(lr=0.01)
    training.train(dataset, 2)
    path = tmp_path / "checkpoint.pt"
    training.save(path)
    training.train(dataset, 4)
    return training, path


def assert_resumes(dataset, trained):
    """Resuming from the file must reach the uninterrupted training's weights exactly."""
    training, path = trained
    resumed = lesson.Training(lr=5.0)  # the checkpoint brings its own learning rate
    assert resumed.load(path) == 2
    resumed.train(dataset, 4)
    assert resumed.losses == training.losses
    pairs = zip(resumed.model.state_dict().values(), training.model.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_metrics_at_the_defaults(tmp_path, capsys):
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    for name in ("whole_model_error", "state_dict_error", "resume_error"):
        assert metrics[name] == 0
    assert metrics["eval_difference"] > 0
    assert metrics["hostile_blocked"] == 1
    assert metrics["accuracy"] >= 0.95
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"10_save_load.png", "10_save_load_model.pth", "10_save_load_checkpoint.pt"}
    out = capsys.readouterr().out
    assert "size mismatch" in out and "Weights only load failed" in out
    assert ("CUDA is not available" in out) == (not torch.cuda.is_available())


def test_a_resumed_training_is_the_uninterrupted_one(dataset, trained):
    assert_resumes(dataset, trained)


@pytest.mark.parametrize("lost", ["rng_state", "optim_state", "scheduler_state"])
def test_nothing_in_the_checkpoint_is_superfluous(dataset, trained, lost):
    """With one part taken from a fresh training, the resumed one goes elsewhere."""
    training, path = trained
    checkpoint = torch.load(path)
    torch.manual_seed(99)
    lesson.Training(lr=0.02).save(path)
    checkpoint[lost] = torch.load(path)[lost]
    torch.save(checkpoint, path)
    resumed = lesson.Training(lr=0.01)
    resumed.load(path)
    resumed.train(dataset, 6)
    training.train(dataset, 6)
    assert resumed.losses != training.losses


def test_resume_goes_on_from_the_file(tmp_path, capsys):
    common = ["--limit", "256", "--output-dir", str(tmp_path)]
    once = lesson.main([*common, "--epochs", "6"])
    lesson.main([*common, "--epochs", "4"])
    file = tmp_path / "10_save_load_checkpoint.pt"
    assert torch.load(file)["epoch"] == 4
    again = lesson.main([*common, "--epochs", "6", "--resume", str(file), "--lr", "5"])
    assert again == once
    assert torch.load(file)["epoch"] == 6
    with pytest.raises(SystemExit) as stop:  # nothing is left to do
        lesson.main([*common, "--epochs", "6", "--resume", str(file)])
    assert "--epochs" in stop.value.code


def bad_content(kind, whole, folder):
    """Return the bytes or the object of a file that is not a checkpoint."""
    return {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not a checkpoint\n",
        "other dict": {"epoch": 3},
        "other network": torch.load(folder / "checkpoint.pt") | {"model_state": {}},
        "hostile": lesson.Hostile(folder / "made"),
    }[kind]


KINDS = ["missing", "half", "empty", "text", "other dict", "other network", "hostile"]


@pytest.mark.parametrize("kind", KINDS)
def test_resume_from_a_bad_file_is_one_line(trained, tmp_path, kind):
    path, before = tmp_path / "bad.pt", None
    if kind != "missing":
        content = bad_content(kind, trained[1].read_bytes(), tmp_path)
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        before = path.read_bytes()
    with pytest.raises(SystemExit) as stop:
        lesson.main(["--resume", str(path), "--output-dir", str(tmp_path / "out")])
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    assert str(path) in stop.value.code
    assert not (tmp_path / "out").exists() and not (tmp_path / "made").exists()
    assert before is None or path.read_bytes() == before


def test_the_hostile_file_is_hostile(tmp_path):
    torch.save(lesson.Hostile(tmp_path / "made"), tmp_path / "file.pt")
    torch.load(tmp_path / "file.pt", weights_only=False)
    assert (tmp_path / "made").is_dir()  # what the default prevents


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_killed_at_any_moment_the_checkpoint_stands(dataset, trained):
    path = trained[1]
    saving = lesson.Training(lr=0.01)
    saving.load(path)
    moments, stages = random.Random(0), set()
    for _ in range(20):
        child = os.fork()
        while child == 0:  # in the new process: save until killed
            saving.save(path)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        stages.add(path.with_name(path.name + ".tmp").exists())
        assert lesson.Training(lr=0.01).load(path) == 2
    assert True in stages  # at least once, the kill came in the middle of saving
    assert_resumes(dataset, trained)
