"""Lesson 09: the logs are read back, and compared with what a network of the test's own gives."""

import copy
import io
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import helpers
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.tensorboard._utils import figure_to_image
from torchvision.utils import make_grid

lesson = helpers.load_lesson("09")
X, y = (torch.from_numpy(array[:1100]) for array in load_digits(return_X_y=True))
X = interpolate(X.float().view(-1, 1, 8, 8) / 16, size=28, mode="bilinear")
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)  # 825 and 275 images
EPOCH = list(zip(X_train.split(8), y_train.split(8)))[:103]  # full batches, as drop_last=True
MEASURES = {"loss": lambda *args: cross_entropy(*args).item(), "accuracy": helpers.accuracy}


def read_log(folder):
    return EventAccumulator(str(folder), {"histograms": 0}).Reload()  # 0: all, not only the last


def scalars(log, tag):
    return {event.step: event.value for event in log.Scalars(tag)}


def image(log, tag):
    (event,) = log.Images(tag)
    return plt.imread(io.BytesIO(event.encoded_image_string))  # (H, W, 3), from 0 to 1


@pytest.fixture(scope="module")
def done():
    """Run two epochs of 103 steps; add the logs, and networks that are trained alike."""
    few, small = helpers.few_digits(lesson, 1100), mock.patch.object(lesson, "hidden_size", 50)
    with few, small, helpers.batches_in_order(lesson) as loaders:
        with helpers.record_training() as trainings:
            done = helpers.run(lesson, "--dataset=digits", "--epochs=2", "--batch-size=8")
    done.train_loader, done.test_loader = loaders
    (done.training,) = trainings
    done.train_log = read_log(f"{done.metrics['log_dir']}/train")
    done.test_log = read_log(f"{done.metrics['log_dir']}/test")
    layers = {"flatten": nn.Flatten(), "l1": nn.Linear(784, 50), "relu": nn.ReLU()}
    network = nn.Sequential(OrderedDict(layers, l2=nn.Linear(50, 10)))
    done.networks = []  # the network before each step, and after the last

    def batches():
        for batch in EPOCH + EPOCH:
            done.networks.append(copy.deepcopy(network).cpu().requires_grad_(False))
            yield batch

    helpers.check_training(done.training, network, cross_entropy, batches(), torch.optim.Adam)
    done.networks.append(network.requires_grad_(False))
    done.probabilities = network(X_test).softmax(dim=1)
    return done


def test_training_images_are_shuffled_and_each_step_has_the_default_rate(done):
    assert done.train_loader.shuffle
    assert not done.test_loader.shuffle
    assert (lesson.hidden_size, lesson.num_epochs, lesson.batch_size) == (500, 4, 100)
    assert done.training.rates == 206 * [0.001]


def test_charts_show_means_of_100_training_steps_and_the_test_after_each_epoch(done):
    for tag, measure in MEASURES.items():
        steps = zip(done.networks, EPOCH + EPOCH)
        values = [measure(network(images), labels) for network, (images, labels) in steps]
        means = {99: np.mean(values[:100]), 199: np.mean(values[100:200])}  # by step, from 0
        assert scalars(done.train_log, tag) == pytest.approx(means, rel=1e-4)
        first, last = (measure(done.networks[n](X_test), y_test) for n in (103, 206))
        assert scalars(done.test_log, tag) == pytest.approx({102: first, 205: last}, rel=1e-4)
        assert done.metrics[tag] == pytest.approx(last, rel=1e-4)
    assert f"{done.metrics['accuracy']:.1%}" in done.result


def test_histograms_of_all_weights_are_logged_after_each_epoch(done):
    for name in ("l1.weight", "l1.bias", "l2.weight", "l2.bias"):
        events = done.train_log.Histograms(name)
        assert [event.step for event in events] == [102, 205]
        for event in events:
            weights = done.networks[event.step + 1].get_parameter(name)
            assert_allclose(event.histogram_value.min, weights.min(), rtol=1e-3)
            assert_allclose(event.histogram_value.sum, weights.sum(), rtol=1e-3)


def test_the_graph_the_first_test_images_and_the_figure_are_logged(done):
    for layer in ("l1", "relu", "l2"):
        assert f"[{layer}]" in str(done.train_log.Graph())
    grid, figure = make_grid(X_test[:8]), figure_to_image(done.axes[0].figure) / 255  # (3, H, W)
    assert_allclose(image(done.test_log, "mnist_images"), grid.permute(1, 2, 0), atol=1 / 255)
    assert_allclose(image(done.test_log, "mistakes"), figure.transpose(1, 2, 0), atol=1 / 255)


def test_precision_recall_curves_are_logged(done):
    for digit in range(10):
        positive = done.probabilities[:, digit] >= torch.arange(127).view(-1, 1) / 126  # thresholds
        (event,) = done.test_log.Tensors(str(digit))
        true_positives, false_positives, *_ = make_ndarray(event.tensor_proto)
        assert_allclose(true_positives, (positive & (y_test == digit)).sum(dim=1))
        assert_allclose(false_positives, (positive & (y_test != digit)).sum(dim=1))


