"""Lesson 07: honest counts, augmentation in training only, and a mirror that is checked."""

import numpy as np
import pytest
import torch
import torchvision
from conftest import load_lesson, one_line, run, spy
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

lesson = load_lesson("07")


class FakeCIFAR10:
    """40 training and 21 test images, as torchvision holds them; no test image is a truck."""

    def __init__(self, root, train=True, download=False):
        size = 40 if train else 21
        self.data = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), np.uint8)
        self.targets = [i % 9 for i in range(size)]


def test_both_networks_count_every_test_image(tmp_path, monkeypatch, capsys):
    """The last batch is short, and a class is missing."""
    for module, name in ((torchvision.datasets, "CIFAR10"), (lesson, "MirroredCIFAR10")):
        monkeypatch.setattr(module, name, FakeCIFAR10)

    def batches_of_8(dataset, batch_size, **settings):
        return DataLoader(dataset, 8, **settings)

    monkeypatch.setattr(lesson, "DataLoader", batches_of_8)
    with spy(lesson.DeeperNet, "__init__") as init, spy(lesson, "train_deeper") as train_deeper:
        metrics = run(lesson, tmp_path, "--dataset=cifar10", "--limit=60")
    assert train_deeper.call_args.args[-1] is True  # photos are flipped
    networks = lesson.ConvNet(), init.call_args.args[0]
    networks[0].load_state_dict(torch.load(tmp_path / "output" / "07_cnn_cifar10.pth"))
    out = capsys.readouterr().out
    assert "cifar10, 40 training and 21 test images" in out and metrics["dataset"] == "cifar10"
    test_dataset = FakeCIFAR10("data", train=False)
    images = torch.from_numpy(test_dataset.data).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
    labels = torch.tensor(test_dataset.targets)
    right, deeper_right = ((net.cpu()(images).argmax(dim=1) == labels).float() for net in networks)
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
            seen.append((self.training, x.cpu()))
            return super().forward(x)

    monkeypatch.setattr(lesson, "DeeperNet", SpyNet)
    torch.manual_seed(0)
    hook = register_optimizer_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    loader = DataLoader(TensorDataset(images / 2, torch.arange(8)), batch_size=4)
    losses, matrix = lesson.train_deeper(loader, loader, lambda x: x * 2, 3, 0.1, flip)
    hook.remove()
    assert [training for training, _ in seen] == 6 * [True] + 2 * [False]
    flipped = []
    for x, image in zip(torch.cat([x for _, x in seen[:6]]), images.repeat(3, 1, 1, 1)):
        flipped.append(torch.equal(x, image.flip(2)))
        assert flipped[-1] or torch.equal(x, image)
    mixed_batches = [len(set(flipped[i : i + 4])) == 2 for i in range(0, 24, 4)]
    assert sum(mixed_batches) >= 3 if flip else not any(flipped)
    assert torch.equal(torch.cat([x for _, x in seen[6:]]), images)
    assert len(losses) == 6 and matrix.sum() == 8
    assert len(set(rates)) == 6 and rates[-1] < 0.001 < rates[0] < 0.08 < max(rates) <= 0.1


def test_the_mirror_is_asked_first_and_a_damaged_archive_is_not_used(tmp_path, hosts):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar-10-python.tar.gz").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stop:
        run(lesson, tmp_path, "--dataset=cifar10")
    assert "CIFAR-10" in one_line(stop)
    assert (hosts[0], hosts[-1]) == ("zenodo.org", "www.cs.toronto.edu")
    hosts.clear()


def test_digits_have_the_shape_of_cifar10_and_are_not_flipped(tmp_path):
    for dataset, size in zip(lesson.load_offline_data(10**6), (1347, 450)):
        images, labels = dataset.tensors
        assert images.shape == (size, 3, 32, 32) and images.dtype == torch.uint8
        assert images.max() == 255 and set(labels.tolist()) == set(range(10))
    with spy(lesson, "train_deeper") as train_deeper:
        metrics = run(lesson, tmp_path, "--limit=300", "--epochs=3", "--batch-size=16", "--lr=0.03")
    assert train_deeper.call_args.args[-1] is False
    assert metrics["accuracy"] > 0.8 and metrics["accuracy_convnet"] > 0.5
