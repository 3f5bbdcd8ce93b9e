"""Lesson 06: activation functions, straight and curved boundaries, vanishing gradients."""

import pytest
import torch
from conftest import load_lesson
from torch import nn

lesson = load_lesson("06")


def test_both_options_are_one_network():
    x = torch.randn(20, 2)
    model1, model2 = lesson.NeuralNet1(2, 16), lesson.NeuralNet2(2, 16)
    assert not torch.equal(model1(x), model2(x))
    model2.load_state_dict(model1.state_dict())
    assert torch.equal(model1(x), model2(x))
    assert 0 < model1(x).min() and model1(x).max() < 1


def test_gradient_by_layer_with_no_activation_is_the_chain_rule():
    """Ten linear layers are one product of matrices; its gradient is known."""
    X, y = torch.randn(30, 2), torch.randint(2, (30, 1)).float()
    torch.manual_seed(0)
    found = lesson.gradient_by_layer(nn.Identity(), X.to(lesson.device), y.to(lesson.device))
    torch.manual_seed(0)
    layers = []
    for n_inputs in [2] + 8 * [64]:
        layers.append(nn.Linear(n_inputs, 64))
        nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="relu")
    layers.append(nn.Linear(64, 1))
    out = X
    for layer in layers[:-1]:
        out = layer(out)
    error = torch.sigmoid(layers[-1](out)) - y  # d loss / d logit, times the number of samples
    assert len(found) == 10
    assert found[-1] == pytest.approx((error * out).mean(dim=0).abs().mean().item(), rel=1e-4)


def test_metrics_at_the_defaults(tmp_path):
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    assert metrics["max_error"] < 1e-6
    assert metrics["accuracy_relu"] >= 0.97
    assert metrics["accuracy_relu"] >= metrics["accuracy_identity"] + 0.07
    assert metrics["accuracy_tanh"] >= metrics["accuracy_identity"] + 0.07
    assert metrics["gradient_relu"] >= 100 * metrics["gradient_sigmoid"] > 0
    assert metrics["gradient_tanh"] >= 100 * metrics["gradient_sigmoid"]
