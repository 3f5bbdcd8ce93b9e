"""Lesson 06: activation functions, linear and curved boundaries, and gradients that vanish."""

from unittest import mock

import helpers
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from numpy.testing import assert_allclose
from sklearn.datasets import make_moons
from torch import nn

lesson = helpers.load_lesson("06")
X, y = map(torch.from_numpy, make_moons(n_samples=1000, noise=0.15, random_state=0))
X_train, X_test = X.float().split(500)
y_train, y_test = y.float()[:, None].split(500)


@pytest.fixture(scope="module")
def done():
    """Run the lesson, with a contourf that draws nothing; check its two trainings."""
    contourf = mock.patch.object(Axes, "contourf", autospec=True)  # also gets the axes
    with helpers.record_training() as trainings, contourf as calls:
        done = helpers.run(lesson, "--seed=3")
    done.contours = calls.call_args_list
    done.networks = {}
    activations = {"without ReLU": nn.Identity(), "with ReLU": nn.ReLU()}
    for training, (name, activation) in zip(trainings, activations.items(), strict=True):
        assert training.rates == 1000 * [0.5]
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(2, 16), activation, nn.Linear(16, 1), nn.Sigmoid())
        assert torch.equal(training.start, helpers.to_vector(network.parameters()))
        helpers.check_training(training, network, nn.BCELoss(), [(X_train, y_train)])
        done.networks[name] = network.requires_grad_(False)
    return done


def test_functions_and_modules_give_the_same_numbers(done):
    x = torch.tensor([-1.0, 1.0, 2.0, 3.0])
    expected = {"softmax": x.exp() / x.exp().sum(), "sigmoid": 1 / (1 + (-x).exp())}
    expected |= {"tanh": x.sinh() / x.cosh(), "relu": x.clamp(min=0), "leaky": x.maximum(0.01 * x)}
    for name, values in expected.items():
        printed = [line for line in done.output.splitlines() if line.endswith(f" {values}")]
        assert len(printed) == 2  # by the function, and by the module
        assert all(name in line.lower() for line in printed)


def test_both_ways_to_write_a_network_give_the_same_outputs():
    option1, option2, inputs = lesson.NeuralNet1(5, 3), lesson.NeuralNet2(5, 3), torch.randn(20, 5)
    option2.load_state_dict(option1.state_dict())
    assert torch.equal(option1(inputs), option2(inputs))


def test_only_the_network_with_relu_learns_the_moons(done):
    correct = [network(X_test).round() == y_test for network in done.networks.values()]
    identity, relu = (are_correct.double().mean().item() for are_correct in correct)
    assert done.metrics["accuracy_identity"] == pytest.approx(identity) and identity < 0.9
    assert done.metrics["accuracy_relu"] == pytest.approx(relu) and relu > 0.97
    assert f"{relu:.1%} with ReLU, {identity:.1%} without" in done.result


def test_the_figure_shows_the_test_set_and_where_the_probability_is_one_half(done):
    for contour, (name, network) in zip(done.contours, done.networks.items(), strict=True):
        ax, x1, x2, probability = contour.args
        assert ax is done.panels[f"{name} (test set)"]
        assert (x1.min(), x1.max(), x2.min(), x2.max()) == (-2, 3, -2, 2)
        assert_allclose(probability, network(torch.stack([x1, x2], dim=-1))[..., 0], atol=1e-4)
        assert contour.kwargs["levels"] == [0, 0.5, 1]  # so that colors change at 0.5
        moons = {moon.get_label(): moon for moon in ax.collections}
        for i, color in ((0, "C0"), (1, "C3")):  # blue, red
            assert_allclose(moons[f"class {i}"].get_offsets(), X_test[y_test[:, 0] == i], rtol=1e-5)
            assert same_color(moons[f"class {i}"].get_facecolor(), color)


@pytest.mark.parametrize(
    "label, activation",
    [
        ("sigmoid, nn.Linear's initialization", nn.Sigmoid()),
        ("ReLU, nn.Linear's initialization", nn.ReLU()),
        ("ReLU, He initialization", nn.ReLU()),
    ],
)
def test_gradients_are_those_of_the_weights_of_ten_hidden_layers(done, label, activation):
    torch.manual_seed(3)
    hidden = [nn.Sequential(nn.Linear(n, 64), activation) for n in [2] + 9 * [64]]
    network = nn.Sequential(*hidden, nn.Linear(64, 1))
    weights = [layer[0].weight for layer in hidden]
    if label == "ReLU, He initialization":
        for weight in weights:
            nn.init.kaiming_uniform_(weight, nonlinearity="relu")
    nn.BCEWithLogitsLoss()(network(X_train), y_train).backward()
    values = [weight.grad.abs().mean().item() for weight in weights]
    drawn = helpers.lines(done.panels["Gradients before training"])
    assert_allclose(drawn[label], [range(1, 11), values], rtol=1e-4)
    assert f"\n{label}: layer 10 {values[9]:.1e}, layer 1 {values[0]:.1e}\n" in done.output


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
        drawn = helpers.lines(done.panels[title])
        assert_allclose(drawn["function"], [x, function], atol=1e-5)
        assert_allclose(drawn["derivative"], [x, derivative], atol=1e-5)
    assert_allclose(helpers.lines(done.panels["sigmoid"])["0.25"][1], 0.25)
