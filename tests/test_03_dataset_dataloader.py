"""Lesson 03: samples, batches, and what the batch size has to do with the learning rate."""

from unittest import mock

import numpy as np
import pytest
import torch
from helpers import DEVICE, check_training, lines, load_lesson, record_training, run
from numpy.testing import assert_allclose
from sklearn.datasets import load_wine
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("03")
wine = load_wine()
X, is_0 = torch.from_numpy(wine.data).float(), torch.from_numpy(wine.target[:, None] == 0).float()
X = (X - X.mean(dim=0)) / X.std(dim=0)
samples = TensorDataset(X.to(DEVICE), is_0.to(DEVICE))
SIZES = [1, 4, 16, 32, 64, 178]


@pytest.fixture(scope="module")
def done():
    """Train at a rate at which few updates are needed."""
    with record_training() as trainings:
        done = run(lesson, "--lr=2")
    done.trainings = trainings
    # For each size, three seeds at the same rate; then the same at one in proportion
    updates = np.reshape([len(training.rates) for training in trainings], (2, 6, 3))
    same, scaled = np.median(updates, axis=2)  # each has a number for each size
    done.updates = {"same learning rate: 2": same, "in proportion: 0.2 × batch size": scaled}
    done.drawn = {title.split()[0]: lines(ax) for title, ax in done.panels.items()}
    return done


def test_the_dataset_gives_the_wines():
    dataset = lesson.WineDataset()
    features, labels = zip(*[dataset[i] for i in range(len(dataset))])
    assert_allclose(torch.stack(features), wine.data, rtol=1e-6)
    assert torch.stack(labels).tolist() == wine.target[:, None].tolist()


def test_there_are_45_batches_of_which_the_last_is_short(done):
    expected = {"n_samples": 178, "n_iterations": 45, "last_batch": 2}
    assert {name: done.metrics[name] for name in expected} == expected
    assert done.output.count("inputs (4, 13), labels (4, 1)") == 2 * 8  # epochs, steps 5, ..., 40
    assert done.output.count("step 45/45, inputs (2, 13), labels (2, 1)") == 2  # epochs


def test_a_fifth_of_the_samples_is_for_validation(done):
    assert "143 training samples, 35 validation samples" in done.output


def test_num_workers_is_for_the_first_loader():
    with mock.patch.object(lesson, "DataLoader", side_effect=EOFError) as loader:  # stops there
        with pytest.raises(EOFError):
            lesson.main(["--num-workers=2"])
    assert loader.call_args.kwargs["num_workers"] == 2


@pytest.mark.parametrize("batch_size", [32, 178])
def test_training_is_sgd_on_full_batches_in_random_order(batch_size):
    with record_training() as trainings:
        n_updates, _ = lesson.train(samples, batch_size, lr=0.7, seed=3)
    assert trainings[0].rates == n_updates * [0.7]
    torch.manual_seed(3)
    network = nn.Linear(13, 1)  # draws weights (not used) before the loader draws its orders
    loader = DataLoader(TensorDataset(X, is_0), batch_size, shuffle=True, drop_last=True)
    batches = (batch for epoch in range(n_updates) for batch in loader)  # more than are needed
    check_training(trainings[0], network, nn.BCEWithLogitsLoss(), batches)


def test_training_ends_as_soon_as_the_loss_on_all_samples_is_below_0_05():
    criterion = nn.BCEWithLogitsLoss()
    with record_training() as trainings:
        lesson.train(samples, 178, lr=0.7, seed=0)
    network = nn.Linear(13, 1)
    losses = check_training(trainings[0], network, criterion, [(X, is_0)])  # before each step
    assert min(losses) >= 0.05 > criterion(network(X), is_0)


def test_the_time_is_that_of_the_updates_without_the_checks(monkeypatch):
    spent = []  # seconds on a false clock: 1 for each update, 100 for each forward pass of a check

    def after_forward(*args):
        spent.append(0 if torch.is_grad_enabled() else 100)

    monkeypatch.setattr(lesson.time, "perf_counter", lambda: sum(spent))
    forward_hook = register_module_forward_hook(after_forward)
    step_hook = register_optimizer_step_post_hook(lambda *args: spent.append(1))
    n_updates, seconds = lesson.train(samples, 64, lr=0.7, seed=0)
    forward_hook.remove()
    step_hook.remove()
    assert seconds == n_updates > 2


def test_what_is_measured_are_medians_of_three_seeds(monkeypatch):
    results = {5: (10, 3.0), 6: (30, 1.0), 7: (20, 2.0)}
    monkeypatch.setattr(lesson, "train", lambda samples, batch_size, lr, seed: results[seed])
    assert lesson.measure(samples, {4: 0.1}, seed=5) == {4: (20, 2.0)}


def test_the_learning_rate_is_the_same_or_in_proportion_to_the_batch_size(done):
    rates = np.repeat(6 * [2] + [0.2 * size for size in SIZES], 3)  # three seeds at each rate
    for training, rate in zip(done.trainings, rates, strict=True):
        assert_allclose(training.rates, rate)


@pytest.mark.parametrize("label", ["same learning rate: 2", "in proportion: 0.2 × batch size"])
def test_what_it_takes_is_drawn_for_each_batch_size(done, label):
    assert_allclose(done.drawn["Updates"][label], [SIZES, done.updates[label]])
    assert_allclose(done.drawn["Epochs"][label], [SIZES, done.updates[label] * SIZES / 178])
    sizes, milliseconds = done.drawn["Milliseconds"][label]
    assert sizes.tolist() == SIZES and min(milliseconds) > 0


def test_the_metrics_are_what_is_drawn_for_some_batch_sizes(done):
    updates = dict(done.drawn["Updates"]["same learning rate: 2"].T)
    milliseconds = dict(done.drawn["Milliseconds"]["same learning rate: 2"].T)
    epochs_scaled = dict(done.drawn["Epochs"]["in proportion: 0.2 × batch size"].T)
    for size in (1, 16, 178):
        assert done.metrics[f"updates_{size}"] == updates[size]
        assert done.metrics[f"seconds_{size}"] == pytest.approx(milliseconds[size] / 1000)
    for size in (4, 32):
        assert done.metrics[f"epochs_scaled_{size}"] == epochs_scaled[size]


def test_by_default_updates_are_equal_at_the_same_rate_and_epochs_in_proportion():
    metrics = run(lesson).metrics
    assert metrics["updates_16"] == pytest.approx(metrics["updates_178"], rel=0.1)
    assert metrics["epochs_scaled_4"] == pytest.approx(metrics["epochs_scaled_32"], rel=0.2)
