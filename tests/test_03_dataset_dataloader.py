"""Lesson 03: samples, batches, and what the batch size trades off."""

import pickle

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import load_wine
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("03")


def test_dataset_gives_the_wines_also_to_workers_that_start_anew():
    wine = load_wine()
    dataset = pickle.loads(pickle.dumps(lesson.WineDataset()))
    assert len(dataset) == dataset.n_samples == 178
    for index in (0, 59, 177):
        features, label = dataset[index]
        assert features.dtype == label.dtype == torch.float32 and label.shape == (1,)
        assert features.tolist() == pytest.approx(wine.data[index].tolist())
        assert label.item() == wine.target[index]


def test_metrics_at_the_defaults(tmp_path, capsys):
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    assert (metrics["n_samples"], metrics["n_iterations"], metrics["last_batch"]) == (178, 45, 2)
    assert metrics["loss_1"] == pytest.approx(metrics["loss_all"], rel=0.15)
    assert metrics["seconds_1"] > metrics["seconds_all"] > 0
    assert metrics["loss_same_lr_1"] < metrics["loss_same_lr_some"] < metrics["loss_same_lr_all"]
    assert metrics["loss_some"] == metrics["loss_same_lr_some"]  # the same learning rate
    wine = load_wine()  # "is it variety 0?", on standardized features
    X = torch.from_numpy((wine.data - wine.data.mean(axis=0)) / wine.data.std(axis=0)).float()
    task = TensorDataset(X, torch.from_numpy(wine.target == 0).float().view(-1, 1))
    losses, _ = lesson.train(DataLoader(task, batch_size=178), 0.08 * 178 / 16, 20, seed=0)
    assert metrics["loss_all"] == pytest.approx(losses[-1], rel=1e-3)
    for ax, key in zip(plt.gcf().axes, ("loss", "loss_same_lr")):
        for line, name in zip(ax.lines, ("1", "some", "all")):
            assert line.get_ydata()[-1] == metrics[f"{key}_{name}"] and len(line.get_ydata()) == 20
    out = capsys.readouterr().out
    assert "with drop_last: 44 batches" in out
    assert "FakeData: inputs (3, 1, 28, 28), targets (3,)" in out
    assert out.count("inputs (4, 13), labels (4, 1)") == 2 * 8 and out.count("inputs (2, 13)") == 2


@pytest.mark.parametrize("batch_size", [30, 10])
def test_training_is_gradient_descent_on_each_batch(batch_size):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(30, 4, generator=generator)
    y = torch.randint(2, (30, 1), generator=generator).float()
    loader = DataLoader(TensorDataset(X, y), batch_size=batch_size)
    found, seconds = lesson.train(loader, 0.5, 2, seed=1)
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 1)
    for epoch in range(2):
        for inputs, labels in loader:
            loss = F.binary_cross_entropy_with_logits(model(inputs), labels)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for parameter, gradient in zip(model.parameters(), gradients):
                parameter.data -= 0.5 * gradient
        expected = F.binary_cross_entropy_with_logits(model(X), y).item()
        assert found[epoch] == pytest.approx(expected, rel=1e-5)
