"""Lesson 05: softmax and cross-entropy by hand and with PyTorch; what an extra softmax costs."""

import functools

import numpy as np
import pytest
import torch
from helpers import check_print, check_result, check_training, curves, digits, load_lesson, run_once
from numpy.testing import assert_allclose
from torch import nn

lesson = load_lesson("05")
X_train, X_test, y_train, y_test = digits()


@functools.cache
def three_epochs():
    """Check the three trainings; add the losses of each epoch, and the last outputs for X_test."""
    done = run_once(lesson, "--epochs=3", "--lr=0.2")
    done.losses, done.outputs = [], []
    assert torch.equal(done.trainings[1].start, done.trainings[2].start)  # these are compared
    is_3 = (y_train == 3).float()[:, None]
    for training, n_outputs, criterion, labels, last_layer in (
        (done.trainings[0], 1, nn.BCEWithLogitsLoss(), is_3, nn.Identity()),
        (done.trainings[1], 10, nn.CrossEntropyLoss(), y_train, nn.Identity()),
        (done.trainings[2], 10, nn.CrossEntropyLoss(), y_train, nn.Softmax(dim=1)),
    ):
        layers = nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_outputs), last_layer
        network, batches = nn.Sequential(*layers), [(X_train, labels)]
        results = check_training(training, 3 * [0.2], network, criterion, batches, X_test)
        done.losses.append(results[0])
        done.outputs.append(results[2][-1])
    return done


def test_the_numbers_of_the_video_and_those_beyond_it_are_printed():
    for start, expected in {
        "softmax numpy:": [0.6590, 0.2424, 0.0986],
        "softmax torch:": [0.6590, 0.2424, 0.0986],
        "Loss numpy, probabilities:": [0.3567, 2.3026],
        "Loss torch, logits:": [0.4170, 1.8406],
        "Actual class ": [0, 0, 1],
        "Batch loss:": [0.2834, 1.6418],
        "Actual classes ": [2, 0, 1, 2, 0, 1, 0, 2, 0],
        "Loss numpy, softmax of the same logits:": [0.4170],
        "softmax of 1000 and 0:": [0, 1, 0],  # nan, 0, and stable: 1, 0
        "Loss if class 1 is true:": [34.5, 1000],
        "sigmoid of 2:": [0.8808],
        "softmax of 2 and 0:": [0.8808, 0.1192],
    }.items():
        check_print(three_epochs().output, start, expected)
    metrics = three_epochs().metrics
    assert metrics["softmax_error"] < 1e-6 and metrics["cross_entropy_error"] < 1e-6


def test_losses_and_accuracies_are_those_of_the_trained_networks():
    done = three_epochs()
    is_3, *digit = done.outputs
    binary = ((is_3[:, 0] > 0) == (y_test == 3)).double().mean().item()
    logits, double = ((output.argmax(dim=1) == y_test).double().mean().item() for output in digit)
    check_result(done, accuracy_logits=logits, accuracy_double_softmax=double)
    assert done.metrics["accuracy_binary"] == pytest.approx(binary)
    check_print(done.output, "Is it a 3? Accuracy", [100 * binary, 90])
    check_print(done.output, "Last training loss:", [losses[-1] for losses in done.losses[1:]])


def test_an_extra_softmax_costs_accuracy():
    metrics = run_once(lesson).metrics
    assert metrics["accuracy_logits"] > 0.95 and metrics["accuracy_double_softmax"] < 0.85
    assert metrics["accuracy_binary"] > 0.97


def test_the_figure_shows_the_losses_and_the_least_with_an_extra_softmax():
    left, right = three_epochs().axes
    for p, loss in curves(left):
        assert_allclose(loss, -np.log(p))
    assert [p.tolist() for p, _ in curves(left)[1:]] == [[0.7], [0.1]]
    *drawn, least = curves(right)
    assert_allclose(drawn, [[[1, 2, 3], losses] for losses in three_epochs().losses[1:]], rtol=1e-4)
    assert_allclose(least[1], np.log((np.e + 9) / np.e))
