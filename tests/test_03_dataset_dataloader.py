"""Lesson 03: samples, batches, and how the batch size decides the time of training."""

import math
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import check_training, curves, load_lesson, numbers, run, run_once
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
    printed = numbers(run_once(lesson).output, "tensor(", end="178")  # one wine, then four
    assert_allclose(printed[:14], [*wine.data[0], 0], rtol=1e-3)
    assert len(printed) == 14 + 4 * 14


def test_the_loader_gives_45_batches_of_which_the_last_is_short():
    done = run_once(lesson)
    pattern = r"epoch: (\d)/2, step (\d+)/45, inputs \((\d), 13\), labels \((\d), 1\)"
    steps = [*((str(step), "4", "4") for step in range(5, 45, 5)), ("45", "2", "2")]
    found = re.findall(pattern, done.output)
    assert found == [(epoch, *step) for epoch in "12" for step in steps]
    assert numbers(done.output, "178", end="epoch") == [45]
    assert numbers(done.output, "FakeData:", end="Training") == [3, 1, 28, 28, 3, 2]
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
    printed = numbers(done.output, "batch size", end="Training time")
    assert_allclose(np.reshape(printed, (8, 3)).T, [SIZES, epochs, ms_per_epoch], atol=0.06)
    expected = [ms[0], 1, ms[4], 16, ms[7], 178]
    assert_allclose(numbers(done.output, "Training time:"), expected, atol=0.6)
    for i, size in ((0, 1), (4, 16), (7, 178)):
        assert done.metrics[f"epochs_{size}"] == epochs[i]
        assert_allclose(1000 * done.metrics[f"seconds_{size}"], ms[i])
