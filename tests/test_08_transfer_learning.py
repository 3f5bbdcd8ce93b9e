"""Lesson 08: what frozen means, which weights are kept, and the class of a photo of one's own."""

import functools
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import SmallResNet, curves, load_lesson, numbers, refusal, run, second, spy, tiles
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

lesson = load_lesson("08")
TRANSFORMS = dict(lesson.data_transforms)
CLASSES = ["cats", "dogs", "owls"]
PHOTOS = Path("data/hymenoptera_data")
WEIGHTS = Path("checkpoints", Path(ResNet18_Weights.DEFAULT.url).name)
FILE = Path("outputs/08_transfer_learning_hymenoptera.pth")


@pytest.fixture(autouse=True)
def small_photos_and_weights(monkeypatch):
    for phase, size in (("train", 32), ("val", 40)):
        small = v2.Compose([v2.Resize((size, size)), lesson.to_tensor])
        monkeypatch.setitem(lesson.data_transforms, phase, small)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: ".")
    for folder in (WEIGHTS.parent, FILE.parent):
        folder.mkdir()
    torch.save(SmallResNet().state_dict(), WEIGHTS)


def noise(seed, height=30, width=40):
    """Return a photo of random pixels."""
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
    """Run on photos, in order; add weights, networks, batches, and the file that was saved."""
    write_photos(PHOTOS)
    with mock.patch.dict(lesson.batch_size, val=8), spy(lesson, "train_model") as train_model:
        done = run(lesson, "--dataset=hymenoptera", "--epochs=8", "--lr=0.02", in_order=True)
    done.networks = [call.args[0].cpu().eval() for call in train_model.mock_calls]
    done.weights, done.saved = torch.load(WEIGHTS), torch.load(FILE)
    done.train, done.val = map(list, done.loaders)
    return done


@pytest.mark.parametrize("i", [0, 1, 2])
def test_each_training_is_that_of_a_second_network_whose_best_epoch_is_kept(i):
    done, network, (images, labels) = on_photos(), SmallResNet(num_classes=3), on_photos().train[0]
    val_images, val_labels = map(torch.cat, zip(*done.val))
    if i < 2:  # pretrained
        names = [name for name in done.weights if not name.startswith("fc.")]
        network.load_state_dict({name: done.weights[name] for name in names}, strict=False)
    network.requires_grad_(i != 1).train(i != 1).fc.requires_grad_()
    batches, training = [(images, labels)], done.trainings[i]
    is_fine_tuning = torch.equal(training.start[:1176], done.weights["0.weight"].flatten())
    assert is_fine_tuning == (i == 0) and len(training.start) == (99 if i == 1 else 1299)
    losses, outputs, tests = second(
        training, network, cross_entropy, batches, val_images, momentum=0.9
    )
    accs = [(output.argmax(dim=1) == labels).double().mean() for output in outputs]
    val_losses = [cross_entropy(output, val_labels) for output in tests[1:]]
    val_accs = [(output.argmax(dim=1) == val_labels).double().mean() for output in tests[1:]]
    printed = re.findall(r"Loss: (\S+) Acc: (\S+)", done.output)[16 * i : 16 * i + 16]
    expected = np.transpose([losses, accs, val_losses, val_accs]).reshape(16, 2)
    assert_allclose(np.array(printed, float), expected, rtol=1e-3, atol=1e-4)
    assert_allclose(
        done.networks[i](val_images).detach(), tests[1 + np.argmax(val_accs)], rtol=1e-3
    )
    assert_allclose(curves(done.axes[1])[i], [range(1, 9), val_accs])
    assert [*done.metrics.values()][i] == pytest.approx(max(val_accs))
    assert training.rates == pytest.approx(7 * [0.02] + [0.002])


def test_the_figure_shows_a_training_batch_and_the_least_certain_predictions():
    done, (images, labels), (val_images, val_labels) = (
        on_photos(),
        *on_photos().train,
        on_photos().val[0],
    )
    titles = re.findall("cats|dogs|owls", done.axes[0].get_title())
    assert titles == [CLASSES[label] for label in labels]
    assert_allclose(tiles(done.axes[0], 32), colors(images), atol=1e-5)
    values, preds = done.networks[0](val_images).softmax(dim=1).detach().max(dim=1)
    for ax, i in zip(done.axes[2:], values.argsort()):
        assert_allclose(ax.images[0].get_array(), colors(val_images)[i], atol=1e-5)
        assert_allclose(numbers(ax.get_title(), CLASSES[preds[i]]), 100 * values[i], atol=0.6)
        assert ax.get_title().endswith(CLASSES[val_labels[i]])
    assert val_images.shape == (8, 3, 40, 40) and len(done.axes) == 2 + 6


