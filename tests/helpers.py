"""What the tests share. There is an example in docs/CONTRIBUTING.md."""

import contextlib
import importlib
import io
import itertools
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch.nn.utils import parameters_to_vector, vector_to_parameters
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


def run(lesson, *flags, save_figure=False):
    """Run `main`; return its metrics, output, result (the line before "Figure:"), and axes.

    `panels` has the axes that have a title, by title.
    """
    # Saving the figure takes long. Few tests need the file.
    no_file = mock.patch.multiple(Figure, savefig=mock.DEFAULT, tight_layout=mock.DEFAULT)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        with contextlib.nullcontext() if save_figure else no_file:
            metrics = lesson.main(flags)
    done = SimpleNamespace(metrics=metrics, output=output.getvalue(), axes=plt.gcf().axes)
    done.panels = {ax.get_title(): ax for ax in done.axes if ax.get_title()}
    done.result = done.output.partition("\nFigure:")[0].splitlines()[-1]
    return done


@contextlib.contextmanager
def record_training():
    """Yield a list that gets start, end, and rates for each optimizer that makes steps.

    start and end are vectors of all trained parameters, before the first step and after the last;
    rates are the learning rates of the steps.
    """
    recorded, by_optimizer = [], {}

    def before_step(optimizer, args, kwargs):
        (group,) = optimizer.param_groups
        if optimizer not in by_optimizer:
            by_optimizer[optimizer] = SimpleNamespace(start=to_vector(group["params"]), rates=[])
            recorded.append(by_optimizer[optimizer])
        by_optimizer[optimizer].rates.append(group["lr"])

    def after_step(optimizer, args, kwargs):
        by_optimizer[optimizer].end = to_vector(optimizer.param_groups[0]["params"])

    before = register_optimizer_step_pre_hook(before_step)
    after = register_optimizer_step_post_hook(after_step)
    yield recorded
    before.remove()
    after.remove()


def to_vector(parameters):
    return parameters_to_vector(parameters).detach().cpu()


def check_training(training, network, criterion, batches, optim=torch.optim.SGD, **settings):
    """Train `network` from the same start, at the same rates; check that it ends the same.

    It sees the batches in turn, again and again. Return the loss of each step. Afterwards, the
    network is trained, on the CPU, and in eval mode.
    """
    network.to(DEVICE).train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    vector_to_parameters(training.start.clone().to(DEVICE), trained)  # these share its memory
    optimizer = optim(trained, **settings)
    losses = []
    for rate, (inputs, labels) in zip(training.rates, itertools.cycle(batches)):
        optimizer.param_groups[0]["lr"] = rate
        loss = criterion(network(inputs.to(DEVICE)), labels.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(to_vector(trained), training.end, rtol=1e-4, atol=1e-5)
    network.cpu().eval()
    return losses


@contextlib.contextmanager
def batches_in_order(lesson):
    """Let the lesson's loaders keep the order of samples; yield a list that gets the loaders.

    Their attribute `shuffle` tells whether the lesson asked for a random order.
    """
    loaders = []

    def make_loader(*args, shuffle=False, **settings):
        loaders.append(DataLoader(*args, **settings))
        loaders[-1].shuffle = shuffle
        return loaders[-1]

    with mock.patch.object(lesson, "DataLoader", make_loader):
        yield loaders


def few_digits(lesson, n):
    """Let the lesson load only the first `n` of scikit-learn's digits."""
    X, y = load_digits(return_X_y=True)
    return mock.patch.object(lesson, "load_digits", lambda return_X_y: (X[:n], y[:n]))


def accuracy(outputs, labels):
    return (outputs.argmax(dim=1) == labels).double().mean().item()


def lines(ax):
    """Return the points (2, N) of each line that `ax` shows, by the line's label."""
    return {line.get_label(): np.asarray(line.get_xydata(), float).T for line in ax.lines}


def check_result(done, name, value):
    """Check a metric, and that the result, the line before "Figure:", has it as a percentage."""
    assert done.metrics[name] == pytest.approx(value)
    assert f"{value:.1%}" in done.result


def refusal(lesson, *flags):
    """Return the message of `sys.exit(message)`, with which a run ends. It must be one line."""
    with pytest.raises(SystemExit) as stop:
        lesson.main(flags)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code
