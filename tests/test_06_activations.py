"""Lesson 06: activation functions, linear and curved boundaries, vanishing gradients."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import make_moons
from torch import nn

lesson = load_lesson("06")


def test_both_options_are_one_network():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    model1, model2 = lesson.NeuralNet1(2, 16), lesson.NeuralNet2(2, 16)
    model2.load_state_dict(model1.state_dict())
    hidden = (x @ model1.linear1.weight.T + model1.linear1.bias).clip(min=0)
    expected = torch.sigmoid(hidden @ model1.linear2.weight.T + model1.linear2.bias)
    torch.testing.assert_close(model1(x), expected)
    torch.testing.assert_close(model2(x), expected)


def test_gradient_by_layer_without_activation_is_the_chain_rule():
    """Ten linear layers are one product of matrices; its gradient is known."""
    torch.manual_seed(0)
    X, y = torch.randn(30, 2), torch.randint(2, (30, 1)).float()
    torch.manual_seed(1)
    found = lesson.gradient_by_layer(nn.Identity(), X.to(lesson.device), y.to(lesson.device))
    torch.manual_seed(1)
    layers = [nn.Linear(2, 64)]
    nn.init.kaiming_normal_(layers[0].weight, nonlinearity="relu")
    for _ in range(8):
        layers.append(nn.Linear(64, 64))
        nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="relu")
    layers.append(nn.Linear(64, 1))
    outputs = [X]
    for layer in layers:
        outputs.append(layer(outputs[-1]))
    error = (torch.sigmoid(outputs[-1]) - y) / 30  # d loss / d output of the last layer
    for i in range(9, -1, -1):
        assert found[i] == pytest.approx((error.T @ outputs[i]).abs().mean().item(), rel=1e-3)
        error = error @ layers[i].weight


def test_metrics_and_figure_at_the_defaults(tmp_path, spy_on, capsys):
    models = spy_on(lesson, "NeuralNet1")
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    assert metrics["max_error"] < 1e-6
    assert metrics["gradient_relu"] >= 100 * metrics["gradient_sigmoid"] > 0
    X, y = make_moons(n_samples=1000, noise=0.15, random_state=0)
    X, y = torch.from_numpy(X[500:]).float(), y[500:]
    for model, name in zip(models, ("identity", "relu")):
        accuracy = ((model.cpu()(X)[:, 0] > 0.5).numpy() == y).mean()
        assert metrics[f"accuracy_{name}"] == pytest.approx(accuracy)
    assert metrics["accuracy_relu"] >= max(0.97, metrics["accuracy_identity"] + 0.07)

    axes = plt.gcf().axes
    z = axes[0].lines[0].get_xdata()
    sigmoid, step = 1 / (1 + np.exp(-z)), np.where(z > 0, 1, 0)
    derivatives = sigmoid * (1 - sigmoid), 1 - np.tanh(z) ** 2, step, np.where(z > 0, 1, 0.1)
    for ax, derivative in zip(axes, derivatives):
        np.testing.assert_allclose(ax.lines[1].get_ydata(), derivative, atol=1e-5)
    np.testing.assert_array_equal(axes[4].lines[0].get_ydata(), step)
    first_layer = [line.get_ydata()[0] for line in axes[7].lines]
    assert first_layer == [metrics["gradient_sigmoid"], metrics["gradient_relu"]]
    out = capsys.readouterr().out
    pairs = "softmax Softmax", "sigmoid Sigmoid", "tanh Tanh", "relu ReLU", "leaky_relu LeakyReLU"
    for names in pairs:
        lines = [out.partition(f".{name}:")[2].partition("\n")[0] for name in names.split()]
        assert lines[0].strip() == lines[1].strip() != ""
