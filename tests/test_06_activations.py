"""Lesson 06: activation functions, linear and curved boundaries, and gradients that vanish."""

from unittest import mock

import pytest
import torch
from helpers import DEVICE, check_training, lines, load_lesson, record_training, run, to_vector
from matplotlib.axes import Axes
from numpy.testing import assert_allclose
from sklearn.datasets import make_moons
from torch import nn

lesson = load_lesson("06")
X, y = map(torch.from_numpy, make_moons(n_samples=1000, noise=0.15, random_state=0))
X_train, X_test, y_train, y_test = *X.float().split(500), *y.float()[:, None].split(500)


@pytest.fixture(scope="module")
def done():
    """Run the lesson; add lines by title and axes, and networks that are trained alike."""
    with record_training() as trainings, mock.patch.object(Axes, "contourf", autospec=True) as spy:
        done = run(lesson)
    done.contours = spy.call_args_list
    done.drawn = {(a.get_title(), a.get_xlabel(), a.get_yscale()): lines(a) for a in done.axes}
    done.networks = {"without ReLU": nn.Identity(), "with ReLU": nn.ReLU()}
    for training, (name, activation) in zip(trainings, done.networks.items(), strict=True):
        assert training.rates == 1000 * [0.5]
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 16), activation, nn.Linear(16, 1), nn.Sigmoid())
        assert torch.equal(training.start, to_vector(network.parameters()))
        check_training(training, network, nn.BCELoss(), [(X_train, y_train)])
        done.networks[name] = network.requires_grad_(False)
    return done


def test_functions_and_modules_give_the_same_numbers_alone_and_in_a_network(done):
    x = torch.tensor([-1.0, 1.0, 2.0, 3.0])
    softmax, sigmoid, tanh = x.exp() / x.exp().sum(), 1 / (1 + (-x).exp()), x.sinh() / x.cosh()
    expected = [softmax, sigmoid, tanh, x.clamp(min=0), torch.maximum(x, 0.01 * x)]
    for name, values in zip(["softmax", "sigmoid", "tanh", "relu", "leaky"], expected, strict=True):
        found = [line for line in done.output.splitlines() if line.endswith(f" {values}")]
        assert len(found) == 2 and all(name in line.lower() for line in found)
    option1, option2, x = lesson.NeuralNet1(5, 3), lesson.NeuralNet2(5, 3), torch.randn(20, 5)
    option2.load_state_dict(option1.state_dict())
    assert torch.equal(option1(x), option2(x))


def test_only_the_network_with_relu_learns_the_moons(done):
    correct = [(network(X_test) > 0.5) == y_test for network in done.networks.values()]
    identity, relu = (c.double().mean().item() for c in correct)
    found = done.metrics["accuracy_identity"], done.metrics["accuracy_relu"]
    assert found == pytest.approx((identity, relu)) and identity < 0.9 < 0.97 < relu
    assert f"{relu:.1%} with ReLU, {identity:.1%} without" in done.output.splitlines()[-2]


def test_the_figure_shows_the_test_set_and_where_the_probability_is_one_half(done):
    for contour, (name, network) in zip(done.contours, done.networks.items(), strict=True):
        ax, x1, x2, probability = contour.args
        assert ax.get_title() == f"{name} (test set)" and contour.kwargs["levels"] == [0, 0.5, 1]
        assert (x1.min(), x1.max(), x2.min(), x2.max()) == (-2, 3, -2, 2)
        assert_allclose(probability, network(torch.stack([x1, x2], dim=-1))[..., 0], atol=1e-4)
        for moon, i in zip(ax.collections, (0, 1), strict=True):  # class 1 is red
            assert_allclose(moon.get_offsets(), X_test[y_test[:, 0] == i], rtol=1e-5)
            assert (moon.get_label(), moon.get_facecolor()[0, 0] > 0.5) == (f"class {i}", i == 1)


def test_gradients_are_those_of_the_weights_of_ten_hidden_layers(done):
    drawn = done.drawn["Gradients before training", "hidden layer (1: the first)", "log"]
    for label, metric in zip(drawn, ("sigmoid", "relu", "relu_he"), strict=True):
        activation = nn.Sigmoid() if label.startswith("sigmoid") else nn.ReLU()
        torch.manual_seed(0)
        layers = [nn.Linear(n, 64).to(DEVICE) for n in [2] + 9 * [64]]
        steps = [step for layer in layers for step in (layer, activation)]
        network = nn.Sequential(*steps, nn.Linear(64, 1)).to(DEVICE)
        for layer in layers if label == "ReLU, He initialization" else []:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        nn.BCEWithLogitsLoss()(network(X_train.to(DEVICE)), y_train.to(DEVICE)).backward()
        values = [layer.weight.grad.abs().mean().item() for layer in layers]
        assert_allclose(drawn[label], [range(1, 11), values], rtol=1e-4)
        assert done.metrics[f"gradient_{metric}"] == pytest.approx(values[0], rel=1e-4)
        assert f"\n{label}: layer 10 {values[9]:.1e}, layer 1 {values[0]:.1e}\n" in done.output
    sigmoid, relu, relu_he = (values[0] for _, values in drawn.values())
    assert 1e6 * sigmoid < 1e3 * relu < relu_he


def test_the_figure_shows_each_function_and_its_derivative(done):
    x = torch.linspace(-4, 4, 401)
    sigmoid, tanh, step = 1 / (1 + (-x).exp()), x.sinh() / x.cosh(), (x > 0).float()
    functions = sigmoid, tanh, x * step, x * (0.1 + 0.9 * step), step
    derivatives = sigmoid * (1 - sigmoid), 1 - tanh**2, step, 0.1 + 0.9 * step, 0 * x
    titles = "sigmoid", "tanh", "ReLU", "leaky ReLU (here 0.1 * x)", "step"
    for title, function, derivative in zip(titles, functions, derivatives, strict=True):
        assert_allclose(done.drawn[title, "x", "linear"]["function"], [x, function], atol=1e-5)
        assert_allclose(done.drawn[title, "x", "linear"]["derivative"], [x, derivative], atol=1e-5)
    assert_allclose(done.drawn["sigmoid", "x", "linear"]["0.25"][1], 0.25)
