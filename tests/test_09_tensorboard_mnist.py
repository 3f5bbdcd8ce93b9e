"""Lesson 09: the log is read back, and TensorBoard itself shows it."""

import io
import json
import struct
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import load_lesson, one_line
from PIL import Image
from sklearn.metrics import average_precision_score
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

lesson = load_lesson("09")


def run(folder, *more):
    folders = [f"--{name}-dir={folder / name}" for name in ("data", "output", "log")]
    return lesson.main([*folders, "--limit", "200", "--epochs", "2", "--batch-size", "30", *more])


def read(log_dir):
    """Return TensorBoard's readers of what both writers wrote."""
    return [EventAccumulator(str(Path(log_dir, name))).Reload() for name in ("train", "test")]


@pytest.fixture
def logged(tmp_path, spy_on):
    """Run the lesson; return its metrics, its network, and the readers of both writers."""
    networks = spy_on(lesson, "NeuralNet")
    metrics = run(tmp_path, "--dataset", "digits")
    return metrics, networks[0].cpu(), *read(metrics["log_dir"])


def test_metrics_and_log_are_those_of_the_network(logged):
    metrics, network, train, test = logged
    images, labels = lesson.load_offline_data(200)[1].tensors
    with torch.no_grad():
        logits = network(images.view(-1, 784))
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item()
    assert metrics["accuracy"] == pytest.approx(accuracy) and accuracy > 0.5
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    for digit in range(10):
        expected = average_precision_score(labels == digit, logits.softmax(dim=1)[:, digit])
        assert metrics[f"average_precision_{digit}"] == pytest.approx(expected, rel=1e-4)
    for tag in ("loss", "accuracy"):  # one chart: the same tags and steps
        assert [event.step for event in train.Scalars(tag)] == [7, 14]  # 200 images, batches of 30
        assert [event.step for event in test.Scalars(tag)] == [7, 14]
        assert test.Scalars(tag)[-1].value == pytest.approx(metrics[tag], rel=1e-5)
    names = " ".join(node.name for node in train.Graph().node)
    assert all(f"[{layer}]" in names for layer in ("l1", "relu", "l2"))
    assert set(train.Tags()["histograms"]) == {"l1.weight", "l1.bias", "l2.weight", "l2.bias"}
    assert set(test.Tags()["images"]) == {"mnist_images", "mistakes"}
    image = Image.open(io.BytesIO(test.Images("mnist_images")[0].encoded_image_string))
    assert np.asarray(image).std() > 10  # not one flat color


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what TensorBoard imports
def test_tensorboard_shows_runs_and_tags(logged):
    board = program.TensorBoard()
    board.configure(logdir=logged[0]["log_dir"], port=0, host="127.0.0.1", load_fast="false")
    url, opener = board.launch(), urllib.request.build_opener(urllib.request.ProxyHandler({}))
    tags, deadline = {}, time.monotonic() + 60
    while set(tags) != {"train", "test"} and time.monotonic() < deadline:
        time.sleep(0.1)  # it reads the log in the background
        tags = json.load(opener.open(url + "data/plugin/scalars/tags"))
    assert {name: set(tags[name]) for name in tags} == dict.fromkeys(
        ("train", "test"), {"loss", "accuracy"}
    )
    curves = json.load(opener.open(url + "data/plugin/pr_curves/tags"))
    assert set(curves["test"]) == set("0123456789")


def test_training_means_and_surest_mistakes(tmp_path, monkeypatch, spy_on):
    """With the training set as test set and no learning, both curves are the same."""
    train_dataset, _ = lesson.load_offline_data(70)
    networks, figures = spy_on(lesson, "NeuralNet"), []
    monkeypatch.setattr(lesson, "load_offline_data", lambda limit: (train_dataset, train_dataset))
    monkeypatch.setattr(lesson.SummaryWriter, "add_figure", lambda *args: figures.append(args[2]))
    metrics = run(tmp_path, "--dataset", "digits", "--lr", "1e-9")
    train, test = read(metrics["log_dir"])
    for tag, tolerance in (("accuracy", 1e-6), ("loss", 0.05)):
        for event in train.Scalars(tag):
            assert event.value == pytest.approx(test.Scalars(tag)[0].value, rel=tolerance)
    images, labels = train_dataset.tensors
    probabilities = networks[0].cpu()(images.view(-1, 784)).softmax(dim=1)
    wrong = probabilities.argmax(dim=1) != labels
    surest = probabilities.amax(dim=1)[wrong].sort(descending=True).values[:10]
    titles = [ax.get_title().split()[0] for ax in figures[0].axes]
    assert titles == [f"{p:.0%}" for p in surest.tolist()]


def test_every_run_has_a_folder_of_its_own_and_ctrl_c_leaves_a_readable_log(tmp_path, monkeypatch):
    add_histogram = lesson.SummaryWriter.add_histogram

    def interrupted(writer, name, values, step):
        if step == 14:
            raise KeyboardInterrupt
        add_histogram(writer, name, values, step)

    moments = iter([datetime(2026, 1, 1, microsecond=1), datetime(2026, 1, 1, microsecond=2)])
    monkeypatch.setattr(lesson, "datetime", SimpleNamespace(now=lambda: next(moments)))
    monkeypatch.setattr(lesson.SummaryWriter, "add_histogram", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "--dataset", "digits")
    folders = list((tmp_path / "log").iterdir())
    assert len(folders) == 2 and all(folder.name.startswith("lr0.001_") for folder in folders)
    assert [reader.Scalars("loss")[0].step for reader in read(folders[0])] == [7, 7]


def write_mnist(data_dir):
    """Write MNIST's four files with 30 and 12 images."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, size in (("train", 30), ("t10k", 12)):
        pixels = bytes(rng.integers(0, 256, (size, 28, 28), dtype=np.uint8))
        images = struct.pack(">IIII", 2051, size, 28, 28) + pixels
        labels = struct.pack(">II", 2049, size) + bytes(i % 10 for i in range(size))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return raw / "train-images-idx3-ubyte"


def test_reads_mnist_as_it_lies_on_disk(tmp_path, capsys, spy_on):
    write_mnist(tmp_path / "data")
    datasets = spy_on(lesson, "TensorDataset")
    assert run(tmp_path, "--epochs", "1")["dataset"] == "mnist"
    assert "mnist, 30 training and 12 test images" in capsys.readouterr().out
    images, labels = datasets[0].tensors
    assert images.shape == (30, 1, 28, 28) and 0 <= images.min() < 0.1 and 0.9 < images.max() <= 1
    assert labels.tolist() == [i % 10 for i in range(30)]


@pytest.mark.parametrize("fault", ["offline", "damaged"])
def test_without_mnist_it_says_so_and_leaves_no_empty_run(tmp_path, fake_web, capsys, fault):
    if fault == "damaged":
        path = write_mnist(tmp_path / "data")
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--dataset", "mnist")
    assert "MNIST" in one_line(stop) and not (tmp_path / "log").exists()
    if fault == "offline":
        assert run(tmp_path, "--epochs", "1")["dataset"] == "digits"
        loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
        assert len(loud) == 1 and "MNIST" in loud[0] and "digits" in loud[0]
