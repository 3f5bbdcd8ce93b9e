"""Lesson 01: gradient descent against the exact solution and the chain rule."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import load_lesson
from sklearn.datasets import make_regression

lesson = load_lesson("01")


def test_metrics_and_figure_against_numpy(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    metrics = lesson.main(["--show", "--output-dir", str(tmp_path)])
    assert shown == [[1]]
    X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
    A = np.column_stack([X, np.ones(100)])
    solution, (residual,), _, _ = np.linalg.lstsq(A, y, rcond=None)
    assert metrics["loss_exact"] == pytest.approx(residual / 100, rel=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["loss_exact"], rel=1e-3)
    assert [metrics["weight"], metrics["bias"]] == pytest.approx(solution, abs=1e-2)
    assert 408 < metrics["loss_video"] < 412
    left, right = plt.gcf().axes
    for line in left.lines[1:]:  # trained and exact
        np.testing.assert_allclose(np.ravel(line.get_ydata()), A @ solution, atol=0.1)
    losses, slow, diverging, _ = (line.get_ydata() for line in right.lines)
    assert (len(losses), len(slow), len(diverging)) == (100, 100, 20)
    assert diverging[-1] > diverging[0] > losses[-1]


def test_after_two_steps_all_three_training_runs_agree(tmp_path):
    metrics = lesson.main(["--epochs", "2", "--output-dir", str(tmp_path)])
    assert max(metrics["difference_by_hand"], metrics["difference_autograd"]) < 1e-4


def test_a_diverging_run_still_ends_with_a_figure(tmp_path):
    metrics = lesson.main(["--lr", "2", "--epochs", "600", "--output-dir", str(tmp_path)])
    assert not np.isfinite(metrics["loss"]) and (tmp_path / "01_linear_regression.png").exists()
