"""Lesson 01: gradient descent, and the exact solution."""

import numpy as np
import pytest
import torch
from helpers import descend, load_lesson, numbers, run, run_once
from numpy.testing import assert_allclose
from sklearn.datasets import make_regression

lesson = load_lesson("01")
X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
x, y = torch.from_numpy(X[:, 0]), torch.from_numpy(y)
exact = torch.from_numpy(np.polyfit(x, y, 1))  # weight and bias of the least-squares line


def loss(line):
    return ((line[0] * x + line[1] - y) ** 2).mean()


def test_training_reaches_the_least_squares_line():
    done = run(lesson)
    assert done.trainings[0].rates == 100 * [0.1]
    assert_allclose([done.metrics["weight"], done.metrics["bias"]], exact, rtol=1e-3)
    assert_allclose([done.metrics["loss"], done.metrics["loss_exact"]], loss(exact), rtol=1e-5)


def test_all_three_trainings_take_the_steps_that_epochs_and_lr_say():
    done = run_once(lesson, "--epochs=12", "--lr=0.05")
    lines = descend(loss, done.trainings[0].start, 12 * [0.05])
    for name in ("nn.Linear", "gradient by hand", "gradient by autograd"):
        assert_allclose(numbers(done.output, name), lines[12], atol=1e-3)
    assert max(done.metrics["difference_by_hand"], done.metrics["difference_autograd"]) < 1e-4
    assert_allclose(
        numbers(done.output, "Training loss"), [loss(lines[12]), loss(exact)], rtol=1e-4
    )
    assert_allclose(done.metrics["loss"], loss(lines[12]), rtol=1e-5)
    assert_allclose(numbers(done.output, "epoch: 10, loss"), loss(lines[9]), rtol=1e-5)


def test_the_limit_of_the_learning_rate_is_2_over_the_largest_curvature():
    for features in (x, x + 3):
        A = np.column_stack([features, np.ones(100)])
        curvatures = np.linalg.eigvalsh(2 * A.T @ A / 100)
        assert lesson.learning_rate_limit(features) == pytest.approx(2 / max(curvatures))


def test_the_figure_shows_data_lines_and_the_losses_of_each_epoch():
    done = run_once(lesson, "--epochs=12", "--lr=0.05")
    left, right = done.axes
    trained = [done.metrics["weight"], done.metrics["bias"]]
    for line, expected in zip(left.lines, (y, np.polyval(trained, x), np.polyval(exact, x))):
        assert_allclose(line.get_xydata().T, [x, expected], atol=1e-3)
    for line, rates in zip(right.lines, (12 * [0.05], 100 * [0.01], 20 * [1.05])):
        losses = [loss(step) for step in descend(loss, done.trainings[0].start, rates)[:-1]]
        assert_allclose(line.get_xydata().T, [range(1, len(rates) + 1), losses], rtol=1e-3)
    assert done.metrics["loss_video"] == right.lines[1].get_ydata()[-1]
    assert_allclose(
        numbers(done.output, "learning rate 0.01:")[0], done.metrics["loss_video"], atol=1
    )
    assert_allclose(right.lines[3].get_ydata(), loss(exact), rtol=1e-5)
