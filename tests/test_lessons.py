"""The promises that every lesson keeps. Lessons are found by name, their flags by their parsers."""

import contextlib
import itertools
import re
import runpy
import socket
import sys
from pathlib import Path
from unittest import mock

import helpers
import matplotlib.pyplot as plt
import pytest
import torch
from helpers import LESSONS, load_lesson

DEFAULTS = {name: vars(load_lesson(name).parse_args([])) for name in LESSONS}
DOWNLOADS = [name for name in LESSONS if "dataset" in DEFAULTS[name]]
DATASETS = {"07": "cifar10", "08": "hymenoptera", "09": "mnist"}  # what --dataset names
BAD_VALUES = {  # a new flag for numbers needs an entry
    "epochs": [0],
    "batch_size": [0],
    "num_workers": [-1],
    "lr": [0, "nan", "inf", 1001],
    "seed": [-1, 2**32],
}


def small_run(name, *flags, save_figure=False):
    """Run a lesson on little data; add its numbers, and a sum of each network's first weights."""
    small = {"epochs": "--epochs=1", "dataset": "--dataset=digits"}
    # If `flags` has --dataset, too, that counts, as it is the last
    flags = [small[flag] for flag in small if flag in DEFAULTS[name]] + [*flags]
    if name.startswith("03"):  # it has no epochs, but needs few updates at a high rate
        flags.append("--lr=5")
    lesson = load_lesson(name)
    takes_long = name.startswith(("07", "09"))
    with helpers.few_digits(lesson, 400) if takes_long else contextlib.nullcontext():
        with helpers.record_training() as trainings:
            done = helpers.run(lesson, *flags, save_figure=save_figure)
    done.starts = {training.start.sum().item() for training in trainings}
    done.numbers = [training.end.sum().item() for training in trainings]
    done.numbers += [float(image.get_array().sum()) for ax in done.axes for image in ax.images]
    done.numbers += [value for value in done.metrics.values() if not isinstance(value, str)]
    return done


@pytest.fixture(scope="module", params=LESSONS)
def done(request):
    """Run each lesson with `--show`, and with a folder for each flag that names one."""
    name = request.param
    folders = [flag for flag in DEFAULTS[name] if flag.endswith("_dir")]
    with mock.patch.object(plt, "show") as show:
        flags = [f"--{folder.replace('_', '-')}={name}/{folder}" for folder in folders]
        done = small_run(name, *flags, "--show", save_figure=True)
    done.name, done.n_shown = name, show.call_count
    return done


def test_it_says_what_it_does_first_and_what_came_out_last(done):
    title = load_lesson(done.name).__doc__.splitlines()[0].replace(" ·", "")
    data = re.fullmatch(r".+ \(([^()]+)\)", done.result)[1]
    assert done.output.startswith(f"{title} | device: {helpers.DEVICE} | data: {data}")
    figure = Path(done.name, "output_dir", f"{done.name}.png")
    assert f"{done.result}\nFigure: {figure}\n" in done.output
    assert figure.read_bytes().startswith(b"\x89PNG") and done.n_shown == 1


def test_files_are_where_the_flags_say_and_named_after_the_lesson(done):
    files = [path.relative_to(done.name) for path in Path(done.name).rglob("*") if path.is_file()]
    folders = {"output_dir", "log_dir"} & DEFAULTS[done.name].keys()
    assert {file.parts[0] for file in files} == folders
    assert all(file.name.startswith(done.name) for file in files if file.parts[0] == "output_dir")


def test_metrics_are_a_flat_dict_of_numbers_and_names(done):
    assert done.metrics
    assert all(isinstance(value, (float, int, str)) for value in done.metrics.values())


def test_panels_of_the_figure_do_not_overlap_and_none_is_empty(done):
    boxes = [ax.get_position() for ax in done.axes]
    assert boxes and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(ax.lines or ax.images or ax.collections for ax in done.axes)


def test_curves_have_labelled_axes_and_their_labels_are_in_a_legend(done):
    legends = [ax.get_legend() for ax in done.axes if ax.get_legend()]
    shown = {text.get_text() for legend in legends for text in legend.get_texts()}
    for ax in done.axes:
        labels = {label for label in helpers.lines(ax) if not label.startswith("_")}  # _: no label
        assert labels <= shown
        if ax.lines:
            assert ax.get_xlabel() and (ax.get_ylabel() or ax.get_title())


def test_the_same_seed_gives_the_same_numbers(done, empty_folder):
    # Rounding depends on where arrays are in memory
    assert done.numbers == pytest.approx(small_run(done.name).numbers, rel=1e-6)


def test_another_seed_gives_other_numbers_and_other_starts(done, empty_folder):
    other = small_run(done.name, "--seed=9")
    assert done.numbers != other.numbers
    assert not done.starts & other.starts  # no training starts as one of the others did


@pytest.mark.parametrize("name", LESSONS)
def test_as_a_module_it_does_nothing_and_as_a_script_it_runs_main(
    name, capfd, monkeypatch, empty_folder
):
    path, state = str(helpers.ROOT / f"{name}.py"), torch.get_rng_state()
    runpy.run_path(path, run_name="imported")
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(empty_folder.iterdir()) and capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(path, run_name="__main__")


@pytest.mark.parametrize("name", LESSONS)
def test_bad_flags_exit_2_and_write_nothing(name, empty_folder):
    flags = {flag for flag, value in DEFAULTS[name].items() if type(value) in (int, float)}
    bad_flags = [f"--{flag.replace('_', '-')}={bad}" for flag in flags for bad in BAD_VALUES[flag]]
    for flag in ["--no-such-flag", *bad_flags]:
        with pytest.raises(SystemExit) as stop:
            load_lesson(name).main([flag])
        assert stop.value.code == 2, flag
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_dataset_asked_for_by_name_is_not_replaced_offline(name, network_tries, empty_folder):
    network_tries.clear()
    message = helpers.refusal(load_lesson(name), f"--dataset={DATASETS[name[:2]]}")
    assert "--dataset digits" in message and network_tries
    assert not [path for path in empty_folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", DOWNLOADS)
def test_auto_says_that_it_is_offline_and_gives_the_same_numbers_as_digits(name, network_tries):
    network_tries.clear()
    done = small_run(name, "--dataset=auto")
    (loud,) = (line for line in done.output.splitlines() if line.startswith("***"))
    assert "digits" in loud and done.numbers == small_run(name).numbers
    assert {timeout for _, timeout in network_tries} == {15} and socket.getdefaulttimeout() is None
