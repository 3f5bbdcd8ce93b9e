"""Lesson 03: samples, batches, and what the batch size trades."""

import math
import multiprocessing

import pytest
import torch
from sklearn.datasets import load_wine
from torch.nn import functional as F


@pytest.fixture(scope="module")
def lesson03(lesson):
    return lesson("03_")


@pytest.fixture(scope="module")
def metrics(lesson03, tmp_path_factory):
    return lesson03.main(["--output-dir", str(tmp_path_factory.mktemp("outputs"))])


def test_main_gives_the_threads_back(lesson03, tmp_path):
    """In a notebook, later lessons run in the same process."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        lesson03.main(["--epochs", "1", "--output-dir", str(tmp_path)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_dataset_gives_the_wines(lesson03):
    dataset, wine = lesson03.WineDataset(), load_wine()
    assert len(dataset) == 178
    for index in (0, 59, 177):
        features, target = dataset[index]
        assert features.dtype == torch.float32 and target.dtype == torch.int64
        assert features.tolist() == pytest.approx(wine.data[index].tolist())
        assert target.item() == wine.target[index]


def test_loader_deals_every_sample_once(lesson03):
    batches = list(lesson03.make_loader(lesson03.WineDataset(), 4, seed=0))
    assert [len(y) for _, y in batches] == [4] * 44 + [2]
    dealt = torch.cat([X for X, _ in batches])
    assert sorted(dealt.tolist()) == sorted(lesson03.WineDataset().X.tolist())
    assert not torch.equal(dealt, lesson03.WineDataset().X)  # shuffled


@pytest.mark.parametrize("start_method", ["no workers", "spawn", "fork"])
def test_the_seed_alone_decides_the_order(lesson03, start_method):
    """With workers as Windows and macOS start them (spawn), and as Linux used to (fork)."""

    def order(seed, num_workers=0):
        torch.rand(7)  # what else draws from the global generator must not matter
        loader = lesson03.make_loader(lesson03.WineDataset(), 50, seed, num_workers)
        if num_workers:
            loader.multiprocessing_context = start_method
        return torch.cat([X for X, _ in loader])

    assert not torch.equal(order(1), order(2))
    if start_method == "no workers":
        assert torch.equal(order(1), order(1))
    elif start_method in multiprocessing.get_all_start_methods():
        assert torch.equal(order(1), order(1, num_workers=2))


def test_metrics_at_the_defaults(metrics):
    assert (metrics["n_samples"], metrics["n_batches"], metrics["last_batch"]) == (178, 45, 2)
    assert metrics["accuracy"] >= 0.94
    assert metrics["loss_batch_1"] < metrics["loss_batch_16"] < metrics["loss_batch_143"]
    assert all(metrics[f"seconds_batch_{size}"] > 0 for size in (1, 16, 143))


def test_model_standardises_with_the_training_part(lesson03):
    X = torch.tensor([[1.0, 5.0], [3.0, 5.0]])  # the second column is constant
    model = lesson03.StandardizedLinear(X, n_classes=3)
    standardised = (X - model.mean) / model.std
    assert standardised.tolist() == [[-1, 0], [1, 0]]
    torch.testing.assert_close(model(X), model.linear(standardised))
    assert {name for name, _ in model.named_parameters()} == {"linear.weight", "linear.bias"}


def test_whole_set_training_is_gradient_descent(lesson03):
    """With one batch of everything, an epoch is one step down the gradient of the whole loss."""
    torch.manual_seed(0)
    dataset = lesson03.WineDataset()
    part = torch.utils.data.Subset(dataset, range(100))
    X, y = dataset.X[:100], dataset.y[:100]
    model = lesson03.StandardizedLinear(X, n_classes=3).to(lesson03.DEVICE)
    X, y = X.to(lesson03.DEVICE), y.to(lesson03.DEVICE)
    loss = F.cross_entropy(model(X), y)
    (gradient,) = torch.autograd.grad(loss, [model.linear.weight])
    expected = model.linear.weight.detach() - 0.1 * gradient
    losses, seconds = lesson03.train(model, lesson03.make_loader(part, 100, 0), lr=0.1, epochs=1)
    torch.testing.assert_close(model.linear.weight.detach(), expected)
    assert losses == pytest.approx([F.cross_entropy(model(X), y).item()]) and len(seconds) == 1
    assert losses[0] < loss.item()


def test_evaluate_counts_every_sample_once(lesson03):
    """178 samples are a batch of 100 and one of 78."""

    class AlwaysOne(torch.nn.Module):
        def forward(self, X):
            return torch.tensor([0.0, 1.0, 0.0], device=X.device).expand(len(X), 3)

    loss, accuracy = lesson03.evaluate(AlwaysOne(), lesson03.WineDataset())
    assert accuracy == pytest.approx(71 / 178)
    assert loss == pytest.approx(math.log(2 + math.e) - 71 / 178)
