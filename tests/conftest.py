"""Fixtures that every test uses without asking for them."""

import gc
import socket

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
import torchvision
from helpers import SmallResNet

gc.freeze()  # garbage collection skips what was imported, which saves a tenth of the time


@pytest.fixture(autouse=True)
def quick_and_in_an_empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "leçon one"  # paths with spaces and accents work
    folder.mkdir()
    monkeypatch.chdir(folder)
    matplotlib.use("Agg")
    matplotlib.rcParams["savefig.dpi"] = 20
    monkeypatch.setattr(torchvision.models, "resnet18", SmallResNet)
    torch.set_num_threads(1)  # more gain nothing on tiny tensors
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # a GPU's numbers are close to the CPU's
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def network_tries(monkeypatch):
    """Block the network; yield (host, timeout) of each try. A test that expects tries clears it."""
    tries = []

    def getaddrinfo(host, *args, **kwargs):
        tries.append((host, socket.getdefaulttimeout()))
        raise socket.gaierror(f"a test tried to use the network: {host}")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv("no_proxy", "*")  # otherwise, a proxy would be asked
    yield tries
    assert not tries
