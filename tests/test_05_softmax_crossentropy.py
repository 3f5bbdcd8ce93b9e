"""Lesson 05: softmax and cross-entropy by hand and with PyTorch; what an extra softmax costs."""

import numpy as np
import pytest
import torch
from helpers import accuracy, check_training, lines, load_lesson, record_training, run, to_vector
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

lesson = load_lesson("05")
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


@pytest.fixture(scope="module")
def done():
    """Run the lesson; add lines by title and axes, and results of networks trained alike."""
    with record_training() as trainings:
        done = run(lesson)
    done.drawn = {(a.get_title(), a.get_xlabel(), a.get_ylabel()): lines(a) for a in done.axes}
    is_3, none, softmax = (y_train == 3).float()[:, None], nn.Identity(), nn.Softmax(dim=1)
    settings = {
        "is it a 3?": (0.5, is_3, nn.BCEWithLogitsLoss(), 1, none),
        "logits, learning rate 0.5": (0.5, y_train, nn.CrossEntropyLoss(), 10, none),
        "extra softmax, learning rate 0.5": (0.5, y_train, nn.CrossEntropyLoss(), 10, softmax),
        "extra softmax, learning rate 5": (5, y_train, nn.CrossEntropyLoss(), 10, softmax),
    }
    done.networks = {}
    for training, (label, setting) in zip(trainings, settings.items(), strict=True):
        lr, labels, criterion, n_outputs, last_layer = setting
        assert training.rates == 200 * [lr]
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_outputs), last_layer)
        assert torch.equal(training.start, to_vector(network.parameters()))
        losses = check_training(training, network, criterion, [(X_train, labels)])
        done.networks[label] = losses, network(X_test).detach()
    _, done.is_3 = done.networks.pop("is it a 3?")
    return done


def test_the_numbers_of_the_video_and_those_beyond_it_are_printed(done):
    assert set(PRINTED.splitlines()) <= set(done.output.splitlines())


def test_an_extra_softmax_costs_accuracy_but_at_ten_times_the_rate(done):
    logits, double, fast = (accuracy(outputs, y_test) for _, outputs in done.networks.values())
    binary = ((done.is_3[:, 0] > 0) == (y_test == 3)).double().mean().item()
    expected = {"accuracy_binary": binary, "softmax_error": 0, "cross_entropy_error": 0}
    expected |= {"accuracy_double_softmax": double, "accuracy_double_softmax_fast": fast}
    assert done.metrics == pytest.approx({"accuracy_logits": logits, **expected})
    assert f"\nIs it a 3? Accuracy {binary:.1%} (always" in done.output
    assert double + 0.1 < min(logits, fast)  # fast: on some machines, one digit is never found
    result = "{:.1%}, with an extra softmax {:.1%}, and at ten times the rate {:.1%} (digits)"
    assert done.output.splitlines()[-2].endswith(result.format(logits, double, fast))


def test_losses_are_drawn_and_printed_with_the_highest_probability(done):
    drawn = done.drawn["Training on digits", "epoch", "training loss"]
    for label, (losses, outputs) in done.networks.items():
        assert_allclose(drawn[label], [range(1, 201), losses], rtol=1e-3)
        highest = f"highest probability {outputs.softmax(dim=1).max():.3f}"
        results = f"{accuracy(outputs, y_test):.1%}, training loss {losses[-1]:.2f}, {highest}"
        assert f"\n{label.capitalize()}: test accuracy {results}\n" in done.output
    assert_allclose(drawn["lowest possible with an extra softmax: 1.46"][1], np.log(1 + 9 / np.e))


def test_the_figure_shows_the_loss_of_each_probability(done):
    drawn = done.drawn["Cross-entropy: -log p", "probability p of the true class", "loss"]
    points = {"good prediction: loss 0.36": [0.7], "bad prediction: loss 2.30": [0.1]}
    for label, p in {"_child0": np.linspace(0.01, 1, 200), **points}.items():  # _: no label
        assert_allclose(drawn[label], [p, -np.log(p)])
