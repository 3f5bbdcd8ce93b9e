"""Lesson 09: the log is read back, and compared with what a second network computes."""

import functools
import io
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torchvision
from helpers import in_order, load_lesson, numbers, refusal, retrace, run, spy, tiles
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch import nn
from torch.nn import functional as F

lesson = load_lesson("09")
X, y = map(torch.from_numpy, load_digits(return_X_y=True))
X = F.interpolate(X.view(-1, 1, 8, 8) / 16, size=28, mode="bilinear").float()
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)


def read(log_dir):
    """Return TensorBoard's readers of what both writers wrote."""
    all_of_them = {"histograms": 0}  # by default, only the last is read
    folders = (f"{log_dir}/{name}" for name in ("train", "test"))
    return [EventAccumulator(folder, all_of_them).Reload() for folder in folders]


def scalars(reader):
    """Return the step of each point in both charts, its loss, and its accuracy."""
    pairs = zip(reader.Scalars("loss"), reader.Scalars("accuracy"))
    return [[loss.step, accuracy.step, loss.value, accuracy.value] for loss, accuracy in pairs]


@functools.cache
def two_epochs():
    """Run two epochs of 225 steps, in order; add the log, and what a second network computes."""
    with mock.patch.object(lesson, "DataLoader", in_order):
        done = run(lesson, "--epochs=2", "--batch-size=6", "--lr=0.002")
    done.train_log, done.test_log = read(done.metrics["log_dir"])
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
    batches = list(zip(X_train.split(6), y_train.split(6)))
    steps = retrace(done.trainings[0], network, torch.optim.Adam(network.parameters()), batches)
    done.steps, done.tests = [], []
    for epoch in range(2):
        done.steps.append([next(steps) for _ in batches])
        done.tests.append(network(X_test.to(lesson.device)).detach().cpu())
    done.probabilities = done.tests[1].softmax(dim=1)
    done.weights = [parameter.detach().cpu() for parameter in network.parameters()]
    return done


def test_charts_show_means_since_the_last_print_and_the_test_at_the_end_of_each_epoch():
    done, train, test = two_epochs(), [], []
    for first, steps, outputs in zip((0, 225), done.steps, done.tests):
        for i in (0, 100):
            losses, train_outputs = zip(*steps[i : i + 100])
            labels, step = y_train[6 * i : 6 * i + 600], first + i + 99
            n_correct = (torch.cat(train_outputs).argmax(dim=1) == labels).sum().item()
            train.append([step, step, np.mean(losses), n_correct / 600])
        accuracy = (outputs.argmax(dim=1) == y_test).double().mean().item()
        test.append([first + 224, first + 224, F.cross_entropy(outputs, y_test).item(), accuracy])
    assert_allclose(scalars(done.train_log), train, rtol=2e-3)
    assert_allclose(scalars(done.test_log), test, rtol=2e-3)
    assert_allclose([done.metrics["loss"], done.metrics["accuracy"]], test[1][2:], rtol=2e-3)
    printed = re.findall(r"Step .*, Loss: (\S+)", done.output)
    assert_allclose(np.array(printed, float), np.array(train)[:, 2], atol=1e-3)


def test_the_log_has_the_graph_of_the_network_and_its_weights_after_each_epoch():
    done = two_epochs()
    assert all(f"[{layer}]" in str(done.train_log.Graph()) for layer in ("l1", "relu", "l2"))
    names = ("l1.weight", "l1.bias", "l2.weight", "l2.bias")
    for name, tensor in zip(names, done.weights):
        events = done.train_log.Histograms(name)
        assert [event.step for event in events] == [224, 449]
        last, expected = events[1].histogram_value, [tensor.min(), tensor.max(), tensor.sum()]
        assert_allclose([last.min, last.max, last.sum], expected, rtol=1e-3)


def test_test_images_are_shown_with_their_digits_and_logged():
    done = two_epochs()
    for ax, image, label in zip(done.axes[:6], X_test, y_test):
        assert_allclose(ax.images[0].get_array(), image[0], atol=1e-6)
        assert numbers(ax.get_title(), "test image:") == [label]
    (event,) = done.test_log.Images("mnist_images")
    plt.figure().gca().imshow(Image.open(io.BytesIO(event.encoded_image_string)))
    for found, image in zip(tiles(plt.gca(), 28), X_test[:6]):
        assert_allclose(found[..., 0] / 255, image[0], atol=0.01)


