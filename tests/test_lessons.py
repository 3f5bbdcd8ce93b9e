"""The promises that every lesson keeps.

How to add a lesson:
    1. Write `11_name.py` with the anatomy of the others: docstring, `main(argv)`, `parse_args`.
    2. Print the first line, the result, and the figure's path as they do; name files `11_name...`.
    3. Return a flat dict of numbers from `main`; list the keys of texts in `TEXT_METRICS` below.
    4. If it has DataLoaders, list in `SHUFFLED` whether each one shuffles, in order of creation.
    5. Add `test_11_name.py`: what its functions compute, against a reference.
    6. Add it to README.md, its figure to docs/images (`tests/benchmark.py --images`), and the
       answers to its `Try it` to docs/answers.md.
"""

import contextlib
import functools
import io
import math
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import benchmark
import matplotlib.pyplot as plt
import pytest
import torch
from conftest import LESSONS, ROOT, load_lesson, one_line, run, spy
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

each_lesson = pytest.mark.parametrize("name", LESSONS)
TEXT_METRICS = ("dataset", "log_dir")
SHUFFLED = {"07": [True, False], "08": [True, False, True, False], "09": [True, False]}
SHUFFLED |= {"03": [True, True, False, True, True, True], "10": [True, True, True]}
LEAST_LIMITS = {"02": 4, "05": 1, "07": 1, "08": 2, "09": 1, "10": 32}
DOWNLOADED = {"07": "cifar10", "08": "hymenoptera", "09": "mnist"}
BAD_FLAGS = {"epochs": [0], "batch_size": [0], "num_workers": [-1], "lr": [0, "nan", "inf"]}


@functools.cache
def tiny_run(name, seed=0, draw=True):
    """Run a lesson on a tiny subset, once with the same arguments, and return what it did."""
    done, steps = SimpleNamespace(), []
    hook = register_optimizer_step_pre_hook(lambda *args: steps.append(args))
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()) as out,
        spy(torch, "manual_seed") as manual_seed,
        spy(DataLoader, "__init__") as loaders,
        spy(Optimizer, "zero_grad") as zero_grad,
    ):
        done.metrics = run(load_lesson(name), Path(folder), f"--seed={seed}", draw=draw)
        done.files = {path.name: path.read_bytes() for path in Path(folder, "output").iterdir()}
    hook.remove()
    done.lines = out.getvalue().splitlines()
    done.n_steps, done.n_zero_grads = len(steps), zero_grad.call_count
    done.seeds = [call.args[0] for call in manual_seed.call_args_list]
    done.shuffled = [call.kwargs.get("shuffle", False) for call in loaders.call_args_list]
    done.numbers = {k: v for k, v in done.metrics.items() if "seconds" not in k and k != "log_dir"}
    images = [image for ax in plt.gcf().axes for image in ax.images]
    done.numbers |= {f"image {i}": float(x.get_array().sum()) for i, x in enumerate(images)}
    return done


@pytest.fixture(scope="module", autouse=True)
def script(tmp_path_factory):
    """Start lesson 03 as a script, with a worker, beside the other tests of this file."""
    folder = tmp_path_factory.mktemp("script") / "leçon one"
    folder.mkdir()
    command = [sys.executable, "-W", "error", str(ROOT / "03_dataset_dataloader.py")]
    command += ["--epochs", "1", "--num-workers", "1"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) as process:
        yield process, folder


@each_lesson
def test_runs_on_a_tiny_subset(name):
    done = tiny_run(name)
    for key, value in done.metrics.items():
        assert isinstance(value, str) if key in TEXT_METRICS else math.isfinite(value), key
        assert not key.startswith(("accuracy", "average_precision")) or 0 <= value <= 1, key
    title = load_lesson(name).__doc__.splitlines()[0].replace(" · ", " ")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert re.fullmatch(rf"{title} \| device: {device} \| data: \w.*", done.lines[0])
    assert done.files[f"{name}.png"].startswith(b"\x89PNG")
    assert all(file.startswith(name) for file in done.files)
    assert benchmark.read_result("\n".join(done.lines))  # the line before the figure's
    assert done.n_zero_grads >= done.n_steps  # at least one call for each step
    assert done.shuffled == SHUFFLED.get(name[:2], [])  # for training, but not for tests


@each_lesson
def test_the_seed_decides_the_numbers(name):
    first = tiny_run(name)
    again, other = (tiny_run(name, seed, draw=False) for seed in (0, 1))
    assert first.numbers == pytest.approx(again.numbers)  # lstsq's last bit may differ in torch 2.7
    n = 1 if name.startswith("03") else None  # FakeData seeds each of its images
    assert set(first.seeds[:n]) == {0} and set(other.seeds[:n]) == {1}
    assert first.numbers != other.numbers


@each_lesson
def test_import_has_no_side_effects(name, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    runpy.run_path(str(ROOT / f"{name}.py"), run_name="imported")
    assert torch.equal(torch.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


@each_lesson
def test_bad_flags_exit_2_and_write_nothing(name, tmp_path, capsys):
    lesson = load_lesson(name)
    bad = BAD_FLAGS | {"limit": [LEAST_LIMITS.get(name[:2], 1) - 1]}
    for flag in vars(lesson.parse_args([])):
        for value in bad.get(flag, []):
            with pytest.raises(SystemExit) as stop:
                run(lesson, tmp_path, f"--{flag.replace('_', '-')}={value}")
            assert stop.value.code == 2, (flag, value)
            assert "usage: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", sorted(LEAST_LIMITS.keys() - DOWNLOADED.keys()))
def test_the_least_limit_is_enough(number, tmp_path):
    run(load_lesson(number), tmp_path, f"--limit={LEAST_LIMITS[number]}")


@pytest.mark.parametrize("number", DOWNLOADED)
def test_offline_it_says_so_and_uses_the_digits(number, tmp_path, capsys, hosts):
    lesson = load_lesson(number)
    with pytest.raises(SystemExit) as stop:  # a dataset that was asked for is not replaced
        run(lesson, tmp_path, f"--dataset={DOWNLOADED[number]}")
    assert "could not be downloaded" in one_line(stop) and "--dataset digits" in one_line(stop)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    least = f"--limit={LEAST_LIMITS[number]}"
    assert run(lesson, tmp_path, "--dataset=auto", least)["dataset"] == "digits"
    loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
    assert len(loud) == 1 and "digits" in loud[0]
    assert hosts
    hosts.clear()


def test_runs_as_a_script_with_a_worker_from_a_folder_with_spaces_and_accents(script):
    process, folder = script
    assert process.communicate()[1].decode() == "" and process.returncode == 0
    written = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    assert written == ["outputs/03_dataset_dataloader.png"]
