"""Lesson 03: samples, batches, and what the batch size has to do with the learning rate."""

import itertools
from unittest import mock

import helpers
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lesson = helpers.load_lesson("03")
wine = load_wine()
X, is_0 = torch.from_numpy(wine.data).float(), torch.from_numpy(wine.target[:, None] == 0).float()
X = (X - X.mean(dim=0)) / X.std(dim=0)
samples = TensorDataset(X.to(helpers.DEVICE), is_0.to(helpers.DEVICE))
SIZES = np.array([1, 4, 16, 32, 64, 178])
SAME, SCALED = "same learning rate: 2", "in proportion: 0.2 × batch size"  # legend, --lr=2


@pytest.fixture(scope="module")
def done():
    """Run at a high rate, so that few updates are needed; keep 18 trainings of each kind."""
    with helpers.record_training() as trainings:
        done = helpers.run(lesson, "--lr=2")
    done.trainings = {SAME: trainings[:18], SCALED: trainings[18:]}  # three seeds for each size
    # The titles are "Updates until ...", "Epochs until ...", and "Milliseconds until ..."
    done.drawn = {title.split()[0]: helpers.lines(ax) for title, ax in done.panels.items()}
    return done


def test_the_dataset_gives_the_wines():
    dataset = lesson.WineDataset()
    features, labels = zip(*[dataset[i] for i in range(len(dataset))])
    assert_allclose(torch.stack(features), wine.data, rtol=1e-6)
    assert torch.stack(labels).tolist() == wine.target[:, None].tolist()


def test_the_first_loader_shuffles_and_has_the_workers_of_the_flag():
    with mock.patch.object(lesson, "DataLoader", side_effect=EOFError) as loader:  # stops there
        with pytest.raises(EOFError):
            lesson.main(["--num-workers=2"])
    assert loader.call_args.kwargs["shuffle"] and loader.call_args.kwargs["num_workers"] == 2


def test_there_are_45_batches_of_which_the_last_is_short(done):
    assert done.output.count("inputs (4, 13), labels (4, 1)") == 2 * 8  # epochs, steps 5, ..., 40
    assert done.output.count("step 45/45, inputs (2, 13), labels (2, 1)") == 2  # epochs
    assert "FakeData: torch.Size([3, 1, 28, 28]) torch.Size([3])\n" in done.output
    assert "143 training samples, 35 validation samples" in done.output  # by random_split


def test_training_is_sgd_on_full_batches_in_random_order():
    with helpers.record_training() as trainings:
        n_updates, _ = lesson.train(samples, batch_size=32, lr=0.7, seed=3)
    torch.manual_seed(3)  # the weights are drawn first, then the orders of the samples
    network = nn.Linear(13, 1)
    assert torch.equal(trainings[0].start, helpers.to_vector(network.parameters()))
    loader = DataLoader(TensorDataset(X, is_0), 32, shuffle=True, drop_last=True)
    all_batches = [batch for epoch in range(n_updates) for batch in loader][:n_updates]
    helpers.check_training(trainings[0], network, nn.BCEWithLogitsLoss(), all_batches)


def test_training_ends_as_soon_as_the_loss_on_all_samples_is_below_0_05(done):
    training = done.trainings[SAME][-1]  # each of its batches has all 178 samples
    trained, criterion = nn.Linear(13, 1), nn.BCEWithLogitsLoss()
    helpers.check_training(training, trained, criterion, [(X, is_0)])
    # The losses before each update, and after the last
    assert min(training.losses) >= 0.05 > criterion(trained(X), is_0)


def test_the_time_is_the_sum_of_that_of_the_updates():
    tick = itertools.count().__next__  # a clock that adds a second whenever it is read
    with mock.patch.object(lesson.time, "perf_counter", tick):
        n_updates, seconds = lesson.train(samples, batch_size=64, lr=0.7, seed=0)
    assert seconds == n_updates  # it is read at the start and at the end of each update


def test_three_seeds_are_trained_at_the_same_rate_and_at_one_in_proportion(done):
    for label, rates in ((SAME, 6 * [2]), (SCALED, 0.2 * SIZES)):
        starts = [training.start.sum().item() for training in done.trainings[label]]
        assert starts == 6 * starts[:3] and len({*starts}) == 3
        for training, rate in zip(done.trainings[label], np.repeat(rates, 3), strict=True):
            assert_allclose(training.rates, rate)


@pytest.mark.parametrize("label", [SAME, SCALED])
def test_medians_of_updates_are_drawn_and_times_as_printed(done, label):
    n_updates = [len(training.rates) for training in done.trainings[label]]
    medians = np.median(np.reshape(n_updates, (6, 3)), axis=1)  # of three seeds
    assert_allclose(done.drawn["Updates"][label], [SIZES, medians])
    assert_allclose(done.drawn["Epochs"][label], [SIZES, medians * SIZES / 178])
    sizes, milliseconds = done.drawn["Milliseconds"][label]
    assert sizes.tolist() == SIZES.tolist()
    assert all(f" {time:.0f} ms\n" in done.output for time in milliseconds)


def test_the_result_is_what_is_drawn_for_three_batch_sizes(done):
    updates = dict(zip(*done.drawn["Updates"][SAME]))
    assert done.metrics == {f"updates_{size}": updates[size] for size in (1, 16, 178)}
    sizes = ", ".join(f"{updates[size]:.0f} (batch size {size})" for size in (1, 16, 178))
    assert sizes in done.result


def test_by_default_updates_are_equal_at_the_same_rate_and_epochs_in_proportion():
    updates, epochs, _ = (helpers.lines(ax) for ax in helpers.run(lesson).axes)
    updates = dict(zip(*updates["same learning rate: 0.5"]))  # by batch size
    epochs = dict(zip(*epochs["in proportion: 0.05 × batch size"]))
    assert updates[16] == pytest.approx(updates[178], rel=0.1)
    assert epochs[4] == pytest.approx(epochs[32], rel=0.2)
