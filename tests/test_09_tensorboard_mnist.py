"""Lesson 09: the logs are read back, and compared with what a network of the test's own gives."""

import io
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
X, y = (torch.from_numpy(array[:1285]) for array in load_digits(return_X_y=True))
X = interpolate(X.float().view(-1, 1, 8, 8) / 16, size=28, mode="bilinear")
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)  # 963 and 322 images
BATCHES = list(zip(X_train.split(8), y_train.split(8)))[:120]  # full ones, as drop_last=True


def read_log(folder):
    return EventAccumulator(str(folder), {"histograms": 0}).Reload()  # 0: all, not only the last


def scalars(log, tag):
    return {event.step: event.value for event in log.Scalars(tag)}


def image(log, tag):
    (event,) = log.Images(tag)
    return plt.imread(io.BytesIO(event.encoded_image_string))  # (H, W, 3), from 0 to 1


@pytest.fixture(scope="module")
def done():
    """Run two epochs of 120 steps; read the logs, and check the training."""
    few, small = helpers.few_digits(lesson, 1285), mock.patch.object(lesson, "hidden_size", 50)
    with few, small, helpers.batches_in_order(lesson) as loaders:
        with helpers.record_training() as trainings:
            done = helpers.run(lesson, "--dataset=digits", "--epochs=2", "--batch-size=8")
    done.train_loader, done.test_loader = loaders
    (done.training,) = trainings
    done.train_log = read_log(f"{done.metrics['log_dir']}/train")
    done.test_log = read_log(f"{done.metrics['log_dir']}/test")
    done.accuracies = []  # of each training step

    def criterion(outputs, labels):
        done.accuracies.append(helpers.accuracy(outputs, labels))
        return cross_entropy(outputs, labels)

    done.network = nn.Sequential(nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    adam = torch.optim.Adam
    helpers.check_training(done.training, done.network, criterion, BATCHES, adam, X=X_test)
    done.probabilities = done.training.outputs[1].softmax(dim=1)  # after the last epoch
    return done


def test_the_numbers_in_readme_were_made_with_these_defaults():
    args = lesson.parse_args([])
    assert (lesson.hidden_size, args.epochs, args.batch_size, args.lr) == (500, 4, 100, 0.001)


def test_training_images_are_shuffled_and_the_rate_is_constant(done):
    assert (done.train_loader.shuffle, done.test_loader.shuffle) == (True, False)
    assert done.training.rates == 240 * [0.001]


def test_means_of_100_training_steps_and_the_test_after_each_epoch_are_logged(done):
    for tag, steps, measure in (
        ("loss", done.training.losses, cross_entropy),
        ("accuracy", done.accuracies, helpers.accuracy),
    ):
        means = {99: np.mean(steps[:100]), 199: np.mean(steps[100:200])}  # the first step is 0
        assert scalars(done.train_log, tag) == pytest.approx(means, rel=1e-4)
        first, last = (float(measure(outputs, y_test)) for outputs in done.training.outputs)
        assert scalars(done.test_log, tag) == pytest.approx({119: first, 239: last}, rel=1e-4)
    assert "\nEpoch [1/2], Step [100/120], Loss: " in done.output
    accuracy = helpers.accuracy(done.probabilities, y_test)
    assert done.metrics["accuracy"] == pytest.approx(accuracy) and f"{accuracy:.1%}" in done.result


def test_histograms_of_all_weights_are_logged_after_each_epoch(done):
    names = ("l1.weight", "l1.bias", "l2.weight", "l2.bias")
    for name, weights in zip(names, done.network.parameters(), strict=True):
        first, last = done.train_log.Histograms(name)
        assert (first.step, last.step) == (119, 239)
        assert_allclose(last.histogram_value.min, weights.detach().min(), rtol=1e-3)
        assert_allclose(last.histogram_value.sum, weights.detach().sum(), rtol=1e-3)


def test_the_graph_the_first_test_images_and_the_figure_are_logged(done):
    for layer in ("l1", "relu", "l2"):
        assert f"[{layer}]" in str(done.train_log.Graph())  # it has the names in brackets
    grid, figure = make_grid(X_test[:8]), figure_to_image(done.axes[0].figure) / 255  # (3, H, W)
    assert_allclose(image(done.test_log, "mnist_images"), grid.permute(1, 2, 0), atol=1 / 255)
    assert_allclose(image(done.test_log, "mistakes"), figure.transpose(1, 2, 0), atol=1 / 255)


def test_precision_recall_curves_of_all_digits_are_logged(done):
    for digit in range(10):
        (event,) = done.test_log.Tensors(str(digit))
        true_positives, false_positives, *_ = make_ndarray(event.tensor_proto)  # each (127,)
        positive = done.probabilities[:, digit] >= 0.5  # the 64th of 127 thresholds from 0 to 1
        assert true_positives[63] == (positive & (y_test == digit)).sum()
        assert false_positives[63] == (positive & (y_test != digit)).sum()


def test_the_curves_with_the_lowest_areas_are_drawn_and_seen(done):
    areas = [average_precision_score(y_test == i, done.probabilities[:, i]) for i in range(10)]
    for i in range(10):
        assert f"\nAverage precision of {i}: {areas[i]:.4f}\n" in done.output
    ax = done.axes[-1]
    start, _ = ax.get_xlim()
    assert start > 0  # it zooms in
    assert ax.get_title() == f"Precision and recall (axes start at {start:.2f})"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("recall", "precision")
    assert ax.get_xlim() == ax.get_ylim() == (start, 1.002)
    lowest = {f"{i}: average precision {areas[i]:.4f}": areas[i] for i in np.argsort(areas)[:3]}
    curves = helpers.lines(ax)
    assert list(curves) == list(lowest)
    for label, (recall, precision) in curves.items():
        area = -np.diff(recall) @ precision[:-1]  # recall falls from 1 to 0
        assert area == pytest.approx(lowest[label], abs=1e-4)
        assert ((recall > start) & (precision > start)).any()  # it is not outside of the axes


def test_six_test_images_and_the_mistakes_of_which_it_is_most_confident_are_shown(done):
    confidence, predicted = done.probabilities.max(dim=1)
    mistakes = (confidence * (predicted != y_test)).argsort(descending=True)[:6].tolist()
    titles = [f"test image: {y_test[i]}" for i in range(6)]
    for i in mistakes:
        titles.append(f"predicted {predicted[i]} ({confidence[i]:.1%})\ntrue: {y_test[i]}")
    *axes, _ = done.axes  # the last has the curves
    for ax, i, title in zip(axes, [*range(6), *mistakes], titles, strict=True):
        assert ax.get_title() == title and not ax.axison
        assert_allclose(ax.images[0].get_array(), X_test[i, 0], atol=1e-6)
        assert ax.images[0].get_cmap().name == "gray"


def test_mnist_is_read_from_data_dir_and_the_only_mistake_is_shown():
    digits, images = torch.arange(40) % 10, torch.zeros(40, 28, 28, dtype=torch.uint8)
    images[range(40), 2 * digits] = 255  # a white line, in another row for each digit
    train_set = mock.Mock(data=images, targets=digits)
    looks_like = [0, 1, 2, 5, 4, 5, 6, 7, 8, 9]  # the 3 looks like a 5
    test_set = mock.Mock(data=images[looks_like], targets=digits[:10])
    fake = mock.Mock(side_effect=lambda root, train, **_: train_set if train else test_set)
    with mock.patch("torchvision.datasets.MNIST", fake):
        done = helpers.run(lesson, "--data-dir=mine", "--epochs=1", "--batch-size=2", "--lr=0.02")
    assert fake.call_args_list[0] == mock.call(Path("mine"), train=True, download=True)
    assert {call.args for call in fake.call_args_list} == {(Path("mine"),)}
    assert done.metrics["dataset"] == "mnist"
    assert_allclose(done.panels["test image: 1"].images[0].get_array(), images[1] / 255)
    assert "predicted 5 (99.9%)\ntrue: 3" in done.panels  # never 100.0%, however sure it is
    assert len(done.axes) == 2 + 1 + 1  # test images of a batch, a mistake, the curves


def test_a_damaged_test_set_is_named_and_leaves_no_run_folder(empty_folder):
    with mock.patch("torchvision.datasets.MNIST", side_effect=[None, EOFError]):  # training, test
        message = helpers.refusal(lesson, "--dataset=mnist")
    assert "EOFError" in message and f"delete {Path('data/MNIST')}" in message
    assert not Path("runs").exists()


def test_a_failing_graph_is_named_and_after_ctrl_c_the_logs_are_complete(empty_folder, capsys):
    fail = mock.patch.object(lesson.SummaryWriter, "add_graph", side_effect=ValueError("why"))
    stop = mock.patch.object(lesson.F, "softmax", side_effect=KeyboardInterrupt)  # after training
    with fail, stop, helpers.few_digits(lesson, 8), pytest.raises(KeyboardInterrupt):
        lesson.main(["--dataset=digits", "--epochs=2", "--batch-size=2"])
    assert "No graph was logged (ValueError('why'))" in capsys.readouterr().out
    (folder,) = Path("runs").glob("lr0.001_*")
    for name in ("train", "test"):
        assert list(scalars(read_log(folder / name), "loss")) == [2, 5]  # 2 epochs of 3 steps
