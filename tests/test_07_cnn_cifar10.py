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
    images, labels = (X_train, y_train) if train else (X_test, y_test)
    arrays = images.permute(0, 2, 3, 1).numpy()  # (N, 32, 32, 3)
    return [(transform(array), label) for array, label in zip(arrays, labels.tolist())]


@pytest.fixture(scope="module")
def done():
    """Run on a CIFAR-10 with images of digits, and on digits; train networks alike."""
    cifar10 = mock.patch("torchvision.datasets.CIFAR10", fake_cifar10)
    half = mock.patch("torch.rand", lambda n: torch.arange(n) / n)  # flips the first 10 of 20
    none = mock.patch("torch.rand", None)  # must not be called: digits are not flipped
    with helpers.batches_in_order(lesson) as loaders, helpers.record_training() as trainings:
        with cifar10, half:
            done = helpers.run(lesson, "--epochs=5", "--lr=0.02", "--batch-size=20", "--seed=7")
        with helpers.few_digits(lesson, 107), none:
            digits = helpers.run(lesson, "--dataset=digits", "--epochs=1", "--output-dir=digits")
    done.train_loader, done.test_loader, digits.train_loader, digits.test_loader = loaders
    done.training, done.training4, _, _ = trainings  # the others are those on digits
    done.digits = digits
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    layers = [nn.Conv2d(3, 6, 5), relu, pool, nn.Conv2d(6, 16, 5), relu, pool, nn.Flatten()]
    layers += [nn.Linear(400, 120), relu, nn.Linear(120, 84), relu, nn.Linear(84, 10)]
    layers4 = []
    for n_in, n_out in ((3, 16), (16, 48), (48, 80), (80, 192)):
        layers4 += [nn.Conv2d(n_in, n_out, 3, padding=1), pool, nn.BatchNorm2d(n_out), relu]
    layers4 += [nn.Flatten(), nn.Linear(768, 10)]
    network, network4 = nn.Sequential(*layers), nn.Sequential(*layers4)
    batches, criterion = done.train_loader, nn.CrossEntropyLoss()
    batches4 = ((torch.cat([x[:10].flip(3), x[10:]]), labels) for x, labels in batches)
    done.losses = helpers.check_training(done.training, network, criterion, batches, momentum=0.9)
    done.losses4 = helpers.check_training(
        done.training4, network4, criterion, batches4, momentum=0.9, weight_decay=1e-3
    )
    done.outputs, done.outputs4 = network(X_test / 127.5 - 1), network4(X_test / 127.5 - 1)
    return done


def test_images_become_tensors_from_minus_1_to_1_with_their_labels(done):
    for data, atol in ((done, 1e-6), (done.digits, 2 / 127.5)):  # digits: rounded before resizing
        images, labels = zip(*data.train_loader, *data.test_loader)
        assert_allclose(torch.cat(images), torch.cat([X_train, X_test]) / 127.5 - 1, atol=atol)
        assert torch.equal(torch.cat(labels), torch.cat([y_train, y_test]))
        assert data.train_loader.shuffle
        assert not data.test_loader.shuffle


def test_convnet_has_the_flags_rate_and_convnet4_one_that_rises_then_falls_to_nearly_0(done):
    assert (lesson.num_epochs, lesson.batch_size, lesson.learning_rate) == (7, 64, 0.01)  # defaults
    assert done.training.rates == 20 * [0.02]  # 5 epochs of 4 batches
    rates = done.training4.rates
    assert len(rates) == 20
    assert rates[0] == pytest.approx(0.1 / 25)  # where OneCycleLR starts
    assert rates[5] == max(rates) == pytest.approx(0.1)  # the sixth of 20 steps: 30%
    assert rates[-1] == pytest.approx(0.1 / 25e4)


def test_the_mean_loss_of_each_epoch_is_drawn_and_printed(done):
    drawn = helpers.lines(done.axes[1])  # it has no title
    for name, losses in (("ConvNet", done.losses), ("ConvNet4", done.losses4)):
        means = np.reshape(losses, (5, 4)).mean(axis=1)
        assert_allclose(drawn[name], [range(1, 6), means], rtol=1e-4)
        for epoch, mean in enumerate(means, start=1):
            assert f"\n{name}: Epoch [{epoch}/5], mean loss: {mean:.4f}\n" in done.output
    assert_allclose(drawn["ln 10: all probabilities 1/10"][1], np.log(10))


def test_accuracies_are_those_on_all_test_images_and_on_those_of_each_class(done):
    acc, acc4 = helpers.accuracy(done.outputs, y_test), helpers.accuracy(done.outputs4, y_test)
    assert f"Test accuracy: {acc4:.1%} with ConvNet4, {acc:.1%} with ConvNet (" in done.result
    expected = {"dataset": "cifar10", "accuracy_convnet": acc, "accuracy": acc4}
    for i, name in enumerate(CLASSES):
        convnet = helpers.accuracy(done.outputs[y_test == i], i)
        convnet4 = helpers.accuracy(done.outputs4[y_test == i], i)
        expected[f"accuracy_{name}"] = convnet4
        assert f"\n{name:12} {convnet:10.1%} {convnet4:10.1%}\n" in done.output
    assert done.metrics == pytest.approx(expected)


def test_the_matrix_counts_predictions_and_names_the_classes(done):
    title = "ConvNet4: number of test images"
    counts = confusion_matrix(y_test, done.outputs4.argmax(dim=1))
    assert_allclose(done.panels[title].images[0].get_array(), counts)
    for data, names in ((done, CLASSES), (done.digits, list("0123456789"))):
        for axis in (data.panels[title].xaxis, data.panels[title].yaxis):
            assert [text.get_text() for text in axis.get_ticklabels()] == names


def test_the_first_training_images_are_shown_with_their_classes(done):
    ax = done.panels[", ".join(CLASSES[label] for label in y_train[:8])]
    grid = make_grid(X_train[:8] / 255, pad_value=0.5)
    assert_allclose(ax.images[0].get_array(), grid.permute(1, 2, 0), atol=1e-6)
    assert not ax.axison


def test_the_weights_of_convnet_are_saved(done):
    saved = torch.load("outputs/07_cnn_cifar10.pth", map_location="cpu")
    lesson.ConvNet().load_state_dict(saved)  # would fail on another name
    assert torch.equal(helpers.to_vector(saved.values()), done.training.end)


def test_a_download_is_announced_only_if_data_is_incomplete(done, empty_folder, capsys):
    Path("data/cifar-10-batches-py").mkdir(parents=True)
    Path("data/cifar-10-batches-py/data_batch_1").touch()
    assert lesson.download(lesson.parse_args([])) == "digits"
    assert "170 MB" in capsys.readouterr().out
    assert "170 MB" not in done.output + done.digits.output


def test_the_original_is_asked_only_if_the_mirror_does_not_answer(network_tries, empty_folder):
    args = lesson.parse_args([])
    assert lesson.download(args) == "digits"
    tries = list(dict.fromkeys(network_tries))  # each host once, in order, with its timeout
    assert tries == [("zenodo.org", 15), ("www.cs.toronto.edu", 15)]
    network_tries.clear()
    with mock.patch.object(lesson, "MirroredCIFAR10") as mirror:
        assert lesson.download(args) == "cifar10"
    mirror.assert_called_once_with(args.data_dir, download=True)
    assert not network_tries
