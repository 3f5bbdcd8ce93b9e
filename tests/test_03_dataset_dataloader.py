"""Lesson 03: samples, batches, and how the batch size decides the time of training."""

import math
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import check_print, check_training, curves, load_lesson, run, run_once
from numpy.testing import assert_allclose
from sklearn.datasets import load_wine
from torch.nn.functional import binary_cross_entropy_with_logits as criterion
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("03")
wine = load_wine()
X, is_0 = torch.from_numpy(wine.data).float(), torch.from_numpy(wine.target[:, None] == 0).float()
X = (X - X.mean(dim=0)) / X.std(dim=0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 178)


def test_the_dataset_gives_the_wines():
    dataset = lesson.WineDataset()
    features, labels = zip(*[dataset[i] for i in range(len(dataset))])
    assert_allclose(torch.stack(features), wine.data, rtol=1e-6)
    assert torch.stack(labels).tolist() == wine.target[:, None].tolist()
    check_print(run_once(lesson).output, "tensor(", [*wine.data[0], 0], end="\ntensor")


def test_the_first_wine_and_a_batch_of_four_are_printed():
    wines = run_once(lesson).output.partition("\n178 45")[0]
    assert len(re.findall(r"\d+\.", wines)) == (1 + 4) * 14  # features and label


def test_the_loader_gives_45_batches_of_which_the_last_is_short():
    done = run_once(lesson)
    steps = [*((step, 4) for step in range(5, 45, 5)), (45, 2)]
    lines = [[epoch, 2, step, 45, n, 13, n, 1] for epoch in (1, 2) for step, n in steps]
    fake_data = [3, 1, 28, 28, 3]
    check_print(done.output, "178", [45, *np.ravel(lines), *fake_data, 2], end="Training")
    names = ("n_samples", "n_iterations", "last_batch")
    assert [done.metrics[name] for name in names] == [178, 45, 2]


def test_all_trainings_start_alike_and_end_as_soon_as_the_loss_is_below_0_05():
    done = run_once(lesson)
    _, epochs = curves(done.axes[0])[0]
    n_steps = [int(n) * math.ceil(178 / size) for n, size in zip(epochs, SIZES)]
    rates = [n * [0.5] for n in n_steps for _ in range(3)]  # three runs of each
    assert [training.rates for training in done.trainings] == rates
    for training in done.trainings:
        weights, bias = training.end.split([13, 1])
        assert torch.equal(training.start, done.trainings[0].start)
        assert criterion(X @ weights + bias, is_0[:, 0]) < 0.05
    model, batches = torch.nn.Linear(13, 1), [(X, is_0)]  # of the last training
    losses, _, _ = check_training(done.trainings[-1], rates[-1], model, criterion, batches)
    assert min(losses) >= 0.05  # before each step


def test_training_takes_a_step_for_each_batch_in_random_order():
    training = run_once(lesson).trainings[3 * SIZES.index(32)]
    torch.manual_seed(0)
    model = torch.nn.Linear(13, 1)
    loader = DataLoader(TensorDataset(X, is_0), batch_size=32, shuffle=True)
    check_training(training, training.rates, model, criterion, loader)


def test_epochs_and_lr_decide_the_trainings_and_the_seed_the_batches():
    done = run(lesson, "--epochs=1", "--lr=0.001")  # the loss stays above 0.05
    expected = [math.ceil(178 / size) * [0.001] for size in SIZES for _ in range(3)]
    assert [training.rates for training in done.trainings] == expected
    before, default_before = (d.output.split("Training")[0] for d in (done, run_once(lesson)))
    assert before == default_before
    assert before != run(lesson, "--epochs=1", "--seed=1").output.split("Training")[0]


def test_num_workers_is_for_the_first_loader():
    with mock.patch.object(lesson, "DataLoader", side_effect=EOFError) as loader:
        with pytest.raises(EOFError):
            lesson.main(["--num-workers=2"])
    assert loader.call_args.kwargs["num_workers"] == 2


def test_the_time_is_that_of_the_shortest_of_three_runs(monkeypatch):
    clock = iter([0, 2, 0, 2] + [0, 1, 0, 2] + [0, 4, 0, 1])  # three runs of two epochs
    monkeypatch.setattr(lesson, "time", SimpleNamespace(perf_counter=clock.__next__))
    args = lesson.parse_args(["--epochs=2", "--lr=0.001"])
    assert lesson.time_training(lesson.WineDataset(), 178, args) == (2, 3)


def test_epochs_time_per_epoch_and_their_product_are_drawn_printed_and_returned():
    done = run_once(lesson)
    (_, epochs), (_, ms_per_epoch), (_, ms) = (curves(ax)[0] for ax in done.axes)
    assert_allclose(ms, epochs * ms_per_epoch)
    assert epochs[0] < epochs[4] < epochs[7]
    rows = np.transpose([SIZES, epochs, ms_per_epoch])
    check_print(done.output, "batch size", rows.ravel(), end="Training time")
    check_print(done.output, "Training time:", [ms[0], 1, ms[4], 16, ms[7], 178])
    for i, size in ((0, 1), (4, 16), (7, 178)):
        assert done.metrics[f"epochs_{size}"] == epochs[i]
        assert_allclose(1000 * done.metrics[f"seconds_{size}"], ms[i])
