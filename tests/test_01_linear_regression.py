"""Lesson 01: gradient descent, and the exact solution."""

import re

import helpers
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import make_regression

lesson = helpers.load_lesson("01")
X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
A = np.hstack([X, np.ones((100, 1))])  # A @ [weight, bias] are the predictions
exact, *_ = np.linalg.lstsq(A, y)
w_exact, b_exact = exact


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
    with helpers.record_training() as trainings:
        done = helpers.run(lesson, "--epochs=12", "--lr=0.05", "--seed=3")
    (done.training,) = trainings
    done.start = done.training.start.numpy()
    done.line, _ = descend(done.start, lr=0.05, epochs=12)
    return done


def test_by_default_training_reaches_the_least_squares_line():
    assert helpers.run(lesson).metrics["loss"] == pytest.approx(loss(exact), rel=1e-4)


def test_training_is_gradient_descent_also_by_hand_and_with_autograd(done):
    assert_allclose(done.training.end, done.line, rtol=1e-4)
    assert re.findall("epoch: (.+), loss", done.output) == ["10"]  # every 10 epochs, of 12
    printed = re.findall("weight (.+), bias (.+)", done.output)  # nn.Linear, by hand, autograd
    assert_allclose(np.float64(printed), [done.line, done.line, done.line, exact], atol=2e-4)


def test_the_result_is_the_loss_and_that_of_the_exact_solution(done):
    expected = {"loss": loss(done.line), "loss_exact": loss(exact)}
    assert done.metrics == pytest.approx(expected, rel=1e-4)
    last, of_exact = done.metrics["loss"], done.metrics["loss_exact"]
    assert f"update: {last:.2f}, of the exact solution: {of_exact:.2f}" in done.result


def test_the_limit_of_the_learning_rate_is_2_over_the_largest_second_derivative():
    B = A + [3, 0]  # for features whose mean is far from 0
    second_derivatives = 2 * B.T @ B / 100  # the largest, in any direction, is an eigenvalue
    limit = 2 / max(np.linalg.eigvalsh(second_derivatives))
    assert lesson.learning_rate_limit(X + 3) == pytest.approx(limit)


def test_the_figure_shows_the_points_and_both_lines(done):
    ax = done.panels["Linear regression"]
    assert_allclose(helpers.lines(ax)["data"], [X[:, 0], y])
    assert_allclose(helpers.lines(ax)["trained line"], [X[:, 0], A @ done.line], rtol=1e-3)
    (least_squares,) = (line for line in ax.lines if line.get_label() == "least-squares line")
    assert least_squares.get_slope() == pytest.approx(w_exact, rel=1e-4)
    assert least_squares.get_xy1() == pytest.approx((0, b_exact), rel=1e-4)


def test_the_figure_shows_the_loss_of_each_epoch_at_three_learning_rates(done):
    drawn = helpers.lines(done.panels["Training loss"])
    for lr, epochs, label in ((0.05, 12, "0.05"), (0.01, 100, "0.01 (video)"), (1.05, 20, "1.05")):
        _, losses = descend(done.start, lr, epochs)
        assert_allclose(drawn[f"learning rate {label}"], [range(1, epochs + 1), losses], rtol=1e-3)
    assert_allclose(drawn[f"least squares: {loss(exact):.0f}"][1], loss(exact), rtol=1e-4)
