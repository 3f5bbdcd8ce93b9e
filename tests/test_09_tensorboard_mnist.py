"""Lesson 09: the logs are read back, and compared with what a network of the test's own gives."""

from pathlib import Path
from unittest import mock

import helpers
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import summary
from torchvision.utils import make_grid

lesson = helpers.load_lesson("09")
X, y = (torch.from_numpy(array[:1100]) for array in load_digits(return_X_y=True))
X = nn.functional.interpolate(X.float().view(-1, 1, 8, 8) / 16, size=28, mode="bilinear")
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)


@pytest.fixture(scope="module")
def done():
    """Train for two epochs; add the logs, and what a network that is trained alike gives."""
    assert (lesson.hidden_size, lesson.num_epochs, lesson.batch_size) == (500, 4, 100)
    few, in_order = helpers.few_digits(lesson, 1100), helpers.batches_in_order(lesson)
    small = mock.patch.object(lesson, "hidden_size", 50)
    with few, small, in_order as loaders, helpers.record_training() as trainings:
        done = helpers.run(lesson, "--dataset=digits", "--epochs=2", "--batch-size=8")
    assert [loader.shuffle for loader in loaders] == [True, False]
    folders = (f"{done.metrics['log_dir']}/{name}" for name in ("train", "test"))
    logs = (EventAccumulator(folder, {"histograms": 0}).Reload() for folder in folders)
    done.train_log, done.test_log = logs  # with all histograms
    done.panels = {ax.get_title(): ax for ax in done.axes}  # no title appears twice
    done.network = nn.Sequential(nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    (training,), batches = trainings, list(zip(X_train.split(8), y_train.split(8)))[:103]
    criterion = mock.Mock(wraps=nn.functional.cross_entropy)
    losses = helpers.check_training(training, done.network, criterion, batches, torch.optim.Adam)
    assert training.rates == 2 * 103 * [0.001]  # one of 825 images is left over in each epoch
    accuracies = [helpers.accuracy(*call.args) for call in criterion.call_args_list]
    done.train = {"loss": losses, "accuracy": accuracies}
    logits = done.network.requires_grad_(False)(X_test)
    done.test = {"loss": criterion(logits, y_test), "accuracy": helpers.accuracy(logits, y_test)}
    done.probabilities = logits.softmax(dim=1)
    return done


def test_charts_show_means_of_100_training_steps_and_the_test_after_each_epoch(done):
    for tag, values in done.train.items():
        found = [(event.step, event.value) for event in done.train_log.Scalars(tag)]
        assert_allclose(found, [(99, np.mean(values[:100])), (199, np.mean(values[100:200]))], 1e-4)
        first, last = done.test_log.Scalars(tag)
        assert (first.step, last.step) == (102, 205)
        assert_allclose([last.value, done.metrics[tag]], done.test[tag], rtol=1e-4)
    helpers.check_result(done, "accuracy", done.test["accuracy"])


def test_images_the_graph_and_histograms_of_all_weights_are_logged(done):
    (event,) = done.test_log.Images("mnist_images")
    grid = summary.image("", make_grid(X_test[:8]), dataformats="CHW").value[0].image
    assert event.encoded_image_string == grid.encoded_image_string
    assert all(f"[{layer}]" in str(done.train_log.Graph()) for layer in ("l1", "relu", "l2"))
    names = "l1.weight", "l1.bias", "l2.weight", "l2.bias"
    for name, weights in zip(names, done.network.parameters(), strict=True):
        first, last = done.train_log.Histograms(name)
        found = first.step, last.step, last.histogram_value.min, last.histogram_value.sum
        assert_allclose(found, [102, 205, weights.min(), weights.sum()], rtol=1e-3)


def test_precision_recall_curves_are_logged_and_those_with_the_lowest_areas_are_drawn(done):
    for digit in range(10):
        positive = done.probabilities[:, digit] >= torch.arange(127).view(-1, 1) / 126  # thresholds
        counts = [(positive & is_it).sum(dim=1) for is_it in (y_test == digit, y_test != digit)]
        (event,) = done.test_log.Tensors(str(digit))
        assert event.tensor_proto.float_val[: 2 * 127] == torch.cat(counts).tolist()
    areas = [average_precision_score(y_test == i, done.probabilities[:, i]) for i in range(10)]
    assert_allclose([done.metrics[f"average_precision_{i}"] for i in range(10)], areas, atol=1e-4)
    curves = helpers.lines(done.axes[-1])
    for i, (label, (recall, precision)) in zip(np.argsort(areas)[:3], curves.items(), strict=True):
        assert label == f"{i}: average precision {areas[i]:.4f}"
        assert -np.diff(recall) @ precision[:-1] == pytest.approx(areas[i], abs=1e-4)
    start = 1 - 3 * (1 - min(np.minimum(*curve).max() for curve in curves.values()))
    ax = done.panels[f"Precision and recall (axes start at {start:.2f})"]
    assert ax.axis() == pytest.approx((start, 1.002, start, 1.002))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("recall", "precision")


def test_six_test_images_and_the_mistakes_of_which_it_is_most_confident_are_shown(done):
    images = {f"test image: {y_test[i]}": X_test[i, 0] for i in range(6)}
    confidence, predicted = done.probabilities.max(dim=1)
    for i in (confidence * (predicted != y_test)).argsort(descending=True)[:6]:
        images[f"predicted {predicted[i]} ({confidence[i]:.1%})\ntrue: {y_test[i]}"] = X_test[i, 0]
    places = 0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14  # in three rows of six
    for place, (title, image) in zip(places, images.items(), strict=True):
        (shown,), position = done.panels[title].images, done.panels[title].get_subplotspec()
        assert_allclose(shown.get_array(), image, atol=1e-6)
        assert position.get_geometry() == (3, 6, place, place) and shown.get_cmap().name == "gray"
    assert done.test_log.Images("mistakes")


def test_mnist_is_read_from_data_dir_and_the_only_mistake_is_shown():
    digits, images = torch.arange(40) % 10, torch.zeros(40, 28, 28, dtype=torch.uint8)
    images[range(40), 2 * digits] = 255  # a white line, in another row for each digit
    train = mock.Mock(data=images, targets=digits)
    test = mock.Mock(data=images[[0, 1, 2, 5, 4, 5, 6, 7, 8, 9]], targets=digits[:10])
    with mock.patch("torchvision.datasets.MNIST", side_effect=[None, None, train, test]) as MNIST:
        done = helpers.run(lesson, "--data-dir=mine", "--epochs=1", "--batch-size=2", "--lr=0.02")
    calls = [mock.call(Path("mine"), train=is_train) for is_train in (False, True, False)]
    assert MNIST.call_args_list == [mock.call(Path("mine"), train=True, download=True), *calls]
    panels = {ax.get_title(): ax for ax in done.axes}
    assert done.metrics["dataset"] == "mnist" and len(panels) == 2 + 1 + 1
    assert_allclose(panels["test image: 0"].images[0].get_array(), images[0] / 255)
    assert "predicted 5 (99.9%)\ntrue: 3" in panels
    assert panels["Precision and recall (axes start at 0.00)"].axis() == (0, 1.002, 0, 1.002)


def test_a_damaged_test_set_is_named_and_leaves_no_run_folder(empty_folder):
    with mock.patch("torchvision.datasets.MNIST", side_effect=[None, EOFError]):
        assert "EOFError" in helpers.refusal(lesson, "--dataset=mnist")
    assert not Path("runs").exists()


def test_a_graph_that_fails_is_named_and_each_run_goes_on_with_a_log_of_its_own(capsys):
    fail = mock.patch.object(lesson.SummaryWriter, "add_graph", side_effect=ValueError("why"))
    stop = mock.patch.object(lesson.F, "softmax", side_effect=KeyboardInterrupt)  # after training
    for _ in range(2):
        with fail, stop, helpers.few_digits(lesson, 8), pytest.raises(KeyboardInterrupt):
            lesson.main(["--dataset=digits", "--epochs=2", "--batch-size=2", "--log-dir=logs"])
    assert capsys.readouterr().out.count("No graph was logged (ValueError('why'))") == 2
    for folder, _ in zip(Path("logs").glob("lr0.001_*"), range(2), strict=True):
        log = EventAccumulator(f"{folder}/train").Reload()
        assert [event.step for event in log.Scalars("loss")] == [2, 5]
