"""Lesson 09: the log is read back with TensorBoard's own reader."""

import gzip
import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import load_lesson, one_line
from PIL import Image
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.pr_curve import metadata as pr_metadata
from tensorboard.util import tensor_util

lesson = load_lesson("09")


def run(tmp_path, *more):
    folders = [f"--{name}-dir={tmp_path / name}" for name in ("data", "output", "log")]
    tiny = ["--limit", "200", "--epochs", "2", "--batch-size", "30"]
    return lesson.main([*folders, *tiny, *more])


def read(folder):
    """Return TensorBoard's reader of a folder of event files, with nothing left out."""
    everything = {"histograms": 0, "images": 0, "scalars": 0, "tensors": 0}
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Run the lesson once; return its metrics and the readers of both writers."""
    metrics = run(tmp_path_factory.mktemp("run"), "--dataset", "digits")
    return metrics, read(Path(metrics["log_dir"], "train")), read(Path(metrics["log_dir"], "test"))


def test_every_tab_has_its_tags(logged):
    _, train, test = logged
    assert train.Tags()["graph"]
    parameters = {"l1.weight", "l1.bias", "l2.weight", "l2.bias"}
    assert set(train.Tags()["histograms"]) == parameters
    assert set(test.Tags()["images"]) == {"mnist_images", "mistakes"}
    names = " ".join(node.name for node in train.Graph().node)
    assert all(f"[{layer}]" in names for layer in ("l1", "relu", "l2"))
    image = Image.open(io.BytesIO(test.Images("mnist_images")[0].encoded_image_string))
    assert np.asarray(image).std() > 10  # not one flat color


def test_training_and_test_share_a_chart(logged):
    metrics, train, test = logged
    for tag in ("loss", "accuracy"):
        assert [event.step for event in train.Scalars(tag)] == [7, 14]  # 200 images, batches of 30
        assert [event.step for event in test.Scalars(tag)] == [7, 14]
        assert test.Scalars(tag)[-1].value == pytest.approx(metrics[tag], rel=1e-5)
    assert train.Scalars("loss")[1].value < train.Scalars("loss")[0].value


def test_training_means_count_every_image_once(tmp_path, monkeypatch):
    """With the whole training set as test set and no learning, both curves are the same."""
    train_dataset, _ = lesson.load_offline_data()
    monkeypatch.setattr(lesson, "load_offline_data", lambda: (train_dataset, train_dataset))
    metrics = run(tmp_path, "--dataset", "digits", "--lr", "1e-9", "--epochs", "1", "--limit", "70")
    train, test = (read(Path(metrics["log_dir"], name)) for name in ("train", "test"))
    assert train.Scalars("accuracy")[0].value == pytest.approx(test.Scalars("accuracy")[0].value)


def test_pr_curves_count_every_test_image(logged):
    metrics, _, test = logged
    labels = lesson.load_offline_data()[1].tensors[1][:200]
    for digit in range(10):
        metadata = test.SummaryMetadata(f"digit/{digit}")
        assert metadata.plugin_data.plugin_name == pr_metadata.PLUGIN_NAME
        (event,) = test.Tensors(f"digit/{digit}")
        true_pos, false_pos, true_neg, false_neg, *_ = tensor_util.make_ndarray(event.tensor_proto)
        n_digit = (labels == digit).sum().item()
        assert true_pos[0] == n_digit and false_pos[0] == 200 - n_digit  # threshold 0: all
        assert (true_pos + false_neg == n_digit).all()
        assert (false_pos + true_neg == 200 - n_digit).all()
        assert 0 < metrics[f"average_precision_{digit}"] <= 1


def test_hparams_hold_the_settings(logged):
    _, _, test = logged
    content = test.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    expected = {"lr": 0.003, "batch_size": 30, "epochs": 2}
    assert {name: value.number_value for name, value in settings.items()} == expected


def test_metrics_are_those_of_the_network(tmp_path, monkeypatch):
    networks = []

    class SpyNet(lesson.NeuralNet):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            networks.append(self)

    monkeypatch.setattr(lesson, "NeuralNet", SpyNet)
    metrics = run(tmp_path, "--dataset", "digits", "--limit", "2000", "--epochs", "3")
    images, labels = lesson.load_offline_data()[1].tensors
    with torch.no_grad():
        logits = networks[0].cpu()(images.view(-1, 784))
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item()
    assert metrics["accuracy"] == pytest.approx(accuracy) and accuracy > 0.8
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)
    for digit in range(10):
        expected = average_precision_score(labels == digit, logits.softmax(dim=1)[:, digit])
        assert metrics[f"average_precision_{digit}"] == pytest.approx(expected, rel=1e-4)


def test_every_run_has_a_folder_of_its_own(logged, tmp_path):
    other = run(tmp_path, "--dataset", "digits", "--epochs", "1", "--limit", "30")
    names = [Path(metrics["log_dir"]).name for metrics in (logged[0], other)]
    assert names[0] != names[1] and all(name.startswith("lr0.003_batch30_") for name in names)


def test_ctrl_c_leaves_a_log_that_can_be_read(tmp_path, monkeypatch):
    add_histogram = lesson.SummaryWriter.add_histogram

    def interrupted(writer, name, values, step):
        if step == 14:
            raise KeyboardInterrupt
        add_histogram(writer, name, values, step)

    monkeypatch.setattr(lesson.SummaryWriter, "add_histogram", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "--dataset", "digits")
    (log_dir,) = (tmp_path / "log").iterdir()
    assert len(read(log_dir / "train").Scalars("loss")) == 2
    assert len(read(log_dir / "test").Scalars("loss")) == 2


def write_mnist(data_dir, compressed=False):
    """Write MNIST's files with 30 and 12 images; return the MD5 sums of what was written."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng, sums = np.random.default_rng(0), {}
    for part, size in (("train", 30), ("t10k", 12)):
        pixels = bytes(rng.integers(0, 256, (size, 28, 28), dtype=np.uint8))
        images = struct.pack(">IIII", 2051, size, 28, 28) + pixels
        labels = struct.pack(">II", 2049, size) + bytes(i % 10 for i in range(size))
        for name, content in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{name}-ubyte"
            if compressed:
                name, content = f"{name}.gz", gzip.compress(content)
            (raw / name).write_bytes(content)
            sums[name] = hashlib.md5(content).hexdigest()
    return sums


