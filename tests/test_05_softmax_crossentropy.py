"""Lesson 05: softmax and cross-entropy by hand and with PyTorch; what an extra softmax costs."""

import functools

import numpy as np
import torch
from helpers import curves, digits, load_lesson, numbers, run_once, second
from numpy.testing import assert_allclose
from torch import nn

lesson = load_lesson("05")
X_train, X_test, y_train, y_test = digits()


@functools.cache
def three_epochs():
    """Run with flags; add losses and test outputs of second networks, trained alike."""
    done = run_once(lesson, "--epochs=3", "--lr=0.2")
    done.losses, done.outputs, is_3 = [], [], (y_train == 3).float()[:, None]
    for training, n_outputs, criterion, labels, last_layer in (
        (done.trainings[0], 1, nn.BCEWithLogitsLoss(), is_3, nn.Identity()),
        (done.trainings[1], 10, nn.CrossEntropyLoss(), y_train, nn.Identity()),
        (done.trainings[2], 10, nn.CrossEntropyLoss(), y_train, nn.Softmax(dim=1)),
    ):
        layers = nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_outputs), last_layer
        batches = [(X_train, labels)]
        losses, _, tests = second(training, nn.Sequential(*layers), criterion, batches, X_test)
        done.losses.append(losses)
        done.outputs.append(tests[-1])
    return done


def test_softmax_and_cross_entropy_do_not_overflow():
    found = lesson.stable_softmax(np.array([3000.0, 2999.0, -1000.0]))
    assert_allclose(found, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0])
    assert 30 < lesson.cross_entropy(np.array([1, 0]), np.array([0.0, 1.0])) < np.inf


def test_the_numbers_of_the_video_and_those_beyond_it_are_printed():
    output, metrics = three_epochs().output, three_epochs().metrics
    expected = 2 * [0.6590, 0.2424, 0.0986] + [0.3567, 2.3026, 0.4170, 1.8406, 0, 0, 1]
    expected += [0.2834, 1.6418, 2, 0, 1, 2, 0, 1, 0, 2, 0, 0.4170]
    assert_allclose(numbers(output, "softmax numpy:", end="Is it"), expected, atol=1e-4)
    expected = [0, 1, 0, 1, 34.5, 1000, 2, 0.8808, 2, 0, 0.8808, 0.1192]  # 1000: nan, 0 and 1, 0
    assert_allclose(numbers(output, "softmax of 1000 and 0:", end="Test"), expected, atol=1e-4)
    assert metrics["softmax_error"] < 1e-6 and metrics["cross_entropy_error"] < 1e-6


def test_losses_and_accuracies_are_those_of_second_networks_and_the_two_compared_start_alike():
    done, (binary, *outputs) = three_epochs(), three_epochs().outputs
    assert [training.rates for training in done.trainings] == 3 * [3 * [0.2]]
    assert torch.equal(done.trainings[1].start, done.trainings[2].start)
    correct = [output.argmax(dim=1) == y_test for output in outputs]
    correct.append((binary[:, 0] > 0) == (y_test == 3))
    accuracies = [100 * c.double().mean() for c in correct]
    assert_allclose([100 * value for value in done.metrics.values()][2:], accuracies, rtol=1e-6)
    assert_allclose(numbers(done.output, "Test accuracy:"), accuracies[:2], atol=0.06)
    printed = numbers(done.output, "Is it a 3?", end="softmax of")
    last = [losses[-1] for losses in done.losses[1:]]
    assert_allclose(printed, [accuracies[2], 90, *last], rtol=0.002, atol=0.005)


def test_an_extra_softmax_costs_accuracy():
    metrics = run_once(lesson).metrics
    assert metrics["accuracy_logits"] > 0.95 > metrics["accuracy_double_softmax"] + 0.1
    assert metrics["accuracy_binary"] > 0.97


def test_the_figure_shows_the_losses_and_the_least_with_an_extra_softmax():
    (curve, good, bad), (*lines, least) = map(curves, three_epochs().axes)
    assert_allclose([good, bad], [[[0.7], [-np.log(0.7)]], [[0.1], [-np.log(0.1)]]])
    assert_allclose(curve[1], -np.log(curve[0]))
    assert_allclose(lines, [[[1, 2, 3], losses] for losses in three_epochs().losses[1:]], rtol=1e-4)
    assert_allclose(least[1], np.log((np.e + 9) / np.e))
