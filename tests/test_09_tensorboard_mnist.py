"""Lesson 09: the log is read back, and compared with what a second network computes."""

import functools
import io
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torchvision
from helpers import curves, digits, load_lesson, numbers, run, second, tiles
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch import nn
from torch.nn import functional as F

lesson = load_lesson("09")
X_train, X_test, y_train, y_test = digits(size=28)


def read(log_dir):
    """Return TensorBoard's readers of what both writers wrote, with all histograms."""
    folders = (f"{log_dir}/{name}" for name in ("train", "test"))
    return [EventAccumulator(folder, {"histograms": 0}).Reload() for folder in folders]


def scalars(reader):
    """Return the step of each point in both charts, its loss, and its accuracy."""
    pairs = zip(reader.Scalars("loss"), reader.Scalars("accuracy"))
    return [[loss.step, accuracy.step, loss.value, accuracy.value] for loss, accuracy in pairs]


@functools.cache
def two_epochs():
    """Run two epochs of 225 steps, in order; add the log, and what a second network computes."""
    flags = "--dataset=digits --epochs=2 --batch-size=6 --lr=0.002".split()
    done = run(lesson, *flags, in_order=True)
    done.train_log, done.test_log = read(done.metrics["log_dir"])
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
    batches, settings = [*zip(X_train.split(6), y_train.split(6))], {"optim": torch.optim.Adam}
    done.losses, done.outputs, (_, *done.tests) = second(
        done.trainings[0], network, nn.CrossEntropyLoss(), batches, X_test, every=225, **settings
    )
    done.probabilities, done.weights = done.tests[1].softmax(dim=1), network.cpu().state_dict()
    return done


def test_charts_show_means_since_the_last_print_and_the_test_at_the_end_of_each_epoch():
    done, train, test = two_epochs(), [], []
    assert done.trainings[0].rates == 450 * [0.002]
    for first, outputs in zip((0, 225), done.tests):
        for start, labels in ((first, y_train[:600]), (first + 100, y_train[600:1200])):
            predicted = torch.cat(done.outputs[start : start + 100]).argmax(dim=1)
            accuracy = (predicted == labels).double().mean()
            train.append(
                [start + 99, start + 99, np.mean(done.losses[start : start + 100]), accuracy]
            )
        accuracy = (outputs.argmax(dim=1) == y_test).double().mean()
        test.append([first + 224, first + 224, F.cross_entropy(outputs, y_test), accuracy])
    assert_allclose(scalars(done.train_log), train, rtol=2e-3)
    assert_allclose(scalars(done.test_log), test, rtol=2e-3)
    assert_allclose([done.metrics["loss"], done.metrics["accuracy"]], test[1][2:], rtol=2e-3)
    printed = re.findall(r"Step .*, Loss: (\S+)", done.output)
    assert_allclose(np.array(printed, float), np.array(train)[:, 2], atol=1e-3)


def test_the_log_has_the_graph_of_the_network_and_its_weights_after_each_epoch():
    done, names = two_epochs(), ("l1.weight", "l1.bias", "l2.weight", "l2.bias")
    assert all(f"[{layer}]" in str(done.train_log.Graph()) for layer in ("l1", "relu", "l2"))
    for name, tensor in zip(names, done.weights.values()):
        events = done.train_log.Histograms(name)
        assert [event.step for event in events] == [224, 449]
        last, expected = events[1].histogram_value, [tensor.min(), tensor.max(), tensor.sum()]
        assert_allclose([last.min, last.max, last.sum], expected, rtol=1e-3)


def test_test_images_are_shown_with_their_digits_and_logged():
    done = two_epochs()
    (event,) = done.test_log.Images("mnist_images")
    plt.figure().gca().imshow(Image.open(io.BytesIO(event.encoded_image_string)))
    for ax, tile, image, label in zip(done.axes[:6], tiles(plt.gca(), 28), X_test[:, 0], y_test):
        assert_allclose(ax.images[0].get_array(), image, atol=1e-6)
        assert_allclose(tile[..., 0] / 255, image, atol=0.01)
        assert numbers(ax.get_title(), "test image:") == [label]


def test_precision_recall_curves_and_average_precisions_are_those_of_the_network():
    done, thresholds, expected = two_epochs(), torch.arange(127).view(-1, 1) / 126, []
    for digit, (recall, precision) in enumerate(curves(done.axes[12])):
        p, is_digit = done.probabilities[:, digit], y_test == digit
        expected.append(average_precision_score(is_digit, p))
        (event,), n_correct = (
            done.test_log.Tensors(str(digit)),
            (is_digit & (p >= thresholds)).sum(1),
        )
        reference = n_correct / (p >= thresholds).sum(dim=1).clip(min=1), n_correct / is_digit.sum()
        assert_allclose(tensor_util.make_ndarray(event.tensor_proto)[4:], reference, atol=1e-4)
        found = [done.metrics[f"average_precision_{digit}"], -np.diff(recall) @ precision[:-1]]
        found += numbers(done.output, f"Average precision of {digit}:")
        assert_allclose(found, expected[digit], atol=1e-4)
    legend = [numbers(t.get_text(), "")[::-1] for t in done.axes[12].get_legend().get_texts()]
    assert_allclose(sorted(legend), sorted(zip(expected, range(10)))[:3], atol=1e-4)
    assert_allclose(done.axes[12].axis(), 2 * [0.9 if min(expected) > 0.95 else 0, 1.002])


def test_mistakes_are_the_surest_wrong_predictions():
    done = two_epochs()
    confidence, predicted = done.probabilities.max(dim=1)
    surest = (confidence * (predicted != y_test)).argsort(descending=True)
    for ax, i in zip(done.axes[6:12], surest):
        assert_allclose(ax.images[0].get_array(), X_test[i, 0], atol=1e-6)
        expected = [100 * confidence[i], predicted[i], y_test[i]]
        assert_allclose(numbers(ax.get_title(), ""), expected, atol=0.06)
    assert len(done.axes) == 13 and done.test_log.Images("mistakes")


def test_each_run_has_its_folder_and_ctrl_c_leaves_a_log_up_to_the_last_epoch(monkeypatch):
    def interrupted(*args, log_epoch=lesson.log_epoch):
        log_epoch(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(lesson, "log_epoch", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(lesson, "--dataset=digits", "--batch-size=450", "--lr=0.01")
    folders = list(Path("runs").glob("lr0.01_*"))
    for train, test in map(read, folders):
        assert [point[0] for point in scalars(train) + scalars(test)] == [2, 2]
    assert len(folders) == 2


def test_mnist_is_scaled_to_0_1_and_read_in_its_order(monkeypatch):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(49).view(16, 28, 28)

    def MNIST(root, train, download=False):
        n = 16 if train else 10
        return SimpleNamespace(data=pixels[:n], targets=torch.arange(n) % 10)

    monkeypatch.setattr(torchvision.datasets, "MNIST", MNIST)
    done = run(lesson, "--epochs=1", "--batch-size=4")
    for loader, n in zip(done.loaders, (10, 16)):
        torch.testing.assert_close(
            loader.dataset[:], (pixels[:n, None] / 255, torch.arange(n) % 10)
        )
    assert [ax.get_title() for ax in done.axes[:4]] == [f"test image: {i}" for i in range(4)]
    assert done.metrics["dataset"] == "mnist" and len(done.trainings[0].rates) == 4
