"""Lesson 01: gradient descent, and the exact solution."""

import numpy as np
from helpers import check_print, curves, load_lesson, run_once
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
    line, losses = start.numpy(), []
    for epoch in range(epochs):
        losses.append(loss(line))
        line = line - lr * 2 * A.T @ (A @ line - y) / 100
    return line, losses


def test_training_reaches_the_least_squares_line():
    metrics = run_once(lesson).metrics
    found = [metrics[name] for name in ("weight", "bias", "loss", "loss_exact")]
    assert_allclose(found, [*exact, loss(exact), loss(exact)], rtol=1e-3)


def test_all_three_trainings_are_gradient_descent_and_their_numbers_are_printed():
    done = run_once(lesson, "--epochs=12", "--lr=0.05")
    line, losses = descend(done.trainings[0].start, 0.05, 12)
    limit = 2 / max(np.linalg.eigvalsh(2 * A.T @ A / 100))  # 2 over the largest curvature
    expected = [*line, *line, *line, *exact, limit]
    check_print(done.output, "nn.Linear and SGD:", expected, end="learning rate 0.01")
    check_print(done.output, "epoch: 10, loss", [losses[9]])
    check_print(done.output, "Training loss", [loss(line), loss(exact)])
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
    assert_allclose(drawn_exact[1], loss(exact), rtol=1e-5)
    slow, diverging = drawn[1][1, -1], drawn[2][1, -1]
    printed = [slow, 100, 1.05, diverging, 20, drawn[2][1, 0]]
    check_print(done.output, "learning rate 0.01:", printed, end="Training")
    assert done.metrics["loss_video"] == slow
