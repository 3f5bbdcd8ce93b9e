"""Lesson 08: what frozen means, which weights are kept, and the class of a photo of one's own."""

import functools
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import (
    SmallResNet,
    check_training,
    curves,
    load_lesson,
    numbers,
    refusal,
    run,
    spy,
    tiles,
)
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

lesson = load_lesson("08")
TRANSFORMS = dict(lesson.data_transforms)  # which the fixture replaces
CLASSES = ["cats", "dogs", "owls"]
PHOTOS = Path("data/hymenoptera_data")
WEIGHTS = Path("checkpoints", Path(ResNet18_Weights.DEFAULT.url).name)
FILE = Path("outputs/08_transfer_learning_hymenoptera.pth")


@pytest.fixture(autouse=True)
def small_transforms_and_weights(monkeypatch):
    """Make photos small, so that it is quick, and write the weights to where torch.hub has them."""
    for phase, size in (("train", 32), ("val", 40)):
        small = v2.Compose([v2.Resize((size, size)), lesson.to_tensor])
        monkeypatch.setitem(lesson.data_transforms, phase, small)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: ".")
    for folder in (WEIGHTS.parent, FILE.parent, Path("data")):
        folder.mkdir()
    torch.manual_seed(0)
    torch.save(SmallResNet().state_dict(), WEIGHTS)


