"""What the tests share: the lessons by number, tiny arguments, a network guard, and spies."""

import contextlib
import importlib
import socket
from pathlib import Path
from types import ModuleType
from unittest import mock

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure

matplotlib.use("Agg")
matplotlib.rcParams["savefig.dpi"] = 20  # small figures are drawn faster
torch.set_num_threads(1)  # more threads gain nothing on tiny tensors
torch.backends.cudnn.allow_tf32 = False  # so that a GPU's numbers are close to the CPU's

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in ROOT.glob("[0-9][0-9]_*.py"))


def load_lesson(number: str) -> ModuleType:
    """Import a lesson by its number: `import 01_...` would not be valid Python."""
    (name,) = (name for name in LESSONS if name.startswith(number))
    return importlib.import_module(name)


def run(lesson: ModuleType, folder: Path, *arguments: str, draw: bool = False) -> dict:
    """Run a lesson on a tiny subset, offline, and confined to a folder; return its metrics."""
    small = {"epochs": 1, "limit": 40, "dataset": "digits"}
    small |= {f"{name}_dir": folder / name for name in ("data", "log", "output")}
    flags = vars(lesson.parse_args([]))
    if "predict" in flags:
        small["limit"] = 9  # a ResNet-18 is slow; a last batch of one image remains
    tiny = [f"--{name.replace('_', '-')}={small[name]}" for name in small if name in flags]
    with contextlib.nullcontext() if draw else mock.patch.object(Figure, "savefig"):
        return lesson.main([*tiny, *arguments])


def spy(owner: type | ModuleType, function: str):
    """Record the calls of a function, which are still made, while in the `with` block."""
    real = getattr(owner, function)
    return mock.patch.object(owner, function, autospec=True, side_effect=real)


def one_line(stop: pytest.ExceptionInfo) -> str:
    """Return the message of a `sys.exit(message)`, which Python prints before it exits with 1."""
    message = stop.value.code
    assert isinstance(message, str) and "\n" not in message
    return message


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """Block the network; yield the hosts looked up. A test that expects some clears the list."""
    asked, getaddrinfo = [], socket.getaddrinfo

    def guarded_getaddrinfo(host, *args, **kwargs):
        if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"):
            asked.append(host)
            raise socket.gaierror(f"a test tried to use the network: {host}")
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
    monkeypatch.setenv("no_proxy", "*")  # otherwise, a proxy would be asked
    yield asked
    plt.close("all")
    assert not asked, f"the network was used: {asked}"
