"""Lesson 03: samples, batches, and what the batch size has to do with the learning rate."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import DEVICE, check_training, lines, load_lesson, record_training, run
from numpy.testing import assert_allclose
from sklearn.datasets import load_wine
from torch import nn
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
    return done


def test_the_dataset_gives_the_wines():
    dataset = lesson.WineDataset()
    features, labels = zip(*[dataset[i] for i in range(len(dataset))])
    assert_allclose(torch.stack(features), wine.data, rtol=1e-6)
    assert torch.stack(labels).tolist() == wine.target[:, None].tolist()


def test_there_are_45_batches_of_which_the_last_is_short(done):
    names = ("n_samples", "n_iterations", "last_batch")
    assert [done.metrics[name] for name in names] == [178, 45, 2]
    assert done.output.count("step 45/45, inputs (2, 13), labels (2, 1)") == 2  # epochs
    assert done.output.count("inputs (4, 13), labels (4, 1)") == 2 * 8
    assert "143 training samples, 35 validation samples" in done.output


def test_num_workers_is_for_the_first_loader():
    with mock.patch.object(lesson, "DataLoader", side_effect=EOFError) as loader:
        with pytest.raises(EOFError):
            lesson.main(["--num-workers=2"])
    assert loader.call_args.kwargs["num_workers"] == 2


@pytest.mark.parametrize("batch_size", [32, 178])
def test_training_is_sgd_on_full_batches_in_random_order(batch_size):
    with record_training() as trainings:
        n_updates, _ = lesson.train(samples, batch_size, lr=0.7, seed=3)
    assert trainings[0].rates == n_updates * [0.7]
    torch.manual_seed(3)
    network = nn.Linear(13, 1)
    loader = DataLoader(TensorDataset(X, is_0), batch_size, shuffle=True, drop_last=True)
    batches = [batch for epoch in range(n_updates) for batch in loader]
    check_training(trainings[0], network, nn.BCEWithLogitsLoss(), batches)


def test_training_ends_as_soon_as_the_loss_on_all_samples_is_below_0_05():
    criterion = nn.BCEWithLogitsLoss()
    with record_training() as trainings:
        lesson.train(samples, 178, lr=0.7, seed=0)
    network = nn.Linear(13, 1)
    losses = check_training(trainings[0], network, criterion, [(X, is_0)])  # before each step
    assert min(losses) >= 0.05 > criterion(network(X), is_0)


def test_the_time_is_that_of_the_updates_without_the_checks(monkeypatch):
    clock = SimpleNamespace(now=0)
    forward = nn.BCEWithLogitsLoss.forward

    def slow_check(*args):
        clock.now += 0 if torch.is_grad_enabled() else 100
        return forward(*args)

    def one_second(*args):
        clock.now += 1

    monkeypatch.setattr(lesson, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(nn.BCEWithLogitsLoss, "forward", slow_check)
    hook = register_optimizer_step_post_hook(one_second)
    n_updates, seconds = lesson.train(samples, 64, lr=0.7, seed=0)
    hook.remove()
    assert seconds == n_updates > 2


def test_what_is_measured_are_medians_of_three_seeds(monkeypatch):
    results = {5: (10, 3.0), 6: (30, 1.0), 7: (20, 2.0)}
    monkeypatch.setattr(lesson, "train", lambda samples, batch_size, lr, seed: results[seed])
    assert lesson.measure(samples, {4: 0.1}, seed=5) == {4: (20, 2.0)}


def test_both_kinds_of_learning_rates_are_tried_and_what_it_takes_is_drawn(done):
    rates = [training.rates[0] for training in done.trainings[::3]]  # three seeds of each
    assert rates == pytest.approx(len(SIZES) * [2] + [0.2 * size for size in SIZES])
    updates = np.median(np.reshape([len(t.rates) for t in done.trainings], (2, 6, 3)), axis=2)
    drawn_updates, drawn_epochs, drawn_ms = (lines(ax) for ax in done.axes)
    for i, label in enumerate(["same learning rate: 2", "in proportion: 0.2 × batch size"]):
        assert_allclose(drawn_updates[label], [SIZES, updates[i]])
        assert_allclose(drawn_epochs[label], [SIZES, updates[i] * SIZES / 178])
        assert drawn_ms[label][0].tolist() == SIZES
    for i, size in ((0, 1), (2, 16), (5, 178)):
        seconds = drawn_ms["same learning rate: 2"][1, i] / 1000
        assert done.metrics[f"updates_{size}"] == updates[0, i]
        assert done.metrics[f"seconds_{size}"] == pytest.approx(seconds)
    for i, size in ((1, 4), (3, 32)):
        assert done.metrics[f"epochs_scaled_{size}"] == updates[1, i] * size / 178


def test_the_same_rate_takes_as_many_updates_and_one_in_proportion_as_many_epochs():
    metrics = run(lesson).metrics
    assert metrics["updates_16"] == pytest.approx(metrics["updates_178"], rel=0.1)
    assert metrics["epochs_scaled_4"] == pytest.approx(metrics["epochs_scaled_32"], rel=0.2)
