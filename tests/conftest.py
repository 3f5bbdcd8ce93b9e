"""What the tests share: Agg, a network guard, a fake web, and the lessons by their numbers."""

import importlib
import io
import os
import socket
import subprocess
import sys
from http.client import HTTPMessage
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

matplotlib.use("Agg")
matplotlib.rcParams["savefig.dpi"] = 30  # small figures are drawn faster
torch.set_num_threads(1)  # more threads gain nothing on tiny tensors

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in ROOT.glob("[0-9][0-9]_*.py"))


def load_lesson(number: str) -> ModuleType:
    """Import a lesson by its number: `import 01_...` would not be valid Python."""
    (name,) = (name for name in LESSONS if name.startswith(number))
    return importlib.import_module(name)


def tiny_args(lesson: ModuleType, folder: Path) -> list[str]:
    """Return arguments that make a lesson small, offline, and write into one folder."""
    small = {"epochs": 1, "limit": 40, "dataset": "digits", "log_dir": folder / "runs"}
    small["output_dir"] = folder / "outputs"
    flags = vars(lesson.parse_args([]))
    return [f"--{name.replace('_', '-')}={small[name]}" for name in small if name in flags]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail the test if anything looks up a host or connects to one, even if that is caught."""
    used = []
    connect = socket.socket.connect

    def refuse(*args, **kwargs):
        used.append(args)
        raise OSError(f"a test tried to use the network: {args}")

    def connect_locally(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse(address)
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", connect_locally)
    timeout = socket.getdefaulttimeout()
    yield
    socket.setdefaulttimeout(timeout)  # lessons 07-09 set it
    plt.close("all")  # of a test that failed
    assert not used, f"the network was used: {used}"


@pytest.fixture
def fake_web(monkeypatch):
    """Put an empty web in place of the real one; a test adds pages, as bytes by their address."""
    pages = {}

    class Answer(io.BytesIO):
        def __init__(self, url):
            super().__init__(pages[url])
            self.url, self.length, self.headers = url, len(pages[url]), HTTPMessage()

        def info(self):
            return self.headers

    def urlopen(request, *args, **kwargs):
        url = getattr(request, "full_url", request)
        if url not in pages:
            raise URLError("no network in this test")
        return Answer(url)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    return pages


def one_line(stop: pytest.ExceptionInfo) -> str:
    """Return the message of a `sys.exit(message)`, which Python prints before it exits with 1."""
    message = stop.value.code
    assert isinstance(message, str) and "\n" not in message
    return message


@pytest.fixture(scope="session", autouse=True)
def script(request, tmp_path_factory):
    """Run lesson 03 with a worker, as a script, beside the other tests; give process and folder."""
    if not any(item.name.startswith("test_runs_as_a_script") for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("script") / "leçon one"
    folder.mkdir()
    command = [sys.executable, "-W", "error", str(ROOT / "03_dataset_dataloader.py")]
    environment = {"MPLBACKEND": "Agg", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--epochs", "1", "--num-workers", "1"],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        yield process, folder
