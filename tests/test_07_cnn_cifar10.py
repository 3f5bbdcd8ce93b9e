"""Lesson 07: two networks, what they are trained on, and how often they are right."""

from pathlib import Path
from unittest import mock

import helpers
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from torch import nn
from torchvision.utils import make_grid

lesson = helpers.load_lesson("07")
CLASSES = "plane car bird cat deer dog frog horse ship truck".split()
X, y = (torch.from_numpy(array[:107]) for array in load_digits(return_X_y=True))
X = nn.functional.interpolate(X.view(-1, 1, 8, 8) / 16, size=32, mode="bilinear")
X = (255 * X).byte().expand(-1, 3, -1, -1)  # (107, 3, 32, 32), from 0 to 255
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)  # 80 and 27 images


def fake_cifar10(root, train=True, transform=np.array):  # `download` passes no transform
    assert root == Path("mine")
    images, labels = (X_train, y_train) if train else (X_test, y_test)
    arrays = images.permute(0, 2, 3, 1).numpy()  # (N, 32, 32, 3)
    return [(transform(array), label) for array, label in zip(arrays, labels.tolist())]


def make_convnet():
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    layers = [nn.Conv2d(3, 6, 5), relu, pool, nn.Conv2d(6, 16, 5), relu, pool, nn.Flatten()]
    layers += [nn.Linear(400, 120), relu, nn.Linear(120, 84), relu, nn.Linear(84, 10)]
    return nn.Sequential(*layers)


def make_convnet4():
    layers = []
    for n_in, n_out in ((3, 16), (16, 48), (48, 80), (80, 192)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.MaxPool2d(2)]
        layers += [nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))


@pytest.fixture(scope="module")
def done():
    """Run on a CIFAR-10 with images of digits, and on digits; check the trainings on the first."""
    cifar10 = mock.patch("torchvision.datasets.CIFAR10", fake_cifar10)
    # An image is flipped if its random number is below 0.5: here, the first 10 of a batch of 20
    first_half = mock.patch("torch.rand", lambda n: torch.arange(n) / n)
    no_flips = mock.patch("torch.rand", side_effect=AssertionError("digits must not be flipped"))
    with helpers.batches_in_order(lesson) as loaders, helpers.record_training() as trainings:
        with helpers.few_digits(lesson, 107), no_flips:
            digits = helpers.run(lesson, "--dataset=digits", "--epochs=1", "--output-dir=digits")
        with cifar10, first_half:
            flags = ["--epochs=5", "--lr=0.02", "--batch-size=20", "--data-dir=mine"]
            done = helpers.run(lesson, *flags)
    digits.train_loader, digits.test_loader, done.train_loader, done.test_loader = loaders
    _, _, done.training, done.training4 = trainings
    done.digits = digits
    batches = done.train_loader
    flipped = [(torch.cat([x[:10].flip(3), x[10:]]), labels) for x, labels in batches]
    check, criterion, X = helpers.check_training, nn.CrossEntropyLoss(), X_test / 127.5 - 1
    check(done.training, make_convnet(), criterion, batches, X=X, momentum=0.9)
    sgd = {"momentum": 0.9, "weight_decay": 1e-3}
    check(done.training4, make_convnet4(), criterion, flipped, X=X, **sgd)
    done.outputs, done.outputs4 = done.training.outputs[-1], done.training4.outputs[-1]
    return done


def test_images_become_tensors_from_minus_1_to_1_with_their_labels(done):
    # Digits may be two gray levels off, as the lesson rounds them before it resizes them
    for run, atol in ((done, 1e-6), (done.digits, 2 / 127.5)):
        images, labels = zip(*run.train_loader, *run.test_loader)
        assert_allclose(torch.cat(images), torch.cat([X_train, X_test]) / 127.5 - 1, atol=atol)
        assert torch.equal(torch.cat(labels), torch.cat([y_train, y_test]))
        assert (run.train_loader.shuffle, run.test_loader.shuffle) == (True, False)