def test_reads_mnist_as_it_lies_on_disk(tmp_path, capsys):
    write_mnist(tmp_path / "data")
    assert run(tmp_path, "--epochs", "1")["dataset"] == "mnist"
    assert "mnist, 30 training and 12 test images" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("keep", [0, 10])
def test_a_damaged_file_is_one_line(tmp_path, part, keep):
    write_mnist(tmp_path / "data")
    path = tmp_path / "data" / "MNIST" / "raw" / f"train-{part}-ubyte"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--dataset", "mnist")
    assert "MNIST" in one_line(stop)


@pytest.mark.parametrize("fault", ["offline", "cut off"])
def test_without_mnist_it_says_so_and_uses_the_digits(
    tmp_path, fake_web, monkeypatch, capsys, fault
):
    if fault == "cut off":
        sums = write_mnist(tmp_path / "web", compressed=True)
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", list(sums.items()))
        for name in sums:
            content = (tmp_path / "web" / "MNIST" / "raw" / name).read_bytes()
            fake_web[torchvision.datasets.MNIST.mirrors[0] + name] = content[: len(content) // 2]
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--dataset", "mnist")
    assert "MNIST" in one_line(stop) and "--dataset digits" in one_line(stop)
    if fault == "cut off":
        return
    assert run(tmp_path, "--epochs", "1")["dataset"] == "digits"
    loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
    assert len(loud) == 1 and "MNIST" in loud[0] and "digits" in loud[0]
