"""Lesson 07: CIFAR-10 as torchvision reads it, honest counts, and training apart from testing."""

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch
import torchvision
from conftest import load_lesson, one_line
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("07")
CIFAR10 = torchvision.datasets.CIFAR10
MIRROR = lesson.MirroredCIFAR10.url
NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """Write a CIFAR-10 of 5 x 8 and 21 images in its true layout, and as an archive."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng, sums = np.random.default_rng(0), []
    for name, size in [(f"data_batch_{i}", 8) for i in range(1, 6)] + [("test_batch", 21)]:
        pixels = rng.integers(0, 256, (size, 3072), dtype=np.uint8)
        content = pickle.dumps({"labels": [i % 9 for i in range(size)], "data": pixels}, protocol=2)
        (folder / name).write_bytes(content)
        sums.append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": NAMES}, protocol=2)
    (folder / "batches.meta").write_bytes(meta)
    archive = folder.with_name(CIFAR10.filename)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    md5s = (hashlib.md5(content).hexdigest() for content in (archive.read_bytes(), meta))
    monkeypatch.setattr(CIFAR10, "tgz_md5", next(md5s))
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": next(md5s)})
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    return folder.parent


def run(tmp_path, *more):
    folders = ["--data-dir", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out")]
    return lesson.main([*folders, "--epochs", "1", "--limit", "60", *more])


def test_both_networks_count_every_test_image_of_each_class(
    cifar, tmp_path, monkeypatch, capsys, spy_on
):
    """The last batch is short, and no image of class 9 (truck) is there."""
    networks = spy_on(lesson, "DeeperNet")
    monkeypatch.setattr(
        lesson, "DataLoader", lambda dataset, batch_size, **more: DataLoader(dataset, 8, **more)
    )
    metrics = run(tmp_path, "--dataset", "cifar10")
    out = capsys.readouterr().out
    assert "cifar10, 40 training and 21 test images" in out and metrics["dataset"] == "cifar10"
    model = lesson.ConvNet()
    model.load_state_dict(torch.load(tmp_path / "out" / "07_cnn_cifar10.pth"))
    test_dataset = CIFAR10(cifar, train=False)
    images = torch.from_numpy(test_dataset.data).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.tensor(test_dataset.targets)
    found = lesson.to_tensors(test_dataset, 9).tensors
    assert torch.equal(found[0] / 127.5 - 1, images[:9]) and torch.equal(found[1], labels[:9])
    with torch.no_grad():
        right, deeper_right = (
            (net.cpu()(images).argmax(dim=1) == labels).float() for net in (model, networks[0])
        )
    assert metrics["accuracy_convnet"] == pytest.approx(right.mean().item())
    assert metrics["accuracy"] == pytest.approx(deeper_right.mean().item())
    for i, name in enumerate("plane car bird cat deer dog frog horse ship".split()):
        assert metrics[f"accuracy_{name}"] == pytest.approx(deeper_right[labels == i].mean().item())
        assert f"Accuracy of {name}: {right[labels == i].mean().item():.1%}\n" in out
    assert "accuracy_truck" not in metrics


@pytest.mark.parametrize("flip", [True, False])
def test_training_flips_images_one_by_one_and_testing_changes_nothing(flip, monkeypatch):
    images = torch.arange(8 * 3072).view(8, 3, 32, 32) / 3072
    seen, rates = [], []

    class SpyNet(lesson.DeeperNet):
        def forward(self, x):
            state = {name: tensor.clone() for name, tensor in self.state_dict().items()}
            seen.append((self.training, x.cpu(), state))
            return super().forward(x)

    monkeypatch.setattr(lesson, "DeeperNet", SpyNet)
    torch.manual_seed(0)
    hook = register_optimizer_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    loader = DataLoader(TensorDataset(images / 2, torch.arange(8)), batch_size=4)
    losses, matrix = lesson.train_deeper(loader, loader, lambda x: x * 2, 3, 0.1, flip)
    hook.remove()
    assert [training for training, _, _ in seen] == 6 * [True] + 2 * [False]
    flipped = []
    for x, image in zip(torch.cat([x for _, x, _ in seen[:6]]), images.repeat(3, 1, 1, 1)):
        flipped.append(torch.equal(x, image.flip(2)))
        assert flipped[-1] or torch.equal(x, image)
    mixed_batches = [len(set(flipped[i : i + 4])) == 2 for i in range(0, 24, 4)]
    assert sum(mixed_batches) >= 3 if flip else not any(flipped)
    assert torch.equal(torch.cat([x for _, x, _ in seen[6:]]), images)
    assert all(torch.equal(seen[6][2][name], tensor) for name, tensor in seen[7][2].items())
    assert len(losses) == 6 and matrix.sum() == 8
    assert len(set(rates)) == 6 and 0.08 < max(rates) <= 0.1 and rates[0] > rates[-1] < 0.001


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torchvision, when it unpacks
@pytest.mark.parametrize("good", [None, MIRROR, CIFAR10.url])
def test_the_mirror_is_asked_first_and_a_wrong_archive_is_refused(
    cifar, tmp_path, fake_web, good, capsys
):
    archive = cifar / CIFAR10.filename
    fake_web.pages = {MIRROR: b"wrong", CIFAR10.url: archive.read_bytes()[:1000]}
    if good:
        fake_web.pages[good] = archive.read_bytes()
    archive.unlink()
    (cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"damaged")
    if good:
        assert run(tmp_path)["dataset"] == "cifar10"
        assert (
            list(dict.fromkeys(fake_web.asked)) == [MIRROR]
            if good == MIRROR
            else [MIRROR, CIFAR10.url]
        )
        return
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--dataset", "cifar10")
    assert list(dict.fromkeys(fake_web.asked)) == [MIRROR, CIFAR10.url]
    assert "CIFAR-10" in one_line(stop) and "--dataset digits" in one_line(stop)
    assert run(tmp_path)["dataset"] == "digits"
    loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
    assert len(loud) == 1 and "CIFAR-10" in loud[0] and "digits" in loud[0]


def test_digits_have_the_shape_of_cifar10_and_are_not_flipped(tmp_path, monkeypatch):
    for dataset, size in zip(lesson.load_offline_data(10**6), (1347, 450)):
        images, labels = dataset.tensors
        assert images.shape == (size, 3, 32, 32) and images.dtype == torch.uint8
        assert images.max() == 255 and set(labels.tolist()) == set(range(10))
    flips = []

    def train_deeper(*settings):
        flips.append(settings[-1])
        return [1.0], np.eye(10, dtype=int)

    monkeypatch.setattr(lesson, "train_deeper", train_deeper)
    run(tmp_path, "--dataset", "digits", "--limit", "1", "--batch-size", "1")
    assert flips == [False]


def test_both_networks_learn_the_digits(tmp_path):
    metrics = run(
        tmp_path, "--dataset", "digits", "--limit", "500", "--epochs", "6", "--lr", "0.03"
    )
    assert metrics["accuracy"] > 0.9 and metrics["accuracy_convnet"] > 0.5
