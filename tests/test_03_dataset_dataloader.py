"""Lesson 03: samples, batches, and what the batch size trades."""

import pickle

import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import load_wine
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("03")


def test_dataset_gives_the_wines():
    dataset, wine = lesson.WineDataset(), load_wine()
    assert len(dataset) == dataset.n_samples == 178
    for index in (0, 59, 177):
        features, label = dataset[index]
        assert features.dtype == label.dtype == torch.float32 and label.shape == (1,)
        assert features.tolist() == pytest.approx(wine.data[index].tolist())
        assert label.item() == wine.target[index]


def test_dataset_reaches_workers_that_start_anew():
    """Where workers are spawned, they receive the dataset as a pickle."""
    copy = pickle.loads(pickle.dumps(lesson.WineDataset()))
    assert torch.equal(copy.x_data, lesson.WineDataset().x_data)


def test_metrics_at_the_defaults(tmp_path):
    metrics = lesson.main(["--output-dir", str(tmp_path), "--epochs", "5"])
    assert (metrics["n_samples"], metrics["n_iterations"], metrics["last_batch"]) == (178, 45, 2)
    assert metrics["loss_batch_1"] < metrics["loss_batch_all"]


def test_batches_do_not_depend_on_what_else_draws_random_numbers(tmp_path, capsys, monkeypatch):
    def first_batch():
        capsys.readouterr()
        lesson.main(["--epochs", "1", "--output-dir", str(tmp_path)])
        return capsys.readouterr().out.partition("178 samples, 45")[0]

    before = first_batch()
    monkeypatch.setattr(torch, "manual_seed", lambda seed: torch.rand(seed + 7))
    assert first_batch() == before


def test_one_batch_of_all_samples_is_gradient_descent(monkeypatch):
    torch.manual_seed(0)
    X, y = torch.randn(30, 4), torch.randint(2, (30, 1)).float()
    monkeypatch.setattr(lesson, "device", torch.device("cpu"))
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 1)
    loss = F.binary_cross_entropy_with_logits(model(X), y)
    weight, bias = torch.autograd.grad(loss, list(model.parameters()))
    expected = X @ (model.weight - 0.5 * weight).T + (model.bias - 0.5 * bias)
    torch.manual_seed(1)
    losses, seconds = lesson.train(DataLoader(TensorDataset(X, y), batch_size=30), 0.5, 1)
    assert losses == pytest.approx([F.binary_cross_entropy_with_logits(expected, y).item()])
    assert losses[0] < loss.item() and len(seconds) == 1
