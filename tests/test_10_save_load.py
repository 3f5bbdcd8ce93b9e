"""Lesson 10: what is saved comes back bit for bit, and no file does harm."""

import os
from pathlib import Path
from unittest import mock

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
X, y = (torch.from_numpy(array[:382]) for array in load_digits(return_X_y=True))
X_train, X_test, y_train, y_test = train_test_split(X.float() / 16, y, random_state=0)  # 286, 96
FILE = Path("outputs/10_save_load_training.pth")
# Steps at the rates 0.01, 0.005, and 0.0025, by what of the checkpoint is left out: at first, all
STEPS = {"all": (32, 32, 16), None: (0, 24, 16), "optim_state": (24, 16, 0)}
STEPS |= {"scheduler_state": (0, 32, 8), "rng_state": (0, 24, 16)}


@pytest.fixture(scope="module")
def done():
    """Train for ten epochs; train networks of the test's own alike, and keep their losses."""
    with helpers.few_digits(lesson, 382), helpers.record_training() as trainings:
        done = helpers.run(lesson)
    done.panels = {ax.get_title(): helpers.lines(ax) for ax in done.axes}
    done.end, done.networks, done.losses = trainings[0].end, {}, {}
    loader = DataLoader(TensorDataset(X_train, y_train), 32, shuffle=True, drop_last=True)
    for training, (left_out, steps) in zip(trainings, STEPS.items(), strict=True):
        assert training.rates == pytest.approx(np.repeat([0.01, 0.005, 0.0025], steps))
        torch.manual_seed(0 if left_out == "all" else 1)
        layers = nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2)
        network = nn.Sequential(*layers, nn.Linear(64, 10)).to(helpers.DEVICE)
        optimizer = torch.optim.Adam(network.parameters())
        if left_out != "all":
            checkpoint = torch.load(FILE, map_location="cpu")
            network.load_state_dict(checkpoint["model_state"])
            if left_out != "optim_state":
                optimizer.load_state_dict(checkpoint["optim_state"])
            if left_out != "rng_state":
                torch.set_rng_state(checkpoint["rng_state"][0])
                torch.cuda.set_rng_state_all(checkpoint["rng_state"][1:])
        assert torch.equal(training.start, helpers.to_vector(network.parameters()))
        optim, batches = mock.Mock(return_value=optimizer), mock.MagicMock(__len__=lambda _: 8)
        batches.__getitem__.side_effect = (batch for epoch in range(10) for batch in loader)
        losses = helpers.check_training(training, network, nn.CrossEntropyLoss(), batches, optim)
        done.losses[left_out] = np.reshape(losses, (-1, 8)).mean(axis=1)
        done.networks[left_out] = network.requires_grad_(False)
    return done


def test_files_bring_back_the_same_parameters_also_in_the_lines_to_use_later(done, capsys):
    torch.manual_seed(0)
    expected = helpers.to_vector(nn.Linear(6, 1).parameters())
    files = (f"outputs/10_save_load_{name}.pth" for name in ("model", "state_dict", "checkpoint"))
    model, state_dict, checkpoint = (torch.load(file, weights_only=False) for file in files)
    for state in (model.state_dict(), state_dict, checkpoint["model_state"]):
        assert torch.equal(helpers.to_vector(state.values()), expected)
    assert done.metrics["whole_model_error"] == done.metrics["state_dict_error"] == 0
    rates = "\nNew optimizer, learning rate: 0\nLoaded optimizer, learning rate: 0.01\n"
    assert checkpoint["epoch"] == 90 and rates in done.output
    lines = lesson.__doc__.partition("\nUse it later")[2].partition("\n")[2].partition("\n\n")[0]
    exec("if True:\n" + lines, {"torch": torch, "Model": lesson.Model})
    assert capsys.readouterr().out.startswith("tensor([[0.")


