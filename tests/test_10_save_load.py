"""Lesson 10: what is saved comes back bit for bit, and no file does harm."""

import os
import re
import textwrap
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lesson = helpers.load_lesson("10")
FILE = Path("outputs/10_save_load_training.pth")
X, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
X_train, X_test, y_train, y_test = train_test_split(X.float() / 16, y, random_state=0)
SIZES = [2, 4, 8, 16, 450]


@pytest.fixture(scope="module")
def done():
    """Run the lesson; check its uninterrupted training, 10 epochs of 42 steps."""
    with helpers.record_training() as trainings:
        done = helpers.run(lesson)
    done.uninterrupted, done.resumed, *without = trainings
    done.without_optimizer, done.without_scheduler, done.without_rng = without
    torch.manual_seed(0)  # weights, orders, and dropout are drawn as in the lesson
    layers = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2)
    done.network = nn.Sequential(*layers, nn.Linear(64, 10))
    assert torch.equal(done.uninterrupted.start, helpers.to_vector(done.network.parameters()))
    loader = DataLoader(TensorDataset(X_train, y_train), 32, shuffle=True, drop_last=True)
    criterion, adam = nn.CrossEntropyLoss(), torch.optim.Adam
    helpers.check_training(done.uninterrupted, done.network, criterion, loader, adam)
    done.losses = np.reshape(done.uninterrupted.losses, (10, 42)).mean(axis=1)
    return done


def test_files_bring_back_the_same_parameters(done):
    torch.manual_seed(0)
    expected = helpers.to_vector(nn.Linear(6, 1).parameters())
    files = (f"outputs/10_save_load_{name}.pth" for name in ("model", "state_dict", "checkpoint"))
    model, state_dict, checkpoint = (torch.load(file, weights_only=False) for file in files)
    for state in (model.state_dict(), state_dict, checkpoint["model_state"]):
        assert torch.equal(helpers.to_vector(state.values()), expected)
    assert done.output.count(", largest difference: 0.0\n") == 2
    assert checkpoint["epoch"] == 90
    assert "New optimizer, learning rate: 0\nLoaded optimizer, learning rate: 0.01" in done.output


def test_the_lines_under_use_it_later_in_the_docstring_work(done, capsys):
    lines = re.search(r"\nUse it later.+\n((    .+\n)+)", lesson.__doc__)[1]
    exec(textwrap.dedent(lines), {"torch": torch, "Model": lesson.Model})
    assert capsys.readouterr().out.startswith("tensor([[0.")


def test_training_ends_elsewhere_if_a_part_of_the_checkpoint_is_left_out(done):
    assert torch.equal(done.resumed.end, done.uninterrupted.end)
    for training in (done.without_optimizer, done.without_scheduler, done.without_rng):
        assert (training.end - done.uninterrupted.end).abs().max() > 0.001
    printed = re.findall("Left out: (.+), next loss (.+), difference in the end (.+)", done.output)
    differences = {left_out: float(difference) for left_out, _, difference in printed}
    assert differences.pop("None") == 0 < min(differences.values()) and len(differences) == 3


def test_rates_are_halved_every_4_epochs_and_go_on_as_saved_after_5(done):
    for training, rates in (
        (done.uninterrupted, 4 * [0.01] + 4 * [0.005] + 2 * [0.0025]),
        (done.resumed, 3 * [0.005] + 2 * [0.0025]),
        (done.without_rng, 3 * [0.005] + 2 * [0.0025]),
        (done.without_optimizer, 3 * [0.01] + 2 * [0.005]),  # the rate is in the optimizer
        (done.without_scheduler, 4 * [0.005] + [0.0025]),  # the epoch is in the scheduler
    ):
        assert training.rates == pytest.approx(np.repeat(rates, 42))  # an epoch has 42 steps


