"""Lesson 01: gradient descent, and the exact solution."""

import numpy as np
import pytest
from helpers import lines, load_lesson, record_training, run
from numpy.testing import assert_allclose
from sklearn.datasets import make_regression

lesson = load_lesson("01")
X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
A = np.hstack([X, np.ones((100, 1))])  # A @ [weight, bias] are the predictions
exact = np.linalg.lstsq(A, y)[0]


def loss(line):
    return np.mean((A @ line - y) ** 2)


def descend(start, lr, epochs):
    """Return the line [weight, bias] after training, and the loss before each epoch."""
    line, losses = start, []
    for epoch in range(epochs):
        losses.append(loss(line))
        line = line - lr * 2 * A.T @ (A @ line - y) / 100
    return line, losses


@pytest.fixture(scope="module")
def done():
    """Train for 12 epochs: that is not long enough to reach the exact solution."""
    with record_training() as trainings:
        done = run(lesson, "--epochs=12", "--lr=0.05")
    done.start = trainings[0].start.numpy()
    done.line, _ = descend(done.start, lr=0.05, epochs=12)
    return done


def test_by_default_training_reaches_the_least_squares_line():
    metrics = run(lesson).metrics
    found = [metrics[name] for name in ("weight", "bias", "loss", "loss_exact")]
    assert_allclose(found, [*exact, loss(exact), loss(exact)], rtol=1e-3)


def test_all_three_trainings_are_gradient_descent(done):
    found = [done.metrics[name] for name in ("weight", "bias", "loss")]
    assert_allclose(found, [*done.line, loss(done.line)], rtol=1e-4)
    assert max(done.metrics["difference_by_hand"], done.metrics["difference_autograd"]) < 1e-3


def test_the_result_is_the_loss_and_that_of_the_exact_solution(done):
    result = done.output.splitlines()[-2]
    assert f"{loss(done.line):.2f}" in result and f"{loss(exact):.2f}" in result


@pytest.mark.parametrize("shift", [0, 3])
def test_the_limit_of_the_learning_rate_is_2_over_the_largest_second_derivative(shift):
    B = A + [shift, 0]  # the same for all x
    limit = 2 / max(np.linalg.eigvalsh(2 * B.T @ B / 100))
    assert lesson.learning_rate_limit(X + shift) == pytest.approx(limit)


def test_the_figure_shows_the_points_and_both_lines(done):
    drawn = lines(done.axes[0])
    assert_allclose(drawn["data"], [X[:, 0], y])
    assert_allclose(drawn["trained line"], [X[:, 0], A @ done.line], rtol=1e-3)
    (least_squares,) = (a for a in done.axes[0].lines if a.get_label() == "least-squares line")
    found = [least_squares.get_slope(), *least_squares.get_xy1()]
    assert_allclose(found, [exact[0], 0, exact[1]], rtol=1e-4)


def test_the_figure_shows_the_loss_of_each_epoch_at_three_learning_rates(done):
    drawn = lines(done.axes[1])
    for lr, label, epochs in ((0.05, "", 12), (0.01, " (video)", 100), (1.05, "", 20)):
        _, losses = descend(done.start, lr, epochs)
        curve = drawn[f"learning rate {lr}{label}"]
        assert_allclose(curve, [range(1, epochs + 1), losses], rtol=1e-3)
    assert_allclose(drawn[f"least squares: {loss(exact):.0f}"][1], loss(exact), rtol=1e-4)
    assert done.metrics["loss_video"] == drawn["learning rate 0.01 (video)"][1, -1]
