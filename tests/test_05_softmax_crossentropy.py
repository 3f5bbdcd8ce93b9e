"""Lesson 05: softmax and cross-entropy by hand, and the mistake that it measures."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import load_lesson, spy
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

lesson = load_lesson("05")


def test_softmax_and_cross_entropy_against_references():
    x = np.random.default_rng(0).normal(size=20) * 5
    for softmax in (lesson.softmax, lesson.stable_softmax):
        np.testing.assert_allclose(softmax(x), torch.softmax(torch.from_numpy(x), dim=0))
    large, one_hot = np.array([1000.0, 999.0, -1000.0]), np.array([1, 0, 0])
    np.testing.assert_allclose(lesson.stable_softmax(large)[0], 1 / (1 + math.exp(-1)))
    for p in ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]):
        found = lesson.cross_entropy(one_hot, np.array(p))
        assert found == pytest.approx(log_loss([0], [p], labels=[0, 1, 2]))
    assert 30 < lesson.cross_entropy(one_hot, np.array([0.0, 1.0, 0.0])) < math.inf


def test_metrics_are_those_of_the_trained_networks(tmp_path, capsys):
    with spy(lesson, "train") as train:
        metrics = lesson.main(["--output-dir", str(tmp_path)])
    assert max(metrics["softmax_error"], metrics["cross_entropy_error"]) < 1e-6
    X, y = load_digits(return_X_y=True)
    _, X, _, y = train_test_split(X / 16, y, random_state=0)
    X = torch.from_numpy(X).float()
    binary, logits, doubled = (call.args[0].cpu()(X).detach().numpy() for call in train.mock_calls)
    assert binary.min() < 0 and logits.min() < 0 and logits.max() > 1  # not probabilities
    np.testing.assert_allclose(doubled.sum(axis=1), 1, rtol=1e-5)
    found = metrics["accuracy_logits"], metrics["accuracy_double_softmax"]
    assert found == pytest.approx([(x.argmax(axis=1) == y).mean() for x in (logits, doubled)])
    accuracy = ((binary[:, 0] > 0) == (y == 3)).mean()
    assert metrics["accuracy_binary"] == pytest.approx(accuracy) and accuracy >= 0.97
    assert found[0] >= 0.95 and found[1] <= found[0] - 0.1
    losses, double_losses = (line.get_ydata() for line in plt.gcf().axes[1].lines)
    assert losses[-1] < 0.2 and double_losses[-1] > 1.46  # the least loss with an extra softmax
    out = capsys.readouterr().out  # the numbers of the video
    assert all(loss in out for loss in ("0.3567", "2.3026", "0.4170", "1.8406", "0.2834", "1.6418"))
    assert "tensor([0]) tensor([1])" in out and "tensor([2, 0, 1]) tensor([0, 2, 0])" in out
