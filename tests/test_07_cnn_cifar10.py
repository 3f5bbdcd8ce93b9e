"""Lesson 07: CIFAR-10 read whole or not at all, a network that learns, and honest counts."""

import hashlib
import os
import pickle
import socket
import tarfile
import threading
import time
from urllib.error import URLError

import numpy as np
import pytest
import torch

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture(scope="module")
def lesson07(lesson):
    return lesson("07_")


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(lesson07, monkeypatch, tmp_path):
    """Write a CIFAR-10 of 5 x 8 and 20 images in its true layout, and as an archive."""
    data_dir = tmp_path / "data"
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = {f"data_batch_{i}": 8 for i in range(1, 6)} | {"test_batch": 20}
    for name, size in sizes.items():
        pixels = rng.integers(0, 256, (size, 3072), dtype=np.uint8)
        labels = [i % 10 for i in range(size)]
        batch = {"batch_label": name, "labels": labels, "data": pixels, "filenames": []}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}, protocol=2))
    cifar10 = lesson07.CIFAR10
    archive = data_dir / cifar10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    sums = [[name, md5(folder / name)] for name in sizes]
    monkeypatch.setattr(cifar10, "train_list", sums[:5])
    monkeypatch.setattr(cifar10, "test_list", sums[5:])
    monkeypatch.setattr(cifar10, "meta", cifar10.meta | {"md5": md5(folder / "batches.meta")})
    monkeypatch.setattr(cifar10, "tgz_md5", md5(archive))
    return data_dir


def test_reads_cifar10_as_it_lies_on_disk(lesson07, cifar):
    (cifar / lesson07.CIFAR10.filename).unlink()
    data, notice = lesson07.load_data("auto", cifar)
    assert (data.name, data.classes, notice) == ("cifar10", NAMES, "")
    assert data.X_train.shape == (40, 3, 32, 32) and data.X_test.shape == (20, 3, 32, 32)
    assert data.X_train.dtype == torch.uint8
    batch = pickle.loads((cifar / "cifar-10-batches-py" / "data_batch_2").read_bytes())
    assert np.array_equal(data.X_train[8].flatten(), batch["data"][0])
    assert data.y_test.tolist() == 2 * list(range(10))


def test_damaged_file_is_taken_from_the_archive_again(lesson07, cifar):
    damaged = cifar / "cifar-10-batches-py" / "data_batch_3"
    before = damaged.read_bytes()
    damaged.write_bytes(before[:-100] + bytes(100))
    data, notice = lesson07.load_data("cifar10", cifar)
    assert (data.name, notice) == ("cifar10", "") and damaged.read_bytes() == before


def test_downloads_what_is_missing(lesson07, cifar, fake_web):
    archive = cifar / lesson07.CIFAR10.filename
    fake_web[lesson07.CIFAR10.url] = archive.read_bytes()
    archive.write_bytes(archive.read_bytes()[:1000])  # half a download of an earlier day
    (cifar / "cifar-10-batches-py" / "test_batch").unlink()
    data, _ = lesson07.load_data("cifar10", cifar)
    assert data.name == "cifar10" and len(data.X_test) == 20
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("fault", ["offline", "cut off"])
def test_without_cifar10_it_says_so_and_takes_the_digits(
    lesson07, cifar, fake_web, fault, tmp_path, capsys
):
    """A damaged file and no way to fetch it again: never trained on."""
    archive = cifar / lesson07.CIFAR10.filename
    if fault == "cut off":
        fake_web[lesson07.CIFAR10.url] = archive.read_bytes()[:1000]
    archive.unlink()
    (cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"damaged")
    common = ["--data-dir", str(cifar), "--output-dir", str(tmp_path / "out")]
    common += ["--limit", "40", "--epochs", "1"]

    with pytest.raises(SystemExit) as stop:
        lesson07.main([*common, "--dataset", "cifar10"])
    message = stop.value.code
    assert isinstance(message, str) and "\n" not in message
    assert str(cifar) in message and lesson07.CIFAR10.url in message
    assert list((tmp_path / "out").iterdir()) == []

    metrics = lesson07.main(common)
    assert metrics["dataset"] == "digits" and metrics["n_train"] == 40
    loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
    assert len(loud) == 1 and "CIFAR-10" in loud[0] and "digits" in loud[0]
    assert [path.name for path in cifar.iterdir()] == ["cifar-10-batches-py"]


def test_a_host_that_never_answers_is_given_up(lesson07, monkeypatch):
    never = threading.Event()

    def urlopen(*args, **kwargs):
        never.wait(30)
        raise OSError("too late")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    start = time.perf_counter()
    with pytest.raises(OSError, match="no answer"):
        lesson07.ask_host("https://example.org", seconds=0.2)
    never.set()
    assert time.perf_counter() - start < 5
    assert lesson07.ask_host.__defaults__[0] <= 15


def test_a_host_that_cannot_be_reached_is_an_error(lesson07, fake_web):
    with pytest.raises(URLError):
        lesson07.ask_host("https://example.org/nothing")


def test_digits_have_cifar10_s_shape(lesson07):
    data, notice = lesson07.load_data("digits", None)
    assert notice == "" and data.X_train.shape == (1347, 3, 32, 32) and len(data.X_test) == 450
    assert data.X_train.dtype == torch.uint8 and data.X_train.max() == 255
    assert torch.equal(data.X_train[:, 0], data.X_train[:, 2])


