"""Lesson 08: frozen means frozen, the best weights stay, and my own photo gets its class."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_lesson, one_line, run
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms import v2

lesson = load_lesson("08")
FILE = Path("output", "08_transfer_learning.pth")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Return where torch.hub keeps the weights; make photos small, so that training is quick."""
    for phase, crop in (("train", v2.RandomResizedCrop(32)), ("val", v2.Resize((32, 32)))):
        monkeypatch.setitem(lesson.data_transforms, phase, v2.Compose([crop, *lesson.to_tensor]))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name


def write_photos(root, classes=("ants", "bees")):
    """Write two small photos of each class, for training and for validation."""
    photo = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
    for folder in [root / part / name for part in ("train", "val") for name in classes]:
        folder.mkdir(parents=True)
        for i in range(2):
            photo.save(folder / f"{i}.jpg")
    return root


def test_own_photos_and_their_prediction(weights, tmp_path, monkeypatch, capsys):
    """Three classes, and weights from torch.hub's cache."""
    pretrained, names = resnet18().state_dict(), ["cats", "dogs", "owls"]
    torch.save(pretrained, weights)
    folder = write_photos(tmp_path / "data" / "hymenoptera_data", names)
    states, train_model = [], lesson.train_model

    def spy(model, *settings):
        states.append(copy.deepcopy(model).cpu().state_dict())
        result = train_model(model, *settings)
        states.append(copy.deepcopy(model).cpu().state_dict())
        return result

    monkeypatch.setattr(lesson, "train_model", spy)
    assert run(lesson, tmp_path, "--dataset=hymenoptera")["dataset"] == "hymenoptera"
    start, finetuned, frozen_start, frozen, scratch, _ = states
    for name, tensor in pretrained.items():
        if not name.startswith("fc."):  # fine-tuning changes all, freezing nothing
            assert torch.equal(start[name], tensor) and not torch.equal(finetuned[name], tensor)
            assert torch.equal(frozen_start[name], tensor) and torch.equal(frozen[name], tensor)
    assert not torch.equal(frozen["fc.weight"], frozen_start["fc.weight"])
    assert not torch.equal(scratch["conv1.weight"], pretrained["conv1.weight"])
    out = capsys.readouterr().out
    assert out.count("11,178,051 parameters") == 2 and out.count("\n1,539 parameters") == 1
    image, exif = Image.open(folder / "val" / "owls" / "0.jpg"), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    photo = str(tmp_path / "photo.png")
    image.convert("RGBA").rotate(90, expand=True).save(photo, exif=exif)
    assert np.array_equal(lesson.read_photo(photo), image)
    assert run(lesson, tmp_path, "--predict", photo) == {}
    model = resnet18(num_classes=3)
    model.load_state_dict(torch.load(tmp_path / FILE)["model_state"])
    inputs = lesson.data_transforms["val"](image).unsqueeze(0)
    value, pred = model.eval()(inputs).softmax(dim=1)[0].max(dim=0)
    assert capsys.readouterr().out == f"{photo}: {names[pred]} ({value.item():.1%})\n"
    Path(photo).write_bytes(Path(photo).read_bytes()[:60])
    for fault in (photo, str(tmp_path / "missing.jpg")):
        with pytest.raises(SystemExit) as stop:
            run(lesson, tmp_path, "--predict", fault)
        assert fault in one_line(stop)


def test_predict_without_a_network_for_photos_says_what_to_do(tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / FILE).write_bytes(b"damaged")
    for advice in ("without --predict", "--dataset hymenoptera"):
        with pytest.raises(SystemExit) as stop:
            run(lesson, tmp_path, "--predict", "photo.jpg")
        assert advice in one_line(stop)
        torch.save({"dataset": "digits", "class_names": ["3"]}, tmp_path / FILE)


def test_transforms_are_those_of_the_weights():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    expected, train = ResNet18_Weights.DEFAULT.transforms(), lesson.data_transforms["train"]
    torch.testing.assert_close(lesson.data_transforms["val"](photo), expected(photo))
    assert train(photo).shape == (3, 224, 224) and not torch.equal(train(photo), train(photo))


def test_best_weights_are_returned_and_the_schedule_steps_once_an_epoch():
    """Validation labels are made up, so that the second of four epochs is the best."""
    torch.manual_seed(0)
    model, rates, weights = torch.nn.Linear(3, 2).to(lesson.device), [], []

    class Val:
        def __iter__(self):  # 1, 3, 2, and 2 of 4 right
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
    best, accuracies = lesson.train_model(model, criterion, optimizer, scheduler, loaders, 4)
    assert accuracies == pytest.approx([0.25, 0.75, 0.5, 0.5])
    assert torch.equal(best.weight, weights[1]) and not torch.equal(weights[1], weights[3])
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])  # after each training phase


def test_digits_tasks_share_no_image(monkeypatch):
    loaders = []
    monkeypatch.setattr(lesson, "train_model", lambda *args: (args[0], loaders.append(args[4])))
    datasets, _, _ = lesson.load_offline_data(seed=3, limit=10**6)
    images, labels = datasets["train"].tensors
    assert not torch.equal(images, lesson.load_offline_data(4, 20)[0]["train"].tensors[0])
    assert images.shape == (20, 3, 32, 32) and labels.tolist().count(0) == 10
    sets = [datasets["val"], loaders[0]["train"].dataset, loaders[0]["val"].dataset]
    assert [len(dataset) for dataset in sets] == [777, 900, 100]
    found = {image.numpy().tobytes() for image in images}
    others = {image.numpy().tobytes() for dataset in sets for image, _ in dataset}
    assert len(found) == 20 and not found & others
    val_images, val_labels = datasets["val"].tensors  # similar images have the same label
    nearest = torch.cdist(images.flatten(1), val_images.flatten(1)).argmin(dim=1)
    assert (val_labels[nearest] == labels).float().mean() > 0.8


def test_an_html_page_instead_of_a_download_is_reported_in_one_line(weights, tmp_path, monkeypatch):
    write_photos(tmp_path / "packed" / "hymenoptera_data")
    archive = Path(shutil.make_archive(tmp_path / "photos", "zip", tmp_path / "packed"))
    pages = {"hymenoptera_data.zip": b"<html>", weights.name: b"<html>"}

    def download(url, file, *args, **kwargs):
        Path(file).write_bytes(pages[Path(url).name])

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for found in ([], ["hymenoptera_data"]):  # never a partial folder
        with pytest.raises(SystemExit) as stop:
            run(lesson, tmp_path, "--dataset=hymenoptera")
        assert "--dataset digits" in one_line(stop)
        assert [path.name for path in (tmp_path / "data").iterdir()] == found
        pages["hymenoptera_data.zip"] = archive.read_bytes()


@pytest.mark.parametrize("fault", ["a page", "an empty class", "a class in one set only"])
@pytest.mark.parametrize("dataset", ["auto", "hymenoptera"])
def test_damaged_photos_are_named(weights, tmp_path, fault, dataset):
    torch.save(resnet18().state_dict(), weights)
    root = write_photos(tmp_path / "data" / "hymenoptera_data")
    if fault == "a page":
        (root / "val" / "bees" / "1.jpg").write_text("<html>", encoding="utf-8")
    else:
        shutil.rmtree(root / "train" / "bees")
    if fault == "an empty class":
        (root / "train" / "bees").mkdir()
    with pytest.raises(SystemExit) as stop:
        run(lesson, tmp_path, f"--dataset={dataset}")
    assert str(root) in one_line(stop)
    assert ("1.jpg" if fault == "a page" else "bees") in one_line(stop)
