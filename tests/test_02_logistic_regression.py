"""Lesson 02: a classifier, its mistakes, overfitting, and why the loss takes logits."""

import numpy as np
import pytest
import torch
from helpers import curves, load_lesson, numbers, run_once, second
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


def train_second(training):
    """Return the losses of each epoch for both sets, and the last outputs for the test set."""
    model, batches = torch.nn.Linear(30, 1), [(X_train, y_train)]
    losses, _, outputs = second(training, model, criterion, batches, X_test)
    return losses, [criterion(output, y_test).item() for output in outputs[:-1]], outputs[-1]


def test_the_default_training_is_as_accurate_as_scikit_learns():
    metrics = run_once(lesson).metrics
    reference = LogisticRegression().fit(X_train, y_train.ravel()).score(X_test, y_test)
    assert metrics["accuracy_sklearn"] == pytest.approx(reference)
    assert metrics["accuracy"] >= reference - 1 / 114


def test_training_losses_and_mistakes_at_both_thresholds_are_those_of_a_second_model():
    done = run_once(lesson, "--epochs=20", "--lr=0.2")
    losses, _, outputs = train_second(done.trainings[0])
    assert done.trainings[0].rates == 20 * [0.2]
    printed = numbers(done.output, "epoch: 10, loss", end="accuracy")
    assert_allclose([*printed, done.metrics["loss"]], [losses[9], 20, *2 * losses[19:]], atol=1e-4)
    assert done.metrics["accuracy"] == pytest.approx(((outputs > 0) == y_test).double().mean())
    for threshold, ax in zip((0.5, 0.9), done.axes[1:]):
        matrix = confusion_matrix(y_test, torch.sigmoid(outputs) > threshold)
        assert ax.images[0].get_array().tolist() == matrix.tolist()
        found, false_alarms, (n_malignant, n_benign) = *matrix[:, 0], matrix.sum(axis=1)
        expected = [found, n_malignant, 100 * found / n_malignant, false_alarms, n_benign]
        assert_allclose(numbers(done.output, f"threshold {threshold},"), expected, atol=0.06)


def test_two_more_trainings_start_alike_and_their_losses_are_drawn_and_printed():
    done = run_once(lesson, "--epochs=20", "--lr=0.2")
    for i, lr in ((1, 0.01), (2, 0.5)):
        assert torch.equal(done.trainings[i].start, done.trainings[0].start)
        assert done.trainings[i].rates == 200 * [lr]
        *losses, _ = train_second(done.trainings[i])
        drawn = curves(done.axes[0])[2 * i - 2 : 2 * i]
        assert_allclose(drawn, [[range(1, 201), values] for values in losses], rtol=1e-3)
        for epoch in (20, 200):
            printed = numbers(done.output, f"learning rate {lr}, epoch {epoch}:")
            assert_allclose(printed, np.array(losses)[:, epoch - 1], atol=1e-3)


def test_only_the_loss_of_logits_is_right_far_from_zero():
    printed = numbers(run_once(lesson).output, "z = 2, class 0, sigmoid + BCELoss:", end="Test")
    (loss, far), (slope, far_slope) = np.log1p(np.exp([2, 20])), 1 / (1 + np.exp([-2, -20]))
    expected = [loss, slope, 2, 0, loss, slope, 20, 0, 100, 0, 20, 0, far, far_slope]
    assert_allclose(printed, expected, atol=1e-3)