def noise(seed, height=30, width=40):
    """Return a photo of random pixels, which are brighter with a higher seed."""
    pixels = np.random.default_rng(seed).integers(0, 60 + 10 * seed, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def write_photos(root):
    """Write 4 photos of three classes for training, and 9 for validation."""
    for i, label in enumerate((0, 1, 2, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2)):
        folder = root / ("train" if i < 4 else "val") / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        noise(i).save(folder / f"{i}.png")


def colors(images):
    """Undo the normalization of images (N, 3, H, W); return values from 0 to 1, (N, H, W, 3)."""
    return images.permute(0, 2, 3, 1) * torch.tensor(lesson.std) + torch.tensor(lesson.mean)


@functools.cache
def on_photos():
    """Run on photos, in order; add weights, the file that was saved, networks, and both sets."""
    write_photos(PHOTOS)
    with mock.patch.dict(lesson.batch_size, val=8), spy(lesson, "train_model") as train_model:
        done = run(lesson, "--dataset=hymenoptera", "--epochs=8", "--lr=0.02", in_order=True)
    done.weights, done.saved = torch.load(WEIGHTS), torch.load(FILE)
    done.networks = [call.args[0].cpu().eval() for call in train_model.mock_calls]
    done.train, done.val = (tuple(map(torch.cat, zip(*loader))) for loader in done.loaders)
    return done


@functools.cache
def check(i):
    """Check the i-th training; return losses and accuracies, both for both sets, and outputs."""
    done, network = on_photos(), SmallResNet(num_classes=3)
    if i == 1:  # pretrained and frozen, but for the last layer
        network.load_state_dict(done.weights | network.fc.state_dict(prefix="fc."))
        network.eval().requires_grad_(False).fc.requires_grad_()
    rates = 7 * [0.02] + [0.002]  # one batch for each epoch
    arguments = done.trainings[i], rates, network, cross_entropy, [done.train], done.val[0]
    losses, outputs, val_outputs = check_training(*arguments, momentum=0.9)
    val_losses = [cross_entropy(output, done.val[1]).item() for output in val_outputs]
    accs = [(o.argmax(dim=1) == done.train[1]).double().mean().item() for o in outputs]
    val_accs = [(o.argmax(dim=1) == done.val[1]).double().mean().item() for o in val_outputs]
    return losses, accs, val_losses, val_accs, val_outputs


each_training = pytest.mark.parametrize("i", [0, 1, 2], ids=["finetuned", "frozen", "scratch"])


@each_training
def test_losses_and_accuracies_of_both_phases_are_printed_and_drawn(i):
    *expected, _ = check(i)
    printed = re.findall(r"Loss: (\S+) Acc: (\S+)", on_photos().output)[16 * i : 16 * i + 16]
    found = np.array(printed, float).reshape(8, 4).T
    assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert_allclose(curves(on_photos().axes[1])[i], [range(1, 9), expected[3]])


@each_training
def test_the_weights_of_the_best_epoch_are_kept(i):
    _, _, _, val_accs, val_outputs = check(i)
    outputs = on_photos().networks[i](on_photos().val[0]).detach()
    assert_allclose(outputs, val_outputs[np.argmax(val_accs)], rtol=1e-3)
    name = ("accuracy_finetuned", "accuracy_frozen", "accuracy_scratch")[i]
    best = re.findall(r"best val Acc: (\S+)", on_photos().output)[i]
    result = numbers(on_photos().output, "Validation accuracy:")[i]
    found = [on_photos().metrics[name], float(best), result / 100]
    assert_allclose(found, max(val_accs), atol=1e-3)


def test_fine_tuning_starts_with_the_weights_and_the_third_training_at_random():
    finetuned, _, scratch = (training.start[:1176] for training in on_photos().trainings)
    pretrained = on_photos().weights["0.weight"].flatten()  # (1176,)
    assert torch.equal(finetuned, pretrained) and not torch.equal(scratch, pretrained)


def test_the_figure_shows_a_training_batch_and_the_least_certain_predictions():
    done = on_photos()
    images, labels = done.train
    assert_allclose(tiles(done.axes[0].images[0].get_array(), 32), colors(images), atol=1e-5)
    titles = re.findall("cats|dogs|owls", done.axes[0].get_title())
    assert titles == [CLASSES[label] for label in labels]
    images, labels = (tensor[:8] for tensor in done.val)  # the first batch
    values, preds = done.networks[0](images).softmax(dim=1).detach().max(dim=1)
    for ax, i in zip(done.axes[2:], values.argsort()[:6], strict=True):
        assert_allclose(ax.images[0].get_array(), colors(images)[i], atol=1e-5)
        assert_allclose(numbers(ax.get_title(), CLASSES[preds[i]]), [100 * values[i]], atol=0.6)
        assert ax.get_title().endswith(CLASSES[labels[i]])


def test_a_photo_that_a_phone_has_turned_is_predicted_upright():
    torch.save(on_photos().saved, FILE)
    photo, exif = noise(19), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    photo.convert("RGBA").rotate(90, expand=True).save("photo.png", exif=exif)
    inputs = lesson.data_transforms["val"](photo).unsqueeze(0)
    value, pred = on_photos().networks[0](inputs).softmax(dim=1)[0].max(dim=0)
    output = run(lesson, "--predict", "photo.png", "photo.png").output
    first, second = (numbers(line, f"photo.png: {CLASSES[pred]}") for line in output.splitlines())
    assert_allclose([first, second], 2 * [[100 * value.item()]], atol=0.06)


OTHER_NETWORK = {"model_state": {"fc.bias": torch.ones(3)}, "class_names": CLASSES}


@pytest.mark.parametrize("content", [None, {"epoch": 3}, OTHER_NETWORK])
def test_predict_without_a_usable_model_names_the_file_and_what_to_do(content):
    if content:
        torch.save(content, FILE)
    message = refusal(lesson, "--predict", "photo.png")
    assert str(FILE) in message and "--dataset hymenoptera" in message


def test_a_photo_that_cannot_be_read_is_named():
    write_photos(PHOTOS)
    photo = PHOTOS / "train" / "owls" / "2.png"
    photo.write_bytes(photo.read_bytes()[:600])
    assert str(photo) in refusal(lesson, "--dataset=hymenoptera")


def test_classes_that_differ_are_named():
    write_photos(PHOTOS)
    (PHOTOS / "train" / "owls").rename(PHOTOS / "train" / "bats")
    message = refusal(lesson, "--dataset=hymenoptera")
    assert "bats" in message and "owls" in message


def test_validation_photos_are_transformed_as_the_weights_expect():
    photo = noise(0, 300, 400)
    expected = ResNet18_Weights.DEFAULT.transforms()(photo)
    torch.testing.assert_close(TRANSFORMS["val"](photo), expected)


def test_training_photos_are_cropped_and_flipped_at_random():
    photo = Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (200, 1))).convert("RGB")
    rows = 255 * colors(torch.stack([TRANSFORMS["train"](photo) for _ in range(30)]))[:, 0, :, 0]
    ranges = rows[:, -1] - rows[:, 0]  # the photo gets brighter from the left to the right
    assert rows.shape == (30, 224) and rows.min() > -1 and rows.max() < 251
    assert 5 < (ranges < 0).sum() < 25 and len(ranges.abs().round().unique()) > 10


