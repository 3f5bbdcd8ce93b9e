"""Lesson 05: softmax, cross-entropy and sigmoid by hand, and the mistake that it measures."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn


@pytest.fixture(scope="module")
def lesson05(lesson):
    return lesson("05_")


@pytest.fixture
def logits():
    return torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5


def test_softmax_is_the_library_s(lesson05, logits):
    expected = torch.softmax(logits, dim=1)
    torch.testing.assert_close(lesson05.softmax(logits), expected)
    np.testing.assert_allclose(lesson05.softmax_numpy(logits.numpy()), expected)
    np.testing.assert_allclose(lesson05.softmax_naive(logits.numpy()), expected)
    np.testing.assert_allclose(lesson05.softmax_numpy(logits.numpy()).sum(axis=1), 1)


def test_only_the_naive_softmax_overflows(lesson05):
    large = np.array([[1000.0, 999.0], [-1000.0, -1001.0]])
    expected = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(lesson05.softmax_numpy(large)[:, 0], expected)
    np.testing.assert_allclose(lesson05.softmax(torch.tensor(large))[:, 0], expected)
    with np.errstate(all="ignore"):
        assert np.isnan(lesson05.softmax_naive(large)).all()


def test_losses_of_extreme_logits_are_the_library_s(lesson05):
    """Far out a probability becomes 0 in float32 and its logarithm -inf; the loss must not."""
    logits = torch.tensor([[0.0, 200.0, 0.0], [1000.0, 0.0, -1000.0]])
    torch.testing.assert_close(lesson05.log_softmax(logits), torch.log_softmax(logits, dim=1))
    for targets in (torch.tensor([0, 0]), torch.tensor([1, 2])):
        one_hot = nn.functional.one_hot(targets, num_classes=3)
        expected = nn.CrossEntropyLoss()(logits, targets)
        torch.testing.assert_close(lesson05.cross_entropy_index(logits, targets), expected)
        torch.testing.assert_close(lesson05.cross_entropy_one_hot(logits, one_hot), expected)
    z, y = torch.tensor([200.0, 200.0, -200.0, -200.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    expected = nn.BCEWithLogitsLoss()(z, y)
    torch.testing.assert_close(lesson05.binary_cross_entropy(z, y), expected)


def test_cross_entropies_are_the_library_s(lesson05, logits):
    targets = torch.arange(50) % 7
    one_hot = nn.functional.one_hot(targets, num_classes=7)
    expected = nn.CrossEntropyLoss()(logits, targets)
    torch.testing.assert_close(lesson05.cross_entropy_index(logits, targets), expected)
    torch.testing.assert_close(lesson05.cross_entropy_one_hot(logits, one_hot), expected)
    probabilities = lesson05.softmax(logits).numpy()
    assert log_loss(targets, probabilities) == pytest.approx(expected.item())


def test_sigmoid_and_binary_cross_entropy_are_the_library_s(lesson05, logits):
    z = logits.flatten()
    y = (torch.arange(len(z)) % 3 == 0).double()
    torch.testing.assert_close(lesson05.sigmoid(z), torch.sigmoid(z))
    expected = nn.BCEWithLogitsLoss()(z, y)
    torch.testing.assert_close(lesson05.binary_cross_entropy(z, y), expected)


def test_train_reports_the_accuracy_on_the_test_part(lesson05):
    X_train, y_train, X_test, y_test = parts = lesson05.load_data(None)
    assert [len(part) for part in parts] == [1347, 1347, 450, 450]
    assert X_train.min() == 0 and X_train.max() == 1
    torch.manual_seed(0)
    model = lesson05.make_model(10)
    accuracies = lesson05.train(model, nn.CrossEntropyLoss(), parts, 0.1, 32, 2)
    predicted = model(X_test).argmax(dim=1)
    assert len(accuracies) == 2
    assert accuracies[-1] == pytest.approx((predicted == y_test).float().mean().item())


@pytest.mark.parametrize("seed", ["0", "1"])
def test_metrics_at_the_defaults(lesson05, tmp_path, capsys, seed):
    metrics = lesson05.main(["--output-dir", str(tmp_path), "--seed", seed])
    for name in ("softmax_error", "cross_entropy_error", "bce_error"):
        assert metrics[name] < 1e-6
    assert metrics["naive_is_nan"] == 1
    assert metrics["loss_good"] == pytest.approx(-2 + math.log(math.e**2 + math.e + math.e**0.1))
    assert metrics["loss_bad"] > 2 * metrics["loss_good"]
    assert metrics["accuracy_logits"] >= 0.95
    assert metrics["accuracy_logits"] >= metrics["accuracy_double_softmax"] + 0.2
    assert metrics["accuracy_binary"] >= 0.97
    assert (metrics["n_train"], metrics["n_test"]) == (1347, 450)
    assert f"{metrics['accuracy_logits']:.1%} with logits" in capsys.readouterr().out
