"""Lesson 02: a classifier, its mistakes, overfitting, and why the loss takes logits."""

import numpy as np
import pytest
from helpers import check_result, lines, load_lesson, record_training, run
from numpy.testing import assert_allclose
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

lesson = load_lesson("02")
X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)
scaler = StandardScaler().fit(X_train)
# With a column of ones, A @ [weights, bias] are the logits
A_train, A_test = (np.insert(scaler.transform(X), 30, 1, axis=1) for X in (X_train, X_test))
accuracy_sklearn = LogisticRegression().fit(A_train, y_train).score(A_test, y_test)


def loss(logits, y):
    return np.mean(np.logaddexp(0, logits) - y * logits)


def descend(start, lr, epochs):
    """Return [weights, bias] after training, and the losses of both sets before each epoch."""
    w, losses, test_losses = start, [], []
    for epoch in range(epochs):
        losses.append(loss(A_train @ w, y_train))
        test_losses.append(loss(A_test @ w, y_test))
        probabilities = 1 / (1 + np.exp(-A_train @ w))
        w = w - lr * A_train.T @ (probabilities - y_train) / len(y_train)
    return w, losses, test_losses


@pytest.fixture(scope="module")
def done():
    """Train for 5 epochs, and 50 and 300 epochs to compare two learning rates."""
    with record_training() as trainings:
        done = run(lesson, "--epochs=5", "--lr=0.2")
    done.starts = [training.start.numpy() for training in trainings]
    w, done.losses, _ = descend(done.starts[0], lr=0.2, epochs=5)
    done.probabilities = 1 / (1 + np.exp(-A_test @ w))
    return done


def test_by_default_it_is_as_accurate_as_scikit_learn_and_the_test_loss_turns_in_time():
    metrics = run(lesson).metrics
    assert metrics["accuracy"] >= accuracy_sklearn - 1 / 114  # one tumor
    assert metrics["least_test_loss"] == pytest.approx(metrics["least_test_loss_slow"], rel=0.01)
    # At both learning rates, rate x epochs is about the same
    distance, slow_distance = 0.5 * metrics["turning_epoch"], 0.01 * metrics["turning_epoch_slow"]
    assert distance == pytest.approx(slow_distance, rel=0.05)


def test_training_is_gradient_descent_on_the_cross_entropy(done):
    assert done.metrics["loss"] == pytest.approx(done.losses[-1], rel=1e-4)
    check_result(done, "accuracy", np.mean((done.probabilities > 0.5) == y_test))
    check_result(done, "accuracy_sklearn", accuracy_sklearn)


@pytest.mark.parametrize("panel, threshold", [(1, 0.5), (2, 0.9)])
def test_mistakes_are_drawn_and_printed_for_both_thresholds(done, panel, threshold):
    ax, matrix = done.axes[panel], confusion_matrix(y_test, done.probabilities > threshold)
    assert ax.get_title().endswith(f"threshold {threshold}")
    assert_allclose(ax.images[0].get_array(), matrix)
    for axis in (ax.xaxis, ax.yaxis):
        assert [text.get_text() for text in axis.get_ticklabels()] == ["malignant", "benign"]
    (found, missed), (alarms, benign) = matrix
    (line,) = (a for a in done.output.splitlines() if a.startswith(f"threshold {threshold}:"))
    assert f"{found / (found + missed):.1%} ({found} of {found + missed} " in line
    assert f" {alarms} of {alarms + benign} " in line


@pytest.mark.parametrize("i, lr, epochs, suffix", [(1, 0.5, 50, ""), (2, 0.01, 300, "_slow")])
def test_both_losses_are_drawn_and_the_lowest_test_loss_is_marked(done, i, lr, epochs, suffix):
    _, losses, test_losses = descend(done.starts[0], lr, epochs)
    assert_allclose(done.starts[i], done.starts[0])  # only the rate is another
    drawn, numbers = lines(done.axes[0]), range(1, epochs + 1)
    assert_allclose(drawn[f"rate {lr}, training set"], [numbers, losses], rtol=1e-3)
    assert_allclose(drawn[f"rate {lr}, test set"], [numbers, test_losses], rtol=1e-3)
    turn = np.argmin(test_losses)
    assert done.metrics[f"turning_epoch{suffix}"] == turn + 1
    assert done.metrics[f"least_test_loss{suffix}"] == pytest.approx(test_losses[turn], rel=1e-3)
    dots = [line.get_xydata()[0] for line in done.axes[0].lines if line.get_marker() == "o"]
    assert np.isclose(dots, [turn + 1, test_losses[turn]], rtol=1e-3).all(axis=1).any()


@pytest.mark.parametrize("logit", [2, 20])
def test_only_bce_with_logits_is_correct_for_large_logits(logit):
    right = f"loss {np.log1p(np.exp(logit)):.3f}, gradient {1 / (1 + np.exp(-logit)):.3f}"
    assert lesson.loss_and_gradient(logit, with_logits=True) == right
    wrong = "loss 100.000, gradient 0.000"
    assert lesson.loss_and_gradient(logit, with_logits=False) == (right if logit == 2 else wrong)
