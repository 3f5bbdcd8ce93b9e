"""Lesson 02: a classifier, its mistakes, overfitting, and why the loss takes logits."""

import numpy as np
import pytest
import torch
from helpers import check_print, check_result, check_training, curves, load_lesson, run_once
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
accuracy_sklearn = LogisticRegression().fit(X_train, labels[0]).score(X_test, labels[1])


def check(training, rates):
    """Check a training; return both losses of each epoch, and the last outputs for X_test."""
    model, batches = torch.nn.Linear(30, 1), [(X_train, y_train)]
    losses, _, outputs = check_training(training, rates, model, criterion, batches, X_test)
    return losses, [criterion(output, y_test).item() for output in outputs], outputs[-1]


def test_the_default_training_is_as_accurate_as_scikit_learns():
    assert run_once(lesson).metrics["accuracy"] >= accuracy_sklearn - 1 / 114  # one tumor


def test_training_is_gradient_descent_and_mistakes_are_counted_at_both_thresholds():
    done = run_once(lesson, "--epochs=20", "--lr=0.2")
    losses, _, outputs = check(done.trainings[0], 20 * [0.2])
    accuracy = ((outputs > 0) == y_test).double().mean().item()
    check_result(done, accuracy=accuracy, accuracy_sklearn=accuracy_sklearn)
    printed = [losses[9], 20, losses[19], accuracy]
    check_print(done.output, "epoch: 10, loss", printed, end="threshold")
    assert done.metrics["loss"] == pytest.approx(losses[19])
    for threshold, ax in zip((0.5, 0.9), done.axes[1:]):
        matrix = confusion_matrix(y_test, torch.sigmoid(outputs) > threshold)
        assert_allclose(ax.images[0].get_array(), matrix)
        (found, missed), (false_alarms, benign) = matrix
        recall = [found, found + missed, 100 * found / (found + missed)]
        alarms = [false_alarms, false_alarms + benign]
        check_print(done.output, f"threshold {threshold},", [*recall, *alarms])


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
            expected = [losses[epoch - 1], test_losses[epoch - 2]]
            check_print(done.output, f"learning rate {lr}, epoch {epoch}:", expected)


def test_only_the_loss_of_logits_is_right_far_from_zero():
    output = run_once(lesson).output
    right = [np.log1p(np.exp(2)), 1 / (1 + np.exp(-2))]
    check_print(output, "z = 2, class 0, sigmoid + BCELoss:", right)
    check_print(output, "z = 2, class 0, BCEWithLogitsLoss:", right)
    check_print(output, "z = 20, class 0, sigmoid + BCELoss:", [100, 0])
    check_print(output, "z = 20, class 0, BCEWithLogitsLoss:", [20, 1])
