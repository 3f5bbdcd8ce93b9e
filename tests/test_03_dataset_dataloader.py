"""Lesson 03: samples, batches, and what the batch size trades off."""

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import load_wine
from torch.nn.functional import binary_cross_entropy_with_logits as loss_function

lesson = load_lesson("03")


def test_dataset_gives_the_wines():
    wine, dataset = load_wine(), lesson.WineDataset()
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
    wine = load_wine()  # gradient descent on "is it variety 0?", with standardized features
    X = torch.from_numpy((wine.data - wine.data.mean(axis=0)) / wine.data.std(axis=0)).float()
    y = torch.from_numpy(wine.target == 0).float().view(-1, 1)
    torch.manual_seed(0)
    model = torch.nn.Linear(13, 1)
    for _ in range(20):
        gradients = torch.autograd.grad(loss_function(model(X), y), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients):
            parameter.data -= 0.08 * 178 / 16 * gradient
    assert metrics["loss_all"] == pytest.approx(loss_function(model(X), y).item(), rel=1e-3)
    for ax, key in zip(plt.gcf().axes, ("loss", "loss_same_lr")):
        for line, name in zip(ax.lines, ("1", "some", "all")):
            assert line.get_ydata()[-1] == metrics[f"{key}_{name}"]
    out = capsys.readouterr().out
    assert "with drop_last: 44 batches" in out
    assert out.count("inputs (4, 13), labels (4, 1)") == 2 * 8 and out.count("inputs (2, 13)") == 2
