"""Lesson 09: the log is read back, and compared with what a second network computes."""

import functools
import io
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import torchvision
from helpers import check_print, check_result, check_training, curves, digits, load_lesson, run, spy
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.utils import make_grid

lesson = load_lesson("09")
X_train, X_test, y_train, y_test = digits(size=28)
N_STEPS = 337  # in an epoch of batches of 4


def scalars(reader):
    """Return the step of each point in both charts, its loss, and its accuracy."""
    pairs = zip(reader.Scalars("loss"), reader.Scalars("accuracy"))
    return [[loss.step, accuracy.step, loss.value, accuracy.value] for loss, accuracy in pairs]


@functools.cache
def two_epochs():
    """Check two epochs, in order; add the log, and what a network that was trained alike gives."""
    flags = "--dataset=digits --epochs=2 --batch-size=4 --lr=0.0002".split()
    writer = lesson.SummaryWriter
    with (
        mock.patch.object(lesson, "hidden_size", 50),
        spy(writer, "flush") as flush,
        spy(writer, "close") as close,
    ):
        done = run(lesson, *flags, in_order=True)
    done.flushed = [Path(call.args[0].log_dir).name for call in flush.call_args_list]
    done.closed = [Path(call.args[0].log_dir).name for call in close.call_args_list]
    folders = (f"{done.metrics['log_dir']}/{name}" for name in ("train", "test"))
    readers = (EventAccumulator(folder, {"histograms": 0}).Reload() for folder in folders)
    done.train_log, done.test_log = readers  # with all histograms
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    batches, rates = list(zip(X_train.split(4), y_train.split(4))), 2 * N_STEPS * [0.0002]
    arguments = done.trainings[0], rates, network, nn.CrossEntropyLoss(), batches, X_test
    done.losses, done.logits, done.test_logits = check_training(*arguments, optim=torch.optim.Adam)
    done.probabilities = done.test_logits[1].softmax(dim=1)
    done.weights = network.cpu().state_dict()
    return done


def test_charts_show_means_since_the_last_print_and_the_test_at_the_end_of_each_epoch():
    done, train, test, printed = two_epochs(), [], [], []
    for epoch, logits in enumerate(done.test_logits):
        for i in (0, 100, 200):
            steps = slice(epoch * N_STEPS + i, epoch * N_STEPS + i + 100)
            predicted = torch.cat(done.logits[steps]).argmax(dim=1)
            accuracy = (predicted == y_train[4 * i : 4 * i + 400]).double().mean()
            train.append([steps.stop - 1, steps.stop - 1, np.mean(done.losses[steps]), accuracy])
            printed += [epoch + 1, 2, i + 100, N_STEPS, np.mean(done.losses[steps])]
        accuracy, last = (logits.argmax(dim=1) == y_test).double().mean(), (epoch + 1) * N_STEPS - 1
        test.append([last, last, cross_entropy(logits, y_test), accuracy])
        printed += [100 * accuracy, cross_entropy(logits, y_test)]
    assert_allclose(scalars(done.train_log), train, rtol=2e-3)
    assert_allclose(scalars(done.test_log), test, rtol=2e-3)
    check_print(done.output, "Epoch", printed, end="Average")
    check_result(done, accuracy=accuracy.item())
    assert_allclose(done.metrics["loss"], test[1][2], rtol=1e-3)
    check_print(done.output, "09 ", [1347, 450])  # training and test images


def test_the_log_has_the_graph_of_the_network_and_its_weights_after_both_epochs():
    done = two_epochs()
    assert all(f"[{layer}]" in str(done.train_log.Graph()) for layer in ("l1", "relu", "l2"))
    names = ("l1.weight", "l1.bias", "l2.weight", "l2.bias")
    for name, tensor in zip(names, done.weights.values()):
        first, last = done.train_log.Histograms(name)
        assert [first.step, last.step] == [N_STEPS - 1, 2 * N_STEPS - 1]
        found = last.histogram_value
        expected = [tensor.min(), tensor.max(), tensor.sum()]
        assert_allclose([found.min, found.max, found.sum], expected, rtol=1e-3)


