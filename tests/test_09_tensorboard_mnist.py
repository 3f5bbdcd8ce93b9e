"""Lesson 09: the log is read back, and TensorBoard itself shows it."""

import json
import urllib.request
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import load_lesson, one_line, run, spy
from sklearn.metrics import average_precision_score
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

lesson = load_lesson("09")
TWO_EPOCHS = ("--epochs=2", "--limit=200", "--batch-size=30")  # 7 steps in an epoch


def read(log_dir):
    """Return TensorBoard's readers of what both writers wrote."""
    return [EventAccumulator(f"{log_dir}/{name}").Reload() for name in ("train", "test")]


def test_metrics_and_log_are_those_of_the_network(tmp_path):
    with spy(lesson.NeuralNet, "__init__") as init:
        metrics = run(lesson, tmp_path, *TWO_EPOCHS)
    train, test = read(metrics["log_dir"])
    images, labels = lesson.load_offline_data(200)[1].tensors
    with torch.no_grad():
        logits = init.call_args.args[0].cpu()(images.view(-1, 784))
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item()
    assert metrics["accuracy"] == pytest.approx(accuracy) and accuracy > 0.5
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    for digit in range(10):
        expected = average_precision_score(labels == digit, logits.softmax(dim=1)[:, digit])
        assert metrics[f"average_precision_{digit}"] == pytest.approx(expected, rel=1e-4)
    for tag in ("loss", "accuracy"):  # one chart: the same tags and steps
        for reader in (train, test):
            assert [event.step for event in reader.Scalars(tag)] == [7, 14]
        assert test.Scalars(tag)[-1].value == pytest.approx(metrics[tag], rel=1e-5)
    assert all(f"[{layer}]" in str(train.Graph()) for layer in ("l1", "relu", "l2"))
    assert set(train.Tags()["histograms"]) == {"l1.weight", "l1.bias", "l2.weight", "l2.bias"}
    assert set(test.Tags()["images"]) == {"mnist_images", "mistakes"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what TensorBoard imports
def test_tensorboard_shows_runs_and_tags(tmp_path):
    board = program.TensorBoard()
    log_dir = run(lesson, tmp_path)["log_dir"]
    read_first = {"reload_task": "blocking", "reload_interval": 0}  # read the log, then serve it
    board.configure(logdir=log_dir, port=0, host="127.0.0.1", load_fast="false", **read_first)
    url = board.launch() + "data/plugin/"
    tags = json.load(urllib.request.urlopen(url + "scalars/tags"))
    assert set(tags["train"]) == set(tags["test"]) == {"loss", "accuracy"}
    curves = json.load(urllib.request.urlopen(url + "pr_curves/tags"))
    assert set(curves["test"]) == set("0123456789")


def test_training_means_and_surest_mistakes(tmp_path, monkeypatch):
    """With the training set as test set and no learning, both curves are the same."""
    train_dataset, _ = lesson.load_offline_data(70)
    monkeypatch.setattr(lesson, "load_offline_data", lambda limit: (train_dataset, train_dataset))
    draw = mock.patch.object(SummaryWriter, "add_figure")  # drawing takes long
    with spy(lesson.NeuralNet, "__init__") as init, draw as add_figure:
        train, test = read(run(lesson, tmp_path, *TWO_EPOCHS, "--lr=1e-9")["log_dir"])
    for tag, tolerance in (("accuracy", 1e-6), ("loss", 0.05)):
        for event in train.Scalars(tag):
            assert event.value == pytest.approx(test.Scalars(tag)[0].value, rel=tolerance)
    images, labels = train_dataset.tensors
    probabilities = init.call_args.args[0].cpu()(images.view(-1, 784)).softmax(dim=1)
    wrong = probabilities.argmax(dim=1) != labels
    surest = probabilities.amax(dim=1)[wrong].sort(descending=True).values[:10]
    titles = [ax.get_title().split()[0] for ax in add_figure.call_args.args[1].axes]
    assert titles == [f"{p:.0%}" for p in surest.tolist()]


def test_every_run_has_a_folder_of_its_own_and_ctrl_c_leaves_a_readable_log(tmp_path):
    for _ in range(2):
        calls = [None, None, None, None, KeyboardInterrupt]  # four parameters in the first epoch
        patch = mock.patch.object(SummaryWriter, "add_histogram", side_effect=calls)
        with patch, pytest.raises(KeyboardInterrupt):
            run(lesson, tmp_path, *TWO_EPOCHS)
    first, second = (tmp_path / "log").glob("lr0.001_*")
    assert [reader.Scalars("loss")[0].step for reader in read(first)] == [7, 7]


def test_mnist_is_scaled_to_0_1(tmp_path, monkeypatch):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(49).view(16, 28, 28)
    mnist = SimpleNamespace(data=pixels, targets=torch.arange(16) % 10)
    monkeypatch.setattr(lesson.torchvision.datasets, "MNIST", lambda *args, **settings: mnist)
    with spy(lesson.TensorDataset, "__init__") as init:
        assert run(lesson, tmp_path, "--dataset=auto")["dataset"] == "mnist"
    _, images, labels = init.call_args.args
    torch.testing.assert_close(images, pixels.view(-1, 1, 28, 28).float() / 255)
    assert torch.equal(labels, mnist.targets)


def test_a_damaged_file_is_one_line_and_leaves_no_empty_run(tmp_path):
    (tmp_path / "data/MNIST/raw").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"data/MNIST/raw/{name}-ubyte").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stop:
        run(lesson, tmp_path, "--dataset=mnist")
    assert "delete" in one_line(stop) and not (tmp_path / "log").exists()
