"""Lesson 10: what is saved comes back bit for bit, and no file does harm."""

import copy
import functools
import inspect
import itertools
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import load_lesson, numbers, one_line, retrace, run, spy
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("10")
FILE = Path("outputs/10_save_load_training.pth")
_, (PAYLOAD,) = lesson.Hostile().__reduce__()
assert_same = functools.partial(torch.testing.assert_close, rtol=0, atol=0)


@functools.cache
def six_epochs():
    """Run six epochs; add both trainings, the files, and what was compared."""
    with (
        spy(lesson, "draw") as draw,
        spy(lesson, "load_both_ways") as load_both_ways,
        spy(lesson, "largest_difference") as largest_difference,
    ):
        done = run(lesson, "--epochs=6", "--lr=0.02")
    done.uninterrupted, done.resumed, *_ = draw.call_args.args
    done.loaded = [call.args[0] for call in load_both_ways.mock_calls]
    done.compared = [call.args for call in largest_difference.mock_calls]
    for name in ("model", "state_dict", "checkpoint", "training"):
        file = f"outputs/10_save_load_{name}.pth"
        setattr(done, name, torch.load(file, weights_only=name != "model"))
    return done


def test_model_state_dict_and_checkpoint_bring_back_the_same_parameters():
    done = six_epochs()
    assert type(done.model) is lesson.Model and done.checkpoint["epoch"] == 90
    assert [tuple(tensor.shape) for tensor in done.state_dict.values()] == [(1, 6), (1,)]
    assert_same(done.model.state_dict(), done.state_dict)
    assert_same(done.checkpoint["model_state"], done.state_dict)
    assert done.checkpoint["optim_state"]["param_groups"][0]["lr"] == 0.01
    assert numbers(done.output, "New optimizer, learning rate:") == [0]
    assert numbers(done.output, "Loaded optimizer, learning rate:") == [0.01]


def test_models_are_compared_by_the_largest_difference_of_parameters_and_buffers():
    model, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.bias.data[1], other.running_mean[0] = 2, 3
    assert lesson.largest_difference(model, other) == lesson.largest_difference(other, model) == 3
    done = six_epochs()
    errors = [done.metrics[f"{name}_error"] for name in ("whole_model", "state_dict", "resume")]
    assert errors == [0, 0, 0] and all(a is not b for a, b in done.compared)


def test_files_that_could_run_code_are_refused_unless_weights_only_is_false():
    args = lesson.parse_args(["--output-dir=."])
    for thing, is_refused in ((lesson.Model(6), True), (torch.ones(2), False), ({"a": 1}, False)):
        assert lesson.load_both_ways(thing, args) is is_refused
    assert not list(Path().iterdir())
    done = six_epochs()
    assert done.metrics["hostile_blocked"] == 1 and done.output.count(PAYLOAD) == 1
    assert [type(thing) for thing in done.loaded] == [lesson.Model, lesson.Hostile]


def test_resumed_training_is_the_uninterrupted_one_bit_for_bit():
    done = six_epochs()
    for name, key in (
        ("model", "model_state"),
        ("optimizer", "optim_state"),
        ("scheduler", "scheduler_state"),
    ):
        expected = getattr(done.uninterrupted, name).state_dict()
        assert_same(getattr(done.resumed, name).state_dict(), expected)
        assert_same(done.training[key], expected)
    assert done.resumed.losses == done.uninterrupted.losses == done.training["losses"]


def test_uninterrupted_training_is_that_of_a_second_implementation():
    X, y = map(torch.from_numpy, load_digits(return_X_y=True))
    X_train, _, y_train, _ = train_test_split(X.float() / 16, y, random_state=0)
    torch.manual_seed(0)
    hidden = [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2)]
    network = nn.Sequential(*hidden, nn.Linear(64, 10))
    dataset, optimizer = TensorDataset(X_train, y_train), torch.optim.Adam(network.parameters())
    loader = DataLoader(dataset, batch_size=32, shuffle=True, drop_last=True)
    batches = itertools.chain(*6 * [loader])  # of six epochs
    steps = retrace(six_epochs().trainings[0], network, optimizer, batches)
    losses = np.array([loss for loss, _ in steps]).reshape(6, 42)
    assert_allclose(six_epochs().uninterrupted.losses, losses.mean(axis=1), rtol=1e-3)


def test_training_stops_halfway_and_halves_the_rate_every_four_epochs():
    once, stopped, resumed = six_epochs().trainings
    rates = 4 * 42 * [0.02] + 2 * 42 * [0.01]
    assert once.rates == stopped.rates + resumed.rates == rates and len(stopped.rates) == 3 * 42
    assert torch.equal(resumed.start, stopped.end)


