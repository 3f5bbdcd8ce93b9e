"""Lesson 08: frozen means frozen, the best weights stay, and no partial dataset is used."""

import copy
import io
import zipfile

import numpy as np
import pytest
import torch
from conftest import load_lesson, one_line
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision.models import ResNet18_Weights, resnet18

lesson = load_lesson("08")
URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return torch.hub's folder of weights, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    folder = tmp_path / "torch_home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def weights():
    """Return weights as torch.hub stores them, as bytes."""
    torch.manual_seed(1)
    file = io.BytesIO()
    torch.save(resnet18().state_dict(), file)
    return file.getvalue()


@pytest.fixture
def with_weights(hub, weights):
    (hub / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]).write_bytes(weights)


def write_photos(data_dir, classes=("ants", "bees"), n=2):
    """Write n small photos of each class, for training and for validation."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in classes:
            folder = data_dir / "hymenoptera_data" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return data_dir


@pytest.fixture
def archive(tmp_path):
    """Return hymenoptera_data.zip as bytes."""
    root = write_photos(tmp_path / "packed")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for path in sorted(root.rglob("*.jpg")):
            file.write(path, path.relative_to(root))
    return packed.getvalue()


def run(tmp_path, *more):
    folders = ["--data-dir", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out")]
    return lesson.main([*folders, "--epochs", "1", "--limit", "6", *more])


@pytest.fixture
def trainings(monkeypatch):
    """Record the model of each call of train_model, before and after."""
    calls = []

    def record(model, *settings):
        before = copy.deepcopy(model)
        result = train_model(model, *settings)
        calls.append((before.state_dict(), result[0], settings))
        return result

    train_model = lesson.train_model
    monkeypatch.setattr(lesson, "train_model", record)
    return calls


def test_own_photos_with_cached_weights_offline(with_weights, fake_web, tmp_path, trainings):
    """Three classes, a text file beside the photos: class names come from the folders."""
    data_dir = write_photos(tmp_path / "data", ("cats", "dogs", "owls"), n=1)
    notes = data_dir / "hymenoptera_data" / "train" / "cats" / "notes.txt"
    notes.write_text("not a photo", encoding="utf-8")
    pretrained = resnet18(weights=ResNet18_Weights.DEFAULT).state_dict()

    metrics = run(tmp_path, "--dataset", "hymenoptera")
    assert metrics["dataset"] == "hymenoptera"
    (start, finetuned, _), (_, head, frozen), (scratch, _, _) = trainings
    # Fine-tuning starts from the pretrained weights, and changes them all
    backbone = [name for name in pretrained if not name.startswith("fc.")]
    assert all(torch.equal(start[name].cpu(), pretrained[name]) for name in backbone)
    after = finetuned.state_dict()
    assert not any(torch.equal(after[name].cpu(), pretrained[name]) for name in backbone)
    assert not torch.equal(scratch["conv1.weight"].cpu(), pretrained["conv1.weight"])
    # An output for each folder
    assert finetuned.fc.out_features == head.out_features == len(scratch["fc.bias"]) == 3
    # Only the head is trained, on features that are computed once
    assert isinstance(head, torch.nn.Linear)
    features, labels = next(iter(frozen[3]["val"]))
    assert features.shape == (3, 512) and set(labels.tolist()) == {0, 1, 2}


def test_frozen_means_frozen_and_features_are_the_network_s():
    torch.manual_seed(0)
    model = resnet18(num_classes=2).to(lesson.device)
    images, labels = torch.randn(5, 3, 32, 32), torch.arange(5) % 2
    before = copy.deepcopy(model.state_dict())
    features = lesson.extract_features(model, TensorDataset(images, labels))
    for name, tensor in model.state_dict().items():  # batch norm's statistics, too
        assert torch.equal(tensor, before[name]), name
    assert not model.training
    assert torch.equal(features.tensors[1], labels)
    with torch.no_grad():
        expected = model(images.to(lesson.device))
        torch.testing.assert_close(model.fc(features.tensors[0].to(lesson.device)), expected)


def test_best_weights_are_returned_and_the_schedule_steps_once_an_epoch(monkeypatch):
    """Validation labels are made up, so that the second of four epochs is the best."""
    rates, weights = [], []
    model = torch.nn.Linear(3, 2).to(lesson.device)

    class SpySGD(torch.optim.SGD):
        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    class Val:
        def __iter__(self):  # 1, 3, 2 and 2 of 4 right
            weights.append(model.weight.detach().clone())
            assert not model.training
            inputs = torch.randn(4, 3).to(lesson.device)
            preds = model(inputs).argmax(dim=1)
            right = torch.arange(4, device=lesson.device) < [1, 3, 2, 2][len(weights) - 1]
            yield inputs, torch.where(right, preds, 1 - preds)

    dataset = TensorDataset(torch.randn(6, 3), torch.arange(6) % 2)
    optimizer = SpySGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    loaders = {"train": torch.utils.data.DataLoader(dataset, batch_size=3), "val": Val()}
    best, accuracies = lesson.train_model(
        model, torch.nn.CrossEntropyLoss(), optimizer, scheduler, loaders, 4
    )
    assert accuracies == pytest.approx([0.25, 0.75, 0.5, 0.5])
    assert torch.equal(best.weight, weights[1]) and not torch.equal(weights[1], weights[3])
    assert rates == pytest.approx(6 * [0.1] + 2 * [0.01])  # two steps an epoch


@pytest.mark.parametrize(("n", "used"), [(1, 0), (4, 4), (5, 4), (6, 6)])
def test_no_training_batch_of_one_image(n, used):
    dataset = TensorDataset(torch.arange(n), torch.arange(n))
    loaders = lesson.make_dataloaders({"train": dataset, "val": dataset}, batch_size=4)
    assert sum(len(labels) for _, labels in loaders["train"]) == used
    assert sum(len(labels) for _, labels in loaders["val"]) == n


def test_digits_tasks_share_no_image():
    datasets, digits = lesson.load_offline_data(seed=3, limit=10**6)
    images, labels = datasets["train"].tensors
    assert images.shape == (20, 3, 32, 32) and labels.tolist().count(0) == 10
    assert len(datasets["val"]) == 777 and len(digits["train"]) == 900
    found = {image.numpy().tobytes() for image in images}
    assert len(found) == 20
    for other in (datasets["val"], digits["train"], digits["val"]):
        assert not found & {image.numpy().tobytes() for image, _ in other}
    other_draw = lesson.load_offline_data(seed=4, limit=10**6)[0]["train"].tensors[0]
    assert not torch.equal(images, other_draw)


def test_downloads_and_unpacks_in_one_step(fake_web, archive, tmp_path):
    fake_web[URL] = archive
    lesson.download_photos(tmp_path / "data" / "hymenoptera_data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["hymenoptera_data"]
    assert len(list((tmp_path / "data").rglob("*.jpg"))) == 8


@pytest.mark.parametrize(
    "fault", ["offline", "cut off", "damaged", "no weights", "page as weights"]
)
def test_without_photos_or_weights_it_says_so_and_uses_the_digits(
    hub, fake_web, archive, fault, tmp_path, capsys, monkeypatch
):
    pages = {
        "offline": {},
        "cut off": {URL: archive[: len(archive) // 2]},
        "damaged": {URL: archive.replace(b"\xff\xda", b"\xff\xdb", 1)},
    }
    fake_web.update(pages.get(fault, {URL: archive}))
    if fault == "page as weights":
        name = ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
        (hub / name).write_text("<html>not found</html>", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--dataset", "hymenoptera")
    assert "--dataset digits" in one_line(stop)
    left = [path.name for path in (tmp_path / "data").iterdir()]
    assert left == ([] if fault in pages else ["hymenoptera_data"])  # never a partial folder

    if fault != "offline":
        return
    monkeypatch.setattr(lesson, "pretrain_on_digits", lambda _: resnet18(num_classes=10))
    assert run(tmp_path)["dataset"] == "digits"
    loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
    assert len(loud) == 1 and "digits" in loud[0]


def test_an_interrupted_download_leaves_nothing(fake_web, archive, tmp_path, monkeypatch):
    def interrupted(self, name, mode="r"):
        raise KeyboardInterrupt

    fake_web[URL] = archive
    monkeypatch.setattr(zipfile.ZipFile, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lesson.download_photos(tmp_path / "data" / "hymenoptera_data")
    assert list((tmp_path / "data").iterdir()) == []


def empty_class(root):
    for path in (root / "train" / "bees").iterdir():
        path.unlink()


def other_class(root):
    (root / "val" / "bees").rename(root / "val" / "wasps")


def not_a_photo(root):
    (root / "train" / "bees" / "0.jpg").write_text("not a photo", encoding="utf-8")


def half_a_photo(root):
    photo = root / "val" / "ants" / "1.jpg"
    photo.write_bytes(photo.read_bytes()[:600])


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (empty_class, "bees"),
        (other_class, "wasps"),
        (not_a_photo, "0.jpg"),
        (half_a_photo, "1.jpg"),
    ],
)
@pytest.mark.parametrize("dataset", ["auto", "hymenoptera"])
def test_photos_that_cannot_be_used_are_named(with_weights, tmp_path, fault, named, dataset):
    """The folder is there, so the user means it: the digits never take its place."""
    root = write_photos(tmp_path / "data") / "hymenoptera_data"
    fault(root)
    before = sorted(root.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--dataset", dataset)
    assert str(root) in one_line(stop) and named in one_line(stop)
    assert sorted(root.rglob("*")) == before
