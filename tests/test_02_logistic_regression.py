"""Lesson 02: a classifier, its mistakes, overfitting, and why the loss takes logits."""

import numpy as np
import torch
from helpers import descend, load_lesson, numbers, run_once
from numpy.testing import assert_allclose
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import binary_cross_entropy_with_logits

lesson = load_lesson("02")
X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, *labels = train_test_split(X, y, test_size=0.2, random_state=1234)
scaler = StandardScaler().fit(X_train)
X_train, X_test = (torch.from_numpy(scaler.transform(X)) for X in (X_train, X_test))
y_train, y_test = (torch.from_numpy(y).double() for y in labels)


def loss(weights, X=X_train, y=y_train):
    return binary_cross_entropy_with_logits(X @ weights[:-1] + weights[-1], y)


def test_training_takes_the_steps_of_gradient_descent():
    done = run_once(lesson)
    steps = descend(loss, done.trainings[0].start, 100 * [0.5])
    assert_allclose(done.trainings[0].end, steps[100], atol=1e-4)
    assert_allclose(done.metrics["loss"], loss(steps[99]), rtol=1e-4)
    assert_allclose(numbers(done.output, "epoch: 50, loss"), loss(steps[49]), atol=1e-4)


def test_epochs_and_lr_decide_the_trainings_and_all_start_alike():
    main, slow, fast = run_once(lesson, "--epochs=3", "--lr=0.2").trainings
    assert [main.rates, slow.rates, fast.rates] == [3 * [0.2], 30 * [0.01], 30 * [0.5]]
    assert torch.equal(main.start, slow.start) and torch.equal(main.start, fast.start)


def test_accuracies_and_mistakes_at_both_thresholds_are_those_of_the_weights():
    done = run_once(lesson)
    weights = done.trainings[0].end.double()
    probabilities = torch.sigmoid(X_test @ weights[:-1] + weights[-1])
    assert_allclose(done.metrics["accuracy"], ((probabilities > 0.5) == y_test).double().mean())
    reference = LogisticRegression().fit(X_train, y_train)
    assert_allclose(done.metrics["accuracy_sklearn"], reference.score(X_test, y_test))
    for threshold, ax in zip((0.5, 0.9), done.axes[1:]):
        matrix = confusion_matrix(y_test, probabilities > threshold)
        assert ax.images[0].get_array().tolist() == matrix.tolist()
        found, false_alarms, (n_malignant, n_benign) = *matrix[:, 0], matrix.sum(axis=1)
        expected = [found, n_malignant, 100 * found / n_malignant, false_alarms, n_benign]
        assert_allclose(numbers(done.output, f"threshold {threshold},"), expected, atol=0.06)


def test_the_curves_are_the_losses_of_both_sets_at_both_rates():
    done = run_once(lesson, "--epochs=3", "--lr=0.2")
    lines = iter(done.axes[0].lines)
    for lr in (0.01, 0.5):
        steps = descend(loss, done.trainings[0].start, 30 * [lr])[:30]
        losses = np.array([[loss(step), loss(step, X_test, y_test)] for step in steps])
        for expected in losses.T:
            assert_allclose(next(lines).get_xydata().T, [range(1, 31), expected], rtol=1e-3)
        for epoch in (3, 30):
            printed = numbers(done.output, f"learning rate {lr}, epoch {epoch}:")
            assert_allclose(printed, losses[epoch - 1], atol=1e-3)


def test_only_the_loss_of_logits_is_right_far_from_zero():
    near, far = [np.log1p(np.exp(2)), 1 / (1 + np.exp(-2))], [20, 1]
    for start, expected in (
        ("z = 2, class 0, sigmoid + BCELoss:", near),
        ("z = 2, class 0, BCEWithLogitsLoss:", near),
        ("z = 20, class 0, sigmoid + BCELoss:", [100, 0]),
        ("z = 20, class 0, BCEWithLogitsLoss:", far),
    ):
        assert_allclose(numbers(run_once(lesson).output, start), expected, atol=1e-3)
