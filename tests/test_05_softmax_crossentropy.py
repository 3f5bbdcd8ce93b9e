"""Lesson 05: softmax and cross-entropy by hand and with PyTorch; what an extra softmax costs."""

import helpers
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

lesson = helpers.load_lesson("05")
X, y = map(torch.from_numpy, load_digits(return_X_y=True))
X_train, X_test, y_train, y_test = train_test_split(X.float() / 16, y, random_state=0)
PRINTED = """softmax numpy: [0.65900114 0.24243297 0.09856589]
softmax torch: tensor([0.6590, 0.2424, 0.0986])
Loss numpy, probabilities: good 0.3567, bad 2.3026
Loss torch, logits: good 0.4170, bad 1.8406
True class 0, predicted 0 (good), 1 (bad)
Batch loss: good 0.2834, bad 1.6418
True classes tensor([2, 0, 1]) predicted tensor([2, 0, 1]) (good) tensor([0, 2, 0]) (bad)
Loss of the same logits: numpy 0.4170, torch 0.4170
softmax of 1000 and 0: [nan  0.] stable: [1. 0.]
Loss if class 1 is true: numpy 34.5, torch 1000.0
sigmoid of 2:       tensor(0.8808)
softmax of 2 and 0: tensor([0.8808, 0.1192])"""


def train_alike(training, labels, criterion, *last_layers, lr, n_outputs=10):
    """Check a training of 200 epochs."""
    assert training.rates == 200 * [lr]
    torch.manual_seed(0)
    layers = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_outputs)
    network = nn.Sequential(*layers, *last_layers)
    assert torch.equal(training.start, helpers.to_vector(network.parameters()))
    helpers.check_training(training, network, criterion, [(X_train, labels)], X=X_test)


@pytest.fixture(scope="module")
def done():
    """Run the lesson; check its trainings: one finds 3s, and three name the digit."""
    with helpers.record_training() as trainings:
        done = helpers.run(lesson)
    done.binary, done.logits, done.double, done.fast = trainings
    is_3, criterion = (y_train == 3).float()[:, None], nn.CrossEntropyLoss()
    train_alike(done.binary, is_3, nn.BCEWithLogitsLoss(), lr=0.5, n_outputs=1)
    train_alike(done.logits, y_train, criterion, lr=0.5)
    train_alike(done.double, y_train, criterion, nn.Softmax(dim=1), lr=0.5)
    train_alike(done.fast, y_train, criterion, nn.Softmax(dim=1), lr=5)
    return done


def test_numbers_by_hand_and_from_torch_are_printed(done):
    assert set(PRINTED.splitlines()) <= set(done.output.splitlines())


def test_a_logit_above_0_means_that_it_is_a_3(done):
    correct = (done.binary.outputs[-1][:, 0] > 0) == (y_test == 3)
    assert f"\nIs it a 3? Accuracy {correct.double().mean():.1%} (" in done.output


def test_accuracies_losses_and_highest_probabilities_are_those_of_the_networks(done):
    ax = done.panels["Training on digits"]
    for label, metric, training in (
        ("logits, learning rate 0.5", "logits", done.logits),
        ("extra softmax, learning rate 0.5", "extra_softmax", done.double),
        ("extra softmax, learning rate 5", "fast", done.fast),
    ):
        assert done.metrics[metric] == pytest.approx(helpers.accuracy(training.outputs[-1], y_test))
        assert_allclose(helpers.lines(ax)[label], [range(1, 201), training.losses], rtol=1e-3)
        results = f"{done.metrics[metric]:.1%}, training loss {training.losses[-1]:.2f}"
        # The softmax of the loss, even if there is an extra one
        highest = f"highest probability {training.outputs[-1].softmax(dim=1).max():.3f}"
        assert f"\n{label.capitalize()}: test accuracy {results}, {highest}\n" in done.output
    lowest = helpers.lines(ax)["lowest possible with an extra softmax: 1.46"]
    assert_allclose(lowest[1], -np.log(np.e / (np.e + 9)))  # of the softmax of 1 and nine 0s


def test_an_extra_softmax_costs_accuracy_except_at_ten_times_the_rate(done):
    metrics = done.metrics
    logits, double, fast = metrics["logits"], metrics["extra_softmax"], metrics["fast"]
    # Only a margin: fast is near 97%, or near 88% on machines where it never predicts one digit
    assert double + 0.1 < min(logits, fast)
    expected = f" {logits:.1%}, with an extra softmax {double:.1%}, and at ten times the rate "
    assert done.result.endswith(f"{expected}{fast:.1%} (digits)")


def test_the_figure_shows_the_loss_of_each_probability(done):
    ax = done.panels["Cross-entropy: -log p"]
    p = np.linspace(0.01, 1, 200)
    assert_allclose(ax.lines[0].get_data(), [p, -np.log(p)])  # the curve has no label
    assert_allclose(helpers.lines(ax)["good prediction: loss 0.36"], [[0.7], [-np.log(0.7)]])
    assert_allclose(helpers.lines(ax)["bad prediction: loss 2.30"], [[0.1], [-np.log(0.1)]])