@pytest.mark.parametrize("mirror", [False, True])
def test_augment_gives_shifted_and_mirrored_windows(lesson07, mirror):
    torch.manual_seed(0)
    images = torch.randint(1, 256, (200, 3, 32, 32), dtype=torch.uint8)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    windows = [padded[:, :, i : i + 32, j : j + 32] for i in range(3) for j in range(3)]
    if mirror:
        windows += [window.flip(3) for window in windows]
    result = lesson07.augment(images, mirror)
    assert result.dtype == torch.uint8 and result.shape == images.shape
    found = torch.stack([(window == result).all(dim=(1, 2, 3)) for window in windows])
    assert found.any(dim=0).all()  # each image is one of its own windows
    assert found.any(dim=1).all()  # and every kind of window occurs


def test_to_input_scales_to_minus_one_and_one(lesson07):
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert lesson07.to_input(images).flatten().tolist() == pytest.approx([-1, -0.6, 1])


def test_predicting_changes_nothing_and_trains_on_no_test_image(lesson07, monkeypatch):
    """Batch statistics stay, augmentation stays out, and the short last batch counts in full."""
    augmented = []
    monkeypatch.setattr(lesson07, "augment", lambda x, mirror: augmented.append(len(x)) or x)
    torch.manual_seed(0)
    data = lesson07.load_digits_as_images()
    parts = [part[:510].to(lesson07.DEVICE) for part in data[3:]]
    data = lesson07.Data(*data[:3], *parts)
    model = lesson07.ConvNet().to(lesson07.DEVICE)
    history, seconds = lesson07.train(model, data, lr=0.1, batch_size=200, epochs=1)
    assert augmented == [200, 200, 110] and len(history["test"]) == 1 and seconds > 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    logits = lesson07.predict(model, data.X_train, mirror=False)  # batches of 500 and of 10
    assert not model.training and augmented == [200, 200, 110]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.inference_mode():
        at_once = model(lesson07.to_input(data.X_train))
        mirrored = model(lesson07.to_input(data.X_train.flip(3)))
    torch.testing.assert_close(logits, at_once)
    both = lesson07.predict(model, data.X_train, mirror=True)
    torch.testing.assert_close(both, (at_once + mirrored) / 2)
    right = lesson07.predict(model, data.X_test, mirror=False).argmax(dim=1) == data.y_test
    assert history["test"][0] == pytest.approx(right.float().mean().item())


def test_accuracy_by_class_counts_every_image(lesson07):
    targets = torch.tensor([0, 0, 0, 1, 1, 3])
    predicted = torch.tensor([0, 0, 1, 1, 1, 2])
    by_class = lesson07.accuracy_by_class(predicted, targets, ["a", "b", "c", "d"])
    assert by_class == pytest.approx({"a": 2 / 3, "b": 1, "d": 0})  # no image of class c


def test_learns_the_digits_and_saves_what_it_learned(lesson07, tmp_path, capsys):
    arguments = ["--dataset", "digits", "--epochs", "3", "--output-dir", str(tmp_path)]
    metrics = lesson07.main(arguments)
    assert metrics["accuracy"] > 0.9
    assert (metrics["dataset"], metrics["n_train"], metrics["n_test"]) == ("digits", 1347, 450)
    by_class = [metrics[f"accuracy_{digit}"] for digit in range(10)]
    assert len(by_class) == 10 and min(by_class) > 0.5

    path = tmp_path / "07_cnn_cifar10.pt"
    assert repr(str(path)) in capsys.readouterr().out
    model = lesson07.ConvNet().to(lesson07.DEVICE)
    model.load_state_dict(torch.load(path))
    data = lesson07.load_digits_as_images()
    logits = lesson07.predict(model, data.X_test.to(lesson07.DEVICE), mirror=False).cpu()
    loss = torch.nn.functional.cross_entropy(logits, data.y_test).item()
    assert loss == pytest.approx(metrics["loss"], rel=1e-5)
    accuracy = (logits.argmax(dim=1) == data.y_test).float().mean().item()
    assert accuracy == pytest.approx(metrics["accuracy"])


@pytest.mark.parametrize("steps", range(1, 12))
def test_any_number_of_steps_is_a_schedule(lesson07, steps):
    data = lesson07.load_digits_as_images()
    parts = [part[:steps].to(lesson07.DEVICE) for part in data[3:]]
    data = lesson07.Data(*data[:3], *parts)
    model = lesson07.ConvNet().to(lesson07.DEVICE)
    history, _ = lesson07.train(model, data, lr=0.1, batch_size=1, epochs=1)
    assert len(history["training"]) == len(history["test"]) == 1


def test_model_is_written_whole_or_not_at_all(lesson07, tmp_path, monkeypatch):
    def full_disk(state, path):
        path.write_bytes(b"half a mod")
        raise RuntimeError(os.strerror(28))

    path = tmp_path / "model.pt"
    path.write_bytes(b"the model before")
    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(SystemExit) as stop:
        lesson07.save_model(lesson07.ConvNet(), path)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]
    assert path.read_bytes() == b"the model before"
