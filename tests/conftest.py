"""Fixtures: each file of tests runs quickly, in a folder of its own, and without a network."""

import gc
import socket

import matplotlib
import pytest
import torch
import torchvision
from torch import nn

matplotlib.use("Agg")
matplotlib.rcParams["savefig.dpi"] = 20
torch.set_num_threads(1)  # more gain nothing on tiny tensors
torch.backends.cudnn.conv.fp32_precision = "ieee"  # a GPU's numbers are close to the CPU's
gc.freeze()  # garbage collection skips what was imported, which saves a tenth of the time


def small_resnet(weights=None, num_classes=1000):
    """Return what stands in for ResNet-18, which takes long. Its last layer is `fc`, too."""
    layers = nn.Conv2d(3, 8, 7, stride=4), nn.BatchNorm2d(8), nn.ReLU()
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network.fc = nn.Linear(32, num_classes)  # nn.Sequential appends it to its layers
    if weights:
        network.load_state_dict(weights.get_state_dict())  # from a file that a test has written
    return network


@pytest.fixture(scope="module", autouse=True)
def network_tries(tmp_path_factory):
    """Run a file's tests in an empty folder, without ResNet-18, and without the network.

    Return a list that gets the host and the timeout of each try to use the network.
    """
    tries = []

    def no_network(host, *args, **kwargs):
        tries.append((host, socket.getdefaulttimeout()))
        raise socket.gaierror(f"a test tried to use the network: {host}")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("leçon one"))  # paths with spaces and accents work
        patch.setattr(torchvision.models, "resnet18", small_resnet)
        patch.setattr(socket, "getaddrinfo", no_network)
        patch.setenv("no_proxy", "*")  # otherwise, a proxy would be asked
        yield tries


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path
