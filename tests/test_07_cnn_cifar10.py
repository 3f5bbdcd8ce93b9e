"""Lesson 07: two networks, what they are trained on, and how often they are right."""

import functools
import re
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from helpers import (
    check_training,
    curves,
    digits,
    load_lesson,
    numbers,
    parameters,
    run,
    spy,
    tiles,
)
from numpy.testing import assert_allclose
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.utils.data import DataLoader

lesson = load_lesson("07")


class FakeCIFAR10(torchvision.datasets.CIFAR10):
    """24 training and 12 test images, which torchvision reads as it reads the real ones."""

    def __init__(self, root, train=True, transform=None, download=False):
        self.transform, self.target_transform = transform, None
        self.targets = [i % 10 for i in range(24 if train else 12)]
        random = np.random.default_rng(len(self.targets))
        self.data = random.integers(0, 256, (len(self.targets), 32, 32, 3), np.uint8)


@functools.cache
def two_epochs(dataset):
    """Run in batches of 9, in order; add both sets, what ConvNet4 has seen, and what was saved."""
    flags = f"--dataset={dataset} --epochs=2 --lr=0.005 --batch-size=9 --limit=101".split()
    fake_cifar10 = mock.patch.object(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    with fake_cifar10, spy(lesson.ConvNet4, "forward") as forward:
        done = run(lesson, *flags, in_order=True)
    done.train, done.test = (next(iter(DataLoader(loader.dataset, 101))) for loader in done.loaders)
    done.seen = torch.cat([call.args[1].cpu() for call in forward.call_args_list])
    done.saved = torch.load("outputs/07_cnn_cifar10.pth")
    return done


@functools.cache
def networks_and_losses():
    """Check both trainings on digits; return networks that were trained alike, and the losses."""
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    layers = [nn.Conv2d(3, 6, 5), relu, pool, nn.Conv2d(6, 16, 5), relu, pool, nn.Flatten()]
    layers += [nn.Linear(400, 120), relu, nn.Linear(120, 84), relu, nn.Linear(84, 10)]
    layers4 = []
    for n_in, n_out in ((3, 16), (16, 48), (48, 80), (80, 192)):
        layers4 += [nn.Conv2d(n_in, n_out, 3, padding=1), pool, nn.BatchNorm2d(n_out), relu]
    networks = nn.Sequential(*layers), nn.Sequential(*layers4, nn.Flatten(), nn.Linear(768, 10))
    losses, done = [], two_epochs("digits")
    batches = list(zip(*(tensor.split(9) for tensor in done.train)))
    for training, network, decay in zip(done.trainings, networks, (0, 1e-3)):
        settings = {"momentum": 0.9, "weight_decay": decay}
        arguments = training, training.rates, network, nn.CrossEntropyLoss(), batches
        losses.append(check_training(*arguments, **settings)[0])
    return [network.cpu().eval() for network in networks], losses


def test_digits_become_upright_images_from_minus_1_to_1_with_their_labels():
    X_train, X_test, *expected_labels = digits(size=32)
    found = two_epochs("digits").train, two_epochs("digits").test
    for (images, labels), X, y in zip(found, (X_train, X_test), expected_labels):
        assert_allclose(images, 2 * X[:101].expand(-1, 3, -1, -1) - 1, atol=0.02)
        assert labels.tolist() == y[:101].tolist()


def test_images_of_cifar10_become_tensors_from_minus_1_to_1_with_their_labels():
    found = two_epochs("auto").train, two_epochs("auto").test  # auto finds the fake CIFAR-10
    for (images, labels), is_train in zip(found, (True, False)):
        fake = FakeCIFAR10("", train=is_train)
        assert_allclose(images, fake.data.transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)
        assert labels.tolist() == fake.targets


def test_images_of_cifar10_are_flipped_at_random_one_by_one_but_not_in_the_dataset():
    images, _ = two_epochs("auto").train
    seen = two_epochs("auto").seen[: 2 * 24].view(2, 24, -1)  # in both epochs
    is_flipped = (seen == images.flip(3).flatten(1)).all(dim=2)
    assert (is_flipped != (seen == images.flatten(1)).all(dim=2)).all()
    assert 0 < is_flipped[0, :9].sum() < 9 and 12 < is_flipped.sum() < 36
    assert not torch.equal(is_flipped[0], is_flipped[1])


def test_losses_are_drawn_and_printed_and_the_first_network_is_saved():
    done, (_, losses) = two_epochs("digits"), networks_and_losses()
    assert torch.equal(parameters(done.saved.values()), done.trainings[0].end)
    *drawn, knows_nothing = curves(done.axes[1])
    for curve, values in zip(drawn, losses):
        tenths = [part.mean() for part in np.array_split(values, 20)]
        assert_allclose(curve, [np.arange(0.05, 2, 0.1), tenths], rtol=1e-4)
    assert_allclose(knows_nothing[1], np.log(10))
    printed = re.findall(r"mean loss: (\S+)", done.output)
    assert_allclose(np.array(printed, float), np.reshape(losses[1], (2, 12)).mean(axis=1), 1e-3)


def test_convnet_keeps_lr_and_convnet4_rises_to_five_times_as_much_then_falls_to_nearly_0():
    rates, rates4 = (np.array(training.rates) for training in two_epochs("digits").trainings)
    assert rates.tolist() == 24 * [0.005] and len(rates4) == 24
    peak = rates4.argmax()
    assert 5 < peak < 10
    assert rates4[[0, peak, -1]] == pytest.approx([0.025 / 25, 0.025, 0], rel=0.01, abs=1e-5)
    assert (np.diff(rates4[: peak + 1]) > 0).all() and (np.diff(rates4[peak:]) < 0).all()


def test_accuracies_and_the_matrix_count_every_test_image():
    done, (networks, _) = two_epochs("digits"), networks_and_losses()
    images, labels = done.test
    matrix, matrix4 = (confusion_matrix(labels, n(images).argmax(dim=1)) for n in networks)
    class_acc, class_acc4 = (m.diagonal() / m.sum(axis=1) for m in (matrix, matrix4))
    expected = {f"accuracy_{i}": class_acc4[i] for i in range(10)}
    expected |= {"accuracy_convnet": matrix.trace() / 101, "accuracy": matrix4.trace() / 101}
    assert done.metrics == pytest.approx({"dataset": "digits", **expected})
    assert_allclose(done.axes[2].images[0].get_array(), matrix4)
    table = numbers(done.output.replace(",", ""), "parameters", end="Test")
    n_parameters = [len(training.start) for training in done.trainings]
    rows = np.transpose([range(10), 100 * class_acc, 100 * class_acc4])
    assert_allclose(table, [*n_parameters, *rows.flatten()], atol=0.06)
    printed = re.findall(r"Accuracy of the network: ([\d.]+)|([\d.]+)% with", done.output)
    totals = [matrix.trace() / 1.01, matrix4.trace() / 1.01, matrix.trace() / 1.01]
    assert_allclose([float(first or second) for first, second in printed], totals, atol=0.06)
    assert numbers(done.output, "07 ") == [101, 101]  # training and test images


def test_the_figure_shows_the_first_training_images_and_their_classes():
    ax, (images, labels) = two_epochs("auto").axes[0], two_epochs("auto").train
    found = tiles(ax.images[0].get_array(), 32)
    assert_allclose(found, images[:8].permute(0, 2, 3, 1) / 2 + 0.5, atol=1e-6)
    assert ax.get_title() == "plane, car, bird, cat, deer, dog, frog, horse"  # labels 0 to 7
    assert list(two_epochs("auto").metrics)[-2:] == ["accuracy_ship", "accuracy_truck"]


def test_the_mirror_is_asked_first_then_the_original_server(network_tries):
    lesson.download(lesson.parse_args([]))
    hosts = dict.fromkeys(host for host, _ in network_tries)
    assert list(hosts) == ["zenodo.org", "www.cs.toronto.edu"]
    network_tries.clear()
