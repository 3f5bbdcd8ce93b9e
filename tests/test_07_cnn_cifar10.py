"""Lesson 07: two networks, what they are trained on, and how often they are right."""

import functools
import socket
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from helpers import in_order, load_lesson, numbers, refusal, retrace, run, spy, tiles
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader

lesson = load_lesson("07")


class FakeCIFAR10(torchvision.datasets.CIFAR10):
    """24 training and 12 test images, which torchvision reads as it reads the real ones."""

    def __init__(self, root, train=True, transform=None):
        size, self.transform, self.target_transform = 24 if train else 12, transform, None
        self.data = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), np.uint8)
        self.targets = [i % 10 for i in range(size)]


@functools.cache
def small_run(data_name):
    """Run on a few images in batches of 9, in their order; add the loaders and the networks."""
    with (
        mock.patch.object(torchvision.datasets, "CIFAR10", FakeCIFAR10),
        mock.patch.multiple(lesson, download=lambda args: data_name, DataLoader=in_order),
        spy(lesson, "train_convnet4") as train_convnet4,
        spy(lesson, "count_predictions") as count_predictions,
    ):
        done = run(lesson, "--epochs=2", "--lr=0.02", "--batch-size=9", "--limit=101")
    done.train_loader, _, _, done.flip = train_convnet4.call_args.args
    done.network4, done.test_loader = count_predictions.call_args.args
    done.network = lesson.ConvNet().to(lesson.device)
    done.network.load_state_dict(torch.load("outputs/07_cnn_cifar10.pth"))
    return done


def test_cifar10_becomes_upright_images_from_minus_1_to_1_with_their_labels_and_is_flipped():
    done = small_run("cifar10")
    for loader, train in ((done.train_loader, True), (done.test_loader, False)):
        fake, (images, labels) = FakeCIFAR10("", train), zip(*loader.dataset)
        expected = fake.data.transpose(0, 3, 1, 2) / 127.5 - 1
        assert_allclose(torch.stack(images), expected, atol=1e-6)
        assert list(labels) == fake.targets
    names = "plane car bird cat deer dog frog horse ship truck".split()
    assert list(done.metrics)[3:] == [f"accuracy_{name}" for name in names] and done.flip


def test_digits_get_the_shape_and_range_of_cifar10_and_are_not_flipped():
    done = small_run("digits")
    X, y = load_digits(return_X_y=True)
    X = F.interpolate(torch.from_numpy(X).view(-1, 1, 8, 8), size=32, mode="bilinear") / 8 - 1
    X_train, X_test, *labels = train_test_split(X.expand(-1, 3, -1, -1), y, random_state=0)
    for loader, X, y in zip((done.train_loader, done.test_loader), (X_train, X_test), labels):
        images, found_labels = zip(*loader.dataset)
        assert_allclose(torch.stack(images), X[:101], atol=0.02)
        assert list(found_labels) == y[:101].tolist()
    assert not done.flip


def test_networks_training_and_curves_are_those_of_a_second_implementation():
    done, pool, relu = small_run("digits"), nn.MaxPool2d(2), nn.ReLU()
    layers = [nn.Conv2d(3, 6, 5), relu, pool, nn.Conv2d(6, 16, 5), relu, pool, nn.Flatten()]
    layers += [nn.Linear(400, 120), relu, nn.Linear(120, 84), relu, nn.Linear(84, 10)]
    layers4 = [nn.Flatten(), nn.Linear(768, 10)]
    for n_in, n_out in ((80, 192), (48, 80), (16, 48), (3, 16)):
        conv, norm = nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out)
        layers4 = [conv, pool, norm, relu, *layers4]
    for i, network in enumerate((nn.Sequential(*layers), nn.Sequential(*layers4))):
        optimizer = torch.optim.SGD(network.parameters(), momentum=0.9, weight_decay=i * 1e-3)
        losses, _ = zip(*retrace(done.trainings[i], network, optimizer, done.train_loader))
        end = parameters_to_vector(network.parameters()).detach().cpu()
        assert_allclose(end, done.trainings[i].end, atol=1e-5)
        tenths = np.arange(0.05, 2, 0.1), [part.mean() for part in np.array_split(losses, 20)]
        assert_allclose(done.axes[1].lines[i].get_xydata().T, tenths, rtol=1e-4)
    for epoch in (1, 2):
        printed = numbers(done.output, f"ConvNet4: Epoch [{epoch}/2], mean loss:")
        assert_allclose(printed, np.mean(losses[12 * (epoch - 1) : 12 * epoch]), atol=1e-4)