def test_precision_recall_curves_and_average_precisions_are_those_of_the_network():
    done, thresholds, expected = two_epochs(), torch.arange(127).view(-1, 1) / 126, []
    for digit in range(10):
        p, is_digit = done.probabilities[:, digit], y_test == digit
        expected.append(average_precision_score(is_digit, p))
        line, (event,) = done.axes[12].lines[digit], done.test_log.Tensors(str(digit))
        recall, precision = line.get_xydata().T
        positive = p >= thresholds
        n_correct = (positive & is_digit).sum(dim=1)
        reference = n_correct / positive.sum(dim=1).clip(min=1), n_correct / is_digit.sum()
        assert_allclose(tensor_util.make_ndarray(event.tensor_proto)[4:], reference, atol=1e-4)
        found = [done.metrics[f"average_precision_{digit}"], -np.diff(recall) @ precision[:-1]]
        found += numbers(done.output, f"Average precision of {digit}:")
        assert_allclose(found, expected[digit], atol=1e-4)
        assert line.get_drawstyle() == "steps-post"
    start = 0.9 if min(expected) > 0.95 else 0
    assert_allclose(done.axes[12].axis(), [start, 1.002, start, 1.002])
    legend = [numbers(t.get_text(), "") for t in done.axes[12].get_legend().get_texts()]
    lowest = sorted(zip(expected, range(10)))[:3]
    assert_allclose(sorted((p, digit) for digit, p in legend), lowest, atol=1e-4)


def test_mistakes_are_the_surest_wrong_predictions():
    done = two_epochs()
    confidence, predicted = done.probabilities.max(dim=1)
    wrong = (predicted != y_test).nonzero()[:, 0]
    surest = wrong[confidence[wrong].argsort(descending=True)]
    assert len(surest) > 6 and len(done.axes) == 13
    for ax, i in zip(done.axes[6:12], surest):
        assert_allclose(ax.images[0].get_array(), X_test[i, 0], atol=1e-6)
        expected = [100 * confidence[i], predicted[i], y_test[i]]
        assert_allclose(numbers(ax.get_title(), ""), expected, atol=0.06)
    assert done.test_log.Images("mistakes")


def test_without_mistakes_none_is_drawn():
    args = lesson.parse_args(["--output-dir=."])
    one_hot = F.one_hot(y_test, 10).float()
    dataset = lesson.load_offline_data()[1]
    assert lesson.draw(dataset, y_test, one_hot, mock.Mock(), args) == 10 * [1]
    assert len(plt.gcf().axes) == 1


def test_each_run_has_its_folder_and_ctrl_c_leaves_a_log_up_to_the_last_epoch(monkeypatch):
    def interrupted(*args, log_epoch=lesson.log_epoch):
        log_epoch(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(lesson, "log_epoch", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(lesson, "--batch-size=450", "--lr=0.01")
    folders = list(Path("runs").glob("lr0.01_*"))
    for train, test in map(read, folders):
        assert [point[0] for point in scalars(train) + scalars(test)] == [2, 2]
        assert len(train.Tags()["histograms"]) == 4
    assert len(folders) == 2


def test_mnist_is_downloaded_with_a_timeout_scaled_to_0_1_and_shown_in_its_order(monkeypatch):
    calls, pixels = [], torch.arange(256, dtype=torch.uint8).repeat(49).view(16, 28, 28)

    def MNIST(root, train, download=False):
        calls.append([train, download, socket.getdefaulttimeout()])
        n = 16 if train else 10
        return SimpleNamespace(data=pixels[:n], targets=torch.arange(n) % 10)

    monkeypatch.setattr(torchvision.datasets, "MNIST", MNIST)
    with spy(lesson.TensorDataset, "__init__") as init:
        done = run(lesson, "--dataset=auto", "--epochs=1")
    for call, n in zip(init.call_args_list, (16, 10)):
        _, images, labels = call.args
        assert_allclose(images, pixels[:n].view(-1, 1, 28, 28) / 255, rtol=1e-6)
        assert images.dtype == torch.float32 and len(labels) == n
    assert calls == [[1, 1, 15], [0, 0, 15], [1, 0, None], [0, 0, None]]
    assert [ax.get_title()[-1] for ax in done.axes[:6]] == list("012345")
    assert done.metrics["dataset"] == "mnist" and len(done.trainings[0].rates) == 1


def test_a_damaged_file_is_one_line_and_leaves_no_empty_run():
    Path("data/MNIST/raw").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        Path(f"data/MNIST/raw/{name}-ubyte").write_bytes(b"damaged")
    assert str(Path("data/MNIST")) in refusal(lesson, "--dataset=mnist")
    assert not Path("runs").exists() and socket.getdefaulttimeout() is None