def test_test_images_are_shown_with_their_digits_and_logged():
    done = two_epochs()
    (event,) = done.test_log.Images("mnist_images")
    logged = np.array(Image.open(io.BytesIO(event.encoded_image_string)))
    assert_allclose(logged / 255, make_grid(X_test[:4]).permute(1, 2, 0), atol=0.01)
    for ax, image, label in zip(done.axes[:4], X_test[:, 0], y_test):
        assert_allclose(ax.images[0].get_array(), image, atol=1e-6)
        assert ax.get_title() == f"test image: {label}"


def test_precision_recall_curves_of_the_log_count_the_predictions_of_the_network():
    done = two_epochs()
    thresholds = torch.arange(127).view(-1, 1) / 126  # add_pr_curve's default
    for digit in range(10):
        positive, is_digit = done.probabilities[:, digit] >= thresholds, y_test == digit
        counts = (positive & is_digit).sum(dim=1), (positive & ~is_digit).sum(dim=1)
        (event,) = done.test_log.Tensors(str(digit))
        assert_allclose(tensor_util.make_ndarray(event.tensor_proto)[:2], np.stack(counts))


def test_average_precisions_are_the_areas_under_the_curves_of_the_figure():
    done, ax = two_epochs(), two_epochs().axes[-1]
    expected = []
    for digit, (recall, precision) in enumerate(curves(ax)):
        expected.append(average_precision_score(y_test == digit, done.probabilities[:, digit]))
        area = -np.diff(recall) @ precision[:-1]
        found = [area, done.metrics[f"average_precision_{digit}"]]
        assert_allclose(found, expected[digit], atol=1e-4)
        check_print(done.output, f"Average precision of {digit}:", [expected[digit]])
    lowest = [[digit, expected[digit]] for digit in sorted(np.argsort(expected)[:3])]
    legend = " ".join(text.get_text() for text in ax.get_legend().get_texts())
    check_print(legend, "", np.ravel(lowest))
    assert ax.axis() == (0, 1.002, 0, 1.002)  # as some are below 0.95


def test_mistakes_are_the_surest_wrong_predictions():
    done = two_epochs()
    confidence, predicted = done.probabilities.max(dim=1)
    surest = (confidence * (predicted != y_test)).argsort(descending=True)
    for ax, i in zip(done.axes[4:-1], surest[:6], strict=True):
        assert_allclose(ax.images[0].get_array(), X_test[i, 0], atol=1e-6)
        check_print(ax.get_title(), "", [100 * confidence[i], predicted[i], y_test[i]])
    assert done.test_log.Images("mistakes")


def test_both_writers_are_flushed_after_each_epoch_and_closed_in_the_end():
    assert two_epochs().flushed == ["train", "test", "train", "test"]
    assert two_epochs().closed == ["train", "test"]


def test_each_run_has_a_folder_named_after_its_learning_rate():
    for _ in range(2):
        with mock.patch.object(lesson, "draw", return_value=10 * [0]):
            run(lesson, "--dataset=digits", "--epochs=1", "--batch-size=450", "--lr=0.01")
    assert len(list(Path("runs").glob("lr0.01_*"))) == 2


def test_mnist_is_read_from_data_dir_and_scaled_to_0_1(monkeypatch):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(49).view(16, 28, 28)
    sets = [SimpleNamespace(data=pixels[:n], targets=torch.arange(n) % 10) for n in (10, 16)]

    def MNIST(root, train, download=False):
        assert root == Path("mine")
        return sets[train]

    monkeypatch.setattr(torchvision.datasets, "MNIST", MNIST)
    Path("mine/MNIST/raw").mkdir(parents=True)
    Path("mine/MNIST/raw/t10k-labels-idx1-ubyte").touch()
    done = run(lesson, "--data-dir=mine", "--epochs=1", "--batch-size=4")
    assert "Downloading" not in done.output  # as all is there
    for loader, mnist in zip(done.loaders, sets):  # the test set is read first, for its images
        images, labels = loader.dataset.tensors
        torch.testing.assert_close(images, mnist.data[:, None] / 255)
        assert torch.equal(labels, mnist.targets)
    assert [ax.get_title()[-1] for ax in done.axes[:4]] == list("0123")  # in their order
    assert done.metrics["dataset"] == "mnist"


def test_a_damaged_test_set_is_not_used(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", mock.Mock(side_effect=[None, EOFError]))
    assert lesson.download(lesson.parse_args([])) == "digits"
