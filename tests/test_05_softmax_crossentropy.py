"""Lesson 05: softmax and cross-entropy by hand, and the mistake that it measures."""

import math

import numpy as np
import pytest
import torch
from conftest import load_lesson
from sklearn.metrics import log_loss

lesson = load_lesson("05")


def test_softmax_is_torch_s():
    x = np.random.default_rng(0).normal(size=20) * 5
    expected = torch.softmax(torch.from_numpy(x), dim=0)
    np.testing.assert_allclose(lesson.softmax(x), expected)
    np.testing.assert_allclose(lesson.stable_softmax(x), expected)


def test_only_the_naive_softmax_overflows():
    large = np.array([1000.0, 999.0])
    np.testing.assert_allclose(lesson.stable_softmax(large)[0], 1 / (1 + math.exp(-1)))
    with np.errstate(all="ignore"):
        assert np.isnan(lesson.softmax(large)).all()


def test_cross_entropy_is_scikit_learn_s():
    one_hot = np.array([1, 0, 0])
    for p, loss in (([0.7, 0.2, 0.1], 0.3567), ([0.1, 0.3, 0.6], 2.3026)):
        found = lesson.cross_entropy(one_hot, np.array(p))
        assert found == pytest.approx(loss, abs=5e-5)
        assert found == pytest.approx(log_loss([0], [p], labels=[0, 1, 2]))
    assert 30 < lesson.cross_entropy(one_hot, np.array([0.0, 1.0, 0.0])) < math.inf


def test_prints_the_losses_of_the_video(tmp_path, capsys):
    lesson.main(["--epochs", "1", "--output-dir", str(tmp_path)])
    out = capsys.readouterr().out
    for loss in ("0.3567", "2.3026", "0.4170", "1.8406", "0.2834", "1.6418"):
        assert loss in out


def test_networks_return_logits():
    x = torch.randn(6, 64) * 100
    assert lesson.NeuralNet1(64, 5)(x).shape == (6, 1)
    logits = lesson.NeuralNet2(64, 5, 3)(x)
    assert logits.shape == (6, 3) and logits.min() < 0 and logits.max() > 1


def test_metrics_at_the_defaults(tmp_path):
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    assert max(metrics["softmax_error"], metrics["cross_entropy_error"]) < 1e-6
    assert metrics["accuracy_logits"] >= 0.95
    assert metrics["accuracy_logits"] >= metrics["accuracy_double_softmax"] + 0.2
    assert metrics["accuracy_binary"] >= 0.97
