"""Lesson 02: a classifier, its mistakes, overfitting, and why the loss takes logits."""

import helpers
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

lesson = helpers.load_lesson("02")
X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)
scaler = StandardScaler().fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
A_train = np.hstack([X_train, np.ones((455, 1))])  # A_train @ [weights, bias] are the logits
A_test = np.hstack([X_test, np.ones((114, 1))])
accuracy_sklearn = LogisticRegression().fit(X_train, y_train).score(X_test, y_test)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def cross_entropy(logits, y):
    """Return the mean of ln(1 + exp(logit)) in class 0, and of ln(1 + exp(-logit)) in class 1.

    The derivative by a logit is sigmoid(logit) - y.
    """
    return np.mean(np.log(1 + np.exp(np.where(y == 1, -logits, logits))))


def descend(start, lr, epochs):
    """Return [weights, bias] after training, and the losses of both sets before each epoch."""
    w, losses, test_losses = start, [], []
    for epoch in range(epochs):
        losses.append(cross_entropy(A_train @ w, y_train))
        test_losses.append(cross_entropy(A_test @ w, y_test))
        w = w - lr * A_train.T @ (sigmoid(A_train @ w) - y_train) / len(y_train)
    return w, losses, test_losses


def turning_points(done):
    """Return the epoch and the loss of the dot that is drawn for each of the two rates."""
    drawn = done.panels["Loss (dots: lowest test loss)"].lines
    dots = [line.get_xydata()[0] for line in drawn if line.get_marker() == "o"]
    return dict(zip([0.5, 0.01], dots, strict=True))


@pytest.fixture(scope="module")
def done():
    """Train for 10 epochs. Then the lesson compares two rates: 0.5 for 100 epochs, 0.01 for 600."""
    with helpers.record_training() as trainings:
        done = helpers.run(lesson, "--epochs=10", "--lr=0.2", "--seed=3")
    done.training = trainings[0]
    done.start = done.training.start.numpy()  # of all three trainings
    done.weights, _, _ = descend(done.start, lr=0.2, epochs=10)
    done.probabilities = sigmoid(A_test @ done.weights)
    return done


def test_by_default_it_is_as_accurate_as_scikit_learn_and_a_50th_of_the_rate_overfits_as_much():
    done = helpers.run(lesson)
    assert done.metrics["accuracy"] >= accuracy_sklearn - 1 / 114  # one tumor
    (turn, least), (turn_slow, least_slow) = turning_points(done).values()
    assert turn_slow == pytest.approx(50 * turn, rel=0.05)
    assert least_slow == pytest.approx(least, rel=0.01)


def test_training_is_gradient_descent_and_both_accuracies_are_the_result(done):
    assert_allclose(done.training.end, done.weights, rtol=1e-3, atol=1e-5)
    assert "\nepoch: 10, loss = " in done.output and "epoch: 9" not in done.output
    accuracy = np.mean((done.probabilities > 0.5) == y_test)
    expected = {"accuracy": accuracy, "accuracy_sklearn": accuracy_sklearn}
    assert done.metrics == pytest.approx(expected)
    sklearn = f"scikit-learn's LogisticRegression {accuracy_sklearn:.1%}"
    assert f"{accuracy:.1%}, {sklearn} (" in done.result


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_mistakes_are_drawn_and_printed_for_both_thresholds(done, threshold):
    ax = done.panels[f"Test set, threshold {threshold}"]
    matrix = confusion_matrix(y_test, done.probabilities > threshold)
    assert_allclose(ax.images[0].get_array(), matrix)
    for axis in (ax.xaxis, ax.yaxis):
        assert [text.get_text() for text in axis.get_ticklabels()] == ["malignant", "benign"]
    (found, missed), (alarms, benign) = matrix
    recall = f"recall {found / 45:.1%} ({found} of 45 malignant found)"
    false_alarms = f"false alarms for {alarms} of 69 benign tumors"
    assert f"threshold {threshold}: {recall}, {false_alarms}\n" in done.output


@pytest.mark.parametrize("lr, epochs", [(0.5, 100), (0.01, 600)])
def test_both_losses_are_drawn_and_the_lowest_test_loss_is_marked(done, lr, epochs):
    _, losses, test_losses = descend(done.start, lr, epochs)
    drawn = helpers.lines(done.panels["Loss (dots: lowest test loss)"])
    assert_allclose(drawn[f"rate {lr}, training set"], [range(1, epochs + 1), losses], rtol=1e-3)
    assert_allclose(drawn[f"rate {lr}, test set"], [range(1, epochs + 1), test_losses], rtol=1e-3)
    turn, least = turning_points(done)[lr]
    assert turn == pytest.approx(np.argmin(test_losses) + 1, abs=1)  # it is flat there
    assert least == pytest.approx(min(test_losses), rel=1e-3)
    assert f"rate {lr}: lowest test loss {least:.3f} in epoch {turn:.0f}\n" in done.output


def test_only_bce_with_logits_is_correct_for_large_logits():
    # In class 0: ln(1 + exp(logit)), and its derivative, the sigmoid
    small, large = "loss 2.127, gradient 0.881", "loss 20.000, gradient 1.000"
    assert lesson.loss_and_gradient(2, with_logits=True) == small
    assert lesson.loss_and_gradient(2, with_logits=False) == small
    assert lesson.loss_and_gradient(20, with_logits=True) == large
    assert lesson.loss_and_gradient(20, with_logits=False) == "loss 100.000, gradient 0.000"
