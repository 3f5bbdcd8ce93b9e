"""Lesson 06: activation functions, linear and curved boundaries, and gradients that vanish."""

from unittest import mock

import pytest
import torch
from helpers import DEVICE, check_training, lines, load_lesson, record_training, run, to_vector
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from numpy.testing import assert_allclose
from sklearn.datasets import make_moons
from torch import nn

lesson = load_lesson("06")
X, y = map(torch.from_numpy, make_moons(n_samples=1000, noise=0.15, random_state=0))
X_train, X_test = X.float().split(500)
y_train, y_test = y.float()[:, None].split(500)


@pytest.fixture(scope="module")
def done():
    """Run the lesson; keep the calls of contourf, which draws nothing; train networks alike."""
    with record_training() as trainings, mock.patch.object(Axes, "contourf", autospec=True) as spy:
        done = run(lesson)
    done.contours = spy.call_args_list
    done.networks = {}
    activations = {"without ReLU": nn.Identity(), "with ReLU": nn.ReLU()}
    for training, (name, activation) in zip(trainings, activations.items(), strict=True):
        assert training.rates == 1000 * [0.5]
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 16), activation, nn.Linear(16, 1), nn.Sigmoid())
        assert torch.equal(training.start, to_vector(network.parameters()))
        check_training(training, network, nn.BCELoss(), [(X_train, y_train)])
        done.networks[name] = network.requires_grad_(False)
    return done


def test_functions_and_modules_give_the_same_numbers_alone_and_in_a_network(done):
    x = torch.tensor([-1.0, 1.0, 2.0, 3.0])
    expected = {"softmax": x.exp() / x.exp().sum(), "sigmoid": 1 / (1 + (-x).exp())}
    expected |= {"tanh": x.sinh() / x.cosh(), "relu": x.clamp(min=0), "leaky": x.maximum(0.01 * x)}
    printed = done.output.lower().splitlines()
    for name, values in expected.items():
        # Two lines of the output end in the same numbers
        function, module = (line for line in printed if line.endswith(f" {values}"))
        assert name in function and name in module
    option1, option2, inputs = lesson.NeuralNet1(5, 3), lesson.NeuralNet2(5, 3), torch.randn(20, 5)
    option2.load_state_dict(option1.state_dict())
    assert torch.equal(option1(inputs), option2(inputs))


def test_only_the_network_with_relu_learns_the_moons(done):
    identity = (done.networks["without ReLU"](X_test).round() == y_test).double().mean().item()
    relu = (done.networks["with ReLU"](X_test).round() == y_test).double().mean().item()
    assert done.metrics["accuracy_identity"] == pytest.approx(identity) and identity < 0.9
    assert done.metrics["accuracy_relu"] == pytest.approx(relu) and relu > 0.97
    assert f"{relu:.1%} with ReLU, {identity:.1%} without" in done.result


def test_the_figure_shows_the_test_set_and_where_the_probability_is_one_half(done):
    for contour, (name, network) in zip(done.contours, done.networks.items(), strict=True):
        ax, x1, x2, probability = contour.args
        assert ax.get_title() == f"{name} (test set)" and contour.kwargs["levels"] == [0, 0.5, 1]
        assert (x1.min(), x1.max(), x2.min(), x2.max()) == (-2, 3, -2, 2)
        assert_allclose(probability, network(torch.stack([x1, x2], dim=-1))[..., 0], atol=1e-4)
        moons = {moon.get_label(): moon for moon in ax.collections}
        for i, color in ((0, "C0"), (1, "C3")):  # blue, red
            assert_allclose(moons[f"class {i}"].get_offsets(), X_test[y_test[:, 0] == i], rtol=1e-5)
            assert same_color(moons[f"class {i}"].get_facecolor(), color)


def test_gradients_are_those_of_the_weights_of_ten_hidden_layers(done):
    ax = done.panels["Gradients before training"]
    assert (ax.get_xlabel(), ax.get_yscale()) == ("hidden layer (1: the first)", "log")
    for label, metric, activation in (
        ("sigmoid, nn.Linear's initialization", "gradient_sigmoid", nn.Sigmoid()),
        ("ReLU, nn.Linear's initialization", "gradient_relu", nn.ReLU()),
        ("ReLU, He initialization", "gradient_relu_he", nn.ReLU()),
    ):
        torch.manual_seed(0)
        hidden = [nn.Sequential(nn.Linear(n, 64), activation) for n in [2] + 9 * [64]]
        network = nn.Sequential(*hidden, nn.Linear(64, 1)).to(DEVICE)
        weights = [layer[0].weight for layer in hidden]
        for weight in weights:
            if label == "ReLU, He initialization":
                nn.init.kaiming_uniform_(weight, nonlinearity="relu")
        nn.BCEWithLogitsLoss()(network(X_train.to(DEVICE)), y_train.to(DEVICE)).backward()
        values = [weight.grad.abs().mean().item() for weight in weights]
        assert_allclose(lines(ax)[label], [range(1, 11), values], rtol=1e-4)
        assert done.metrics[metric] == pytest.approx(values[0], rel=1e-4)
        assert f"\n{label}: layer 10 {values[9]:.1e}, layer 1 {values[0]:.1e}\n" in done.output
    assert len(ax.lines) == 3
    assert done.metrics["gradient_relu"] > 1000 * done.metrics["gradient_sigmoid"]
    assert done.metrics["gradient_relu_he"] > 1000 * done.metrics["gradient_relu"]


def test_the_figure_shows_each_function_and_its_derivative(done):
    x = torch.linspace(-4, 4, 401)
    sigmoid, tanh, step = 1 / (1 + (-x).exp()), x.sinh() / x.cosh(), (x > 0).float()
    slope = torch.where(x > 0, 1, 0.1)  # of leaky ReLU
    for title, function, derivative in (
        ("sigmoid", sigmoid, sigmoid * (1 - sigmoid)),
        ("tanh", tanh, 1 - tanh**2),
        ("ReLU", x * step, step),
        ("leaky ReLU (here 0.1 * x)", x * slope, slope),
        ("step", step, 0 * x),
    ):
        ax = done.panels[title]
        assert (ax.get_xlabel(), ax.get_yscale()) == ("x", "linear")
        assert_allclose(lines(ax)["function"], [x, function], atol=1e-5)
        assert_allclose(lines(ax)["derivative"], [x, derivative], atol=1e-5)
    assert_allclose(lines(done.panels["sigmoid"])["0.25"][1], 0.25)
