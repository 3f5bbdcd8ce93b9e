"""Lesson 01: three trainings that are one, and the exact answer."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_regression
from sklearn.linear_model import LinearRegression


@pytest.fixture(scope="module")
def lesson01(lesson):
    return lesson("01_")


@pytest.fixture(scope="module")
def metrics(lesson01, tmp_path_factory):
    return lesson01.main(["--output-dir", str(tmp_path_factory.mktemp("outputs"))])


def test_data_is_the_video_s(lesson01):
    X, y = lesson01.load_data()
    X_sklearn, y_sklearn = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
    assert X.shape == y.shape == (100, 1)
    np.testing.assert_allclose(X.cpu(), X_sklearn, rtol=1e-6)
    np.testing.assert_allclose(y.cpu().squeeze(1), y_sklearn, rtol=1e-6)


def test_metrics_agree_with_scikit_learn(metrics):
    X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
    reference = LinearRegression().fit(X, y)
    loss = np.mean((reference.predict(X) - y) ** 2)
    assert loss == pytest.approx(290.160, abs=1e-3)
    assert metrics["weight_exact"] == pytest.approx(reference.coef_[0], rel=1e-5)
    assert metrics["bias_exact"] == pytest.approx(reference.intercept_, rel=1e-4)
    assert metrics["loss_exact"] == pytest.approx(loss, rel=1e-5)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-3)
    assert metrics["gradient_error"] < 1e-3
    assert metrics["path_error"] < 1e-3


def test_gradient_by_hand_is_that_of_finite_differences(lesson01):
    X, y = (part.double() for part in lesson01.load_data(20))
    at = torch.tensor([3.0, -2.0], dtype=torch.float64, device=X.device)
    gradient = lesson01.gradient_by_hand(X, y, at)
    torch.testing.assert_close(gradient, lesson01.gradient_by_autograd(X, y, at))
    for i in range(2):
        step = torch.zeros_like(at)
        step[i] = 1e-5
        up = lesson01.mean_squared_error(lesson01.predict(X, at + step), y)
        down = lesson01.mean_squared_error(lesson01.predict(X, at - step), y)
        assert gradient[i].item() == pytest.approx(((up - down) / 2e-5).item(), rel=1e-5)


def test_the_three_trainings_agree_after_every_epoch(lesson01):
    X, y = lesson01.load_data()
    start = torch.tensor([1.0, -5.0], device=X.device)
    by_hand = lesson01.train_by_hand(X, y, start, lr=0.05, epochs=30)
    assert by_hand.shape == (31, 2)
    assert torch.equal(by_hand[0], start)
    assert not torch.equal(by_hand[1], by_hand[0])
    for train in (lesson01.train_with_autograd, lesson01.train_with_modules):
        path = train(X, y, start, lr=0.05, epochs=30)
        torch.testing.assert_close(path, by_hand, rtol=1e-5, atol=1e-4)
    assert torch.equal(start.cpu(), torch.tensor([1.0, -5.0]))  # no training changes its start


def test_one_step_against_the_closed_form(lesson01):
    X = torch.tensor([[1.0], [3.0]], device=lesson01.DEVICE)
    y = torch.tensor([[2.0], [4.0]], device=lesson01.DEVICE)
    start = torch.zeros(2, device=lesson01.DEVICE)
    # errors -2 and -4: d/dw = mean(2 * (-2 * 1, -4 * 3)) = -14, d/db = mean(2 * (-2, -4)) = -6
    path = lesson01.train_with_modules(X, y, start, lr=0.1, epochs=1)
    torch.testing.assert_close(path[1].cpu(), torch.tensor([1.4, 0.6]))


def test_the_large_learning_rate_diverges_and_a_smaller_one_does_not(lesson01):
    X, y = lesson01.load_data()
    start = torch.zeros(2, device=X.device)
    losses = {}
    for lr in (0.9, lesson01.LR_TOO_LARGE):
        losses[lr] = lesson01.losses_along(lesson01.train_by_hand(X, y, start, lr, 100), X, y)
    assert losses[0.9][-1] < losses[0.9][0]
    assert losses[lesson01.LR_TOO_LARGE][-1] > 1000 * losses[lesson01.LR_TOO_LARGE][0]


def test_a_diverging_run_still_ends_well(lesson01, tmp_path, capsys):
    metrics = lesson01.main(["--lr", "2", "--epochs", "600", "--output-dir", str(tmp_path)])
    assert not metrics["loss"] < metrics["loss_exact"]  # inf or nan
    assert (tmp_path / "01_linear_regression.png").exists()


def test_one_point_is_too_few(lesson01, capsys):
    with pytest.raises(SystemExit) as stop:
        lesson01.parse_args(["--limit", "1"])
    assert stop.value.code == 2
    assert "at least 2" in capsys.readouterr().err
