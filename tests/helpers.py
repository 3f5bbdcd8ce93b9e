"""What the tests share. There is an example in docs/CONTRIBUTING.md."""

import contextlib
import importlib
import io
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
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


def run(lesson, *flags, save_figure=False):
    """Run `main`; return its metrics, output, result (the line before "Figure:"), axes, panels."""
    plt.close("all")  # the figures of earlier runs
    # Layout and saving take long. Few tests need the file.
    no_file = mock.patch.multiple(Figure, savefig=mock.DEFAULT, tight_layout=mock.DEFAULT)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        with contextlib.nullcontext() if save_figure else no_file:
            metrics = lesson.main(flags)
    done = SimpleNamespace(metrics=metrics, output=output.getvalue(), axes=plt.gcf().axes)
    done.panels = {ax.get_title(): ax for ax in done.axes if ax.get_title()}  # axes by title
    done.result = done.output.partition("\nFigure:")[0].splitlines()[-1]
    return done


@contextlib.contextmanager
def record_training():
    """Yield a list that gets start, end, and rates for each optimizer that makes a step.

    start and end are vectors of all its parameters, rates the learning rates of its steps.
    """
    trainings = []

    def before_step(optimizer, args, kwargs):
        (group,) = optimizer.param_groups
        if not hasattr(optimizer, "training"):
            optimizer.training = SimpleNamespace(start=to_vector(group["params"]), rates=[])
            trainings.append(optimizer.training)
        optimizer.training.rates.append(group["lr"])

    def after_step(optimizer, args, kwargs):
        optimizer.training.end = to_vector(optimizer.param_groups[0]["params"])

    with hooks.register_optimizer_step_pre_hook(before_step):  # for all optimizers
        with hooks.register_optimizer_step_post_hook(after_step):
            yield trainings


def to_vector(parameters):
    return parameters_to_vector(parameters).detach().cpu()


def check_training(training, network, criterion, batches, optim=SGD, X=None, **settings):
    """Train `network` from the same start, at the same rates; check that it ends the same.

    It sees all batches in each epoch. `training` gets the loss of each step, and the outputs for X
    after each epoch. Afterwards, `network` is trained, on the CPU, and in eval mode.
    """
    vector_to_parameters(training.start.clone(), network.parameters())  # training changes the clone
    network.to(DEVICE)
    optimizer = optim(network.parameters(), **settings)
    training.losses, training.outputs = [], []
    n_epochs, rest = divmod(len(training.rates), len(batches))
    assert rest == 0
    for epoch in range(n_epochs):
        network.train()
        for inputs, labels in batches:
            optimizer.param_groups[0]["lr"] = training.rates[len(training.losses)]
            loss = criterion(network(inputs.to(DEVICE)), labels.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training.losses.append(loss.item())
        network.eval()
        if X is not None:
            training.outputs.append(network(X.to(DEVICE)).detach().cpu())
    end = to_vector(network.cpu().parameters())
    torch.testing.assert_close(end, training.end, rtol=1e-4, atol=1e-5)


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
    return {line.get_label(): line.get_xydata().T for line in ax.lines}


def refusal(lesson, *flags):
    """Return the message of `sys.exit(message)`, with which a run ends. It must be one line."""
    with pytest.raises(SystemExit) as stop:
        lesson.main(flags)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code
