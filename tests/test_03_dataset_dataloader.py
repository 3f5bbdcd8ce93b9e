"""Lesson 03: samples, batches, and how the batch size decides the time of training."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from helpers import descend, load_lesson, numbers, run, run_once
from numpy.testing import assert_allclose
from sklearn.datasets import load_wine
from torch.nn.functional import binary_cross_entropy_with_logits

lesson = load_lesson("03")
wine = load_wine()
X, is_0 = torch.from_numpy(wine.data), torch.from_numpy(wine.target == 0).double()
X = (X - X.mean(dim=0)) / X.std(dim=0)
SIZES = [1, 2, 4, 8, 16, 32, 64, 178]


def loss(weights):
    weights = weights.double()
    return binary_cross_entropy_with_logits(X @ weights[:-1] + weights[-1], is_0)


def test_the_dataset_gives_the_wines():
    dataset = lesson.WineDataset()
    assert len(dataset) == 178
    for index in (0, 59, 177):
        features, label = dataset[index]
        assert features.dtype == label.dtype == torch.float32
        assert_allclose(features, wine.data[index], rtol=1e-6)
        assert label.tolist() == [wine.target[index]]


def test_the_loader_gives_45_batches_of_which_the_last_is_short():
    done = run_once(lesson)
    batches = re.findall(r"step (\d+)/45, inputs \((\d), 13\)", done.output)
    assert batches == 2 * [*((str(step), "4") for step in range(5, 45, 5)), ("45", "2")]
    assert numbers(done.output, "FakeData:") == [3, 1, 28, 28, 3]
    names = ("n_samples", "n_iterations", "last_batch")
    assert [done.metrics[name] for name in names] == [178, 45, 2]


def test_trainings_start_alike_and_end_as_soon_as_the_loss_is_below_0_05():
    done = run_once(lesson)
    n_epochs = done.axes[0].lines[0].get_ydata()
    n_steps = [n * math.ceil(178 / size) for n, size in zip(n_epochs, SIZES) for _ in range(3)]
    assert [training.rates for training in done.trainings] == [n * [0.5] for n in n_steps]
    for training in done.trainings:
        assert torch.equal(training.start, done.trainings[0].start) and loss(training.end) < 0.05
    steps = descend(loss, training.start, training.rates)  # with all wines at once
    assert loss(steps[-2]) >= 0.05 > loss(steps[-1])


def test_epochs_and_lr_decide_the_trainings():
    done = run(lesson, "--epochs=1", "--lr=0.001")  # the loss stays above 0.05
    expected = [math.ceil(178 / size) * [0.001] for size in SIZES for _ in range(3)]
    assert [training.rates for training in done.trainings] == expected
    before, default_before = (d.output.split("Training")[0] for d in (done, run_once(lesson)))
    assert before == default_before  # the same seed gives the same batches


def test_the_time_is_that_of_the_shortest_of_three_runs(monkeypatch):
    clock = iter([0, 2, 10, 12, 20, 21, 30, 32, 40, 44, 50, 51])  # 2 + 2, 1 + 2, and 4 + 1 seconds
    monkeypatch.setattr(lesson, "time", SimpleNamespace(perf_counter=clock.__next__))
    torch.set_num_threads(2)
    args = lesson.parse_args(["--epochs=2", "--lr=0.001"])
    assert lesson.time_training(lesson.WineDataset(), 178, args) == (2, 3)
    assert torch.get_num_threads() == 2  # as before


def test_small_batches_take_the_fewest_epochs_and_medium_ones_the_least_time():
    for attempt in range(3):  # other processes may disturb the times
        metrics = (run if attempt else run_once)(lesson).metrics
        assert metrics["epochs_1"] < metrics["epochs_16"] < metrics["epochs_178"]
        if metrics["seconds_16"] < min(metrics["seconds_1"], metrics["seconds_178"]):
            return
    pytest.fail("batches of 16 took longer than others, three times")


def test_the_figure_shows_epochs_time_per_epoch_and_their_product():
    done = run_once(lesson)
    epochs, ms_per_epoch, ms = (dict(ax.lines[0].get_xydata()) for ax in done.axes)
    for size in SIZES:
        assert ms[size] == pytest.approx(epochs[size] * ms_per_epoch[size])
    for size in (1, 16, 178):
        assert done.metrics[f"epochs_{size}"] == epochs[size]
        assert 1000 * done.metrics[f"seconds_{size}"] == pytest.approx(ms[size])
