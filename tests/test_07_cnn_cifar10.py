"""Lesson 07: two networks, what they are trained on, and how often they are right."""

import functools
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from helpers import check_print, check_result, check_training, curves, digits, load_lesson, run, spy
from numpy.testing import assert_allclose
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.utils.data import DataLoader

lesson = load_lesson("07")
CLASSES = "plane car bird cat deer dog frog horse ship truck".split()


def fake_cifar10(root, train=True, transform=None, download=False):
    """Return random images and labels, 24 for training or 60 for testing."""
    n = 24 if train else 60
    return torchvision.datasets.FakeData(n, (3, 32, 32), 10, transform, random_offset=n)


@functools.cache
def two_epochs(dataset):
    """Run in batches of 9, in order; add both sets, what ConvNet4 has seen, and what was saved."""
    flags = f"--dataset={dataset} --epochs=2 --lr=0.005 --batch-size=9 --limit=101".split()
    cifar10 = mock.patch.object(torchvision.datasets, "CIFAR10", fake_cifar10)
    with cifar10, spy(lesson.ConvNet4, "forward") as forward:
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
    # The rate of ConvNet4 rises for 30% of the steps, then falls to nearly 0, as a cosine does
    phase = np.interp(range(24), [0, 0.3 * 24 - 1, 23], [-np.pi, 0, np.pi])
    lowest = np.where(phase < 0, 0.001, 1e-7)
    rates4 = lowest + (0.025 - lowest) * (1 + np.cos(phase)) / 2
    batches = list(zip(*(tensor.split(9) for tensor in two_epochs("digits").train)))
    check = functools.partial(check_training, criterion=nn.CrossEntropyLoss(), batches=batches)
    first, second = two_epochs("digits").trainings
    losses, _, _ = check(first, 24 * [0.005], networks[0], momentum=0.9)
    losses4, _, _ = check(second, rates4, networks[1], momentum=0.9, weight_decay=1e-3)
    return [network.cpu().eval() for network in networks], (losses, losses4)


def test_digits_become_upright_images_from_minus_1_to_1_with_their_labels():
    X_train, X_test, *expected_labels = digits(size=32)
    found = two_epochs("digits").train, two_epochs("digits").test
    for (images, labels), X, y in zip(found, (X_train, X_test), expected_labels):
        assert_allclose(images, 2 * X[:101].expand(-1, 3, -1, -1) - 1, atol=0.02)
        assert labels.tolist() == y[:101].tolist()


def test_images_of_cifar10_become_tensors_from_minus_1_to_1_with_their_labels():
    found = two_epochs("auto").train, two_epochs("auto").test  # auto finds the fake CIFAR-10
    for (images, labels), is_train in zip(found, (True, False)):
        pictures, expected_labels = zip(*fake_cifar10("", is_train))
        assert_allclose(images.permute(0, 2, 3, 1), np.stack(pictures) / 127.5 - 1, atol=1e-6)
        assert labels.tolist() == list(expected_labels)


def test_images_of_cifar10_are_flipped_at_random_one_by_one_but_not_in_the_dataset():
    images, _ = two_epochs("auto").train
    seen = two_epochs("auto").seen[: 2 * 24].view(2, 24, -1)  # in both epochs
    is_flipped = (seen == images.flip(3).flatten(1)).all(dim=2)
    assert (is_flipped != (seen == images.flatten(1)).all(dim=2)).all()
    assert 0 < is_flipped[0, :9].sum() < 9 and 12 < is_flipped.sum() < 36
    assert not torch.equal(is_flipped[0], is_flipped[1])


def test_losses_are_drawn_and_printed_and_the_first_network_is_saved():
    done, (_, losses) = two_epochs("digits"), networks_and_losses()
    saved = torch.cat([parameter.flatten() for parameter in done.saved.values()])
    assert torch.equal(saved.cpu(), done.trainings[0].end)
    *drawn, knows_nothing = curves(done.axes[1])
    for curve, values in zip(drawn, losses):
        tenths = [part.mean() for part in np.array_split(values, 20)]
        assert_allclose(curve, [np.arange(0.05, 2, 0.1), tenths], rtol=1e-4)
    assert_allclose(knows_nothing[1], np.log(10))
    for epoch, mean in zip((1, 2), np.reshape(losses[1], (2, 12)).mean(axis=1)):
        check_print(done.output, f"ConvNet4: Epoch [{epoch}/2], mean loss:", [mean])


def test_accuracies_and_the_matrix_count_every_test_image():
    done, (networks, _) = two_epochs("digits"), networks_and_losses()
    images, labels = done.test
    matrix, matrix4 = (confusion_matrix(labels, n(images).argmax(dim=1)) for n in networks)
    check_result(done, accuracy=matrix4.trace() / 101, accuracy_convnet=matrix.trace() / 101)
    check_print(done.output, "Accuracy of the network:", [matrix.trace() / 1.01])
    assert_allclose(done.axes[2].images[0].get_array(), matrix4)
    class_acc, class_acc4 = (m.diagonal() / m.sum(axis=1) for m in (matrix, matrix4))
    assert [done.metrics[f"accuracy_{i}"] for i in range(10)] == pytest.approx(class_acc4)
    n_parameters = [len(training.start) for training in done.trainings]
    rows = np.transpose([range(10), 100 * class_acc, 100 * class_acc4])
    output = done.output.replace(",", "")  # 1,000 -> 1000
    check_print(output, "parameters", [*n_parameters, *rows.ravel()], end="Test")
    check_print(done.output, "07 ", [101, 101])  # training and test images


def test_the_figure_shows_the_first_training_images_and_their_classes():
    ax, (images, labels) = two_epochs("auto").axes[0], two_epochs("auto").train
    grid = torchvision.utils.make_grid(images[:8]).permute(1, 2, 0)
    assert_allclose(ax.images[0].get_array(), grid / 2 + 0.5, atol=1e-6)
    assert ax.get_title() == ", ".join(CLASSES[label] for label in labels[:8])
    assert two_epochs("auto").metrics.keys() > {f"accuracy_{name}" for name in CLASSES}


@pytest.mark.parametrize("is_there", [False, True])
def test_a_download_is_announced_unless_the_data_is_there(is_there, monkeypatch, capsys):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake_cifar10)
    if is_there:
        Path("data/cifar-10-batches-py").mkdir(parents=True)
    assert lesson.download(lesson.parse_args([])) == "cifar10"
    assert ("170 MB" in capsys.readouterr().out) != is_there


def test_the_mirror_is_asked_first_then_the_original_server(network_tries):
    lesson.download(lesson.parse_args([]))
    hosts = dict.fromkeys(host for host, _ in network_tries)
    assert list(hosts) == ["zenodo.org", "www.cs.toronto.edu"]
    network_tries.clear()
