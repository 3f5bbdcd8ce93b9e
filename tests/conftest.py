"""What the tests share: Agg, a network guard, a fake network, spies, and the lessons by number."""

import importlib
import io
import socket
from http.client import HTTPMessage
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

matplotlib.use("Agg")
matplotlib.rcParams["savefig.dpi"] = 20  # small figures are drawn faster
torch.set_num_threads(1)  # more threads gain nothing on tiny tensors

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in ROOT.glob("[0-9][0-9]_*.py"))


def load_lesson(number: str) -> ModuleType:
    """Import a lesson by its number: `import 01_...` would not be valid Python."""
    (name,) = (name for name in LESSONS if name.startswith(number))
    return importlib.import_module(name)


def tiny_args(lesson: ModuleType, folder: Path) -> list[str]:
    """Return arguments that keep a lesson small, offline, and confined to one folder."""
    small = {"epochs": 1, "limit": 40, "dataset": "digits", "log_dir": folder / "runs"}
    small["output_dir"] = folder / "outputs"
    flags = vars(lesson.parse_args([]))
    if "predict" in flags:
        small["limit"] = 8  # a ResNet-18 is slow
    return [f"--{name.replace('_', '-')}={small[name]}" for name in small if name in flags]


def one_line(stop: pytest.ExceptionInfo) -> str:
    """Return the message of a `sys.exit(message)`, which Python prints before it exits with 1."""
    message = stop.value.code
    assert isinstance(message, str) and "\n" not in message
    return message


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail the test if anything leaves this machine, even if the failure is caught."""
    used = []
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def check(host):
        if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"):
            used.append(host)
            raise OSError(f"a test tried to use the network: {host}")

    def guarded_getaddrinfo(host, *args, **kwargs):
        check(host)
        return getaddrinfo(host, *args, **kwargs)

    def guarded_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            check(address[0])
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    timeout = socket.getdefaulttimeout()
    yield
    socket.setdefaulttimeout(timeout)  # lessons 07-09 set it
    plt.close("all")
    assert not used, f"the network was used: {used}"


class FakeWeb:
    """A fake network: a test adds `pages` by their address, and reads what was `asked`."""

    def __init__(self):
        self.pages, self.asked = {}, []

    def urlopen(self, request, *args, **kwargs):
        url = getattr(request, "full_url", request)
        self.asked.append(url)
        if url not in self.pages:
            raise URLError("no network in this test")
        answer = io.BytesIO(self.pages[url])
        answer.url, answer.length, answer.headers = url, len(self.pages[url]), HTTPMessage()
        answer.info = lambda: answer.headers
        return answer


@pytest.fixture
def fake_web(monkeypatch):
    """Put a fake network in place of the real one."""
    web = FakeWeb()
    monkeypatch.setattr("urllib.request.urlopen", web.urlopen)
    monkeypatch.setattr("torch.hub.urlopen", web.urlopen)
    return web


@pytest.fixture
def spy_on(monkeypatch):
    """Return a function that puts a subclass in a class's place, and returns its instances."""

    def spy(module, name):
        instances = []

        class Spy(getattr(module, name)):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                instances.append(self)

        monkeypatch.setattr(module, name, Spy)
        return instances

    return spy