def test_whatever_is_left_out_of_a_checkpoint_changes_the_training_that_follows(done):
    drawn, losses, metrics = done.panels["Resuming from a checkpoint"], done.losses, done.metrics
    assert_allclose(drawn["uninterrupted"], [range(1, 11), losses["all"]], rtol=1e-4)
    assert_allclose(drawn["resumed"], [range(6, 11), losses[None]], rtol=1e-4)
    assert_allclose(drawn["without optim_state"], [range(6, 11), losses["optim_state"]], rtol=1e-4)
    assert drawn["saved and loaded here"][0].tolist() == [5, 5]
    end, *others = (helpers.to_vector(n.state_dict().values()) for n in done.networks.values())
    resumed, without_optimizer, _, without_rng = ((end - v).abs().max().item() for v in others)
    assert metrics["resume_error"] == resumed == 0
    assert metrics["difference_without_rng"] == pytest.approx(without_rng, rel=1e-3)
    assert metrics["difference_without_optimizer"] == pytest.approx(without_optimizer, rel=1e-3)
    assert metrics["loss_resumed"] == pytest.approx(losses[None][0], rel=1e-3)
    assert metrics["loss_without_optimizer"] == pytest.approx(losses["optim_state"][0], rel=1e-3)


def test_only_batch_norm_in_train_mode_needs_large_batches(done):
    drawn, network = done.panels["Test accuracy"], done.networks["all"]
    linear, norm, _, _, last_linear = network
    for size, found in zip((2, 4, 8, 16, 96), drawn["batch norm in train mode"][1], strict=True):
        x = linear(X_test).view(-1, size, 64)
        var, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        x = (x - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias
        assert found == pytest.approx(helpers.accuracy(last_linear(x.relu()).view(96, 10), y_test))
    lesson.test(network.to(helpers.DEVICE), [2], (nn.BatchNorm1d,))  # leaves the network as it is
    accuracy, without = helpers.accuracy(network.cpu()(X_test), y_test), drawn["without eval()"][1]
    assert_allclose(drawn["with eval()"], [[2, 4, 8, 16, 450], 5 * [accuracy]])
    assert 0.01 < abs(drawn["dropout in train mode"][1] - accuracy).max() < 0.05
    assert_allclose(without, drawn["batch norm in train mode"][1], atol=0.1)
    assert done.metrics["eval_difference"] == pytest.approx(accuracy - without[0])
    helpers.check_result(done, "accuracy", accuracy)


def test_damaged_or_hostile_files_are_refused_in_one_line_and_left_as_they_are(done, capsys):
    Path("truncated.pth").write_bytes(FILE.read_bytes()[:5000])
    torch.save({"epoch": 3}, "foreign.pth")
    torch.save(lesson.Hostile(), "hostile.pth")
    before = {path: path.read_bytes() for path in Path().glob("**/*.pth")}
    for name in (str(FILE), "missing.pth", "truncated.pth", "foreign.pth", "hostile.pth"):
        assert name in (message := helpers.refusal(lesson, f"--resume={name}", "--epochs=5"))
    assert "UnpicklingError" in message and "still be loaded" not in message  # no risky advice
    assert {path: path.read_bytes() for path in Path().glob("**/*.pth")} == before
    assert "by a file" not in capsys.readouterr().out and not [*FILE.parent.glob("*hostile*")]
    assert done.metrics["hostile_blocked"] == done.output.count("by a file") == 1


def test_resume_continues_as_if_there_had_been_no_interruption(done):
    with helpers.few_digits(lesson, 382), helpers.record_training() as trainings:
        for epochs in (8, 10):
            resumed = helpers.run(lesson, f"--resume={FILE}", f"--epochs={epochs}", "--lr=5")
    assert torch.equal(trainings[1].end, done.end)
    assert torch.load(FILE)["losses"] == pytest.approx(done.losses["all"], rel=1e-4)
    assert resumed.metrics == {"accuracy": done.metrics["accuracy"]}


def test_a_save_that_dies_halfway_leaves_the_old_checkpoint():
    with mock.patch.object(torch, "save", side_effect=EOFError) as save, pytest.raises(EOFError):
        lesson.Training(lr=0.01).save(Path("a/checkpoint.pth"))
    file = save.call_args.args[1]  # not checkpoint.pth, and another one for each process
    assert file.parent == Path("a") and file.name.startswith(f"checkpoint.pth.{os.getpid()}")
