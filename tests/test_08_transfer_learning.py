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
    check_print,
    check_result,
    check_training,
    load_lesson,
    refusal,
    run,
    spy,
)
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2
from torchvision.utils import make_grid

lesson = load_lesson("08")
CLASSES = ["cats", "dogs", "owls"]
PHOTOS = Path("data/hymenoptera_data")
WEIGHTS = Path("checkpoints", Path(ResNet18_Weights.DEFAULT.url).name)
FILE = Path("outputs/08_transfer_learning_hymenoptera.pth")


@pytest.fixture(autouse=True)
def weights_and_folders(monkeypatch):
    """Write the weights to where torch.hub has them."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: ".")
    for folder in (WEIGHTS.parent, FILE.parent, Path("data")):
        folder.mkdir()
    torch.manual_seed(0)
    torch.save(SmallResNet().state_dict(), WEIGHTS)


def noise(seed):
    """Return a photo of random pixels, which are brighter with a higher seed."""
    pixels = np.random.default_rng(seed).integers(0, 60 + 10 * seed, (30, 40, 3), np.uint8)
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
    write_photos(Path("photos/hymenoptera_data"))
    small = v2.Compose([v2.Resize((32, 32)), lesson.to_tensor])  # not at random
    not_random = mock.patch.dict(lesson.data_transforms, train=small)
    batches = mock.patch.dict(lesson.batch_size, val=8)
    with not_random, batches, spy(lesson, "train_model") as train_model:
        done = run(lesson, "--data-dir=photos", "--epochs=8", "--lr=0.02", in_order=True)
    assert "Downloading" not in done.output  # as all is there
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
    losses, accs, val_losses, val_accs, _ = check(i)
    epochs = range(1, 9)
    expected = [epochs, losses, accs, epochs, val_losses, val_accs]
    pattern = r"Epoch (\d)/8 \w+ Loss: (\S+) Acc: (\S+)"
    printed = re.findall(pattern, on_photos().output)[16 * i : 16 * i + 16]
    assert_allclose(np.array(printed, float).reshape(8, 6).T, expected, rtol=1e-3, atol=1e-4)
    curve = on_photos().axes[1].lines[i].get_xydata().T
    assert_allclose(curve, [epochs, val_accs])


@each_training
def test_the_weights_of_the_best_epoch_are_kept(i):
    _, _, _, val_accs, val_outputs = check(i)
    outputs = on_photos().networks[i](on_photos().val[0]).detach()
    assert_allclose(outputs, val_outputs[np.argmax(val_accs)], rtol=1e-3)


def test_the_best_accuracies_are_printed_and_returned():
    best = [max(check(i)[3]) for i in range(3)]
    names = ("accuracy_finetuned", "accuracy_frozen", "accuracy_scratch")
    check_result(on_photos(), **dict(zip(names, best)))
    printed = re.findall(r"best val Acc: (\S+)", on_photos().output)
    assert_allclose(np.array(printed, float), best, atol=1e-4)


def test_fine_tuning_starts_with_the_weights_and_the_third_training_at_random():
    finetuned, _, scratch = (training.start[:1176] for training in on_photos().trainings)
    pretrained = on_photos().weights["0.weight"].flatten()  # (1176,)
    assert torch.equal(finetuned, pretrained) and not torch.equal(scratch, pretrained)


def test_the_figure_shows_a_training_batch_and_the_least_certain_predictions():
    done = on_photos()
    images, labels = done.train
    grid = colors(make_grid(images)[None])[0].clip(0, 1)
    assert_allclose(done.axes[0].images[0].get_array(), grid, atol=1e-5)
    assert done.axes[0].get_title().endswith(f"{[CLASSES[label] for label in labels]}")
    assert images.shape == (4, 3, 32, 32) and done.val[0].shape == (9, 3, 224, 224)
    images, labels = (tensor[:8] for tensor in done.val)  # the first batch
    values, preds = done.networks[0](images).softmax(dim=1).detach().max(dim=1)
    for ax, i in zip(done.axes[2:], values.argsort()[:6], strict=True):
        assert_allclose(ax.images[0].get_array(), colors(images)[i], atol=1e-5)
        check_print(ax.get_title(), CLASSES[preds[i]], [100 * values[i]])
        assert ax.get_title().endswith(CLASSES[labels[i]])


def test_a_photo_that_a_phone_has_turned_is_predicted_upright():
    torch.save(on_photos().saved, FILE)
    photo, exif = noise(19), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    photo.convert("RGBA").rotate(90, expand=True).save("photo.png", exif=exif)
    inputs = lesson.data_transforms["val"](photo).unsqueeze(0)
    value, pred = on_photos().networks[0](inputs).softmax(dim=1)[0].max(dim=0)
    output = run(lesson, "--predict", "photo.png", "photo.png").output
    for line in output.splitlines():
        check_print(line, f"photo.png: {CLASSES[pred]}", [100 * value.item()])
    assert len(output.splitlines()) == 2


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
    photo = noise(0)
    expected = ResNet18_Weights.DEFAULT.transforms()(photo)
    torch.testing.assert_close(lesson.data_transforms["val"](photo), expected)


def test_training_photos_are_cropped_and_flipped_at_random():
    photo = Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (200, 1))).convert("RGB")
    images = torch.stack([lesson.data_transforms["train"](photo) for _ in range(30)])
    rows = 255 * colors(images)[:, 0, :, 0]
    ranges = rows[:, -1] - rows[:, 0]  # the photo gets brighter from the left to the right
    assert rows.shape == (30, 224) and rows.min() > -1 and rows.max() < 251
    assert 5 < (ranges < 0).sum() < 25 and len(ranges.abs().round().unique()) > 10


def test_digits_for_pretraining_training_and_validation_do_not_overlap():
    with mock.patch.object(lesson, "DataLoader", return_value=[]) as loader:  # only for its set
        lesson.prepare_network_for_digits(500)
    sets, _ = lesson.load_offline_data(3, 500)
    X, y = load_digits(return_X_y=True)
    used = []
    for dataset, n_classes in zip((loader.call_args.args[0], *sets.values()), (10, 2, 2)):
        images, labels = dataset.tensors
        pixels = 16 * colors(images)[:, 2::4, 2::4]  # the centers of 4x4 equal pixels
        distances = torch.cdist(pixels[..., 0].flatten(1), torch.from_numpy(X))
        assert distances.amin(dim=1).max() < 0.01 and pixels.std(dim=3).max() < 1e-5
        used.append(distances.argmin(dim=1).tolist())  # which of all digits each image is
        assert labels.tolist() == (y[used[-1]] % n_classes).tolist()
    assert len(set().union(*used)) == 500 + 20 + 300
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
    check_print(done.output, "{'train':", [20, 33])


@pytest.mark.parametrize("broken", ["photos", "weights", None])
def test_photos_are_complete_or_not_there(broken, monkeypatch, network_tries):
    def fetch(url, folder):
        write_photos(Path(folder, "hymenoptera_data"))
        if broken == "photos":
            raise EOFError  # proxies can cause almost any error

    monkeypatch.setattr(lesson.datasets.utils, "download_and_extract_archive", fetch)
    if broken == "weights":
        WEIGHTS.unlink()
    assert lesson.download(lesson.parse_args([])) == ("digits" if broken else "hymenoptera")
    found = list(Path("data").rglob("train"))
    assert found == ([] if broken == "photos" else [PHOTOS / "train"])
    network_tries.clear()
