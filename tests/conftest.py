"""What all tests share: Agg, no network, and a way to load a lesson by its number."""

import importlib
import io
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)  # tiny tensors gain nothing from more, and scripts run beside the tests

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.name for path in ROOT.glob("[0-9][0-9]_*.py"))


def load_lesson(name: str) -> ModuleType:
    """Import a lesson by the start of its file name: `import 01_...` would be no valid Python."""
    (path,) = ROOT.glob(f"{name}*.py")
    return importlib.import_module(path.stem)


def tiny_args(lesson: ModuleType) -> list[str]:
    """Return arguments that make a lesson small: those of its flags that do."""
    flags = vars(lesson.parse_args([]))
    small = {"limit": "64", "epochs": "1", "dataset": "digits"}
    return [word for name in small if name in flags for word in (f"--{name}", small[name])]


def folder_args(lesson: ModuleType, folder: Path) -> list[str]:
    """Return arguments that make a lesson write nowhere but into a folder."""
    arguments = ["--output-dir", str(folder)]
    if "log_dir" in vars(lesson.parse_args([])):
        arguments += ["--log-dir", str(folder / "runs")]
    return arguments


@pytest.fixture(scope="session")
def lesson():
    """Give a test the function that loads a lesson."""
    return load_lesson


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail the test when anything looks up a host or connects to one, even if it is caught."""
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
    yield
    assert not used, f"the network was used: {used}"


@pytest.fixture(scope="session")
def offline_env():
    """Return an environment for a lesson in a process of its own, cut off from the network too."""
    guard = Path(__file__).parent / "offline"
    settings = {"MPLBACKEND": "Agg", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": str(guard), **settings}


@pytest.fixture(scope="session", autouse=True)
def script_runs(request, tmp_path_factory, offline_env):
    """Run lessons as scripts beside the other tests, and give the result of each to come."""
    test = "test_runs_as_a_script_from_another_folder"
    selected = [item for item in request.session.items if item.originalname == test]

    def run(name, arguments, folder):
        script = shutil.copy(ROOT / name, folder)
        result = subprocess.run(
            [sys.executable, "-W", "error", script, *arguments],
            cwd=folder.parent,
            env=offline_env,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        return result, folder

    with ThreadPoolExecutor(max_workers=1) as pool:
        runs = {}
        for item in selected:
            name = item.callspec.params["name"]
            folder = tmp_path_factory.mktemp("scripts") / "leçon one"
            folder.mkdir()
            arguments = tiny_args(load_lesson(name.removesuffix(".py")))
            runs[name] = pool.submit(run, name, arguments, folder)
        yield runs


@pytest.fixture
def fake_web(monkeypatch):
    """Put an empty web in place of the real one; a test adds pages, as bytes by their address."""
    pages = {}

    class Answer(io.BytesIO):
        def __init__(self, url):
            super().__init__(pages[url])
            self.url, self.length, self.headers = url, len(pages[url]), {}

        def info(self):
            return self.headers

    def urlopen(request, *args, **kwargs):
        url = getattr(request, "full_url", request)
        if url not in pages:
            raise URLError("no network in this test")
        return Answer(url)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return pages
