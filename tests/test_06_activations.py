"""Lesson 06: activation functions, linear and curved boundaries, vanishing gradients."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import load_lesson, spy
from sklearn.datasets import make_moons

lesson = load_lesson("06")


def test_both_options_are_one_network():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    model1, model2 = lesson.NeuralNet1(2, 16), lesson.NeuralNet2(2, 16)
    model2.load_state_dict(model1.state_dict())
    hidden = (x @ model1.linear1.weight.T + model1.linear1.bias).clip(min=0)
    expected = torch.sigmoid(hidden @ model1.linear2.weight.T + model1.linear2.bias)
    torch.testing.assert_close(model1(x), expected)
    torch.testing.assert_close(model2(x), expected)


def test_metrics_and_figure_at_the_defaults(tmp_path, capsys):
    with spy(lesson.NeuralNet1, "__init__") as init:
        metrics = lesson.main(["--output-dir", str(tmp_path)])
    assert metrics["max_error"] < 1e-6
    assert metrics["gradient_relu"] > max(1e-3, 100 * metrics["gradient_sigmoid"])
    X, y = make_moons(n_samples=1000, noise=0.15, random_state=0)
    X, y = torch.from_numpy(X[500:]).float(), y[500:]
    for call, name in zip(init.mock_calls, ("identity", "relu")):
        accuracy = ((call.args[0].cpu()(X)[:, 0] > 0.5).numpy() == y).mean()
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
    out = capsys.readouterr().out.replace("leaky_relu", "leakyrelu")
    for module in ("Softmax", "Sigmoid", "Tanh", "ReLU", "LeakyReLU"):  # the same as its function
        function = out.partition(f".{module.lower()}:")[2].splitlines()[0]
        assert function.split() == out.partition(f".{module}:")[2].splitlines()[0].split()
