"""Lesson 01: gradient descent against the exact solution and the chain rule."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import make_regression

lesson = load_lesson("01")


def test_metrics_against_numpy(tmp_path, capsys):
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
    A = np.column_stack([X[:, 0], np.ones(100)])
    (weight, bias), (residual,), _, _ = np.linalg.lstsq(A, y, rcond=None)
    assert metrics["loss_exact"] == pytest.approx(residual / 100, rel=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["loss_exact"], rel=1e-3)
    assert (metrics["weight"], metrics["bias"]) == pytest.approx((weight, bias), abs=1e-2)
    assert 408 < metrics["loss_video"] < 412
    assert max(metrics["difference_by_hand"], metrics["difference_autograd"]) < 1e-3
    left, right = plt.gcf().axes
    for line in left.lines[1:]:  # trained and exact
        np.testing.assert_allclose(np.ravel(line.get_ydata()), A @ [weight, bias], atol=0.1)
    exact = f"exact least squares:  weight {weight:.4f}, bias {bias:.4f}"
    assert exact in capsys.readouterr().out
    losses, slow, diverging, _ = (line.get_ydata() for line in right.lines)
    assert (len(losses), len(slow), len(diverging)) == (100, 100, 20)
    assert slow[-1] == metrics["loss_video"] and diverging[-1] > diverging[0] > losses[-1]


@pytest.mark.parametrize("train", [lesson.train_by_hand, lesson.train_with_autograd])
def test_two_steps_against_the_closed_form(train):
    X, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [4.0]])
    w, b = 0.5, -0.5
    for _ in range(2):
        error = w * X + b - y
        w, b = w - 0.1 * (2 * error * X).mean().item(), b - 0.1 * (2 * error).mean().item()
    found = train(X, y, 0.5, -0.5, lr=0.1, epochs=2)
    assert found[:2] == pytest.approx((w, b), rel=1e-5)
    if train is lesson.train_by_hand:  # the loss before each update
        assert found[2][0] == pytest.approx((2**2 + 3**2) / 2) and len(found[2]) == 2


def test_a_diverging_run_still_ends_with_a_figure(tmp_path):
    metrics = lesson.main(["--lr", "2", "--epochs", "600", "--output-dir", str(tmp_path)])
    assert not metrics["loss"] < metrics["loss_exact"]  # inf or nan
