"""What the tests share: the lessons by number, runs of them, and networks to compare with."""

import contextlib
import copy
import functools
import importlib
import io
import re
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import pytest
import torch
import update
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import SGD
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in ROOT.glob("[0-9][0-9]_*.py"))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load_lesson(number):
    """Import a lesson by its number or name: `import 01_...` would not be valid Python."""
    (name,) = (name for name in LESSONS if name.startswith(number))
    return importlib.import_module(name)


def spy(owner, name):
    """Record the calls of a function, which are still made; `args[0]` of a method is its self."""
    return mock.patch.object(owner, name, autospec=True, side_effect=getattr(owner, name))


def run(lesson, *arguments, in_order=False, save_figure=False):
    """Run `main`, without shuffling if `in_order`; return metrics, output, the axes drawn, and

    - loaders: the DataLoaders, in the order in which they were first iterated,
    - trainings: for each optimizer, the vector of all parameters before the first step (start) and
      after the last (end), the learning rate of each step (rates), and the DataLoader (loader).

    The figure is only saved if the test needs it, as this takes long.
    """
    trainings = {}

    def before_step(optimizer, args, kwargs):
        if optimizer not in trainings:
            start = parameters(optimizer.param_groups[0]["params"])
            trainings[optimizer] = SimpleNamespace(start=start, rates=[], loader=None)
        trainings[optimizer].rates.append(optimizer.param_groups[0]["lr"])
        if iterate.called:
            trainings[optimizer].loader = iterate.call_args.args[0]

    def after_step(optimizer, args, kwargs):
        trainings[optimizer].end = parameters(optimizer.param_groups[0]["params"])

    def loader_in_order(*args, shuffle, **settings):
        return DataLoader(*args, **settings)

    no_saving = mock.patch.multiple(Figure, savefig=mock.DEFAULT, tight_layout=mock.DEFAULT)
    with (
        contextlib.nullcontext() if save_figure else no_saving,
        register_optimizer_step_pre_hook(before_step),
        register_optimizer_step_post_hook(after_step),
        contextlib.redirect_stdout(io.StringIO()) as output,
        spy(DataLoader, "__iter__") as iterate,
        mock.patch.dict(vars(lesson), {"DataLoader": loader_in_order} if in_order else {}),
    ):
        metrics = lesson.main(arguments)
    loaders = list(dict.fromkeys(call.args[0] for call in iterate.call_args_list))
    return SimpleNamespace(
        metrics=metrics,
        output=output.getvalue(),
        axes=plt.gcf().axes,
        loaders=loaders,
        trainings=list(trainings.values()),
    )


run_once = functools.cache(run)  # for several tests; the files are in the folder of the first


def parameters(tensors):
    """Return all parameters as one vector on the CPU."""
    return parameters_to_vector(tensors).detach().cpu()


def check_training(training, rates, network, criterion, batches, X=None, optim=SGD, **settings):
    """Check that this network, trained alike, ends with the parameters of the lesson's network.

    It starts with the same parameters, and is trained at these rates, one for each step, on the
    batches in turn. Return the loss and the outputs of each step, and the outputs for `X`, in
    eval mode, after each epoch.
    """
    assert training.rates == pytest.approx(rates)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    vector_to_parameters(training.start.clone(), trained)  # which become views of the vector
    optimizer = optim(network.to(DEVICE).parameters(), **settings)
    losses, outputs, test_outputs = [], [], []
    for first in range(0, len(rates), len(batches)):
        for rate, (inputs, labels) in zip(rates[first:], batches):
            optimizer.param_groups[0]["lr"] = rate
            outputs.append(network(inputs.to(DEVICE)))
            loss = criterion(outputs[-1], labels.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if X is not None:
            test_outputs.append(copy.deepcopy(network).eval()(X.to(DEVICE)).detach().cpu())
    torch.testing.assert_close(parameters(trained), training.end, rtol=1e-4, atol=1e-5)
    return losses, [output.detach().cpu() for output in outputs], test_outputs


def digits(size=8):
    """Return X_train, X_test, y_train, y_test of scikit-learn's digits. X: (N, 1, size, size)."""
    X, y = map(torch.from_numpy, load_digits(return_X_y=True))
    X = nn.functional.interpolate(X.view(-1, 1, 8, 8) / 16, size=size, mode="bilinear").float()
    return train_test_split(X, y, random_state=0)


class SmallResNet(nn.Sequential):
    """Stands in for ResNet-18, which takes long. Its last layer is `fc`, too."""

    def __init__(self, weights=None, num_classes=1000):
        layers = nn.Conv2d(3, 8, 7, stride=4), nn.BatchNorm2d(8), nn.ReLU()
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc = nn.Linear(32, num_classes)
        if weights:
            self.load_state_dict(weights.get_state_dict())


def check_print(output, start, expected, end="\n"):
    """Check the numbers between `start`, with which a line must start, and `end`.

    Each must be right to its last digit, or to a thousandth if it has a decimal point. Digits in
    words count, too: "a: 1 of v2" has 1 and 2.
    """
    _, found, rest = f"\n{output}\n".partition(f"\n{start}")
    printed = re.findall(r"-?\d+\.?\d*(?:e[-+]?\d+)?", rest.partition(end)[0])
    assert found and len(printed) == len(expected), f"{start!r} is followed by {printed}"
    for text, value in zip(printed, expected):
        text = re.sub(r"\.$", ".0000", text)  # a tensor prints 1.0000 as 1.
        last_digit = 10.0 ** Decimal(text).as_tuple().exponent
        rel = 1e-3 if "." in text else 0
        assert float(text) == pytest.approx(float(value), rel=rel, abs=0.6 * last_digit), start


def check_result(done, **expected):
    """Check these accuracies in the metrics and, in this order, in the result that is printed."""
    assert {name: done.metrics[name] for name in expected} == pytest.approx(expected)
    result, _ = update.read_result(done.output)
    percentages = [float(percentage) for percentage in re.findall(r"(\S+)%", result)]
    assert percentages == pytest.approx([100 * value for value in expected.values()], abs=0.06)


def refusal(lesson, *arguments):
    """Return the message of `sys.exit(message)`, with which a run ends. It must be one line."""
    with pytest.raises(SystemExit) as stop:
        lesson.main(arguments)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


def curves(ax):
    """Return x and y of each line that `ax` shows, (2, N)."""
    return [line.get_xydata().T for line in ax.lines]