def test_resume_continues_as_if_there_had_been_no_interruption():
    run(lesson, "--epochs=4", "--lr=0.02")
    metrics = run(lesson, f"--resume={FILE}", "--epochs=6", "--lr=5").metrics  # not the file's
    assert_same(torch.load(FILE), six_epochs().training)  # with the state of the generator
    assert metrics == {"accuracy": six_epochs().metrics["accuracy"]}


@pytest.mark.parametrize("fault", ["missing", "truncated", "foreign", "hostile", "finished"])
def test_resume_refuses_a_file_in_one_line_and_leaves_it_as_it_is(fault, capsys):
    file, training = Path("bad.pth"), lesson.Training(lr=0.01)
    training.losses = [1.0, 0.5]
    training.save(file)
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif fault in ("foreign", "hostile"):
        torch.save({"epoch": 3} if fault == "foreign" else lesson.Hostile(), file)
    elif fault == "missing":
        file.unlink()
    before = {path: path.read_bytes() for path in Path().iterdir()}
    with pytest.raises(SystemExit) as stop:
        lesson.main([f"--resume={file}", "--epochs=2"])
    assert str(file) in one_line(stop) and PAYLOAD not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_save_that_dies_halfway_leaves_the_old_checkpoint():
    training, file, save = lesson.Training(lr=0.01), Path("checkpoint.pth"), torch.save
    training.save(file)
    before = file.read_bytes()

    def die_halfway(checkpoint, path):
        save(checkpoint, path)
        path.write_bytes(path.read_bytes()[:5000])
        raise OSError

    with mock.patch.object(torch, "save", die_halfway), pytest.raises(OSError):
        training.save(file)
    assert file.read_bytes() == before


def test_two_processes_write_different_temporary_files():
    with spy(torch, "save") as save:
        for pid in (1, 2):
            with mock.patch.object(os, "getpid", return_value=pid):
                lesson.Training(lr=0.01).save(Path("checkpoint.pth"))
    assert len({call.args[1] for call in save.mock_calls}) == 2
    assert list(Path().iterdir()) == [Path("checkpoint.pth")]


@pytest.mark.parametrize("train_mode", [False, True])
def test_accuracy_is_that_of_the_mode_and_the_batch_size_and_the_model_stays_as_it_is(train_mode):
    model = copy.deepcopy(six_epochs().resumed.model)
    _, X_test, _, y_test = lesson.load_data()
    for batch_size in (4, 450):
        before = copy.deepcopy(model)
        torch.manual_seed(0)  # of dropout
        found = lesson.test(model, batch_size, train_mode)
        assert_same(model.state_dict(), before.state_dict())
        torch.manual_seed(0)
        before.train(train_mode)
        outputs = [before(images.to(lesson.device)) for images in X_test.split(batch_size)]
        predicted = torch.cat(outputs).argmax(dim=1).cpu()
        assert found == (predicted == y_test).sum().item() / 450


def test_the_figure_shows_mean_losses_and_accuracies_by_batch_size():
    done, sizes = six_epochs(), (2, 4, 8, 16, 450)
    (once, resumed, halfway), (with_eval, without_eval) = (ax.lines for ax in done.axes)
    losses = done.uninterrupted.losses
    assert_allclose(once.get_xydata().T, [range(1, 7), losses])
    assert_allclose(resumed.get_xydata().T, [range(4, 7), losses[3:]])
    assert halfway.get_xdata() == [3, 3]
    accuracies = [lesson.test(done.resumed.model, size, train_mode=False) for size in sizes]
    assert_allclose(with_eval.get_xydata().T, [sizes, accuracies])
    assert done.metrics["accuracy"] == accuracies[4] > 0.95
    difference = accuracies[0] - without_eval.get_ydata()[0]
    assert done.metrics["eval_difference"] == difference > 0.1


def test_the_lines_to_use_the_model_later_run(capsys):
    FILE.parent.mkdir()
    torch.save(six_epochs().state_dict, "outputs/10_save_load_state_dict.pth")
    lines = lesson.__doc__.partition("\nUse it later")[2].partition("\n\n")[0].splitlines()[1:]
    namespace = {"torch": torch, "Model": lesson.Model}
    exec(inspect.cleandoc("\n".join(lines)), namespace)
    assert_same(namespace["model"].state_dict(), six_epochs().state_dict)
    assert not namespace["model"].training and capsys.readouterr().out.startswith("tensor([[0.")
