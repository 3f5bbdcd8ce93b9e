"""Lesson 01: three ways to the least-squares line."""

import numpy as np
import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import make_regression

lesson = load_lesson("01")


def test_all_trainings_reach_the_least_squares_solution(tmp_path):
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
    A = np.column_stack([X[:, 0], np.ones(100)])
    (weight, bias), (residual,), _, _ = np.linalg.lstsq(A, y, rcond=None)
    assert metrics["loss_exact"] == pytest.approx(residual / 100, rel=1e-5)
    assert metrics["loss"] == pytest.approx(290.160, rel=1e-3)
    assert (metrics["weight"], metrics["bias"]) == pytest.approx((weight, bias), abs=1e-2)
    assert max(metrics["difference_by_hand"], metrics["difference_autograd"]) < 1e-3


@pytest.mark.parametrize("train", [lesson.train_by_hand, lesson.train_with_autograd])
def test_one_step_against_the_closed_form(train):
    X, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [4.0]])
    # errors -2 and -4: d/dw = mean(2 * (-2 * 1, -4 * 3)) = -14, d/db = mean(2 * (-2, -4)) = -6
    w, b = train(X, y, 0.0, 0.0, lr=0.1, num_epochs=1)[:2]
    assert (w, b) == pytest.approx((1.4, 0.6))


def test_by_hand_records_the_loss_before_each_update():
    X, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [4.0]])
    _, _, losses = lesson.train_by_hand(X, y, 0.0, 0.0, lr=1.0, num_epochs=8)
    assert losses[0] == pytest.approx(10)  # (4 + 16) / 2
    assert losses[-1] > 100 * losses[0]  # the learning rate is too large


def test_a_diverging_run_still_ends_with_a_figure(tmp_path):
    metrics = lesson.main(["--lr", "2", "--epochs", "600", "--output-dir", str(tmp_path)])
    assert not metrics["loss"] < metrics["loss_exact"]  # inf or nan
    assert (tmp_path / "01_linear_regression.png").exists()
