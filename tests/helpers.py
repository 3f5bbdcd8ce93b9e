"""What the tests share: the lessons by number, runs of them, and networks to compare with."""

import contextlib
import copy
import functools
import importlib
import io
import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import SGD
from torch.optim import optimizer as hooks
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in ROOT.glob("[0-9][0-9]_*.py"))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load_lesson(number):
    """Import a lesson by its number or name: `import 01_...` would not be valid Python."""
    (name,) = (name for name in LESSONS if name.startswith(number))
    return importlib.import_module(name)


def spy(owner, function):
    """Record the calls of a function, which are still made, while in the `with` block."""
    real = getattr(owner, function)
    return mock.patch.object(owner, function, autospec=True, side_effect=real)


def run(lesson, *arguments, draw=False, in_order=False):
    """Run `main`; return its metrics, its output, and the axes that it drew.

    Also all DataLoaders that were iterated, and the trainings, one for each optimizer: the vector
    of all parameters before the first step (start) and after the last (end), the learning rate of
    each step (rates), and the DataLoader in use. Figures are saved only with `draw`, as this takes
    long. With `in_order`, nothing is shuffled.
    """
    trainings = {}

    def before_step(optimizer, args, kwargs):
        start = parameters(optimizer.param_groups[0]["params"])
        training = trainings.setdefault(optimizer, SimpleNamespace(start=start, rates=[]))
        training.rates.append(optimizer.param_groups[0]["lr"])
        training.loader = iterations.call_args and iterations.call_args.args[0]

    def after_step(optimizer, args, kwargs):
        trainings[optimizer].end = parameters(optimizer.param_groups[0]["params"])

    def loader_in_order(dataset, batch_size, shuffle, drop_last=False):
        return DataLoader(dataset, batch_size, drop_last=drop_last)

    with contextlib.ExitStack() as stack:
        stack.callback(hooks.register_optimizer_step_pre_hook(before_step).remove)
        stack.callback(hooks.register_optimizer_step_post_hook(after_step).remove)
        output = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        iterations = stack.enter_context(spy(DataLoader, "__iter__"))
        if in_order:
            stack.enter_context(mock.patch.object(lesson, "DataLoader", loader_in_order))
        if not draw:
            stack.enter_context(mock.patch.object(Figure, "savefig"))
            stack.enter_context(mock.patch.object(Figure, "tight_layout"))
        metrics = lesson.main(arguments)
    done = SimpleNamespace(metrics=metrics, output=output.getvalue(), axes=plt.gcf().axes)
    done.loaders = list(dict.fromkeys(call.args[0] for call in iterations.call_args_list))
    done.trainings = list(trainings.values())
    return done


run_once = functools.cache(run)  # for tests that look at the same run, but not at its files


def parameters(tensors):
    """Return all parameters as one vector on the CPU, a copy."""
    return parameters_to_vector(tensors).detach().cpu().clone()


def second(training, network, criterion, batches, X_test=None, every=1, optim=SGD, **settings):
    """Train a second network from the same start, at the same rates, on these batches in turn.

    Return the loss and the outputs of each step, and the outputs for `X_test` in eval mode before
    the first step and after `every`, 2 * every, ... Fails if the parameters end otherwise.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    vector_to_parameters(training.start.clone(), trained)
    optimizer = optim(network.to(DEVICE).parameters(), **settings)
    losses, outputs, tests = [], [], []
    for i, (inputs, labels) in enumerate(itertools.cycle(batches)):
        if X_test is not None and i % every == 0:
            tests.append(copy.deepcopy(network).eval()(X_test.to(DEVICE)).detach().cpu())
        if i == len(training.rates):
            break
        optimizer.param_groups[0]["lr"] = training.rates[i]
        outputs.append(network(inputs.to(DEVICE)))
        loss = criterion(outputs[-1], labels.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(parameters(trained), training.end, rtol=1e-4, atol=1e-5)
    return losses, [output.detach().cpu() for output in outputs], tests


def digits(size=8):
    """Return scikit-learn's digits, N x 1 x size x size, from 0 to 1: X_train, X_test, y_..."""
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


def numbers(output, start, end="\n"):
    """Return the numbers between `start`, with which a line must start, and `end`."""
    before, found, rest = f"\n{output}\n".partition(f"\n{start}")
    assert found, f"no line starts with {start!r}"
    return [float(n) for n in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", rest.partition(end)[0])]


def refusal(lesson, *arguments):
    """Return the one line with which a run exits: Python prints it, and exits with 1."""
    with pytest.raises(SystemExit) as stop:
        lesson.main(arguments)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


def tiles(ax, size):
    """Return the images, of size x size pixels, in the grid by `make_grid` that `ax` shows."""
    grid, step = ax.images[0].get_array(), size + 2
    rows, columns = (range(2, length, step) for length in grid.shape[:2])
    return [grid[row : row + size, column : column + size] for row in rows for column in columns]


def curves(ax):
    """Return x and y of each line that `ax` shows, (2, N)."""
    return [line.get_xydata().T for line in ax.lines]
