"""Lesson 07: two networks, what they are trained on, and how often they are right."""

import functools
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from helpers import curves, digits, load_lesson, numbers, run, second, spy, tiles
from numpy.testing import assert_allclose
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.utils.data import DataLoader

lesson = load_lesson("07")
CLASSES = "plane car bird cat deer dog frog horse ship truck".split()


class FakeCIFAR10(torchvision.datasets.CIFAR10):
    """24 training and 12 test images, which torchvision reads as it reads the real ones."""

    def __init__(self, root, train=True, transform=None, download=False):
        size, self.transform, self.target_transform = 24 if train else 12, transform, None
        self.data = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), np.uint8)
        self.targets = [i % 10 for i in range(size)]


@functools.cache
def small_run(data_name):
    """Run in batches of 9, in order; add both sets, what ConvNet4 has seen, and what was saved."""
    flags = f"--dataset={data_name} --epochs=2 --lr=0.02 --batch-size=9 --limit=101".split()
    fake_cifar10 = mock.patch.object(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    with fake_cifar10, spy(lesson.ConvNet4, "forward") as forward:
        done = run(lesson, *flags, in_order=True)
    done.train, done.test = (next(iter(DataLoader(loader.dataset, 101))) for loader in done.loaders)
    done.seen = torch.cat([call.args[1].cpu() for call in forward.call_args_list])
    done.saved = torch.load("outputs/07_cnn_cifar10.pth")
    return done


@functools.cache
def second_networks():
    """Return two networks that are trained like the lesson's, and the losses of each."""
    done, pool, relu, layers4, losses = small_run("digits"), nn.MaxPool2d(2), nn.ReLU(), [], []
    layers = [nn.Conv2d(3, 6, 5), relu, pool, nn.Conv2d(6, 16, 5), relu, pool, nn.Flatten()]
    layers += [nn.Linear(400, 120), relu, nn.Linear(120, 84), relu, nn.Linear(84, 10)]
    for n_in, n_out in ((3, 16), (16, 48), (48, 80), (80, 192)):
        layers4 += [nn.Conv2d(n_in, n_out, 3, padding=1), pool, nn.BatchNorm2d(n_out), relu]
    networks = nn.Sequential(*layers), nn.Sequential(*layers4, nn.Flatten(), nn.Linear(768, 10))
    batches = list(zip(*(tensor.split(9) for tensor in done.train)))
    for training, network, decay in zip(done.trainings, networks, (0, 1e-3)):
        settings = {"momentum": 0.9, "weight_decay": decay}
        losses.append(second(training, network, nn.CrossEntropyLoss(), batches, **settings)[0])
    return [network.cpu().eval() for network in networks], losses


@pytest.mark.parametrize("data_name", ["cifar10", "digits"])
def test_images_are_upright_from_minus_1_to_1_with_their_labels(data_name):
    done, (X_train, X_test, *labels) = small_run(data_name), digits(size=32)
    expected = [255 * X.expand(-1, 3, -1, -1) for X in (X_train, X_test)]
    if data_name == "cifar10":
        fakes = FakeCIFAR10("", train=True), FakeCIFAR10("", train=False)
        expected = [fake.data.transpose(0, 3, 1, 2) for fake in fakes]
        labels = [torch.tensor(fake.targets) for fake in fakes]
        assert list(done.metrics)[3:] == [f"accuracy_{name}" for name in CLASSES]
    for (images, found_labels), pixels, y in zip((done.train, done.test), expected, labels):
        assert_allclose(images, pixels[:101] / 127.5 - 1, atol=0.02)
        assert found_labels.tolist() == y[:101].tolist()


def test_both_trainings_are_those_of_second_networks_and_the_first_is_saved():
    done, ((network, _), losses) = small_run("digits"), second_networks()
    for found, expected in zip(done.saved.values(), network.parameters()):
        assert_allclose(found.cpu(), expected.detach(), atol=1e-5)
    tenths = [[part.mean() for part in np.array_split(values, 20)] for values in losses]
    expected = [[np.arange(0.05, 2, 0.1), values] for values in tenths]
    assert_allclose(curves(done.axes[1])[:2], expected, rtol=1e-4)
    assert_allclose(curves(done.axes[1])[2][1], np.log(10))
    printed = numbers(done.output, "ConvNet4: Epoch [1/2], mean loss:", end="  ")
    means = [np.mean(losses[1][:12]), np.mean(losses[1][12:])]
    assert_allclose(printed, [means[0], 4, 2, 2, means[1]], atol=1e-4)


def test_convnet_keeps_lr_and_convnet4_rises_to_five_times_as_much_then_falls_to_nearly_0():
    rates, rates4 = (np.array(training.rates) for training in small_run("digits").trainings)
    assert rates.tolist() == 24 * [0.02] and len(rates4) == 24
    peak = rates4.argmax()
    assert rates4[[0, peak, -1]] == pytest.approx([0.1 / 25, 0.1, 0], rel=0.01, abs=1e-5)
    assert 5 < peak < 10 and (np.sign(np.diff(rates4)) == [*peak * [1], *(23 - peak) * [-1]]).all()


def test_images_of_cifar10_are_flipped_at_random_one_by_one_and_only_for_the_network():
    images, seen = small_run("cifar10").train[0], small_run("cifar10").seen[:48].view(2, 24, -1)
    flipped = (seen == images.flip(3).flatten(1)).all(dim=2)  # in both epochs
    assert (flipped != (seen == images.flatten(1)).all(dim=2)).all()
    assert 0 < flipped[0, :9].sum() < 9 and 12 < flipped.sum() < 36
    assert not torch.equal(flipped[0], flipped[1])


def test_accuracies_and_the_matrix_count_every_test_image():
    done, (networks, _), totals, accuracies = small_run("digits"), second_networks(), [], []
    for network in networks:
        matrix = confusion_matrix(done.test[1], network(done.test[0]).argmax(dim=1))
        totals.append(matrix.trace() / 101)
        accuracies.append(matrix.diagonal() / matrix.sum(axis=1))
    assert_allclose([*done.metrics.values()][1:], [*totals, *accuracies[1]])
    assert done.axes[2].images[0].get_array().tolist() == matrix.tolist()
    n_parameters = [sum(p.numel() for p in network.parameters()) for network in networks]
    rows = np.transpose([range(10), 100 * accuracies[0], 100 * accuracies[1]]).flatten()
    printed = numbers(done.output.replace(",", ""), "parameters", end="Figure")
    assert_allclose(printed, [*n_parameters, *rows, 100 * totals[1], 4, 100 * totals[0]], atol=0.06)


def test_the_figure_shows_the_first_training_images():
    ax, (images, labels) = small_run("digits").axes[0], small_run("digits").train
    assert_allclose(tiles(ax, 32), images[:8].permute(0, 2, 3, 1) / 2 + 0.5, atol=1e-6)
    assert ax.get_title() == ", ".join(map(str, labels[:8].tolist()))


def test_the_mirror_is_asked_first_then_the_original_server(no_network):
    assert lesson.download(lesson.parse_args([])) == "digits"
    hosts = dict.fromkeys(host for host, _ in no_network)
    assert list(hosts) == ["zenodo.org", "www.cs.toronto.edu"]
    no_network.clear()
