"""Lesson 06: activations by formula, straight and bent lines, and gradients that vanish."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn


@pytest.fixture(scope="module")
def lesson06(lesson):
    return lesson("06_")


def test_formulas_are_the_library_s(lesson06):
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)  # 0 is among them
    assert list(lesson06.BY_FORMULA) == list(lesson06.IN_TORCH) and len(lesson06.BY_FORMULA) == 8
    for name, function in lesson06.BY_FORMULA.items():
        torch.testing.assert_close(function(z), lesson06.IN_TORCH[name](z), msg=name)


def test_values_at_one(lesson06):
    e = math.e
    expected = {
        "step": 1,
        "sigmoid": e / (1 + e),
        "tanh": math.tanh(1),
        "ReLU": 1,
        "leaky ReLU": 1,
        "softmax": e / (e + 2),
        "GELU": 0.8413447460685429,  # the normal distribution below 1
        "SiLU": e / (1 + e),
    }
    one = torch.tensor([1.0], dtype=torch.float64)
    assert {k: f(one).item() for k, f in lesson06.BY_FORMULA.items()} == pytest.approx(expected)


def test_derivatives_are_slopes(lesson06):
    z = torch.tensor([-2.0, -0.3, 0.4, 3.0], dtype=torch.float64)
    for name, function in lesson06.BY_FORMULA.items():
        slopes = (function(z + 1e-6) - function(z - 1e-6)) / 2e-6
        found = lesson06.derivative(function, z)
        torch.testing.assert_close(found, slopes, rtol=1e-6, atol=1e-8, msg=name)
    assert lesson06.derivative(torch.sigmoid, torch.zeros(1)).item() == 0.25


def test_both_spellings_are_one_network(lesson06):
    X = torch.randn(20, 2)
    module_net, function_net = lesson06.ModuleNet(nn.ReLU()), lesson06.FunctionNet()
    assert not torch.equal(module_net(X), function_net(X))
    function_net.load_state_dict(module_net.state_dict())
    assert torch.equal(module_net(X), function_net(X))


def test_without_activation_the_network_is_linear(lesson06):
    a, b, origin = torch.randn(50, 2), torch.randn(50, 2), torch.zeros(50, 2)
    for activation, linear in ((nn.Identity(), True), (nn.ReLU(), False)):
        model = lesson06.ModuleNet(activation)
        bend = model(a + b) - model(a) - model(b) + model(origin)
        assert (bend.abs().max().item() < 1e-5) == linear


def test_no_activation_is_logistic_regression(lesson06):
    X_train, y_train, X_test, y_test = lesson06.load_data(None)
    torch.manual_seed(0)
    model = lesson06.ModuleNet(nn.Identity()).to(lesson06.DEVICE)
    lesson06.train(model, X_train, y_train, lr=0.02, epochs=300)
    reference = LogisticRegression(C=np.inf).fit(X_train.cpu(), y_train.cpu())
    expected = reference.score(X_test.cpu(), y_test.cpu())
    assert lesson06.evaluate(model, X_test, y_test) == pytest.approx(expected, abs=0.01)


def test_gradients_are_autograd_s_of_the_first_and_last_layer(lesson06):
    """With no activation and one layer, the gradient is known in closed form."""
    X, y, _, _ = lesson06.load_data(40)
    torch.manual_seed(0)
    (size,) = lesson06.gradient_by_layer(nn.Identity(), X, y, depth=1)
    torch.manual_seed(0)
    linear = nn.Linear(2, 1)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    error = torch.sigmoid(X.cpu() @ linear.weight[0]) - y.cpu()
    assert size == pytest.approx((error[:, None] * X.cpu()).mean(dim=0).abs().mean().item())


@pytest.mark.parametrize("seed", ["0", "1"])
def test_metrics_at_the_defaults(lesson06, tmp_path, seed):
    metrics = lesson06.main(["--output-dir", str(tmp_path), "--seed", seed])
    assert metrics["max_error"] < 1e-6
    assert metrics["form_difference"] == 0
    assert metrics["accuracy_relu"] >= 0.97
    assert metrics["accuracy_relu"] >= metrics["accuracy_identity"] + 0.07
    assert metrics["accuracy_tanh"] >= 0.97
    assert metrics["accuracy_sigmoid"] >= metrics["accuracy_identity"]
    assert {f"accuracy_{name}" for name in ("leaky_relu", "gelu", "silu")} < set(metrics)
    assert (metrics["n_train"], metrics["n_test"]) == (500, 500)
    assert metrics["gradient_relu"] >= 100 * metrics["gradient_sigmoid"] > 0
