"""Lesson 01: gradient descent, and the exact solution."""

import numpy as np
import torch
from helpers import curves, load_lesson, numbers, run_once
from numpy.testing import assert_allclose
from sklearn.datasets import make_regression

lesson = load_lesson("01")
X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
A = np.hstack([X, np.ones((100, 1))])  # A @ [weight, bias] are the predictions
exact = np.linalg.lstsq(A, y)[0]
loss_exact = np.mean((A @ exact - y) ** 2)


def descend(start, lr, epochs):
    """Return the line [weight, bias] after training, and the loss before each epoch."""
    line, losses = start.numpy(), []
    for epoch in range(epochs):
        losses.append(np.mean((A @ line - y) ** 2))
        line = line - lr * 2 * A.T @ (A @ line - y) / 100
    return line, losses


def test_training_reaches_the_least_squares_line():
    metrics = run_once(lesson).metrics
    found = [metrics[name] for name in ("weight", "bias", "loss", "loss_exact")]
    assert_allclose(found, [*exact, loss_exact, loss_exact], rtol=1e-3)


def test_all_three_trainings_are_gradient_descent():
    done = run_once(lesson, "--epochs=12", "--lr=0.05")
    line, losses = descend(done.trainings[0].start, 0.05, 12)
    printed = numbers(done.output, "nn.Linear and SGD:", end="learning rate 0.01")
    limit = lesson.learning_rate_limit(torch.from_numpy(X))
    assert_allclose(printed, [*line, *line, *line, *exact, round(limit, 2)], atol=1e-3)
    assert_allclose(numbers(done.output, "epoch: 10, loss"), [losses[9]], rtol=1e-5)
    loss = np.mean((A @ line - y) ** 2)
    assert_allclose(numbers(done.output, "Training loss"), [loss, loss_exact], atol=0.01)
    assert max(done.metrics["difference_by_hand"], done.metrics["difference_autograd"]) < 1e-3


def test_the_limit_of_the_learning_rate_is_2_over_the_largest_curvature():
    B = A + [3, 0]  # all x are larger by 3
    curvatures = np.linalg.eigvalsh(2 * B.T @ B / 100)
    assert_allclose(lesson.learning_rate_limit(X + 3), 2 / max(curvatures))


def test_the_figure_shows_data_lines_and_the_losses_of_each_epoch():
    done = run_once(lesson, "--epochs=12", "--lr=0.05")
    start, end = done.trainings[0].start, done.trainings[0].end
    expected = [[X[:, 0], values] for values in (y, A @ end.numpy(), A @ exact)]
    assert_allclose(curves(done.axes[0]), expected, atol=1e-3)
    *drawn, drawn_exact = curves(done.axes[1])
    for curve, lr, epochs in zip(drawn, (0.05, 0.01, 1.05), (12, 100, 20)):
        _, losses = descend(start, lr, epochs)
        assert_allclose(curve, [range(1, epochs + 1), losses], rtol=1e-3)
    assert_allclose(drawn_exact[1], loss_exact, rtol=1e-5)
    slow, diverging = drawn[1][1, 99], drawn[2][1, 19]
    printed = numbers(done.output, "learning rate 0.01:", end="from")
    assert_allclose(printed, [slow, 100, 1.05, diverging, 20], atol=0.6)
    assert done.metrics["loss_video"] == slow
