"""Lesson 02: a binary classifier against scikit-learn, and why its loss takes logits."""

import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import load_lesson, spy
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

lesson = load_lesson("02")


def test_every_number_follows_from_the_weights(tmp_path, capsys):
    with spy(lesson.Model, "__init__") as init:
        metrics = lesson.main(["--output-dir", str(tmp_path)])
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)
    scaler = StandardScaler().fit(X_train)
    X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
    weight, bias = (p.detach().cpu().numpy() for p in init.call_args.args[0].parameters())
    logits, train_logits = X_test @ weight[0] + bias, X_train @ weight[0] + bias
    assert metrics["accuracy"] == pytest.approx(((logits > 0) == y_test).mean())
    expected = LogisticRegression().fit(X_train, y_train).score(X_test, y_test)
    assert metrics["accuracy_sklearn"] == pytest.approx(expected)
    loss = (np.logaddexp(0, train_logits) - y_train * train_logits).mean()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4) and loss < 0.1
    training, test = (line.get_ydata() for line in plt.gcf().axes[0].lines)
    test_loss = (np.logaddexp(0, logits) - y_test * logits).mean()
    assert test[-1] == pytest.approx(test_loss, rel=1e-4) and (np.diff(training) < 0).all()
    out = capsys.readouterr().out
    for threshold, logit in (("0.5", 0), ("0.9", math.log(9))):
        recall, false_alarms = re.search(rf"threshold {threshold}:.* (.*)%.* (\d+)", out).groups()
        assert float(recall) == pytest.approx(100 * (logits[y_test == 0] <= logit).mean(), abs=0.06)
        assert int(false_alarms) == (logits[y_test == 1] <= logit).sum()


def test_losses_agree_near_zero_and_differ_far_from_it():
    for with_logits in (True, False):
        found = lesson.loss_and_gradient(2.0, 0.0, with_logits)
        assert found == pytest.approx((math.log1p(math.exp(2)), 1 / (1 + math.exp(-2))), rel=1e-5)
    for z, y in ((200.0, 0.0), (-200.0, 1.0)):
        assert lesson.loss_and_gradient(z, y, with_logits=True) == (200.0, math.copysign(1, z))
        assert lesson.loss_and_gradient(z, y, with_logits=False) == (pytest.approx(100), 0)
