"""Lesson 10: what is saved comes back bit for bit, and no file does harm."""

import copy
import functools
import inspect
import os
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers import load_lesson, one_line, run, spy
from numpy.testing import assert_allclose
from torch.nn import functional as F

lesson = load_lesson("10")
FILE = Path("outputs/10_save_load_training.pth")
_, (PAYLOAD,) = lesson.Hostile().__reduce__()
assert_same = functools.partial(torch.testing.assert_close, rtol=0, atol=0)


@functools.cache
def six_epochs():
    """Run six epochs; add both trainings, the files, and what the loss was given."""
    with spy(lesson, "draw") as draw, spy(F, "cross_entropy") as cross_entropy:
        done = run(lesson, "--epochs=6", "--lr=0.02")
    done.uninterrupted, done.resumed, *_ = draw.call_args.args
    done.losses = [F.cross_entropy(*call.args).item() for call in cross_entropy.mock_calls]
    for name in ("model", "state_dict", "checkpoint", "training"):
        file = f"outputs/10_save_load_{name}.pth"
        setattr(done, name, torch.load(file, weights_only=name != "model"))
    return done


def test_model_state_dict_and_checkpoint_bring_back_the_same_parameters():
    done = six_epochs()
    assert type(done.model) is lesson.Model and done.checkpoint["epoch"] == 90
    assert {name: p.shape for name, p in done.state_dict.items()} == {
        "linear.weight": (1, 6),
        "linear.bias": (1,),
    }
    assert_same(done.model.state_dict(), done.state_dict)
    assert_same(done.checkpoint["model_state"], done.state_dict)
    assert done.checkpoint["optim_state"]["param_groups"][0]["lr"] == 0.01
    assert done.metrics["whole_model_error"] == done.metrics["state_dict_error"] == 0


def test_files_that_could_run_code_are_refused_unless_weights_only_is_false():
    args = lesson.parse_args(["--output-dir=."])
    for thing, is_refused in ((lesson.Model(6), True), (torch.ones(2), False), ({"a": 1}, False)):
        assert lesson.load_both_ways(thing, args) is is_refused
    assert not list(Path().iterdir())
    assert six_epochs().metrics["hostile_blocked"] == 1 and six_epochs().output.count(PAYLOAD) == 1


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
    assert done.metrics["resume_error"] == 0


def test_training_stops_halfway_and_halves_the_rate_every_four_epochs():
    once, stopped, resumed = six_epochs().trainings
    rates = 4 * 42 * [0.02] + 2 * 42 * [0.01]
    assert once.rates == stopped.rates + resumed.rates == rates and len(stopped.rates) == 3 * 42
    assert torch.equal(once.start, stopped.start) and torch.equal(resumed.start, stopped.end)


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
    means = torch.tensor(done.losses).view(12, 42).mean(dim=1)  # of both trainings
    assert_allclose(once.get_xydata().T, [range(1, 7), means[:6]], rtol=1e-5)
    assert_allclose(resumed.get_xydata().T, [range(4, 7), means[9:]], rtol=1e-5)
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
