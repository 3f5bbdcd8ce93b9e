"""Lesson 09: the log is read back with TensorBoard's own reader."""

import gzip
import hashlib
import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import (
    HISTOGRAMS,
    IMAGES,
    SCALARS,
    TENSORS,
    EventAccumulator,
)
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.pr_curve import metadata as pr_metadata
from tensorboard.util import tensor_util

TINY = ["--dataset", "digits", "--limit", "200", "--epochs", "2", "--batch-size", "32"]


@pytest.fixture(scope="module")
def lesson09(lesson):
    return lesson("09_")


@pytest.fixture(scope="module")
def run(lesson09, tmp_path_factory):
    """Run the lesson once; give its metrics, what it printed and the reader of its log."""
    folder = tmp_path_factory.mktemp("run")
    arguments = [*TINY, "--output-dir", str(folder / "out"), "--log-dir", str(folder / "runs")]
    return lesson09.main(arguments), folder


def read(folder):
    """Return TensorBoard's reader of one folder of event files, with nothing left out."""
    everything = {kind: 0 for kind in (HISTOGRAMS, IMAGES, SCALARS, TENSORS)}
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


@pytest.fixture(scope="module")
def events(run):
    return read(run[0]["log_dir"])


def write_mnist(data_dir, sizes, compressed=False):
    """Write MNIST's four files with so many images; return the MD5 sums of what was written."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng, sums = np.random.default_rng(0), {}
    for part, size in sizes.items():
        pixels = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        contents = {
            f"{part}-images-idx3-ubyte": struct.pack(">IIII", 2051, size, 28, 28) + bytes(pixels),
            f"{part}-labels-idx1-ubyte": struct.pack(">II", 2049, size)
            + bytes(i % 10 for i in range(size)),
        }
        for name, content in contents.items():
            if compressed:
                name, content = f"{name}.gz", gzip.compress(content)
            (raw / name).write_bytes(content)
            sums[name] = hashlib.md5(content).hexdigest()
    return sums


def test_every_tab_has_its_tags(events):
    tags = events.Tags()
    assert set(tags["images"]) == {"digits", "mistakes"}
    parameters = {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}
    assert set(tags["histograms"]) == parameters
    assert tags["graph"] is True
    assert set(tags["scalars"]) == {"learning_rate", "result/loss", "result/accuracy"}
    for name in parameters:
        assert [event.step for event in events.Histograms(name)] == [1, 2]


def test_scalars_are_the_points_that_were_logged(run, events):
    metrics, _ = run
    n_steps, every = 7, 1  # 200 images in batches of 32; a point at every step
    expected = list(range(every, 2 * n_steps + 1, every))
    rates = events.Scalars("learning_rate")
    assert [event.step for event in rates] == expected
    assert max(event.value for event in rates) == pytest.approx(0.003, rel=0.1)
    assert rates[-1].value < rates[0].value < 0.003
    for name in ("loss", "accuracy"):
        for part in ("training", "test"):
            scalars = read(f"{metrics['log_dir']}/{name}_{part}").Scalars(name)
            assert [event.step for event in scalars] == expected
        assert scalars[-1].value == pytest.approx(metrics[name], rel=1e-5)
        assert events.Scalars(f"result/{name}")[-1].value == pytest.approx(metrics[name], rel=1e-5)


def test_images_can_be_decoded(events):
    sizes = {}
    for tag in ("digits", "mistakes"):
        (event,) = events.Images(tag)
        image = Image.open(io.BytesIO(event.encoded_image_string))
        image.load()
        sizes[tag] = image.size
        assert np.asarray(image).std() > 10  # not one flat colour
    assert sizes["digits"] == (16 * 30 + 2, 4 * 30 + 2)  # 64 images of 28x28 with 2 between


def test_graph_names_the_layers(events):
    names = " ".join(node.name for node in events.Graph().node)
    for layer in ("Linear[hidden]", "ReLU[relu]", "Linear[output]"):
        assert layer in names


def test_pr_curves_count_every_test_image(lesson09, run, events):
    _, _, _, _, targets = lesson09.load_digits_as_images()
    targets = targets[:200]
    found = 0
    for digit in range(10):
        metadata = events.SummaryMetadata(f"precision_recall/{digit}")
        assert metadata.plugin_data.plugin_name == pr_metadata.PLUGIN_NAME
        (event,) = events.Tensors(f"precision_recall/{digit}")
        true_pos, false_pos, true_neg, false_neg, *_ = tensor_util.make_ndarray(event.tensor_proto)
        n_digit = (targets == digit).sum().item()
        assert true_pos[0] == n_digit and false_pos[0] == 200 - n_digit  # threshold 0: all
        assert (true_pos + false_neg == n_digit).all()
        assert (false_pos + true_neg == 200 - n_digit).all()
        assert true_pos[-1] < n_digit  # threshold 1: hardly any
        found += true_pos[63]  # threshold 0.5
    assert found > 100  # curves of the digit's own probabilities, and the network had learned


def test_hparams_hold_settings(events):
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.number_value for name, value in settings.items()} == {
        "lr": 0.003,
        "batch_size": 32,
        "epochs": 2,
    }


def test_projector_has_features_digits_and_pictures(run):
    metrics, folder = run
    (tensors,) = folder.rglob("tensors.tsv")
    assert np.loadtxt(tensors, delimiter="\t").shape == (200, 500)
    digits = tensors.with_name("metadata.tsv").read_text(encoding="utf-8").split()
    assert len(digits) == 200 and set(digits) == set("0123456789")
    Image.open(tensors.with_name("sprite.png")).close()
    assert "projector_config.pbtxt" in {path.name for path in folder.rglob("*")}


def test_average_precision_is_scikit_learn_s(lesson09):
    torch.manual_seed(0)
    probabilities = torch.rand(300, 10).softmax(dim=1)
    targets = torch.randint(9, (300,))  # no 9 among them
    ours = lesson09.average_precisions(probabilities, targets)
    assert list(ours) == [str(digit) for digit in range(9)]
    for digit in range(9):
        expected = average_precision_score((targets == digit).numpy(), probabilities[:, digit])
        assert ours[str(digit)] == pytest.approx(expected)


def test_training_loss_and_accuracy_count_every_image_once(lesson09, tmp_path):
    """A network that hardly learns has the same loss at every step."""
    data = lesson09.load_digits_as_images()
    data = lesson09.Data("digits", *(part[:210].to(lesson09.DEVICE) for part in data[1:]))
    model = lesson09.Net().to(lesson09.DEVICE)
    with lesson09.SummaryWriter(tmp_path) as writer:
        points = lesson09.train(model, data, writer, lr=1e-9, batch_size=10, epochs=1)
    loss, accuracy = lesson09.evaluate(model, data.X_train, data.y_train)
    sizes = [20] * 10 + [10]  # a point at every second of 21 steps, and at the last
    assert len(points) == len(sizes)
    for name, expected in (("loss", loss), ("accuracy", accuracy)):
        means = [point[name]["training"] for point in points]
        assert np.average(means, weights=sizes) == pytest.approx(expected, rel=1e-4)


def test_learns_the_digits(lesson09, tmp_path):
    arguments = ["--dataset", "digits", "--epochs", "5", "--output-dir", str(tmp_path)]
    metrics = lesson09.main([*arguments, "--log-dir", str(tmp_path / "runs")])
    assert metrics["accuracy"] > 0.9 and metrics["loss"] < 0.5
    assert (metrics["n_train"], metrics["n_test"]) == (1347, 450)
    assert all(metrics[f"average_precision_{digit}"] > 0.8 for digit in range(10))


def test_two_runs_have_two_folders(lesson09, tmp_path):
    tiny = [*TINY, "--output-dir", str(tmp_path), "--log-dir", str(tmp_path / "runs")]
    folders = [lesson09.main([*tiny, "--epochs", "1"])["log_dir"] for _ in range(2)]
    assert len(set(folders)) == 2


def test_ctrl_c_leaves_a_log_that_can_be_read(lesson09, tmp_path, monkeypatch, capsys):
    add_histogram = lesson09.SummaryWriter.add_histogram

    def interrupted(writer, name, values, step):
        if step == 2:
            raise KeyboardInterrupt
        add_histogram(writer, name, values, step)

    monkeypatch.setattr(lesson09.SummaryWriter, "add_histogram", interrupted)
    with pytest.raises(SystemExit) as stop:
        lesson09.main([*TINY, "--output-dir", str(tmp_path), "--log-dir", str(tmp_path / "runs")])
    assert stop.value.code == 130
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    (log_dir,) = (tmp_path / "runs" / "09_tensorboard_mnist").iterdir()
    assert str(log_dir) in error
    assert len(read(log_dir).Scalars("learning_rate")) == 14
    assert len(read(log_dir / "loss_test").Scalars("loss")) == 14


def test_reads_mnist_as_it_lies_on_disk(lesson09, tmp_path):
    write_mnist(tmp_path, {"train": 30, "t10k": 12})
    data, notice = lesson09.load_data("auto", tmp_path)
    assert (data.name, notice) == ("mnist", "")
    assert data.X_train.shape == (30, 1, 28, 28) and data.X_test.shape == (12, 1, 28, 28)
    raw = (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert (data.X_test * 255).round().byte().numpy().tobytes() == raw
    assert data.y_train.tolist() == [i % 10 for i in range(30)]


@pytest.mark.parametrize("part", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("keep", [0, 3, 10, 0.5, 0.99])
def test_truncated_file_is_one_line(lesson09, tmp_path, part, keep):
    write_mnist(tmp_path, {"train": 30, "t10k": 12})
    path = tmp_path / "MNIST" / "raw" / f"train-{part}-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 3 else int(keep * len(content))])
    for dataset in ("auto", "mnist"):
        with pytest.raises(SystemExit) as stop:
            lesson09.load_data(dataset, tmp_path)
        message = stop.value.code
        assert isinstance(message, str) and "\n" not in message
        assert str(tmp_path / "MNIST") in message


def test_labels_of_other_images_are_one_line(lesson09, tmp_path):
    write_mnist(tmp_path, {"train": 30, "t10k": 12})
    raw = tmp_path / "MNIST" / "raw"
    content = (raw / "t10k-labels-idx1-ubyte").read_bytes()
    (raw / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        lesson09.load_data("auto", tmp_path)
    assert "30 images have 12 labels" in stop.value.code


@pytest.mark.parametrize("fault", ["offline", "cut off"])
def test_without_mnist_it_says_so_and_takes_the_digits(
    lesson09, tmp_path, fake_web, monkeypatch, capsys, fault
):
    data_dir = tmp_path / "data"
    if fault == "cut off":
        sums = write_mnist(tmp_path / "web", {"train": 30, "t10k": 12}, compressed=True)
        monkeypatch.setattr(lesson09.MNIST, "resources", list(sums.items()))
        for name in sums:
            content = (tmp_path / "web" / "MNIST" / "raw" / name).read_bytes()
            fake_web[lesson09.MNIST.mirrors[0] + name] = content[: len(content) // 2]
    data_dir.mkdir()
    common = ["--data-dir", str(data_dir), "--output-dir", str(tmp_path / "out"), "--limit", "40"]
    common += ["--epochs", "1", "--log-dir", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as stop:
        lesson09.main([*common, "--dataset", "mnist"])
    message = stop.value.code
    assert isinstance(message, str) and "\n" not in message and str(data_dir) in message
    metrics = lesson09.main(common)
    assert metrics["dataset"] == "digits" and metrics["n_train"] == 40
    loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
    assert len(loud) == 1 and "MNIST" in loud[0] and "digits" in loud[0]
    assert not list(data_dir.rglob("*ubyte*"))


def test_downloads_what_is_missing(lesson09, tmp_path, fake_web, monkeypatch):
    sums = write_mnist(tmp_path / "web", {"train": 30, "t10k": 12}, compressed=True)
    monkeypatch.setattr(lesson09.MNIST, "resources", list(sums.items()))
    for name in sums:
        page = (tmp_path / "web" / "MNIST" / "raw" / name).read_bytes()
        fake_web[lesson09.MNIST.mirrors[0] + name] = page
    data, notice = lesson09.load_data("mnist", tmp_path / "data")
    assert (data.name, notice, len(data.X_test)) == ("mnist", "", 12)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MNIST"]
