"""The promises that every lesson keeps.

How to add a lesson:
    1. Write `11_name.py` with the anatomy of the others: docstring, `main(argv)`, `parse_args`.
    2. Print the first line, the result, and the figure's path as they do; name files `11_name...`.
    3. Return a flat dict of numbers from `main`; texts go into `TEXT_METRICS` below.
    4. If it has DataLoaders, list in `SHUFFLED` which of them shuffle, in the order of creation.
    5. Add `test_11_name.py`: what its functions compute, against a reference.
    6. Add it to README.md, its figure to docs/images (`tests/benchmark.py --images`), and the
       answers to its `Try it` to docs/answers.md.
"""

import math
import random
import re
import runpy
import subprocess
import sys

import benchmark
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import LESSONS, ROOT, load_lesson, tiny_args
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, RandomSampler

each_lesson = pytest.mark.parametrize("name", LESSONS)
TEXT_METRICS = ("dataset", "log_dir")
SHUFFLED = {
    "03_dataset_dataloader": [True, True, False, True, True, True],
    "07_cnn_cifar10": [True, False],
    "08_transfer_learning": [True, False, True, False],
    "09_tensorboard_mnist": [True, False],
    "10_save_load": [True, True, True],
}
BAD_FLAGS = {
    "epochs": ["0", "1.5"],
    "batch_size": ["0"],
    "limit": ["0", "many"],
    "lr": ["0", "-0.1", "nan", "inf"],
    "num_workers": ["-1"],
    "dataset": ["imagenet"],
}


class TinyRun:
    """What a lesson does on a tiny subset: its metrics, its figure, its loaders, its updates."""

    def __init__(self, name, seed, folder):
        lesson, init, manual_seed = load_lesson(name), DataLoader.__init__, torch.manual_seed
        zero_grad = torch.optim.Optimizer.zero_grad
        self.outputs, self.shuffled, self.calls, self.seeds = folder / "outputs", [], [], []

        def spy_manual_seed(seed):
            if sys._getframe(1).f_globals["__name__"] == name:  # not torchvision's FakeData
                self.seeds.append(seed)
            return manual_seed(seed)

        def spy_init(loader, *args, **kwargs):
            init(loader, *args, **kwargs)
            self.shuffled.append(isinstance(loader.sampler, RandomSampler))

        def spy_zero_grad(optimizer, *args, **kwargs):
            self.calls.append("zero_grad")
            zero_grad(optimizer, *args, **kwargs)

        hook = register_optimizer_step_pre_hook(lambda *args: self.calls.append("step"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "manual_seed", spy_manual_seed)
            patch.setattr(DataLoader, "__init__", spy_init)
            patch.setattr(torch.optim.Optimizer, "zero_grad", spy_zero_grad)
            self.metrics = lesson.main([*tiny_args(lesson, folder), f"--seed={seed}"])
        hook.remove()
        self.figure = (self.outputs / f"{name}.png").read_bytes()
        timed = ("seconds", "log_dir")
        self.numbers = {k: v for k, v in self.metrics.items() if not k.startswith(timed)}
        plt.close("all")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return a function that runs a lesson on a tiny subset, once for each seed and take."""
    runs = {}

    def run(name, seed=0, take=1):
        if (name, seed, take) not in runs:
            runs[name, seed, take] = TinyRun(name, seed, tmp_path_factory.mktemp("tiny"))
        return runs[name, seed, take]

    return run


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
def test_runs_on_a_tiny_subset(name, tiny, capsys):
    run = tiny(name)
    for key, value in run.metrics.items():
        assert isinstance(value, str) if key in TEXT_METRICS else math.isfinite(value), key
        assert not key.startswith(("accuracy", "average_precision")) or 0 <= value <= 1, key
    lines = capsys.readouterr().out.splitlines()
    title = load_lesson(name).__doc__.splitlines()[0].replace(" · ", " ")
    assert re.fullmatch(rf"{title} \| device: (cpu|cuda) \| data: \w.*", lines[0])
    assert run.figure.startswith(b"\x89PNG")
    assert all(path.name.startswith(name) for path in run.outputs.iterdir())
    result = lines[lines.index(f"Figure: {run.outputs / name}.png") - 1]
    assert re.search(r"\(.+\)$", result)  # it names the dataset
    assert benchmark.read_result("\n".join(lines))
    # Each step has gradients of its own
    assert run.calls.count("zero_grad") >= run.calls.count("step")
    assert ("step" in run.calls) == (not name.startswith("04"))
    assert run.shuffled == SHUFFLED.get(name, [])  # for training, but not for tests


@each_lesson
def test_the_seed_decides_the_numbers(name, tiny):
    first, again, other = tiny(name), tiny(name, take=2), tiny(name, seed=1)
    assert first.numbers == pytest.approx(again.numbers)  # lstsq's last bit may differ in torch 2.7
    assert set(first.seeds) == {0} and set(other.seeds) == {1}
    if name.startswith("04"):  # its metrics do not depend on the seed, but its figure does
        assert first.figure == again.figure != other.figure
    else:
        assert first.numbers != other.numbers


@each_lesson
def test_import_has_no_side_effects(name, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    runpy.run_path(str(ROOT / f"{name}.py"), run_name="imported")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


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


def test_show_opens_the_figure(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    load_lesson("01").main(["--show", "--output-dir", str(tmp_path)])
    assert shown == [[1]]


def test_runs_as_a_script_with_a_worker_from_a_folder_with_spaces_and_accents(script):
    process, folder = script
    assert process.communicate()[1] == b"" and process.returncode == 0
    written = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    assert written == ["outputs/03_dataset_dataloader.png"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_lesson_uses_the_gpu(tmp_path, capsys):
    torch.cuda.reset_peak_memory_stats()
    lesson = load_lesson("07")
    lesson.main(tiny_args(lesson, tmp_path))
    assert "device: cuda" in capsys.readouterr().out
    assert torch.cuda.max_memory_allocated() > 0
