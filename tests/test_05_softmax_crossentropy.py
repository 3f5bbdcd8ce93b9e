"""Lesson 05: softmax and cross-entropy by hand and with PyTorch; what an extra softmax costs."""

import numpy as np
import torch
from helpers import descend, load_lesson, numbers, run_once
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

lesson = load_lesson("05")
X, y = map(torch.from_numpy, load_digits(return_X_y=True))
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
is_3 = (y_train == 3).double()


def outputs(parameters, X, n_outputs):
    """Return what a network with one hidden layer of 32 and ReLU computes."""
    w1, b1, w2, b2 = parameters.double().split([32 * 64, 32, n_outputs * 32, n_outputs])
    return (X @ w1.view(32, 64).T + b1).relu() @ w2.view(n_outputs, 32).T + b2


LOSSES = (  # of the three trainings: is it a 3, which digit, and the same with an extra softmax
    lambda p: binary_cross_entropy_with_logits(outputs(p, X_train, 1)[:, 0], is_3),
    lambda p: cross_entropy(outputs(p, X_train, 10), y_train),
    lambda p: cross_entropy(outputs(p, X_train, 10).softmax(dim=1), y_train),
)


def test_softmax_and_cross_entropy_are_those_of_torch_and_scikit_learn_without_overflow():
    x = np.random.default_rng(0).normal(size=20) * 5
    for softmax in (lesson.softmax, lesson.stable_softmax):
        assert_allclose(softmax(x), torch.from_numpy(x).softmax(dim=0))
    for p in ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]):
        found = lesson.cross_entropy(np.array([0, 1, 0]), np.array(p))
        assert_allclose(found, log_loss([1], [p], labels=[0, 1, 2]))
    # Large logits, and a probability of 0
    found = lesson.stable_softmax(np.array([3000.0, 2999.0, -1000.0]))
    assert_allclose(found, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0])
    assert 30 < lesson.cross_entropy(np.array([1, 0]), np.array([0.0, 1.0])) < np.inf


def test_the_numbers_of_the_video_are_printed():
    done = run_once(lesson)
    assert done.metrics["softmax_error"] < 1e-6 and done.metrics["cross_entropy_error"] < 1e-6
    for start, expected in {
        "softmax numpy:": [0.6590, 0.2424, 0.0986],
        "softmax torch:": [0.6590, 0.2424, 0.0986],
        "Loss numpy, probabilities:": [0.3567, 2.3026],
        "Loss torch, logits:": [0.4170, 1.8406],
        "Loss numpy, softmax of the same logits:": [0.4170],
        "Actual class ": [0, 0, 1],
        "Batch loss:": [0.2834, 1.6418],
        "Actual classes ": [2, 0, 1, 2, 0, 1, 0, 2, 0],
        "softmax of 1000 and 0:": [0, 1, 0],  # nan, 0, and stable: 1, 0
        "Loss if class 1 is true:": [34.5, 1000],
        "sigmoid of 2:": [0.8808],
        "softmax of 2 and 0:": [0.8808, 0.1192],
    }.items():
        assert_allclose(numbers(done.output, start), expected, atol=1e-4, err_msg=start)


def test_trainings_take_the_steps_that_epochs_and_lr_say_and_those_compared_start_alike():
    trainings = run_once(lesson, "--epochs=3", "--lr=0.2").trainings
    assert torch.equal(trainings[1].start, trainings[2].start)
    for training, loss in zip(trainings, LOSSES):
        assert_allclose(training.end, descend(loss, training.start, 3 * [0.2])[3], atol=1e-5)


def test_accuracies_are_those_of_the_trained_networks():
    done = run_once(lesson)
    binary, logits, double = (training.end for training in done.trainings)
    correct = [(outputs(binary, X_test, 1)[:, 0] > 0) == (y_test == 3)]
    correct += [outputs(end, X_test, 10).argmax(dim=1) == y_test for end in (logits, double)]
    found = [done.metrics[f"accuracy_{name}"] for name in ("binary", "logits", "double_softmax")]
    assert_allclose(found, [c.double().mean() for c in correct], rtol=1e-6)
    assert_allclose(numbers(done.output, "Test accuracy:"), 100 * np.array(found[1:]), atol=0.06)
    assert found[0] > 0.97 and found[1] > 0.95 > found[2] + 0.1


def test_the_figure_shows_the_losses_and_the_least_with_an_extra_softmax():
    done = run_once(lesson, "--epochs=3", "--lr=0.2")
    (curve, good, bad), (*lines, least) = (ax.lines for ax in done.axes)
    assert good.get_xdata() == [0.7] and bad.get_xdata() == [0.1]
    for line in (curve, good, bad):
        assert_allclose(line.get_ydata(), -np.log(line.get_xdata()))
    for line, training, loss in zip(lines, done.trainings[1:], LOSSES[1:]):
        losses = [loss(step) for step in descend(loss, training.start, training.rates)[:3]]
        assert_allclose(line.get_xydata().T, [[1, 2, 3], losses], rtol=1e-4)
    assert_allclose(least.get_ydata(), np.log((np.e + 9) / np.e))
