"""Lesson 02: a classifier, its mistakes, overfitting, and why the loss takes logits."""

import numpy as np
import torch
from helpers import check_training, curves, load_lesson, numbers, run_once
from numpy.testing import assert_allclose
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import binary_cross_entropy_with_logits as criterion

lesson = load_lesson("02")
X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, *labels = train_test_split(X, y, test_size=0.2, random_state=1234)
scaler = StandardScaler().fit(X_train)
X_train, X_test = (torch.from_numpy(scaler.transform(X)).float() for X in (X_train, X_test))
y_train, y_test = (torch.from_numpy(y).float().view(-1, 1) for y in labels)


def check(training, rates):
    """Check a training; return both losses of each epoch, and the last outputs for X_test."""
    model, batches = torch.nn.Linear(30, 1), [(X_train, y_train)]
    losses, _, outputs = check_training(training, rates, model, criterion, batches, X_test)
    return losses, [criterion(output, y_test).item() for output in outputs], outputs[-1]


def test_the_default_training_is_as_accurate_as_scikit_learns():
    metrics = run_once(lesson).metrics
    reference = LogisticRegression().fit(X_train, y_train.ravel()).score(X_test, y_test)
    assert_allclose(metrics["accuracy_sklearn"], reference)
    assert metrics["accuracy"] >= reference - 1 / 114  # one tumor
    printed = numbers(run_once(lesson, "--epochs=1").output, "Test accuracy:")
    accuracies = [run_once(lesson, "--epochs=1").metrics["accuracy"], reference]
    assert_allclose(printed, np.multiply(accuracies, 100), atol=0.06)


def test_training_is_gradient_descent_and_mistakes_are_counted_at_both_thresholds():
    done = run_once(lesson, "--epochs=20", "--lr=0.2")
    losses, _, outputs = check(done.trainings[0], 20 * [0.2])
    accuracy = ((outputs > 0) == y_test).double().mean()
    printed = numbers(done.output, "epoch: 10, loss", end="threshold")
    assert_allclose(printed, [losses[9], 20, losses[19], accuracy], atol=1e-4)
    assert_allclose([done.metrics["loss"], done.metrics["accuracy"]], [losses[19], accuracy], 1e-4)
    for threshold, ax in zip((0.5, 0.9), done.axes[1:]):
        matrix = confusion_matrix(y_test, torch.sigmoid(outputs) > threshold)
        assert_allclose(ax.images[0].get_array(), matrix)
        (found, missed), (false_alarms, benign) = matrix
        expected = [found, found + missed, 100 * found / (found + missed)]
        printed = numbers(done.output, f"threshold {threshold},")
        assert_allclose(printed, [*expected, false_alarms, false_alarms + benign], atol=0.06)


def test_two_more_trainings_start_alike_and_their_losses_are_drawn_and_printed():
    done = run_once(lesson, "--epochs=20", "--lr=0.2")
    first, *others = done.trainings
    lines = curves(done.axes[0])
    for training, lr, (drawn, drawn_test) in zip(others, (0.01, 0.5), (lines[:2], lines[2:])):
        assert torch.equal(training.start, first.start)
        losses, test_losses, _ = check(training, 200 * [lr])  # test losses after each update
        assert_allclose(drawn, [range(1, 201), losses], rtol=1e-3)
        assert_allclose(drawn_test[:, 1:], [range(2, 201), test_losses[:-1]], rtol=1e-3)
        for epoch in (20, 200):
            printed = numbers(done.output, f"learning rate {lr}, epoch {epoch}:")
            assert_allclose(printed, [losses[epoch - 1], test_losses[epoch - 2]], atol=1e-3)


def test_only_the_loss_of_logits_is_right_far_from_zero():
    for z, name, expected in (
        (2, "sigmoid + BCELoss", [np.log1p(np.exp(2)), 1 / (1 + np.exp(-2))]),
        (2, "BCEWithLogitsLoss", [np.log1p(np.exp(2)), 1 / (1 + np.exp(-2))]),
        (20, "sigmoid + BCELoss", [100, 0]),
        (20, "BCEWithLogitsLoss", [20, 1]),
    ):
        printed = numbers(run_once(lesson).output, f"z = {z}, class 0, {name}:")
        assert_allclose(printed, expected, atol=1e-3)
