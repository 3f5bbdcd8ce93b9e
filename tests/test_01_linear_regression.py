"""Lesson 01: gradient descent, and the exact solution."""

import numpy as np
import pytest
from helpers import load_lesson, numbers, run_once
from numpy.testing import assert_allclose
from sklearn.datasets import make_regression

lesson = load_lesson("01")
X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
A = np.hstack([X, np.ones((100, 1))])  # A @ [weight, bias] are the predictions
exact = np.linalg.lstsq(A, y)[0]
loss_exact = np.mean((A @ exact - y) ** 2)


def descend(start, lr, epochs):
    """Return the line after each number of epochs, from 0 on, in closed form, and its loss."""
    step = np.eye(2) - lr * 2 * A.T @ A / 100
    powers = (np.linalg.matrix_power(step, n) for n in range(epochs + 1))
    lines = [exact + power @ (start.numpy() - exact) for power in powers]
    return lines, [np.mean((A @ line - y) ** 2) for line in lines]


def test_training_reaches_the_least_squares_line():
    metrics = run_once(lesson).metrics
    assert [metrics["weight"], metrics["bias"]] == pytest.approx(exact, rel=1e-3)
    assert [metrics["loss"], metrics["loss_exact"]] == pytest.approx([loss_exact, loss_exact])
    assert max(metrics["difference_by_hand"], metrics["difference_autograd"]) < 1e-3


def test_all_three_trainings_are_gradient_descent_and_their_numbers_are_printed():
    done = run_once(lesson, "--epochs=12", "--lr=0.05")
    lines, losses = descend(done.trainings[0].start, 0.05, 12)
    printed = numbers(done.output, "nn.Linear and SGD:", end="Here")
    assert_allclose(printed, [*lines[12], *lines[12], *lines[12], *exact], atol=1e-3)
    assert_allclose(numbers(done.output, "epoch: 10, loss"), losses[9], rtol=1e-5)
    assert_allclose(numbers(done.output, "Training loss"), [losses[12], loss_exact], atol=0.01)
    assert done.metrics["loss"] == pytest.approx(losses[12])


def test_the_limit_of_the_learning_rate_is_2_over_the_largest_curvature():
    for shift in (0, 3):
        curvatures = np.linalg.eigvalsh(2 * (A + [[shift, 0]]).T @ (A + [[shift, 0]]) / 100)
        assert lesson.learning_rate_limit(X + shift) == pytest.approx(2 / max(curvatures))


def test_the_figure_shows_data_lines_and_the_losses_of_each_epoch():
    done = run_once(lesson, "--epochs=12", "--lr=0.05")
    left, right = done.axes
    start, trained = done.trainings[0].start, done.trainings[0].end.numpy()
    for line, expected in zip(left.lines, (y, A @ trained, A @ exact)):
        assert_allclose(line.get_xydata().T, [X[:, 0], expected], atol=1e-3)
    for line, lr, epochs in zip(right.lines, (0.05, 0.01, 1.05), (12, 100, 20)):
        losses = descend(start, lr, epochs)[1][:-1]
        assert_allclose(line.get_xydata().T, [range(1, epochs + 1), losses], rtol=1e-3)
        assert lr == 0.05 or abs(numbers(done.output, f"learning rate {lr}:")[0] - losses[-1]) < 1
        assert lr != 0.01 or done.metrics["loss_video"] == pytest.approx(losses[-1], rel=1e-4)
    assert_allclose(right.lines[3].get_ydata(), loss_exact, rtol=1e-5)