def test_convnet_keeps_lr_and_convnet4_rises_to_five_times_as_much_then_falls_to_nearly_0():
    rates, rates4 = (np.array(training.rates) for training in small_run("digits").trainings)
    assert rates.tolist() == 24 * [0.02] and len(rates4) == 24
    peak = rates4.argmax()
    assert 5 < peak < 10 and rates4[[0, peak]] == pytest.approx([0.1 / 25, 0.1], rel=0.01)
    assert (np.diff(rates4[: peak + 1]) > 0).all() and (np.diff(rates4[peak:]) < 0).all()
    assert rates4[-1] < 1e-6


@pytest.mark.parametrize("flip", [True, False])
def test_training_flips_images_one_by_one_and_only_for_the_network(flip):
    images = torch.arange(8 * 3072).view(8, 3, 32, 32) / 3072
    samples = list(zip(images.clone(), range(8)))
    with spy(lesson.ConvNet4, "forward") as forward:
        lesson.train_convnet4(DataLoader(samples, 4), 6, 0.01, flip)
    assert all(torch.equal(sample, image) for (sample, _), image in zip(samples, images))
    found = torch.cat([call.args[1].cpu() for call in forward.call_args_list]).view(6, 2, 4, -1)
    is_flipped = (found == images.flip(3).view(2, 4, -1)).all(dim=-1)
    assert (is_flipped | (found == images.view(2, 4, -1)).all(dim=-1)).all()
    n_flipped = is_flipped.sum(dim=-1)  # in each batch
    assert ((n_flipped % 4 > 0).sum() > 6) if flip else (n_flipped.sum() == 0)


def test_accuracies_and_the_matrix_count_every_test_image():
    done = small_run("digits")
    images, labels = next(iter(DataLoader(done.test_loader.dataset, 101)))
    for column, name in enumerate(("accuracy_convnet", "accuracy")):
        network = (done.network, done.network4)[column].eval()
        predicted = network(images.to(lesson.device)).argmax(dim=1).cpu()
        matrix = confusion_matrix(labels, predicted)
        accuracies = matrix.diagonal() / matrix.sum(axis=1)
        assert done.metrics[name] == pytest.approx(matrix.trace() / 101)
        printed = [numbers(done.output, f"{i} ")[column] for i in range(10)]
        assert_allclose(printed, 100 * accuracies, atol=0.06)
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        assert numbers(done.output.replace(",", ""), "parameters")[column] == n_parameters
    assert_allclose([done.metrics[f"accuracy_{i}"] for i in range(10)], accuracies)
    assert done.axes[2].images[0].get_array().tolist() == matrix.tolist()


def test_the_figure_shows_the_first_training_images_and_ln_10():
    done = small_run("digits")
    images, labels = next(iter(done.train_loader))
    assert_allclose(tiles(done.axes[0], 32), images[:8].permute(0, 2, 3, 1) / 2 + 0.5, atol=1e-6)
    assert done.axes[0].get_title() == ", ".join(map(str, labels[:8].tolist()))
    assert_allclose(done.axes[1].lines[2].get_ydata(), np.log(10))


@pytest.mark.parametrize("n_failures", [0, 1, 2])
def test_the_mirror_is_asked_first_and_the_timeout_set_back(n_failures, monkeypatch):
    asked = []

    class Server:
        def __init__(self, root, download):
            asked.append((Server.url.split("/")[2], socket.getdefaulttimeout()))
            if len(asked) <= n_failures:
                raise EOFError  # proxies can cause almost any error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Server)
    found = lesson.download(lesson.parse_args([]))
    assert found == ("digits" if n_failures == 2 else "cifar10")
    assert asked == [("zenodo.org", 15), ("www.cs.toronto.edu", 15)][: n_failures + 1]
    assert socket.getdefaulttimeout() is None


def test_a_damaged_archive_is_not_used(no_network):
    Path("data").mkdir()
    Path("data/cifar-10-python.tar.gz").write_bytes(b"damaged")
    assert "--dataset digits" in refusal(lesson, "--dataset=cifar10") and no_network
    no_network.clear()
