"""Lesson 08: frozen means frozen, the best weights stay, and my own photo gets its class."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_lesson, one_line
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms import v2

lesson = load_lesson("08")
URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Return where torch.hub keeps the weights; make photos small, so that training is quick."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    for phase, crop in (("train", v2.RandomResizedCrop(32)), ("val", v2.Resize((32, 32)))):
        small = v2.Compose([crop, *lesson.to_tensor])
        monkeypatch.setitem(lesson.data_transforms, phase, small)
    path = tmp_path / "torch_home/hub/checkpoints" / ResNet18_Weights.DEFAULT.url.split("/")[-1]
    path.parent.mkdir(parents=True)
    return path


def write_photos(root, classes=("ants", "bees")):
    """Write two small photos of each class, for training and for validation."""
    rng = np.random.default_rng(0)
    for folder in [root / part / name for part in ("train", "val") for name in classes]:
        folder.mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return root


def run(tmp_path, *more):
    folders = ["--data-dir", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out")]
    return lesson.main([*folders, "--epochs", "1", "--limit", "6", *more])


def test_own_photos_offline_and_their_prediction(weights, tmp_path, monkeypatch, capsys, fake_web):
    """Three classes, cached weights, a text file beside the photos."""
    pretrained = resnet18().state_dict()
    torch.save(pretrained, weights)
    folder = write_photos(tmp_path / "data" / "hymenoptera_data", ("cats", "dogs", "owls"))
    (folder / "train" / "cats" / "notes.txt").write_text("not a photo", encoding="utf-8")
    states, real = [], lesson.train_model

    def train_model(model, *settings):
        states.append({name: tensor.cpu().clone() for name, tensor in model.state_dict().items()})
        model, accuracies = real(model, *settings)
        states.append({name: tensor.cpu().clone() for name, tensor in model.state_dict().items()})
        return model, accuracies

    monkeypatch.setattr(lesson, "train_model", train_model)
    assert run(tmp_path, "--dataset", "hymenoptera")["dataset"] == "hymenoptera"
    start, finetuned, frozen_start, frozen, scratch, _ = states
    for name, tensor in pretrained.items():
        if not name.startswith("fc."):  # fine-tuning changes all, freezing nothing
            assert torch.equal(start[name], tensor) and not torch.equal(finetuned[name], tensor)
            assert torch.equal(frozen_start[name], tensor) and torch.equal(frozen[name], tensor)
    assert not torch.equal(frozen["fc.weight"], frozen_start["fc.weight"])
    assert not torch.equal(scratch["conv1.weight"], pretrained["conv1.weight"])
    assert all(len(state["fc.bias"]) == 3 for state in states)  # an output for each folder
    lines = capsys.readouterr().out.splitlines()
    counts = [line.split()[0] for line in lines if "parameters are trained" in line]
    assert counts == ["11,178,051", "1,539", "11,178,051"]

    image = Image.open(folder / "val" / "owls" / "0.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    photos = [str(tmp_path / name) for name in ("gray.png", "alpha.png", "turned.png")]
    image.convert("L").save(photos[0])
    image.convert("RGBA").save(photos[1])
    image.rotate(90, expand=True).save(photos[2], exif=exif)
    assert run(tmp_path, "--predict", *photos) == {}
    model = resnet18(num_classes=3)
    model.load_state_dict(torch.load(tmp_path / "out" / "08_transfer_learning.pth")["model_state"])
    images = [image.convert("L").convert("RGB"), image, image]
    with torch.no_grad():
        inputs = torch.stack([lesson.data_transforms["val"](image) for image in images])
        values, preds = model.eval()(inputs).softmax(dim=1).max(dim=1)
    for line, photo, value, pred in zip(
        capsys.readouterr().out.splitlines(), photos, values.tolist(), preds
    ):
        assert line == f"{photo}: {('cats', 'dogs', 'owls')[pred]} ({value:.1%})"


@pytest.mark.parametrize("fault", ["no model", "digits", "missing", "text", "cut off"])
def test_predict_says_in_one_line_what_to_do(fault, tmp_path):
    photo = write_photos(tmp_path / "photos") / "val" / "ants" / "0.jpg"
    saved = {"model_state": resnet18(num_classes=2).state_dict(), "class_names": ["ants", "bees"]}
    saved["dataset"] = "digits" if fault == "digits" else "hymenoptera"
    (tmp_path / "out").mkdir()
    if fault != "no model":
        torch.save(saved, tmp_path / "out" / "08_transfer_learning.pth")
    if fault == "missing":
        photo.unlink()
    elif fault in ("text", "cut off"):
        photo.write_bytes(b"hello" if fault == "text" else photo.read_bytes()[:300])
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--predict", str(photo))
    named = {"no model": "without --predict", "digits": "--dataset hymenoptera"}
    assert named.get(fault, str(photo)) in one_line(stop)


def test_transforms_are_those_of_the_weights():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    expected, train = ResNet18_Weights.DEFAULT.transforms(), lesson.data_transforms["train"]
    torch.testing.assert_close(lesson.data_transforms["val"](photo), expected(photo))
    assert train(photo).shape == (3, 224, 224) and not torch.equal(train(photo), train(photo))
    red = Image.new("RGB", (300, 400), "red")  # the same wherever it is cut out
    torch.testing.assert_close(train(red), expected(red))


def test_best_weights_are_returned_and_the_schedule_steps_once_an_epoch(capsys):
    """Validation labels are made up, so that the second of four epochs is the best."""
    torch.manual_seed(0)
    model, rates, weights = torch.nn.Linear(3, 2).to(lesson.device), [], []

    class Val:
        def __iter__(self):  # 1, 3, 2 and 2 of 4 right
            weights.append(model.weight.detach().clone())
            rates.append(optimizer.param_groups[0]["lr"])
            assert not model.training
            inputs = torch.randn(4, 3).to(lesson.device)
            preds = model(inputs).argmax(dim=1)
            right = torch.arange(4, device=lesson.device) < [1, 3, 2, 2][len(weights) - 1]
            yield inputs, torch.where(right, preds, 1 - preds)

    train = TensorDataset(torch.randn(5, 3), torch.arange(5) % 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    criterion, loaders = torch.nn.CrossEntropyLoss(), {"train": DataLoader(train, 3), "val": Val()}
    start = model(train.tensors[0].to(lesson.device)).cpu()
    best, accuracies = lesson.train_model(model, criterion, optimizer, scheduler, loaders, 4)
    assert accuracies == pytest.approx([0.25, 0.75, 0.5, 0.5])
    assert torch.equal(best.weight, weights[1]) and not torch.equal(weights[1], weights[3])
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])  # after each training phase
    words = capsys.readouterr().out.splitlines()[1].split()  # the model has hardly changed
    assert float(words[-3]) == pytest.approx(criterion(start, train.tensors[1]).item(), rel=0.01)
    accuracy = (start.argmax(dim=1) == train.tensors[1]).float().mean().item()
    assert float(words[-1]) == pytest.approx(accuracy, abs=1e-4)


def test_digits_tasks_share_no_image_and_no_training_batch_has_one_image(tmp_path, monkeypatch):
    loaders = []
    monkeypatch.setattr(
        lesson, "train_model", lambda *args: loaders.append(args[4]) or (args[0], [1])
    )
    datasets, class_names, model = lesson.load_offline_data(seed=3, limit=10**6)
    images, labels = datasets["train"].tensors
    assert images.shape == (20, 3, 32, 32) and labels.tolist().count(0) == 10
    assert class_names == ["even", "odd"] and model.fc.out_features == 10
    sets = [datasets["val"], loaders[0]["train"].dataset, loaders[0]["val"].dataset]
    assert [len(dataset) for dataset in sets] == [777, 900, 100]
    found = {image.numpy().tobytes() for image in images}
    others = {image.numpy().tobytes() for dataset in sets for image, _ in dataset}
    assert len(found) == 20 and not found & others
    val_images, val_labels = datasets["val"].tensors  # similar images have the same label
    nearest = torch.cdist(images.flatten(1), val_images.flatten(1)).argmin(dim=1)
    assert (val_labels[nearest] == labels).float().mean() > 0.8
    other_draw, _, _ = lesson.load_offline_data(seed=4, limit=10**6)
    assert not torch.equal(other_draw["train"].tensors[0], images)
    run(tmp_path, "--dataset", "digits", "--limit", "5")
    for dataloaders in loaders[3:]:
        assert [len(labels) for _, labels in dataloaders["train"]] == [4]
        assert sum(len(labels) for _, labels in dataloaders["val"]) == 5


@pytest.mark.parametrize("fault", ["offline", "cut off", "no weights", "page as weights"])
def test_without_photos_or_weights_it_says_so_and_uses_the_digits(
    weights, fake_web, fault, tmp_path, capsys
):
    write_photos(tmp_path / "packed" / "hymenoptera_data")
    archive = shutil.make_archive(tmp_path / "photos", "zip", tmp_path / "packed")
    if fault != "offline":
        fake_web.pages[URL] = Path(archive).read_bytes()[: 999 if fault == "cut off" else None]
    if fault == "page as weights":
        weights.write_text("<html>not found</html>", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--dataset", "hymenoptera")
    assert "--dataset digits" in one_line(stop)
    left = [path.name for path in (tmp_path / "data").iterdir()]  # never a partial folder
    assert left == ([] if fault in ("offline", "cut off") else ["hymenoptera_data"])
    assert len(list((tmp_path / "data").rglob("*.jpg"))) == 8 * len(left)
    if fault == "offline":
        assert run(tmp_path)["dataset"] == "digits"
        loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
        assert len(loud) == 1 and "digits" in loud[0]


@pytest.mark.parametrize("fault", ["a class in one set only", "an empty class", "a page"])
@pytest.mark.parametrize("dataset", ["auto", "hymenoptera"])
def test_damaged_photos_are_named_and_kept(weights, tmp_path, fault, dataset):
    root = write_photos(tmp_path / "data" / "hymenoptera_data")
    if fault == "a page":
        (root / "val" / "ants" / "1.jpg").write_text("<html>", encoding="utf-8")
    else:
        for photo in (root / "train" / "bees").iterdir():
            photo.unlink()
        if fault == "a class in one set only":
            (root / "train" / "bees").rmdir()
    before = sorted(root.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--dataset", dataset)
    assert str(root) in one_line(stop)
    assert ("1.jpg" if fault == "a page" else "bees") in one_line(stop)
    assert sorted(root.rglob("*")) == before
