"""Lesson 10: what is saved comes back bit for bit, and no file does harm."""

import functools
import inspect
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DEVICE, curves, digits, load_lesson, numbers, refusal, run, second, spy
from numpy.testing import assert_allclose
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("10")
FILE = Path("outputs/10_save_load_training.pth")
_, (PAYLOAD,) = lesson.Hostile().__reduce__()
X_train, X_test, y_train, y_test = digits()
assert_same = functools.partial(torch.testing.assert_close, rtol=0, atol=0)


@functools.cache
def six_epochs():
    """Run six epochs; add both trainings, the files, and which models were compared."""
    compared = spy(lesson, "largest_difference")
    with spy(lesson, "draw") as draw, compared as compared:
        done = run(lesson, "--epochs=6", "--lr=0.02")
    done.uninterrupted, done.resumed, *_ = draw.call_args.args
    done.compared = [call.args for call in compared.call_args_list]
    names = ("model", "state_dict", "checkpoint", "training")
    files = (torch.load(f"outputs/10_save_load_{n}.pth", weights_only=n != "model") for n in names)
    done.model, done.state_dict, done.checkpoint, done.training = files
    return done


def test_model_state_dict_and_checkpoint_bring_back_the_same_parameters():
    done = six_epochs()
    assert type(done.model) is lesson.Model and done.model.linear.weight.shape == (1, 6)
    assert_same(done.model.state_dict(), done.state_dict)
    assert_same(done.checkpoint["model_state"], done.state_dict)
    assert done.checkpoint["optim_state"]["param_groups"][0]["lr"] == 0.01
    printed = [numbers(done.output, f"{name} optimizer, learning") for name in ("New", "Loaded")]
    assert printed == [[0], [0.01]] and numbers(done.output, "Checkpoint of epoch")[0] == 90
    assert [*done.metrics.values()][:4] == [0, 0, 1, 0] and all(
        a is not b for a, b in done.compared
    )


def test_the_largest_difference_counts_parameters_and_buffers_in_both_directions():
    model, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.bias.data[1], other.running_mean[0] = 2, 3
    assert lesson.largest_difference(model, other) == lesson.largest_difference(other, model) == 3


def test_files_that_could_run_code_are_refused_unless_weights_only_is_false():
    args = lesson.parse_args(["--output-dir=."])
    for thing, is_refused in ((lesson.Model(6), True), (torch.ones(2), False)):
        assert lesson.load_both_ways(thing, args) is is_refused
    assert not list(Path().iterdir()) and six_epochs().output.count(PAYLOAD) == 1


def test_training_is_that_of_a_second_network_and_resumed_bit_for_bit():
    done, (once, stopped, resumed) = six_epochs(), six_epochs().trainings
    for key, name in zip(("model", "optim", "scheduler"), ("model", "optimizer", "scheduler")):
        expected = getattr(done.uninterrupted, name).state_dict()
        assert_same(getattr(done.resumed, name).state_dict(), expected)
        assert_same(done.training[f"{key}_state"], expected)
    assert done.resumed.losses == done.uninterrupted.losses == done.training["losses"]
    assert once.rates == stopped.rates + resumed.rates == 4 * 42 * [0.02] + 2 * 42 * [0.01]
    assert len(stopped.rates) == 3 * 42 and torch.equal(resumed.start, stopped.end)
    torch.manual_seed(0)
    hidden = [nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2)]
    network, dataset = nn.Sequential(*hidden, nn.Linear(64, 10)), TensorDataset(X_train, y_train)
    loader = DataLoader(dataset, batch_size=32, shuffle=True, drop_last=True)
    batches = itertools.chain(*7 * [loader])
    losses, _, _ = second(once, network, nn.CrossEntropyLoss(), batches, optim=torch.optim.Adam)
    means = np.array(losses).reshape(6, 42).mean(axis=1)
    assert_allclose(done.uninterrupted.losses, means, rtol=1e-3)


def test_resume_continues_as_if_there_had_been_no_interruption():
    run(lesson, "--epochs=4", "--lr=0.02")
    metrics = run(lesson, f"--resume={FILE}", "--epochs=6", "--lr=5").metrics  # not the file's
    assert_same(torch.load(FILE), six_epochs().training)  # with the state of the generator
    assert metrics == {"accuracy": six_epochs().metrics["accuracy"]}


def test_resume_refuses_a_file_in_one_line_and_leaves_it_as_it_is(capsys):
    training = lesson.Training(lr=0.01)
    training.losses = [1.0, 0.5]
    training.save(Path("finished.pth"))
    Path("truncated.pth").write_bytes(Path("finished.pth").read_bytes()[:5000])
    torch.save({"epoch": 3}, "foreign.pth")
    torch.save(lesson.Hostile(), "hostile.pth")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    for name in ("missing", "finished", "truncated", "foreign", "hostile"):
        assert name in refusal(lesson, f"--resume={name}.pth", "--epochs=2")
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
    assert PAYLOAD not in capsys.readouterr().out


def test_a_save_that_dies_halfway_leaves_the_old_checkpoint(monkeypatch):
    training, file = lesson.Training(lr=0.01), Path("checkpoint.pth")
    training.save(file)
    before = file.read_bytes()

    def die_halfway(checkpoint, path):
        path.write_bytes(before[:5000])
        raise EOFError(path.name)

    monkeypatch.setattr(torch, "save", die_halfway)
    with pytest.raises(EOFError, match=str(os.getpid())):  # each process has a file of its own
        training.save(file)
    assert file.read_bytes() == before


def test_accuracies_with_and_without_eval_are_those_of_the_model_and_leave_it_as_it_is():
    done, sizes = six_epochs(), (2, 4, 8, 16, 450)
    model, before = done.resumed.model, done.training["model_state"]
    assert_same(model.state_dict(), before)
    predicted = model.eval()(X_test.flatten(1).to(DEVICE)).argmax(dim=1).cpu()
    accuracy = (predicted == y_test).sum().item() / 450
    (_, with_eval), (_, without_eval) = curves(done.axes[1])
    assert_allclose(curves(done.axes[1]), [[sizes, 5 * [accuracy]], [sizes, without_eval]])
    assert (np.diff(without_eval) > 0).all() and without_eval[0] < 0.8 < accuracy - 0.1
    expected = [accuracy - without_eval[0], accuracy]
    assert [*done.metrics.values()][4:] == pytest.approx(expected)
    rows = np.transpose([sizes, 100 * with_eval, 100 * without_eval]).flatten()
    printed = numbers(done.output, "Test images in batches of", end="Checkpoint")
    assert_allclose(printed, rows, atol=0.06)


def test_the_figure_shows_the_losses_of_both_trainings():
    losses = six_epochs().uninterrupted.losses
    once, resumed, halfway = curves(six_epochs().axes[0])
    assert_allclose(once, [range(1, 7), losses])
    assert_allclose(resumed, [range(4, 7), losses[3:]])
    assert halfway[0].tolist() == [3, 3]


def test_the_lines_to_use_the_model_later_run(capsys):
    FILE.parent.mkdir()
    torch.save(six_epochs().state_dict, "outputs/10_save_load_state_dict.pth")
    lines = lesson.__doc__.partition("\nUse it later")[2].partition("\n\n")[0].splitlines()[1:]
    namespace = {"torch": torch, "Model": lesson.Model}
    exec(inspect.cleandoc("\n".join(lines)), namespace)
    assert_same(namespace["model"].state_dict(), six_epochs().state_dict)
    assert not namespace["model"].training and capsys.readouterr().out.startswith("tensor([[0.")
