"""Lesson 07: CIFAR-10 as torchvision reads it, a network that learns, and honest counts."""

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch
import torchvision
from conftest import load_lesson, one_line
from torchvision.transforms import v2

lesson = load_lesson("07")
NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """Write a CIFAR-10 of 5 x 8 and 21 images in its true layout, and as an archive."""
    data_dir = tmp_path / "data"
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = {f"data_batch_{i}": 8 for i in range(1, 6)} | {"test_batch": 21}
    for name, size in sizes.items():
        pixels = rng.integers(0, 256, (size, 3072), dtype=np.uint8)
        batch = {"labels": [i % 9 for i in range(size)], "data": pixels}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}, protocol=2))
    cifar10 = torchvision.datasets.CIFAR10
    archive = data_dir / cifar10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    sums = [[name, md5(folder / name)] for name in sizes]
    monkeypatch.setattr(cifar10, "train_list", sums[:5])
    monkeypatch.setattr(cifar10, "test_list", sums[5:])
    monkeypatch.setattr(cifar10, "meta", cifar10.meta | {"md5": md5(folder / "batches.meta")})
    monkeypatch.setattr(cifar10, "tgz_md5", md5(archive))
    return data_dir


def run(data_dir, tmp_path, *more):
    folders = ["--data-dir", str(data_dir), "--output-dir", str(tmp_path / "out")]
    return lesson.main([*folders, "--epochs", "1", "--limit", "60", *more])


def test_reads_cifar10_and_counts_every_test_image_of_each_class(
    cifar, tmp_path, monkeypatch, capsys
):
    """The last of the batches is short, and no image of class 9 (truck) is there."""
    monkeypatch.setattr(
        lesson, "DataLoader", lambda dataset, batch_size, **more: real(dataset, 8, **more)
    )
    real = torch.utils.data.DataLoader
    metrics = run(cifar, tmp_path, "--dataset", "cifar10")
    assert "cifar10, 40 training and 21 test images" in capsys.readouterr().out
    assert metrics["dataset"] == "cifar10"

    model = lesson.ConvNet()
    model.load_state_dict(torch.load(tmp_path / "out" / "07_cnn_cifar10.pth", map_location="cpu"))
    model.eval()
    test_dataset = torchvision.datasets.CIFAR10(cifar, train=False)
    images = torch.from_numpy(test_dataset.data).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        predicted = model(images).argmax(dim=1)
    labels = torch.tensor(test_dataset.targets)
    assert metrics["accuracy"] == pytest.approx((predicted == labels).float().mean().item())
    for i, name in enumerate("plane car bird cat deer dog frog horse ship".split()):
        expected = (predicted[labels == i] == i).float().mean().item()
        assert metrics[f"accuracy_{name}"] == pytest.approx(expected)
    assert "accuracy_truck" not in metrics


@pytest.mark.parametrize("fault", ["offline", "cut off"])
def test_without_cifar10_it_says_so_and_uses_the_digits(cifar, tmp_path, fake_web, fault, capsys):
    archive = cifar / torchvision.datasets.CIFAR10.filename
    if fault == "cut off":
        fake_web[torchvision.datasets.CIFAR10.url] = archive.read_bytes()[:1000]
    archive.unlink()
    (cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stop:
        run(cifar, tmp_path, "--dataset", "cifar10")
    assert "CIFAR-10" in one_line(stop) and "--dataset digits" in one_line(stop)
    assert run(cifar, tmp_path)["dataset"] == "digits"
    loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
    assert len(loud) == 1 and "CIFAR-10" in loud[0] and "digits" in loud[0]


def test_augments_training_batches_only_and_tests_in_eval_mode(tmp_path, monkeypatch):
    cropped, networks = [], []

    class SpyCrop(v2.RandomCrop):
        def forward(self, images):
            cropped.append(len(images))
            return super().forward(images)

    class SpyNet(lesson.ConvNet):
        def __init__(self):
            super().__init__()
            networks.append(self)

    monkeypatch.setattr(v2, "RandomCrop", SpyCrop)
    monkeypatch.setattr(lesson, "ConvNet", SpyNet)
    run(tmp_path, tmp_path, "--dataset", "digits")
    assert cropped == [36, 32, 28]  # the picture of the first batch, then 60 training images
    saved = torch.load(tmp_path / "out" / "07_cnn_cifar10.pth")  # before the test
    for name, tensor in networks[0].state_dict().items():
        assert torch.equal(saved[name], tensor), name


def test_digits_have_the_shape_of_cifar10():
    for dataset, size in zip(lesson.load_offline_data(), (1347, 450)):
        images, labels = dataset.tensors
        assert images.shape == (size, 3, 32, 32) and images.dtype == torch.uint8
        assert images.max() == 255 and set(labels.tolist()) == set(range(10))


def test_the_smallest_run_has_a_schedule(tmp_path):
    run(tmp_path, tmp_path, "--dataset", "digits", "--limit", "1", "--batch-size", "1")


def test_learns_the_digits(tmp_path):
    metrics = run(tmp_path, tmp_path, "--dataset", "digits", "--limit", "500", "--epochs", "3")
    assert metrics["accuracy"] > 0.8
