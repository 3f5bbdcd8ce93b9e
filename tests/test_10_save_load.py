"""Lesson 10: what is saved comes back bit for bit, and no crash or stranger spoils it."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

KEEP_WRITING = """
import os, runpy, sys
from pathlib import Path
lesson = runpy.run_path(sys.argv[1])
training = lesson["restore"](Path(sys.argv[2]))
for _ in sys.stdin:
    child = os.fork()
    while child == 0:
        lesson["save_checkpoint"](training, Path(sys.argv[2]))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""
FULL_DISK = """
import resource, runpy, sys
from pathlib import Path
lesson = runpy.run_path(sys.argv[1])
training = lesson["restore"](Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
lesson["save_checkpoint"](training, Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def lesson10(lesson):
    return lesson("10_")


@pytest.fixture(scope="module")
def data(lesson10):
    X_train, y_train, _, _ = lesson10.load_data(256)
    return X_train, y_train


@pytest.fixture
def trained(lesson10, data, tmp_path):
    """Train two epochs, write the checkpoint, train two more; give the training and the file."""
    torch.manual_seed(0)
    training = lesson10.Training(lr=0.01)
    training.run(*data, until=2)
    path = tmp_path / "checkpoint.pt"
    lesson10.save_checkpoint(training, path)
    training.run(*data, until=4)
    return training, path


def assert_resumes(lesson10, data, trained):
    """Resuming from the file must reach the uninterrupted run's weights and losses exactly."""
    training, path = trained
    resumed = lesson10.restore(path)
    assert (resumed.epoch, len(resumed.losses)) == (2, 2)
    resumed.run(*data, until=4)
    assert resumed.losses == training.losses
    pairs = zip(resumed.model.parameters(), training.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert lesson10.difference(resumed, training) == 0


def test_metrics_at_the_defaults(lesson10, tmp_path, capsys):
    metrics = lesson10.main(["--output-dir", str(tmp_path)])
    for name in ("whole_model_error", "state_dict_error", "resume_error"):
        assert metrics[name] == 0
    assert metrics["eval_difference"] > 0
    assert metrics["malicious_blocked"] == 1
    assert metrics["accuracy"] >= 0.95
    assert (metrics["n_train"], metrics["n_test"]) == (1347, 450)
    assert metrics["devices_checked"] == (4 if torch.cuda.is_available() else 1)
    out = capsys.readouterr().out
    assert out.count("skipped, no CUDA") == 4 - metrics["devices_checked"]
    names = {"whole", "state_dict", "checkpoint"}
    for name in names:
        assert metrics[f"bytes_{name}"] == (tmp_path / f"10_save_load_{name}.pt").stat().st_size
    assert metrics["bytes_checkpoint"] > metrics["bytes_state_dict"]
    files = {f"10_save_load_{name}.pt" for name in names} | {"10_save_load.png"}
    assert {path.name for path in tmp_path.iterdir()} == files

    model = lesson10.Net()
    model.load_state_dict(torch.load(tmp_path / "10_save_load_state_dict.pt", map_location="cpu"))
    _, _, X_test, y_test = lesson10.load_data(None)
    right = lesson10.predict(model, X_test.cpu()).argmax(dim=1) == y_test.cpu()
    assert right.float().mean().item() == pytest.approx(metrics["accuracy"])
    for words in ("FileNotFoundError", "UnpicklingError", "ValueError", "Missing key(s)"):
        assert words in out
    for words in ("Unexpected key(s)", "size mismatch", "its code was not run"):
        assert words in out


def test_resumed_run_is_the_uninterrupted_one(lesson10, data, trained):
    assert_resumes(lesson10, data, trained)


@pytest.mark.parametrize("lost", ["rng_cpu", "optimizer", "scheduler"])
def test_nothing_in_the_checkpoint_is_superfluous(lesson10, data, trained, lost):
    """With one part taken from an untrained start, the resumed run goes elsewhere."""
    training, path = trained
    checkpoint = torch.load(path)
    torch.manual_seed(99)
    fresh = lesson10.Training(lr=0.02)
    lesson10.save_checkpoint(fresh, path)
    checkpoint[lost] = torch.load(path)[lost]
    torch.save(checkpoint, path)
    resumed = lesson10.restore(path)
    resumed.run(*data, until=6)
    training.run(*data, until=6)
    assert lesson10.difference(resumed, training) > 0


def test_resume_flag_goes_on_from_the_file(lesson10, tmp_path, capsys):
    common = ["--limit", "256", "--output-dir", str(tmp_path)]
    once = lesson10.main([*common, "--epochs", "6"])
    capsys.readouterr()
    lesson10.main([*common, "--epochs", "4"])
    file = tmp_path / "10_save_load_checkpoint.pt"
    assert torch.load(file)["epoch"] == 4
    again = lesson10.main([*common, "--epochs", "6", "--resume", str(file), "--lr", "5"])
    assert f"Going on from epoch 4 of {file}" in capsys.readouterr().out
    assert {k: v for k, v in again.items() if "bytes" not in k} == {
        k: v for k, v in once.items() if "bytes" not in k
    }
    assert torch.load(file)["epoch"] == 6


def bad_files(lesson10, whole):
    other = torch.nn.Linear(3, 3)
    checkpoint = {"rng_cpu": torch.get_rng_state(), "rng_cuda": [], "epoch": 1, "losses": [1.0]}
    return {
        "half": whole[: len(whole) // 2],
        "first byte": whole[:1],
        "empty": b"",
        "text": b"no checkpoint\n",
        "noise": random.Random(0).randbytes(500),
        "tensor": torch.zeros(3),
        "state dict": lesson10.Net().state_dict(),
        "other network": checkpoint | {"model": other.state_dict()},
        "no model": checkpoint,
    }


BAD_FILES = "half,first byte,empty,text,noise,tensor,state dict,other network,no model".split(",")


@pytest.mark.parametrize("kind", ["missing", "folder", *BAD_FILES])
def test_resume_from_a_bad_file_is_one_line(lesson10, trained, tmp_path, kind):
    path, before = tmp_path / "bad.pt", None
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        content = bad_files(lesson10, trained[1].read_bytes())[kind]
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        before = path.read_bytes()
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        lesson10.main(["--resume", str(path), "--output-dir", str(out)])
    message = stop.value.code
    assert isinstance(message, str) and "\n" not in message and str(path) in message
    assert list(out.iterdir()) == []
    if before is not None:
        assert path.read_bytes() == before


def test_resume_with_nothing_left_to_do_is_one_line(lesson10, trained, tmp_path):
    with pytest.raises(SystemExit) as stop:
        lesson10.main(["--resume", str(trained[1]), "--epochs", "2", "--output-dir", str(tmp_path)])
    assert "--epochs" in stop.value.code


@pytest.mark.parametrize("limit", ["2", "33", "65"])
def test_no_batch_is_too_small_for_batch_norm(lesson10, tmp_path, limit):
    lesson10.main(["--limit", limit, "--epochs", "1", "--output-dir", str(tmp_path)])


def test_the_hostile_file_is_hostile(lesson10, tmp_path, capsys):
    assert lesson10.show_hostile_file(tmp_path) is True
    assert "was not run" in capsys.readouterr().out
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert (tmp_path / "marker").is_dir()  # what the default has kept from happening


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_at_any_moment_the_checkpoint_stands(lesson10, data, trained, offline_env):
    training, path = trained
    moments, stages = random.Random(0), set()
    command = [sys.executable, "-c", KEEP_WRITING, str(ROOT / "10_save_load.py"), str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=offline_env, **pipes) as process:
        for _ in range(20):
            process.stdin.write("\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            time.sleep(moments.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "killed\n"
            stages.add(path.with_name(path.name + ".part").exists())
            assert lesson10.restore(path).epoch == 2
    assert True in stages  # at least once, the kill came in the middle of writing
    assert_resumes(lesson10, data, trained)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of a file's size")
def test_a_full_disk_leaves_the_old_checkpoint(lesson10, data, trained, offline_env):
    path = trained[1]
    before = path.read_bytes()
    script = str(ROOT / "10_save_load.py")
    limit = str(len(before) // 2)
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, script, str(path), limit],
        env=offline_env,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result
    assert len(result.stderr.splitlines()) == 1 and str(path) in result.stderr
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert_resumes(lesson10, data, trained)
