"""Lesson 06: activation functions, linear and curved boundaries, and gradients that vanish."""

import numpy as np
import torch
from helpers import descend, load_lesson, numbers, run_once, spy
from numpy.testing import assert_allclose
from sklearn.datasets import make_moons
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

lesson = load_lesson("06")
X, y = map(torch.from_numpy, make_moons(n_samples=1000, noise=0.15, random_state=0))
X_train, X_test, y_train, y_test = X[:500], X[500:], y[:500].double(), y[500:]
ACTIVATIONS = (torch.nn.Identity(), torch.relu)  # of the two trainings


def probabilities(parameters, X, activation):
    """Return what a network with one hidden layer of 16 computes."""
    w1, b1, w2, b2 = parameters.double().split([32, 16, 16, 1])
    return torch.sigmoid(activation(X @ w1.view(16, 2).T + b1) @ w2 + b2)


def loss(parameters, activation):
    return binary_cross_entropy(probabilities(parameters, X_train, activation), y_train)


def test_functions_and_modules_give_the_same_numbers():
    output = run_once(lesson).output
    x = np.array([-1.0, 1.0, 2.0, 3.0])
    for function, module, expected in (
        ("torch.softmax", "nn.Softmax", np.exp(x) / np.exp(x).sum()),
        ("torch.sigmoid", "nn.Sigmoid", 1 / (1 + np.exp(-x))),
        ("torch.tanh", "nn.Tanh", np.tanh(x)),
        ("torch.relu", "nn.ReLU", x.clip(min=0)),
        ("F.leaky_relu", "nn.LeakyReLU", np.where(x > 0, x, 0.01 * x)),
    ):
        assert_allclose(numbers(output, function), expected, atol=1e-4)
        assert_allclose(numbers(output, module), expected, atol=1e-4)


def test_both_options_are_one_network():
    option1, option2, x = lesson.NeuralNet1(5, 3), lesson.NeuralNet2(5, 3), torch.randn(20, 5)
    option2.load_state_dict(option1.state_dict())
    assert torch.equal(option1(x), option2(x))


def test_both_trainings_start_alike_and_take_the_steps_that_epochs_and_lr_say():
    trainings = run_once(lesson, "--epochs=3", "--lr=0.2").trainings
    assert torch.equal(trainings[0].start, trainings[1].start)
    for training, activation in zip(trainings, ACTIVATIONS):
        steps = descend(loss, training.start, 3 * [0.2], activation)
        assert_allclose(training.end, steps[3], atol=1e-5)


def test_only_the_network_with_relu_learns_the_moons():
    done = run_once(lesson)
    found = [done.metrics["accuracy_identity"], done.metrics["accuracy_relu"]]
    for accuracy, training, activation in zip(found, done.trainings, ACTIVATIONS):
        predicted = probabilities(training.end, X_test, activation) > 0.5
        assert_allclose(accuracy, (predicted == y_test).double().mean(), rtol=1e-6)
    assert_allclose(numbers(done.output, "Test accuracy:"), 100 * np.array(found[::-1]), atol=0.06)
    assert found[0] < 0.9 and found[1] > 0.97


def test_the_figure_shows_the_moons_and_each_boundary_where_the_probability_is_one_half():
    done = run_once(lesson)
    for ax, training, activation in zip(done.axes[5:7], done.trainings, ACTIVATIONS):
        areas, *moons = ax.collections
        for i, moon in enumerate(moons):
            assert_allclose(moon.get_offsets(), X_test[y_test == i], rtol=1e-5)
        points = np.concatenate([path.vertices for path in areas.get_paths()])
        inside = (np.abs(points - [0.5, 0]) < [2.499, 1.999]).all(axis=1)  # not at the edges
        boundary = probabilities(training.end, torch.from_numpy(points[inside]), activation)
        assert inside.any() and (boundary - 0.5).abs().max() < 0.02


def test_gradients_are_those_of_the_ten_hidden_layers():
    inputs, labels = (tensor.float().to(lesson.device) for tensor in (X, y.view(-1, 1)))
    with spy(torch.nn.Linear, "__init__") as init:
        found = lesson.gradient_by_layer(torch.tanh, torch.nn.init.xavier_normal_, inputs, labels)
    *layers, last_layer = (call.args[0] for call in init.call_args_list)
    for layer in layers:
        inputs = torch.tanh(layer(inputs))
    result = binary_cross_entropy_with_logits(last_layer(inputs), labels)
    gradients = torch.autograd.grad(result, [layer.weight for layer in layers])
    assert_allclose(found, [gradient.abs().mean().cpu() for gradient in gradients], rtol=1e-4)
    assert len(found) == 10


def test_only_sigmoid_makes_gradients_vanish():
    done = run_once(lesson)
    (layers, sigmoid), (_, relu) = (line.get_xydata().T for line in done.axes[7].lines)
    assert layers.tolist() == [*range(1, 11)]
    assert sigmoid[0] < 1e-5 * sigmoid[9] and relu[0] > 0.5 * relu[9] > 1e-3
    assert done.metrics["gradient_sigmoid"] == sigmoid[0]
    assert done.metrics["gradient_relu"] == relu[0]
    assert_allclose(numbers(done.output, "sigmoid:"), [sigmoid[9], sigmoid[0]], rtol=0.05)
    assert_allclose(numbers(done.output, "ReLU:"), [relu[9], relu[0]], rtol=0.05)


def test_the_figure_shows_each_function_and_its_derivative():
    *axes, step_ax = run_once(lesson).axes[:5]
    x, found = step_ax.lines[0].get_xydata().T
    sigmoid, step = 1 / (1 + np.exp(-x)), np.where(x > 0, 1, 0)
    assert found.tolist() == step.tolist()
    functions = sigmoid, np.tanh(x), x * step, np.where(x > 0, x, 0.1 * x)
    derivatives = sigmoid * (1 - sigmoid), 1 - np.tanh(x) ** 2, step, np.where(x > 0, 1, 0.1)
    for ax, expected in zip(axes, zip(functions, derivatives)):
        assert_allclose([line.get_ydata() for line in ax.lines[:2]], expected, atol=1e-5)
    assert_allclose(axes[0].lines[2].get_ydata(), max(derivatives[0]))