def test_the_curves_with_the_lowest_areas_are_drawn(done):
    areas = [average_precision_score(y_test == i, done.probabilities[:, i]) for i in range(10)]
    assert_allclose([done.metrics[f"average_precision_{i}"] for i in range(10)], areas, atol=1e-4)
    (ax,) = (ax for ax in done.axes if ax.get_ylabel() == "precision")
    curves = helpers.lines(ax)
    lowest = {f"{i}: average precision {areas[i]:.4f}": areas[i] for i in np.argsort(areas)[:3]}
    assert list(curves) == list(lowest)
    for label, (recall, precision) in curves.items():
        assert -np.diff(recall) @ precision[:-1] == pytest.approx(lowest[label], abs=1e-4)
    # The axes start three times as far from 1 as the lowest point where precision equals recall
    break_even = min(np.minimum(recall, precision).max() for recall, precision in curves.values())
    start = 1 - 3 * (1 - break_even)
    assert ax.axis() == pytest.approx((start, 1.002, start, 1.002))
    assert ax.get_title() == f"Precision and recall (axes start at {start:.2f})"
    assert ax.get_xlabel() == "recall"


def test_six_test_images_and_the_mistakes_of_which_it_is_most_confident_are_shown(done):
    images = {f"test image: {y_test[i]}": X_test[i, 0] for i in range(6)}
    confidence, predicted = done.probabilities.max(dim=1)
    for i in (confidence * (predicted != y_test)).argsort(descending=True)[:6]:
        images[f"predicted {predicted[i]} ({confidence[i]:.1%})\ntrue: {y_test[i]}"] = X_test[i, 0]
    cells = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14]  # the mistakes are below, in the left half
    for cell, (title, image) in zip(cells, images.items(), strict=True):
        ax = done.panels[title]
        (shown,) = ax.images
        assert_allclose(shown.get_array(), image, atol=1e-6)
        assert shown.get_cmap().name == "gray"
        assert ax.get_subplotspec().get_geometry() == (3, 6, cell, cell)  # in three rows of six
    assert len(done.axes) == 12 + 1  # no title appears twice; the last is that of the curves


def test_mnist_is_read_from_data_dir_and_the_only_mistake_is_shown():
    digits, images = torch.arange(40) % 10, torch.zeros(40, 28, 28, dtype=torch.uint8)
    images[range(40), 2 * digits] = 255  # a white line, in another row for each digit
    train_set = mock.Mock(data=images, targets=digits)
    test_set = mock.Mock(data=images[[0, 1, 2, 5, 4, 5, 6, 7, 8, 9]], targets=digits[:10])
    fake = mock.Mock(side_effect=lambda root, train, **_: train_set if train else test_set)
    with mock.patch("torchvision.datasets.MNIST", fake):
        done = helpers.run(lesson, "--data-dir=mine", "--epochs=1", "--batch-size=2", "--lr=0.02")
    download = mock.call(Path("mine"), train=True, download=True)
    train, test = mock.call(Path("mine"), train=True), mock.call(Path("mine"), train=False)
    assert fake.call_args_list == [download, test, train, test]  # `download` checks both
    assert done.metrics["dataset"] == "mnist"
    assert len(done.panels) == 2 + 1 + 1  # the test images of a batch of 2, 1 mistake, the curves
    assert_allclose(done.panels["test image: 0"].images[0].get_array(), images[0] / 255)
    assert "predicted 5 (99.9%)\ntrue: 3" in done.panels  # never 100.0%, however sure it is
    assert done.panels["Precision and recall (axes start at 0.00)"].axis() == (0, 1.002, 0, 1.002)


def test_a_damaged_test_set_is_named_and_leaves_no_run_folder(empty_folder):
    with mock.patch("torchvision.datasets.MNIST", side_effect=[None, EOFError]):  # training, test
        message = helpers.refusal(lesson, "--dataset=mnist")
    assert "read (EOFError())" in message
    assert f"delete {Path('data/MNIST')}" in message
    assert not Path("runs").exists()


def test_a_failing_graph_is_named_and_the_log_of_each_run_is_complete_after_ctrl_c(capsys):
    fail = mock.patch.object(lesson.SummaryWriter, "add_graph", side_effect=ValueError("why"))
    stop = mock.patch.object(lesson.F, "softmax", side_effect=KeyboardInterrupt)  # after training
    for _ in range(2):
        with fail, stop, helpers.few_digits(lesson, 8), pytest.raises(KeyboardInterrupt):
            lesson.main(["--dataset=digits", "--epochs=2", "--batch-size=2", "--log-dir=logs"])
    assert capsys.readouterr().out.count("No graph was logged (ValueError('why'))") == 2
    first, second = Path("logs").glob("lr0.001_*")
    for folder in (first / "train", first / "test", second / "train", second / "test"):
        assert list(scalars(read_log(folder), "loss")) == [2, 5]  # a mean per epoch, of 3 steps