def test_digits_for_pretraining_training_and_validation_do_not_overlap():
    with mock.patch.object(lesson, "DataLoader", return_value=[]) as loader:  # only for its set
        lesson.prepare_network_for_digits(500)
    sets, names = lesson.load_offline_data(3, 500)
    X, y = load_digits(return_X_y=True)
    used = []
    for dataset, n_classes, size in (
        (loader.call_args.args[0], 10, 500),
        (sets["train"], 2, 20),  # even or odd
        (sets["val"], 2, 300),
    ):
        images, labels = dataset.tensors
        pixels = 16 * colors(images)[:, 2::4, 2::4]  # the centers of 4x4 equal pixels
        distances = torch.cdist(pixels[..., 0].flatten(1), torch.from_numpy(X))
        assert distances.amin(dim=1).max() < 0.01 and pixels.std(dim=3).max() < 1e-5
        used.append(distances.argmin(dim=1).tolist())  # which of all digits each image is
        assert labels.tolist() == (y[used[-1]] % n_classes).tolist() and len(labels) == size
    assert len(set().union(*used)) == 820 and names == ["even", "odd"]
    assert np.bincount(y[used[1]]).tolist() == 10 * [2]
    others, _ = lesson.load_offline_data(4, 500)
    assert not torch.equal(others["train"].tensors[0], sets["train"].tensors[0])


def test_on_digits_fine_tuning_starts_with_a_network_that_has_learned_to_name_digits():
    done = run(lesson, "--dataset=digits", "--limit=33", "--seed=3", in_order=True)
    images, labels = lesson.load_color_digits()
    batches = [(images[:32], labels[:32])]  # without a batch of one
    network = SmallResNet(num_classes=10)
    prepared, finetuned, *_ = done.trainings
    check_training(prepared, 3 * [0.01], network, cross_entropy, batches, momentum=0.9)
    assert torch.equal(finetuned.start[:1176], prepared.end[:1176])  # the first layer
    assert len(finetuned.rates) == 8 * 20 / 4
    sets, _ = lesson.load_offline_data(3, 33)
    assert torch.equal(done.loaders[0].dataset.tensors[0], sets["train"].tensors[0])
    assert numbers(done.output, "{'train':") == [20, 33]


@pytest.mark.parametrize(
    ("broken", "data_name", "is_kept"),
    [("photos", "digits", False), ("weights", "digits", True), (None, "hymenoptera", True)],
)
def test_photos_are_complete_or_not_there(broken, data_name, is_kept, monkeypatch, network_tries):
    def fetch(url, folder):
        write_photos(Path(folder, "hymenoptera_data"))
        if broken == "photos":
            raise EOFError  # proxies can cause almost any error

    monkeypatch.setattr(lesson.datasets.utils, "download_and_extract_archive", fetch)
    if broken == "weights":
        WEIGHTS.unlink()
    assert lesson.download(lesson.parse_args([])) == data_name
    assert list(Path("data").rglob("train")) == ([PHOTOS / "train"] if is_kept else [])
    network_tries.clear()
