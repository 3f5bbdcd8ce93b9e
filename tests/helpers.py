"""What the tests share: the lessons by number, quick runs, and means to look into a run."""

import contextlib
import functools
import importlib
import io
import itertools
import re
from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace
from unittest import mock
from unittest.mock import DEFAULT

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in ROOT.glob("[0-9][0-9]_*.py"))


def load_lesson(number):
    """Import a lesson by its number or name: `import 01_...` would not be valid Python."""
    (name,) = (name for name in LESSONS if name.startswith(number))
    return importlib.import_module(name)


def run(lesson, *arguments, draw=False):
    """Run `main`, on digits if it asks; return its metrics, its output, and the axes it drew.

    Also the trainings, one for each optimizer: the vector of all parameters before the first step
    (start) and after the last (end), the learning rate of each step (rates), and the DataLoader
    that was iterated last. Figures are saved only with `draw`, as this takes long.
    """
    trainings = {}

    def parameters(optimizer):
        groups = optimizer.param_groups
        return parameters_to_vector(p for group in groups for p in group["params"]).detach().cpu()

    def before_step(optimizer, args, kwargs):
        if optimizer not in trainings:
            trainings[optimizer] = SimpleNamespace(start=parameters(optimizer), rates=[])
        trainings[optimizer].rates.append(optimizer.param_groups[0]["lr"])
        trainings[optimizer].loader = iterations.call_args and iterations.call_args.args[0]

    offline = ["--dataset=digits"] if "--dataset" in flags(lesson) else []
    with contextlib.ExitStack() as stack:
        stack.callback(register_optimizer_step_pre_hook(before_step).remove)
        output = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        iterations = stack.enter_context(spy(DataLoader, "__iter__"))
        zero_grad = stack.enter_context(spy(Optimizer, "zero_grad"))
        if not draw:
            stack.enter_context(mock.patch.multiple(Figure, savefig=DEFAULT, tight_layout=DEFAULT))
        metrics = lesson.main([*offline, *arguments])
    for optimizer, training in trainings.items():
        training.end = parameters(optimizer)
    return SimpleNamespace(
        metrics=metrics,
        output=output.getvalue(),
        axes=plt.gcf().axes,
        trainings=list(trainings.values()),
        n_zero_grads=zero_grad.call_count,
    )


run_once = functools.cache(run)  # for tests that look at the same run, but not at its files


def descend(loss, start, rates, *arguments):
    """Return the parameters before each step of gradient descent, and after the last."""
    steps = [start.double()]
    for lr in rates:
        parameters = steps[-1].clone().requires_grad_()
        loss(parameters, *arguments).backward()
        steps.append(parameters.detach() - lr * parameters.grad)
    return steps


def spy(owner, function):
    """Record the calls of a function, which are still made, while in the `with` block."""
    real = getattr(owner, function)
    return mock.patch.object(owner, function, autospec=True, side_effect=real)


def flags(lesson):
    """Return the flags of a lesson, each with the settings that `add_argument` was given."""
    with spy(ArgumentParser, "add_argument") as add_argument:
        lesson.parse_args([])
    return {call.args[1]: call.kwargs for call in add_argument.call_args_list}


def least_limit(lesson):
    """Return the least `--limit` that a lesson accepts."""
    for limit in itertools.count(1):
        with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            return lesson.parse_args([f"--limit={limit}"]).limit


def numbers(output, start):
    """Return the numbers that follow this start of a line, in the one line that has it."""
    (line,) = (line for line in output.splitlines() if line.startswith(start))
    return [float(n) for n in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", line.removeprefix(start))]


def one_line(stop):
    """Return the message of a `sys.exit(message)`, which Python prints before it exits with 1."""
    message = stop.value.code
    assert isinstance(message, str) and "\n" not in message
    return message


def refusal(lesson, *arguments):
    """Return the one line with which a run exits."""
    with pytest.raises(SystemExit) as stop:
        run(lesson, *arguments)
    return one_line(stop)


def in_order(dataset, batch_size, **settings):
    """Return a DataLoader that does not shuffle, to be used instead of one that may."""
    return DataLoader(dataset, batch_size)


def retrace(training, network, optimizer, batches):
    """Take the steps of a training with another network; yield loss and outputs of each."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parameters = optimizer.param_groups[0]["params"]
    vector_to_parameters(training.start.clone(), parameters)  # which become views of it
    network.to(device)
    for lr, (inputs, labels) in zip(training.rates, itertools.cycle(batches)):
        optimizer.param_groups[0]["lr"] = lr
        outputs = network(inputs.to(device))
        loss = cross_entropy(outputs, labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item(), outputs.detach().cpu()


def tiles(ax, size):
    """Return the images, of size x size pixels, in the grid by `make_grid` that `ax` shows."""
    grid, step = ax.images[0].get_array(), size + 2
    rows, columns = (range(2, length, step) for length in grid.shape[:2])
    return [grid[row : row + size, column : column + size] for row in rows for column in columns]
