"""The promises that every lesson keeps. Lessons are found by name, their flags by their parsers."""

import functools
import itertools
import runpy
import socket
import sys
from argparse import ArgumentParser
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import pytest
import torch
import update
from helpers import DEVICE, LESSONS, ROOT, load_lesson, refusal, run, spy
from torch.utils.data import RandomSampler


def flags(name):
    """Return the flags of a lesson, each with the settings that `add_argument` was given."""
    with spy(ArgumentParser, "add_argument") as add_argument:
        load_lesson(name).parse_args([])
    return {call.args[1]: call.kwargs for call in add_argument.call_args_list}


FLAGS = {name: flags(name) for name in LESSONS}
DOWNLOADS = [name for name in LESSONS if "--dataset" in FLAGS[name]]
OTHERS = [name for name in LESSONS if name not in DOWNLOADS]
# Values that make no sense; a new flag for numbers needs an entry
BAD_VALUES = {
    "--epochs": [0],
    "--batch-size": [0],
    "--limit": [0],
    "--num-workers": [-1],
    "--lr": [0, "nan", "inf"],
    "--seed": [],
}
HYPER_PARAMETERS = {
    "--epochs": "num_epochs",
    "--batch-size": "batch_size",
    "--lr": "learning_rate",
}
each_lesson = pytest.mark.parametrize("name", LESSONS)


def small_run(name, *arguments, save_figure=False):
    """Run a lesson on little data; add the numbers that came out, and a sum for each start."""
    small = ("--epochs=1", "--limit=100", "--dataset=digits")
    small = [flag for flag in small if flag.partition("=")[0] in FLAGS[name]]
    done = run(load_lesson(name), *small, *arguments, save_figure=save_figure)
    done.starts = {training.start.sum().item() for training in done.trainings}
    done.numbers = [training.end.sum().item() for training in done.trainings]
    done.numbers += [image.get_array().sum() for ax in done.axes for image in ax.images]
    keys = [key for key in done.metrics if not key.startswith(("seconds", "log_dir"))]
    done.numbers += [done.metrics[key] for key in keys]
    return done


@functools.cache
def first_run(name):
    """Run a lesson with a folder for each flag that names one, and with `--show`."""
    folders = [f"{flag}=a/{flag[2:]}" for flag in FLAGS[name] if flag.endswith("-dir")]
    with mock.patch.object(plt, "show") as show:
        done = small_run(name, *folders, "--show", save_figure=True)
    done.n_shown = show.call_count
    paths = [path for path in Path("a").rglob("*") if path.is_file()]
    done.files = {path.as_posix(): path.read_bytes() for path in paths}
    return done


@functools.cache
def other_run(name):
    """Run a lesson with another seed, where it has run before; add the folders there."""
    Path("outputs").mkdir(exist_ok=True)
    done = small_run(name, "--seed=1")
    done.folders = {path.name for path in Path().iterdir()} - {"a"}  # that of first_run
    return done


@each_lesson
def test_it_says_what_it_does_first_and_the_result_with_its_data_last(name):
    output = first_run(name).output
    title = load_lesson(name).__doc__.splitlines()[0].replace(" ·", "")
    _, data = update.read_result(output)
    assert output.startswith(f"{title} | device: {DEVICE} | data: {data}")
    assert f"\nFigure: {Path('a/output-dir', name)}.png\n" in output


@each_lesson
def test_it_draws_shows_and_names_its_files_after_itself(name):
    done = first_run(name)
    assert done.files[f"a/output-dir/{name}.png"].startswith(b"\x89PNG") and done.n_shown == 1
    assert all(path.startswith((f"a/output-dir/{name}", "a/log-dir/")) for path in done.files)


@each_lesson
def test_metrics_are_a_flat_dict_of_numbers_and_names(name):
    assert all(isinstance(value, (float, int, str)) for value in first_run(name).metrics.values())


@each_lesson
def test_hyper_parameters_are_the_defaults_of_their_flags(name):
    lesson = load_lesson(name)
    for flag, hyper_parameter in HYPER_PARAMETERS.items():
        if flag in FLAGS[name] and hasattr(lesson, hyper_parameter):
            assert FLAGS[name][flag]["default"] == getattr(lesson, hyper_parameter)


@pytest.mark.parametrize("name", OTHERS)  # for those with --dataset, see test_auto_...
def test_the_same_seed_gives_the_same_numbers(name):
    assert small_run(name).numbers == first_run(name).numbers


@each_lesson
def test_another_seed_gives_other_numbers_and_another_start_to_each_training(name):
    first, other = first_run(name), other_run(name)
    assert first.numbers != other.numbers and not first.starts & other.starts


@each_lesson
def test_panels_of_the_figure_do_not_overlap(name):
    boxes = [ax.get_position() for ax in first_run(name).axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@each_lesson
def test_by_default_it_writes_to_outputs_and_runs(name):
    assert other_run(name).folders <= {"outputs", "runs"}


@each_lesson
def test_training_shuffles_if_it_has_batches(name):
    loaders = [training.loader for training in first_run(name).trainings if training.loader]
    assert all(isinstance(loader.sampler, RandomSampler) for loader in loaders)


@each_lesson
def test_as_a_module_it_does_nothing_and_as_a_script_it_runs_main(name, capfd, monkeypatch):
    path, state = str(ROOT / f"{name}.py"), torch.get_rng_state()
    runpy.run_path(path, run_name="imported")
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(Path().iterdir()) and capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(path, run_name="__main__")


@each_lesson
def test_bad_flags_exit_2_and_write_nothing(name):
    number_flags = [flag for flag in FLAGS[name] if FLAGS[name][flag].get("type") in (int, float)]
    bad_flags = [f"{flag}={value}" for flag in number_flags for value in BAD_VALUES[flag]]
    for flag in ("--no-such-flag", *bad_flags):
        with pytest.raises(SystemExit) as stop:
            load_lesson(name).main([flag])
        assert stop.value.code == 2, flag
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_dataset_that_was_asked_for_is_not_replaced_offline(name, network_tries):
    (dataset,) = set(FLAGS[name]["--dataset"]["choices"]) - {"auto", "digits"}
    message = refusal(load_lesson(name), f"--dataset={dataset}")
    assert "--dataset digits" in message and network_tries
    assert not [path for path in Path().rglob("*") if path.is_file()]
    network_tries.clear()


@pytest.mark.parametrize("name", DOWNLOADS)
def test_auto_says_that_it_is_offline_and_gives_the_same_numbers_as_digits(name, network_tries):
    done = small_run(name, "--dataset=auto")
    (loud,) = (line for line in done.output.splitlines() if line.startswith("***"))
    assert "digits" in loud and done.numbers == first_run(name).numbers
    assert {timeout for _, timeout in network_tries} == {15} and socket.getdefaulttimeout() is None
    network_tries.clear()