def test_the_numbers_in_readme_were_made_with_these_defaults():
    args = lesson.parse_args([])
    assert (args.epochs, args.batch_size, args.lr) == (7, 64, 0.01)


def test_convnet_has_the_flags_rate_and_convnet4_one_that_rises_then_falls_to_nearly_0(done):
    assert done.training.rates == 20 * [0.02]  # 5 epochs of 4 batches
    rates, highest = done.training4.rates, 5 * 0.02
    assert rates[0] == pytest.approx(highest / 25)  # where OneCycleLR starts
    assert rates[5] == max(rates) == pytest.approx(highest)  # the sixth of 20 steps: 30%
    assert rates[19] == pytest.approx(rates[0] / 10_000)  # where it ends


def test_the_mean_loss_of_each_epoch_is_drawn_and_printed(done):
    drawn = helpers.lines(done.axes[1])  # it has no title
    for name, training in (("ConvNet", done.training), ("ConvNet4", done.training4)):
        means = np.reshape(training.losses, (5, 4)).mean(axis=1)
        assert_allclose(drawn[name], [range(1, 6), means], rtol=1e-4)
        assert f"\n{name}: Epoch [5/5], mean loss: {means[-1]:.4f}\n" in done.output
    assert_allclose(drawn["ln 10: all probabilities 1/10"][1], np.log(10))


def test_accuracies_are_those_on_all_test_images_and_on_those_of_each_class(done):
    acc, acc4 = helpers.accuracy(done.outputs, y_test), helpers.accuracy(done.outputs4, y_test)
    assert f"Test accuracy: {acc4:.1%} with ConvNet4, {acc:.1%} with ConvNet (" in done.result
    expected = {"dataset": "cifar10", "accuracy_convnet": acc, "accuracy": acc4}
    assert done.metrics == pytest.approx(expected)
    for i, name in enumerate(CLASSES):
        class_acc = helpers.accuracy(done.outputs[y_test == i], i)
        class_acc4 = helpers.accuracy(done.outputs4[y_test == i], i)
        assert f"\n{name:12} {class_acc:10.1%} {class_acc4:10.1%}\n" in done.output


def test_the_matrix_counts_predictions_and_names_the_classes(done):
    title = "ConvNet4: number of test images"
    counts = confusion_matrix(y_test, done.outputs4.argmax(dim=1))
    assert_allclose(done.panels[title].images[0].get_array(), counts)
    for run, names in ((done, CLASSES), (done.digits, list("0123456789"))):
        for axis in (run.panels[title].xaxis, run.panels[title].yaxis):
            assert [text.get_text() for text in axis.get_ticklabels()] == names


def test_the_first_training_images_are_shown_with_their_classes(done):
    ax = done.panels[", ".join(CLASSES[label] for label in y_train[:8])]
    grid = make_grid(X_train[:8] / 255, pad_value=0.5)  # the margins are 0 in -1..1
    assert_allclose(ax.images[0].get_array(), grid.permute(1, 2, 0), atol=1e-6)
    assert not ax.axison


def test_the_weights_of_convnet_are_saved(done):
    saved = torch.load("outputs/07_cnn_cifar10.pth", map_location="cpu")
    lesson.ConvNet().load_state_dict(saved)  # would fail on another name
    assert torch.equal(helpers.to_vector(saved.values()), done.training.end)


def test_the_original_is_asked_only_if_the_mirror_does_not_answer(network_tries, capsys):
    args = lesson.parse_args([])
    assert lesson.download(args) == "digits"
    hosts = list(dict.fromkeys(host for host, timeout in network_tries))  # each once, in order
    assert hosts == ["zenodo.org", "www.cs.toronto.edu"]
    assert "Downloading CIFAR-10 (170 MB" in capsys.readouterr().out
    network_tries.clear()
    with mock.patch.object(lesson, "MirroredCIFAR10") as mirror:
        assert lesson.download(args) == "cifar10"
    mirror.assert_called_once_with(args.data_dir, download=True)
    assert not network_tries
