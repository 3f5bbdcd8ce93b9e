"""Lesson 07: two networks, what they are trained on, and how often they are right."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from helpers import batches_in_order, check_training, few_digits, load_lesson, record_training, run
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from torch import nn

lesson = load_lesson("07")
CLASSES = "plane car bird cat deer dog frog horse ship truck".split()
X, y = load_digits(return_X_y=True)
X = nn.functional.interpolate(torch.tensor(X / 16).view(-1, 1, 8, 8), size=32, mode="bilinear")
X = (255 * X).byte().expand(-1, 3, -1, -1)  # (1797, 3, 32, 32)
X_train, X_test, y_train, y_test = train_test_split(X[:107], y[:107], random_state=0)


def fake_cifar10(root, train=True, transform=np.array):  # has images of digits, (32, 32, 3)
    images, labels = (X_train, y_train) if train else (X_test, y_test)
    return [(transform(x.permute(1, 2, 0).numpy()), label) for x, label in zip(images, labels)]


@pytest.fixture(scope="module")
def done():
    """Run on CIFAR-10, with half of the images flipped, and on digits; train networks alike."""
    cifar10 = mock.patch("torchvision.datasets.CIFAR10", fake_cifar10)
    rand = mock.patch("torch.rand", lambda n: torch.arange(n, 0, -1) / n)  # flips the last 9 of 20
    with batches_in_order(lesson) as loaders, record_training() as trainings:
        with cifar10, rand:
            done = run(lesson, "--epochs=5", "--lr=0.02", "--batch-size=20", "--seed=7")
        with few_digits(lesson, 107), mock.patch("torch.rand", None):  # digits are not flipped
            done.digits = run(lesson, "--dataset=digits", "--epochs=1", "--output-dir=digits")
    done.loaders, (done.training, done.training4, *_) = loaders, trainings
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    layers = [nn.Conv2d(3, 6, 5), relu, pool, nn.Conv2d(6, 16, 5), relu, pool, nn.Flatten()]
    layers += [nn.Linear(400, 120), relu, nn.Linear(120, 84), relu, nn.Linear(84, 10)]
    layers4 = []
    for n_in, n_out in ((3, 16), (16, 48), (48, 80), (80, 192)):
        layers4 += [nn.Conv2d(n_in, n_out, 3, padding=1), pool, nn.BatchNorm2d(n_out), relu]
    done.convnet = nn.Sequential(*layers)
    done.convnet4 = nn.Sequential(*layers4, nn.Flatten(), nn.Linear(768, 10))
    batches4 = [(torch.cat([x[:11], x[11:].flip(3)]), labels) for x, labels in loaders[0]]
    sgd = {"criterion": nn.CrossEntropyLoss(), "momentum": 0.9}
    done.losses = check_training(done.training, done.convnet, batches=list(loaders[0]), **sgd)
    sgd["weight_decay"] = 1e-3
    done.losses4 = check_training(done.training4, done.convnet4, batches=batches4, **sgd)
    return done


def test_images_become_tensors_from_minus_1_to_1_with_their_labels(done):
    for loaders, atol in ((done.loaders[:2], 1e-6), (done.loaders[2:], 0.02)):
        for loader, X, y in zip(loaders, (X_train, X_test), (y_train, y_test), strict=True):
            images, labels = map(torch.cat, zip(*loader))
            assert_allclose(images, X / 127.5 - 1, atol=atol)
            assert labels.tolist() == y.tolist() and loader.shuffle == (y is y_train)


def test_the_rate_is_that_of_the_flag_but_convnet4s_rises_and_then_falls_to_nearly_0(done):
    assert (lesson.num_epochs, lesson.batch_size, lesson.learning_rate) == (7, 64, 0.01)  # defaults
    rates = done.training4.rates
    assert done.training.rates == 20 * [0.02] and len(rates) == 20 and max(rates) == rates[5]
    assert [rates[0], rates[5], rates[19]] == pytest.approx([0.1 / 25, 0.1, 0.1 / 25e4])


def test_the_mean_loss_of_each_epoch_is_drawn_and_printed(done):
    drawn = {line.get_label(): line.get_xydata().T for line in done.axes[1].lines}
    for name, losses in (("ConvNet", done.losses), ("ConvNet4", done.losses4)):
        means = np.reshape(losses, (5, 4)).mean(axis=1)
        assert_allclose(drawn[name], [range(1, 6), means], rtol=1e-4)
        for epoch, mean in enumerate(means, start=1):
            assert f"\n{name}: Epoch [{epoch}/5], mean loss: {mean:.4f}\n" in done.output
    assert_allclose(drawn["ln 10: random guessing"][1], np.log(10))


def test_accuracies_and_the_matrix_count_every_test_image(done):
    X, networks = X_test / 127.5 - 1, (done.convnet, done.convnet4)
    matrix, matrix4 = (confusion_matrix(y_test, network(X).argmax(dim=1)) for network in networks)
    acc, acc4 = matrix.trace() / 27, matrix4.trace() / 27
    class_acc, class_acc4 = (m.diagonal() / m.sum(axis=1) for m in (matrix, matrix4))
    expected = {f"accuracy_{name}": value for name, value in zip(CLASSES, class_acc4)}
    expected |= {"dataset": "cifar10", "accuracy_convnet": acc, "accuracy": acc4}
    assert done.metrics == pytest.approx(expected)
    assert f"\nTest accuracy: {acc4:.1%} with ConvNet4, {acc:.1%} with ConvNet (" in done.output
    for row in zip(CLASSES, class_acc, class_acc4, strict=True):
        assert "\n{:12} {:10.1%} {:10.1%}\n".format(*row) in done.output
    assert_allclose(done.axes[2].images[0].get_array(), matrix4)


def test_the_figure_shows_the_first_training_images_and_names_the_classes(done):
    first = done.axes[0]
    grid = torchvision.utils.make_grid(X_train[:8] / 255, pad_value=0.5).permute(1, 2, 0)
    assert_allclose(first.images[0].get_array(), grid, atol=1e-6)
    assert first.get_title() == ", ".join(CLASSES[i] for i in y_train[:8]) and not first.axison
    for (_, _, matrix), names in ((done.axes, CLASSES), (done.digits.axes, [*"0123456789"])):
        for axis in (matrix.xaxis, matrix.yaxis):
            assert [text.get_text() for text in axis.get_ticklabels()] == names


def test_the_weights_of_convnet_are_saved(done):
    saved = torch.load("outputs/07_cnn_cifar10.pth", map_location="cpu")
    assert torch.equal(torch.cat([v.flatten() for v in saved.values()]), done.training.end)


def test_incomplete_data_is_announced_and_the_mirror_is_asked_first(done, network_tries, capsys):
    Path("half/cifar-10-batches-py").mkdir(parents=True)
    Path("half/cifar-10-batches-py/data_batch_1").touch()
    args = lesson.parse_args(["--data-dir=half"])
    assert lesson.download(args) == "digits" and "170 MB" not in done.output
    assert "170 MB" in capsys.readouterr().out and "170 MB" not in done.digits.output
    assert list(dict.fromkeys(network_tries)) == [("zenodo.org", 15), ("www.cs.toronto.edu", 15)]
    with mock.patch.object(lesson, "MirroredCIFAR10") as mirror:
        assert lesson.download(args) == "cifar10"
    mirror.assert_called_once_with(args.data_dir, download=True)
