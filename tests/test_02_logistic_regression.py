"""Lesson 02: binary classification, and why the loss takes logits."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@pytest.fixture(scope="module")
def lesson02(lesson):
    return lesson("02_")


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_accuracy_is_at_most_one_sample_below_scikit_learn_s(lesson02, tmp_path, seed):
    metrics = lesson02.main(["--output-dir", str(tmp_path), "--seed", seed])
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)
    reference = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_train, y_train)
    assert (metrics["n_train"], metrics["n_test"]) == (455, 114)
    assert metrics["accuracy_sklearn"] == pytest.approx(reference.score(X_test, y_test))
    assert metrics["accuracy"] >= metrics["accuracy_sklearn"] - 1.001 / 114
    assert metrics["bce_difference"] < 1e-5
    assert metrics["loss"] < 0.2


def test_only_the_training_part_standardises(lesson02):
    X_train, y_train, X_test, y_test = lesson02.load_data()
    assert X_train.shape == (455, 30) and y_train.shape == (455, 1)
    assert X_test.shape == (114, 30) and y_test.shape == (114, 1)
    np.testing.assert_allclose(X_train.mean(0).cpu(), 0, atol=1e-5)
    np.testing.assert_allclose(X_train.std(0, correction=0).cpu(), 1, atol=1e-4)
    assert X_test.mean(0).abs().max() > 0.01  # standardised with another part's numbers
    assert set(y_train.unique().tolist()) == {0.0, 1.0}


def test_losses_agree_near_zero_and_part_far_out(lesson02):
    z = torch.linspace(-5, 5, 101)
    assert lesson02.compare_losses(z, (z > 1).float()) < 1e-5
    loss, gradient = lesson02.loss_and_gradient(2.0, 0.0, with_logits=True)
    assert loss == pytest.approx(math.log1p(math.exp(2)), rel=1e-6)
    assert gradient == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-6)
    for z, y in ((200.0, 0.0), (-200.0, 1.0)):
        assert lesson02.loss_and_gradient(z, y, with_logits=True) == (200.0, math.copysign(1, z))
        loss, gradient = lesson02.loss_and_gradient(z, y, with_logits=False)
        assert loss == pytest.approx(100) and gradient == 0


def test_training_lowers_the_loss_it_reports(lesson02, capsys):
    torch.manual_seed(0)
    parts = lesson02.load_data()
    model = lesson02.make_model(30)
    train_losses, test_losses = lesson02.train(model, parts, lr=0.1, epochs=20)
    assert len(train_losses) == len(test_losses) == 20
    assert train_losses == sorted(train_losses, reverse=True)
    probabilities = torch.sigmoid(model(parts[2]))
    by_definition = torch.nn.functional.binary_cross_entropy(probabilities, parts[3])
    assert test_losses[-1] == pytest.approx(by_definition.item(), rel=1e-4)


def test_prediction_is_the_sign_of_the_logit(lesson02):
    model = lesson02.make_model(1)
    torch.nn.init.ones_(model.weight)
    torch.nn.init.zeros_(model.bias)
    X = torch.tensor([[-2.0], [-0.1], [0.1], [3.0]], device=lesson02.DEVICE)
    logits, predicted = lesson02.predict(model, X)
    np.testing.assert_allclose(logits, [-2, -0.1, 0.1, 3], rtol=1e-6)
    assert predicted.tolist() == [0, 0, 1, 1]


def test_report_names_the_classes_and_counts(lesson02, capsys):
    targets = np.array([0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 1, 1, 1])
    lesson02.print_report(targets, predicted)
    malignant, benign, missed = capsys.readouterr().out.splitlines()[-3:]
    assert malignant.split() == ["malignant", "2", "1", "100.0%", "66.7%"]
    assert benign.split() == ["benign", "0", "2", "66.7%", "100.0%"]
    assert missed.startswith("1 of 3 malignant")
