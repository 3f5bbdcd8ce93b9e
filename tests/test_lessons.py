"""The promises that every lesson keeps. Lessons are found by name, their flags by their parsers."""

import functools
import math
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import pytest
import torch
import torchvision
import update
from helpers import LESSONS, ROOT, flags, least_limit, load_lesson, one_line, run
from torch.utils.data import RandomSampler
from torchvision.models.resnet import BasicBlock, ResNet

FLAGS = {name: flags(load_lesson(name)) for name in LESSONS}
DOWNLOADS = [name for name in LESSONS if "--dataset" in FLAGS[name]]
OTHERS = [name for name in LESSONS if name not in DOWNLOADS]
# Values that make no sense; a new flag for numbers needs an entry
BAD_VALUES = {"--epochs": [0], "--batch-size": [0], "--limit": [0], "--num-workers": [-1]}
BAD_VALUES["--lr"] = [0, "nan", "inf"]
ResNet10 = functools.partial(ResNet, BasicBlock, [1, 1, 1, 1])  # for 08, in half the time
each_lesson = pytest.mark.parametrize("name", LESSONS)


def small_run(name, *arguments, draw=False):
    """Run a lesson on as little as it accepts, and return what it did."""
    lesson = load_lesson(name)
    small = ["--epochs=1"] if "--epochs" in FLAGS[name] else []
    small += [f"--limit={least_limit(lesson)}"] if "--limit" in FLAGS[name] else []
    with mock.patch.object(torchvision.models, "resnet18", ResNet10):
        done = run(lesson, *small, *arguments, draw=draw)
    for training in done.trainings:  # sums instead of vectors, which may be large
        training.start, training.end = training.start.sum().item(), training.end.sum().item()
    done.numbers = [training.end for training in done.trainings]
    done.numbers += [image.get_array().sum() for ax in done.axes for image in ax.images]
    keys = [key for key in done.metrics if not key.startswith(("seconds", "log_dir"))]
    done.numbers += [done.metrics[key] for key in keys]
    return done


@functools.cache
def first_run(name):
    """Run a lesson with a folder for each flag that names one, and with `--show`."""
    folders = [f"{flag}={flag[2:]}" for flag in FLAGS[name] if flag.endswith("-dir")]
    with mock.patch.object(plt, "show") as show:
        done = small_run(name, *folders, "--show", draw=True)
    done.n_shown = show.call_count
    paths = [path for path in Path().rglob("*") if path.is_file()]
    done.files = {path.as_posix(): path.read_bytes() for path in paths}
    return done


@pytest.fixture(scope="module", autouse=True)
def script(tmp_path_factory):
    """Start lesson 03 as a script, with a worker, beside the other tests of this file."""
    folder = tmp_path_factory.mktemp("script") / "leçon one"
    folder.mkdir()
    command = [sys.executable, "-W", "error", str(ROOT / "03_dataset_dataloader.py")]
    command += ["--epochs=1", "--num-workers=1"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) as process:
        yield process, folder


@each_lesson
def test_it_has_tests_of_its_own(name):
    assert (ROOT / "tests" / f"test_{name}.py").exists()


@each_lesson
def test_it_says_what_it_does_first_and_the_result_with_its_data_last(name):
    output = first_run(name).output
    title = load_lesson(name).__doc__.splitlines()[0].replace(" ·", "")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _, data = update.read_result(output)
    assert output.startswith(f"{title} | device: {device} | data: {data}")
    assert f"\nFigure: {Path('output-dir', name)}.png\n" in output


@each_lesson
def test_it_draws_shows_and_names_its_files_after_itself(name):
    done = first_run(name)
    assert done.files[f"output-dir/{name}.png"].startswith(b"\x89PNG") and done.n_shown == 1
    assert all(path.startswith((f"output-dir/{name}", "log-dir/")) for path in done.files)


@each_lesson
def test_metrics_are_a_flat_dict_of_finite_numbers(name):
    for key, value in first_run(name).metrics.items():
        assert isinstance(value, str) or math.isfinite(value), key
        assert not key.startswith("accuracy") or 0 <= value <= 1, key


@pytest.mark.parametrize("name", OTHERS)  # for those with --dataset, see `auto` below
def test_the_same_seed_gives_the_same_numbers(name):
    assert small_run(name).numbers == first_run(name).numbers


@each_lesson
def test_another_seed_gives_other_numbers_and_another_start_to_each_training(name):
    first, other = first_run(name), small_run(name, "--seed=1")
    assert first.numbers != other.numbers
    starts, other_starts = ({t.start for t in done.trainings} for done in (first, other))
    assert not starts & other_starts


@each_lesson
def test_training_shuffles_and_zeroes_the_gradients(name):
    done = first_run(name)
    loaders = [training.loader for training in done.trainings if training.loader]
    assert all(isinstance(loader.sampler, RandomSampler) for loader in loaders)
    assert done.n_zero_grads >= sum(len(training.rates) for training in done.trainings)


@each_lesson
def test_import_has_no_side_effects(name, capfd):
    state = torch.get_rng_state()
    runpy.run_path(str(ROOT / f"{name}.py"), run_name="imported")
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(Path().iterdir()) and capfd.readouterr() == ("", "")


@each_lesson
def test_bad_flags_exit_2_and_write_nothing(name):
    number_flags = [flag for flag in FLAGS[name] if FLAGS[name][flag].get("type") in (int, float)]
    for flag in set(number_flags) - {"--seed"}:
        for value in BAD_VALUES[flag]:
            with pytest.raises(SystemExit) as stop:
                load_lesson(name).main([f"{flag}={value}"])
            assert stop.value.code == 2, (flag, value)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_dataset_that_was_asked_for_is_not_replaced_offline(name, no_network):
    (dataset,) = set(FLAGS[name]["--dataset"]["choices"]) - {"auto", "digits"}
    with pytest.raises(SystemExit) as stop:
        load_lesson(name).main([f"--dataset={dataset}"])
    assert "--dataset digits" in one_line(stop) and no_network
    assert not [path for path in Path().rglob("*") if path.is_file()]
    no_network.clear()


@pytest.mark.parametrize("name", DOWNLOADS)
def test_auto_says_that_it_is_offline_and_gives_the_same_numbers_as_digits(name, no_network):
    done = small_run(name, "--dataset=auto")
    (loud,) = (line for line in done.output.splitlines() if line.startswith("***"))
    assert "digits" in loud and done.numbers == first_run(name).numbers and no_network
    no_network.clear()


def test_it_runs_as_a_script_with_a_worker_in_a_folder_with_spaces_and_accents(script):
    process, folder = script
    assert process.communicate()[1].decode() == "" and process.returncode == 0
    written = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    assert written == ["outputs/03_dataset_dataloader.png"]