def test_a_photo_that_a_phone_has_turned_is_predicted_upright():
    torch.save(on_photos().saved, FILE)
    photo, exif = noise(19), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    photo.convert("RGBA").rotate(90, expand=True).save("photo.png", exif=exif)
    inputs = lesson.data_transforms["val"](photo).unsqueeze(0)
    value, pred = on_photos().networks[0](inputs).softmax(dim=1)[0].max(dim=0)
    output = run(lesson, "--predict", "photo.png", "photo.png").output
    printed = numbers(output, f"photo.png: {CLASSES[pred]}", end="\n\n")
    assert_allclose(printed, 2 * [100 * value.item()], atol=0.06)


@pytest.mark.parametrize("content", [None, {"epoch": 3}, {"class_names": CLASSES}])
def test_predict_without_a_usable_model_names_the_file_and_what_to_do(content):
    if content:
        torch.save(content, FILE)
    message = refusal(lesson, "--predict", "photo.png")
    assert str(FILE) in message and "--dataset hymenoptera" in message


def test_photos_that_cannot_be_read_and_classes_that_differ_are_named():
    write_photos(PHOTOS)
    photo = PHOTOS / "train" / "owls" / "2.png"
    photo.write_bytes(photo.read_bytes()[:600])
    assert str(photo) in refusal(lesson, "--dataset=hymenoptera")
    photo.parent.rename(PHOTOS / "train" / "bats")
    assert "bats" in (message := refusal(lesson, "--dataset=hymenoptera")) and "owls" in message


def test_photos_are_transformed_as_the_weights_expect_and_training_photos_at_random():
    photo = noise(0, 300, 400)
    expected = ResNet18_Weights.DEFAULT.transforms()(photo)
    torch.testing.assert_close(TRANSFORMS["val"](photo), expected)
    photo = Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (200, 1))).convert("RGB")
    rows = 255 * colors(torch.stack([TRANSFORMS["train"](photo) for _ in range(30)]))[:, 0, :, 0]
    ranges = rows[:, -1] - rows[:, 0]  # the photo gets brighter from the left to the right
    assert rows.shape == (30, 224) and rows.min() > -1 and rows.max() < 251
    assert 5 < (ranges < 0).sum() < 25 and len(ranges.abs().round().unique()) > 10


def test_digits_for_pretraining_training_and_validation_are_others_and_have_their_labels():
    (X, y), used = load_digits(return_X_y=True), []
    with mock.patch.object(lesson, "DataLoader", return_value=[]) as loader:
        lesson.prepare_network_for_digits(500)
    (sets, names), (other, _) = (lesson.load_offline_data(seed, 500) for seed in (3, 4))
    for dataset, n in ((loader.call_args.args[0], 10), (sets["train"], 2), (sets["val"], 2)):
        images, labels = dataset.tensors
        pixels = 16 * colors(images)[:, 2::4, 2::4]  # the centers of 4x4 equal pixels
        distances = torch.cdist(pixels[..., 0].flatten(1), torch.from_numpy(X))
        assert distances.amin(dim=1).max() < 0.01 and pixels.std(dim=3).max() < 1e-5
        used.append(distances.argmin(dim=1).tolist())
        assert labels.tolist() == (y[used[-1]] % n).tolist()
    assert [len(indices) for indices in used] == [500, 20, 300] and names == ["even", "odd"]
    assert len(set().union(*used)) == 820 and np.bincount(y[used[1]]).tolist() == 10 * [2]
    assert not torch.equal(sets["train"].tensors[0], other["train"].tensors[0])


def test_on_digits_fine_tuning_starts_with_a_network_that_has_learned_to_name_digits():
    done, (images, labels) = (
        run(lesson, "--dataset=digits", "--limit=33", in_order=True),
        lesson.load_color_digits(),
    )
    prepared, finetuned, _, scratch = done.trainings
    network, batches = SmallResNet(num_classes=10), [(images[:32], labels[:32])]  # no batch of one
    second(prepared, network, cross_entropy, batches, momentum=0.9)
    assert prepared.rates == 3 * [0.01] and len(finetuned.rates) == 8 * 20 / 4
    assert torch.equal(finetuned.start[:1176], prepared.end[:1176])
    assert not torch.equal(scratch.start[:1176], prepared.start[:1176])


@pytest.mark.parametrize("broken", ["photos", "weights", "nothing"])
def test_a_download_is_complete_or_digits_are_used(broken, monkeypatch, no_network):
    def fetch(url, folder):
        write_photos(Path(folder, "hymenoptera_data"))
        if broken == "photos":
            raise EOFError  # proxies can cause almost any error

    monkeypatch.setattr(lesson.datasets.utils, "download_and_extract_archive", fetch)
    if broken == "weights":
        WEIGHTS.unlink()
    found = lesson.download(lesson.parse_args([]))
    assert found == ("hymenoptera" if broken == "nothing" else "digits")
    assert list(Path("data").iterdir()) == ([] if broken == "photos" else [PHOTOS])
    no_network.clear()
