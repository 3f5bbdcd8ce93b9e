"""Lesson 02: a binary classifier, and why its loss takes logits."""

import math

import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

lesson = load_lesson("02")


@pytest.mark.parametrize("seed", ["0", "1"])
def test_at_most_one_sample_below_scikit_learn(tmp_path, seed):
    metrics = lesson.main(["--output-dir", str(tmp_path), "--seed", seed])
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)
    reference = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_train, y_train)
    assert metrics["accuracy_sklearn"] == pytest.approx(reference.score(X_test, y_test))
    assert metrics["accuracy"] >= metrics["accuracy_sklearn"] - 1.001 / 114
    assert metrics["loss"] < 0.1


def test_the_model_returns_logits():
    model = lesson.Model(3)
    x = torch.randn(5, 3)
    expected = x @ model.linear.weight.T + model.linear.bias
    assert model(x).shape == (5, 1)
    torch.testing.assert_close(model(x), expected)


def test_losses_agree_near_zero_and_part_far_out():
    for with_logits in (True, False):
        loss, gradient = lesson.loss_and_gradient(2.0, 0.0, with_logits)
        assert loss == pytest.approx(math.log1p(math.exp(2)), rel=1e-5)
        assert gradient == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-5)
    for z, y in ((200.0, 0.0), (-200.0, 1.0)):
        assert lesson.loss_and_gradient(z, y, with_logits=True) == (200.0, math.copysign(1, z))
        loss, gradient = lesson.loss_and_gradient(z, y, with_logits=False)
        assert loss == pytest.approx(100) and gradient == 0


def test_the_least_limit_has_both_classes(tmp_path):
    assert lesson.main(["--limit", "4", "--output-dir", str(tmp_path)])["accuracy"] >= 0.5