def test_losses_are_drawn_and_without_the_optimizers_state_the_next_one_is_higher(done):
    drawn = helpers.lines(done.panels["Resuming from a checkpoint"])
    assert_allclose(drawn["uninterrupted"], [range(1, 11), done.losses], rtol=1e-4)
    assert_allclose(drawn["resumed"], [range(6, 11), done.losses[5:]], rtol=1e-4)
    assert drawn["saved and loaded here"][0].tolist() == [5, 5]
    epochs, without = drawn["without optim_state"]
    assert epochs.tolist() == [6, 7, 8, 9, 10]
    assert without[0] > 1.2 * done.losses[5]


def test_only_batch_norm_in_train_mode_needs_large_batches(done):
    network = done.network.requires_grad_(False)
    outputs = network(X_test)
    lesson.test(network.to(helpers.DEVICE), [2], (nn.BatchNorm1d,))
    assert torch.equal(network.cpu()(X_test), outputs)  # it has left the network as it is
    with_eval = helpers.accuracy(outputs, y_test)
    network[1].train()  # batch norm alone; its averages, which change now, are not used
    batch_norm = []
    for size in SIZES:
        outputs = torch.cat([network(images) for images in X_test.split(size)])
        batch_norm.append(helpers.accuracy(outputs, y_test))
    drawn = helpers.lines(done.panels["Test accuracy"])
    assert_allclose(drawn["with eval()"], [SIZES, 5 * [with_eval]])
    assert_allclose(drawn["batch norm in train mode"], [SIZES, batch_norm])
    assert batch_norm[0] < with_eval - 0.2 < batch_norm[-1]  # 2 against 450
    assert_allclose(drawn["without eval()"][1], batch_norm, atol=0.1)  # dropout is random
    assert 0 < abs(drawn["dropout in train mode"][1] - with_eval).max() < 0.05
    assert done.metrics == {"accuracy": pytest.approx(with_eval)}
    assert f"{with_eval:.1%}" in done.result


def test_files_that_cannot_be_resumed_are_left_as_they_are_and_not_run(done, capsys):
    Path("truncated.pth").write_bytes(FILE.read_bytes()[:5000])
    torch.save({"epoch": 3}, "foreign.pth")
    torch.save(lesson.Hostile(), "hostile.pth")
    before = {path: path.read_bytes() for path in Path().rglob("*.pth")}
    assert f"{FILE} is already at" in helpers.refusal(lesson, f"--resume={FILE}", "--epochs=5")
    for name in ("missing.pth", "truncated.pth", "foreign.pth", "hostile.pth"):
        message = helpers.refusal(lesson, f"--resume={name}")
        assert name in message and "weights_only" not in message  # no risky advice
    assert {path: path.read_bytes() for path in Path().rglob("*.pth")} == before
    assert "by a file" not in capsys.readouterr().out  # which the hostile file would print


def test_a_hostile_file_is_refused_then_run_on_purpose_and_deleted(done):
    assert "torch.load refuses a hostile file\n" in done.output
    assert done.output.count("by a file") == 1  # which it prints when it is run
    assert not Path("outputs/10_save_load_hostile.pth").exists()


def test_resume_continues_as_if_there_had_been_no_interruption(done):
    with helpers.record_training() as trainings:
        helpers.run(lesson, f"--resume={FILE}", "--epochs=8", "--lr=5")  # --lr is ignored
        metrics = helpers.run(lesson, f"--resume={FILE}", "--epochs=10").metrics
    assert torch.equal(trainings[1].end, done.uninterrupted.end)
    assert torch.load(FILE)["losses"] == pytest.approx(done.losses, rel=1e-4)
    assert metrics == {"accuracy": done.metrics["accuracy"]}


def test_a_save_that_dies_halfway_leaves_the_old_checkpoint(empty_folder):
    training, file = lesson.Training(lr=0.01), Path("checkpoint.pth")
    training.save(file)
    training.losses = (loss for loss in [])  # torch.save fails at a generator
    with pytest.raises(TypeError):
        training.save(file)
    assert torch.load(file)["losses"] == []
    (half,) = Path().glob("checkpoint.pth.*")
    assert str(os.getpid()) in half.name  # another one for each process
