"""Lesson 06: activation functions, linear and curved boundaries, and gradients that vanish."""

import functools

import numpy as np
import torch
from helpers import DEVICE, check_print, check_result, check_training, curves, load_lesson, run, spy
from numpy.testing import assert_allclose
from sklearn.datasets import make_moons
from torch import nn

lesson = load_lesson("06")
X, y = map(torch.from_numpy, make_moons(n_samples=1000, noise=0.15, random_state=0))
X, y = X.float(), y.float()[:, None]


@functools.cache
def checked_run():
    """Check both trainings, without ReLU and with it; add networks that were trained alike."""
    done = run(lesson, "--epochs=900", "--lr=0.6")
    done.networks = []
    for training, activation in zip(done.trainings, (nn.Identity(), nn.ReLU())):
        assert torch.equal(training.start, done.trainings[0].start)
        network = nn.Sequential(nn.Linear(2, 16), activation, nn.Linear(16, 1), nn.Sigmoid())
        check_training(training, 900 * [0.6], network, nn.BCELoss(), [(X[:500], y[:500])])
        done.networks.append(network.cpu().requires_grad_(False))
    return done


def test_functions_and_modules_give_the_same_numbers():
    x = np.array([-1.0, 1.0, 2.0, 3.0])
    softmax, sigmoid = np.exp(x) / np.exp(x).sum(), 1 / (1 + np.exp(-x))
    functions = softmax, sigmoid, np.tanh(x), x.clip(min=0), np.where(x > 0, x, 0.01 * x)
    expected = np.repeat(functions, 2, axis=0).ravel()
    check_print(checked_run().output, "torch.softmax", expected, end="Mean absolute")


def test_both_options_are_one_network():
    option1, option2, x = lesson.NeuralNet1(5, 3), lesson.NeuralNet2(5, 3), torch.randn(20, 5)
    option2.load_state_dict(option1.state_dict())
    assert torch.equal(option1(x), option2(x))


def test_only_the_network_with_relu_learns_the_moons():
    correct = [(network(X[500:]) > 0.5) == y[500:] for network in checked_run().networks]
    identity, relu = (c.double().mean().item() for c in correct)
    assert identity < 0.9 and relu > 0.97
    check_result(checked_run(), accuracy_relu=relu, accuracy_identity=identity)


def test_the_figure_shows_the_moons_and_each_boundary_where_the_probability_is_one_half():
    for ax, network in zip(checked_run().axes[5:7], checked_run().networks):
        areas, *moons = ax.collections
        for i, moon in enumerate(moons):
            assert_allclose(moon.get_offsets(), X[500:][y[500:, 0] == i], rtol=1e-5)
        points = np.concatenate([path.vertices for path in areas.get_paths()], dtype=np.float32)
        at_edge = np.isin(points, [-2, 3]).any(axis=1) | (points[:, 1] == 2)
        between = torch.from_numpy(points[~at_edge])  # where the two areas meet
        assert (network(between) - 0.5).abs().max() < 0.02


def test_gradients_are_those_of_the_ten_hidden_layers():
    inputs, labels = X.to(DEVICE), y.to(DEVICE)
    with spy(nn.Linear, "__init__") as init:
        found = lesson.gradient_by_layer(torch.tanh, nn.init.xavier_normal_, inputs, labels)
    *layers, last_layer = (call.args[0] for call in init.call_args_list)
    for layer in layers:
        inputs = torch.tanh(layer(inputs))
    loss = nn.functional.binary_cross_entropy_with_logits(last_layer(inputs), labels)
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers])
    assert_allclose(found, [gradient.abs().mean().cpu() for gradient in gradients], rtol=1e-4)


def test_only_sigmoid_makes_gradients_vanish_over_ten_hidden_layers():
    done = checked_run()
    (layers, sigmoid), (_, relu) = curves(done.axes[7])
    assert layers.tolist() == [*range(1, 11)]
    assert sigmoid[0] < 1e-5 * sigmoid[9] and relu[0] > 0.5 * relu[9] > 1e-3
    found = [done.metrics["gradient_sigmoid"], done.metrics["gradient_relu"]]
    assert found == [sigmoid[0], relu[0]]
    check_print(done.output, "sigmoid:", [sigmoid[9], sigmoid[0]])
    check_print(done.output, "ReLU:", [relu[9], relu[0]])


def test_the_figure_shows_each_function_and_its_derivative():
    x = curves(checked_run().axes[0])[0][0]
    sigmoid, step, slope = 1 / (1 + np.exp(-x)), np.where(x > 0, 1, 0), np.where(x > 0, 1, 0.1)
    functions = sigmoid, np.tanh(x), x * step, x * slope, step
    derivatives = sigmoid * (1 - sigmoid), 1 - np.tanh(x) ** 2, step, slope, 0 * x
    for ax, function, derivative in zip(checked_run().axes, functions, derivatives):
        assert_allclose(curves(ax)[:2], [[x, function], [x, derivative]], atol=1e-5)
    assert_allclose(curves(checked_run().axes[0])[2][1], 0.25)
