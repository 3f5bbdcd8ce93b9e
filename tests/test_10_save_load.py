"""Lesson 10: what is saved comes back bit for bit, and no file does harm."""

import functools
import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import check_print, check_training, curves, digits, load_lesson, refusal, run, spy
from numpy.testing import assert_allclose
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("10")
FILE = Path("outputs/10_save_load_training.pth")
PAYLOAD = lesson.Hostile().__reduce__()[1][0]
X_train, X_test, y_train, y_test = digits()
assert_same = functools.partial(torch.testing.assert_close, rtol=0, atol=0, check_device=False)


@functools.cache
def six_epochs():
    """Run six epochs; add the files, and the pairs of models that were compared."""
    with spy(lesson, "largest_difference") as largest_difference:
        done = run(lesson, "--epochs=6", "--lr=0.02", "--seed=1")
    done.compared = [call.args for call in largest_difference.call_args_list]
    names = ("model", "state_dict", "checkpoint", "training")
    files = (torch.load(f"outputs/10_save_load_{n}.pth", weights_only=n != "model") for n in names)
    done.model, done.state_dict, done.checkpoint, done.training = files
    return done


def test_model_state_dict_and_checkpoint_bring_back_the_same_parameters():
    done = six_epochs()
    torch.manual_seed(1)
    assert_same(done.state_dict, lesson.Model(n_input_features=6).state_dict())
    assert [*done.state_dict["linear.weight"].shape] == [1, 6]
    assert_same(done.model.state_dict(), done.state_dict)
    assert_same(done.checkpoint["model_state"], done.state_dict)
    check_print(done.output, "Checkpoint of epoch", [done.checkpoint["epoch"], 0])
    rates = "\nNew optimizer, learning rate: 0\nLoaded optimizer, learning rate: 0.01\n"
    assert rates in done.output


def test_all_three_comparisons_find_no_difference_between_two_models():
    done = six_epochs()
    names = ("whole_model_error", "state_dict_error", "resume_error")
    assert [done.metrics[name] for name in names] == [0, 0, 0]
    assert len(done.compared) == 3 and all(model is not other for model, other in done.compared)


def test_the_largest_difference_counts_buffers_in_both_directions():
    model, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.running_mean[0] = 3
    assert lesson.largest_difference(model, other) == lesson.largest_difference(other, model) == 3


def test_files_that_could_run_code_are_refused_unless_weights_only_is_false():
    args = lesson.parse_args(["--output-dir=."])
    for thing, is_refused in ((lesson.Model(6), True), (torch.ones(2), False)):
        assert lesson.load_both_ways(thing, args) is is_refused
    assert not list(Path().iterdir())
    assert six_epochs().metrics["hostile_blocked"] == 1
    assert six_epochs().output.count(PAYLOAD) == 1  # when it was loaded without protection


def test_resumed_training_is_stopped_halfway_and_ends_as_the_uninterrupted_one():
    uninterrupted, stopped, resumed = six_epochs().trainings
    assert len(stopped.rates) == 3 * 42 and torch.equal(stopped.end, resumed.start)
    assert torch.equal(resumed.end, uninterrupted.end)


def test_training_is_that_of_a_network_of_our_own_and_halves_the_rate_every_four_epochs():
    torch.manual_seed(1)  # the same weights, order, and dropout
    layers = [nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2)]
    network = nn.Sequential(*layers, nn.Linear(64, 10))
    dataset = TensorDataset(X_train, y_train)
    loader = DataLoader(dataset, batch_size=32, shuffle=True, drop_last=True)
    rates, training = 4 * 42 * [0.02] + 2 * 42 * [0.01], six_epochs().trainings[0]
    arguments = training, rates, network, nn.CrossEntropyLoss(), loader
    losses, _, _ = check_training(*arguments, optim=torch.optim.Adam)
    means = np.array(losses).reshape(6, 42).mean(axis=1)
    assert_allclose(six_epochs().training["losses"], means, rtol=1e-3)


def test_resume_continues_as_if_there_had_been_no_interruption():
    run(lesson, "--epochs=4", "--lr=0.02", "--seed=1")
    done = run(lesson, f"--resume={FILE}", "--epochs=6", "--lr=5")  # 0.02, as in the file
    assert_same(torch.load(FILE), six_epochs().training)  # with the state of the generator
    assert done.metrics == {"accuracy": six_epochs().metrics["accuracy"]}
    check_print(done.output, "Resumed after epoch", [4, 6, 100 * done.metrics["accuracy"]])


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


def test_accuracy_with_eval_is_that_of_the_model_and_without_depends_on_the_batch_size():
    done, (_, model) = six_epochs(), six_epochs().compared[2]  # uninterrupted and resumed
    assert_same(model.cpu().state_dict(), done.training["model_state"])  # tests do not change it
    accuracy = (model.eval()(X_test.flatten(1)).argmax(dim=1) == y_test).double().mean().item()
    (sizes, with_eval), (other_sizes, without_eval) = curves(done.axes[1])
    assert sizes.tolist() == other_sizes.tolist() == [2, 4, 8, 16, 450]
    assert_allclose(with_eval, accuracy)
    assert accuracy > 0.9 and (np.diff(without_eval) > 0).all() and without_eval[0] < 0.8
    found = [done.metrics["accuracy"], done.metrics["eval_difference"]]
    assert_allclose(found, [accuracy, accuracy - without_eval[0]])
    rows = np.transpose([sizes, 100 * with_eval, 100 * without_eval])
    check_print(done.output, "Test images in batches of", rows.ravel(), end="Checkpoint")
    check_print(done.output, "Test accuracy:", [100 * accuracy])


def test_the_figure_shows_the_losses_of_both_trainings():
    losses = six_epochs().training["losses"]
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
