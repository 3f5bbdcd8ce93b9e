"""Fixtures that every test uses without asking for them."""

import socket

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Run each test in an empty folder, with small figures, and with one thread."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    matplotlib.rcParams["savefig.dpi"] = 20
    torch.set_num_threads(1)  # more gain nothing on tiny tensors
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # a GPU's numbers are close to the CPU's
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
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
    assert not asked, f"the network was used: {asked}"
