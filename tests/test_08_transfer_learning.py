"""Lesson 08: what frozen means, which weights are kept, and the class of a photo of one's own."""

import copy
import functools
import re
import socket
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import in_order, load_lesson, numbers, refusal, retrace, run, spy, tiles
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms import v2

lesson = load_lesson("08")
TRANSFORMS = dict(lesson.data_transforms)
CLASSES = ["cats", "dogs", "owls"]
PHOTOS = Path("data/hymenoptera_data")
WEIGHTS = Path("checkpoints", Path(ResNet18_Weights.DEFAULT.url).name)
FILE = Path("outputs/08_transfer_learning_hymenoptera.pth")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Make photos small, so that training is quick, and keep the files of torch.hub here."""
    for phase, size in (("train", 32), ("val", 40)):
        small = v2.Compose([v2.Resize((size, size)), lesson.to_tensor])
        monkeypatch.setitem(lesson.data_transforms, phase, small)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: ".")
    for folder in (WEIGHTS.parent, FILE.parent):
        folder.mkdir()


def noise(seed, height=30, width=40):
    """Return a photo of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
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
    """Run on photos of three classes, in their order; add weights, networks, and batches."""
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), WEIGHTS)
    write_photos(PHOTOS)
    with (
        mock.patch.object(lesson, "DataLoader", in_order),
        mock.patch.dict(lesson.batch_size, val=8),  # and a short batch of 1
        spy(lesson, "train_model") as train_model,
    ):
        done = run(lesson, "--dataset=hymenoptera", "--epochs=3", "--lr=0.002")
    done.weights, done.saved = torch.load(WEIGHTS), torch.load(FILE)
    done.networks = [call.args[0].cpu().eval() for call in train_model.mock_calls]
    done.schedulers = [call.args[3] for call in train_model.mock_calls]
    done.train, done.val = map(list, train_model.call_args.args[4].values())
    return done


def test_fine_tuning_starts_with_the_weights_and_the_third_training_at_random():
    done, backbone = on_photos(), resnet18()
    backbone.load_state_dict(done.weights)
    backbone.fc = torch.nn.Identity()
    weights = parameters_to_vector(backbone.parameters()).detach()
    finetuned, _, scratch = (training.start[: len(weights)] for training in done.trainings)
    assert torch.equal(finetuned, weights) and abs(np.corrcoef(scratch, weights)[0, 1]) < 0.5


def test_frozen_layers_keep_their_parameters_and_their_running_averages():
    state_dict = on_photos().networks[1].state_dict()
    for name in state_dict.keys() - {"fc.weight", "fc.bias"}:
        assert torch.equal(state_dict[name], on_photos().weights[name]), name


def test_networks_and_accuracies_are_those_of_a_second_implementation_that_keeps_the_best():
    done, expected = on_photos(), []
    images, labels = map(torch.cat, zip(*done.val))
    backbone = {name: done.weights[name] for name in done.weights if not name.startswith("fc.")}
    for i, name in enumerate(("finetuned", "frozen", "scratch")):
        network, is_frozen, accuracies, states = resnet18(num_classes=3), i == 1, [], []
        network.load_state_dict(backbone, strict=False)
        trained = network.fc if is_frozen else network
        optimizer = torch.optim.SGD(trained.parameters(), momentum=0.9)
        network.train(not is_frozen)
        for loss, outputs in retrace(done.trainings[i], network, optimizer, done.train):
            expected.append([loss, (outputs.argmax(dim=1) == done.train[0][1]).double().mean()])
            with torch.no_grad():
                outputs = network.eval()(images.to(lesson.device)).cpu()
            network.train(not is_frozen)
            accuracies.append((outputs.argmax(dim=1) == labels).double().mean())
            expected.append([cross_entropy(outputs, labels), accuracies[-1]])
            states.append(copy.deepcopy(network).cpu().state_dict())
        best = states[np.argmax(accuracies)]
        torch.testing.assert_close(done.networks[i].state_dict(), best, rtol=1e-3, atol=1e-4)
        assert_allclose(done.axes[1].lines[i].get_xydata().T, [[1, 2, 3], accuracies])
        assert done.metrics[f"accuracy_{name}"] == pytest.approx(max(accuracies))
    printed = re.findall(r"Loss: (\S+) Acc: (\S+)", done.output)
    assert_allclose(np.array(printed, float), expected, rtol=1e-3, atol=1e-4)


def test_each_training_has_the_rate_of_lr_and_a_tenth_of_it_after_seven_epochs():
    for training, scheduler in zip(on_photos().trainings, on_photos().schedulers):
        rates = list(training.rates)
        for epoch in (4, 5, 6, 7, 8):
            rates += scheduler.get_last_lr()
            scheduler.step()
        assert_allclose(rates, 7 * [0.002] + [0.0002])


def test_the_figure_shows_a_training_batch_and_the_least_certain_predictions():
    done = on_photos()
    (images, labels), titles = done.train[0], done.axes[0].get_title()
    assert re.findall("cats|dogs|owls", titles) == [CLASSES[label] for label in labels]
    assert_allclose(tiles(done.axes[0], 32), colors(images), atol=1e-5)
    images, labels = done.val[0]
    assert images.shape == (8, 3, 40, 40)
    values, preds = done.networks[0](images).softmax(dim=1).detach().max(dim=1)
    assert len(done.axes) == 2 + 6
    for ax, i in zip(done.axes[2:], values.argsort()):
        assert_allclose(ax.images[0].get_array(), colors(images)[i], atol=1e-5)
        assert_allclose(numbers(ax.get_title(), CLASSES[preds[i]]), 100 * values[i], atol=0.6)
        assert ax.get_title().endswith(CLASSES[labels[i]])


def test_a_photo_that_a_phone_has_turned_is_predicted_upright():
    torch.save(on_photos().saved, FILE)
    photo, exif = noise(99), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    photo.convert("RGBA").rotate(90, expand=True).save("photo.png", exif=exif)
    inputs = lesson.data_transforms["val"](photo).unsqueeze(0)
    value, pred = on_photos().networks[0](inputs).softmax(dim=1)[0].max(dim=0)
    for line in run(lesson, "--predict", "photo.png", "photo.png").output.splitlines():
        printed = numbers(line, f"photo.png: {CLASSES[pred]}")
        assert_allclose(printed, 100 * value.item(), atol=0.06)


@pytest.mark.parametrize("content", [None, b"damaged", {"epoch": 3}])
def test_predict_without_a_usable_model_names_the_file_and_what_to_do(content):
    if isinstance(content, dict):
        torch.save(content, FILE)
    elif content:
        FILE.write_bytes(content)
    message = refusal(lesson, "--predict", "photo.png")
    assert str(FILE) in message and "--dataset hymenoptera" in message


def test_photos_that_cannot_be_read_and_classes_that_differ_are_named(monkeypatch):
    monkeypatch.setattr(lesson, "download", lambda args: "hymenoptera")
    write_photos(PHOTOS)
    photo = PHOTOS / "train" / "owls" / "2.png"
    photo.write_bytes(photo.read_bytes()[:600])
    assert str(photo) in refusal(lesson, "--dataset=hymenoptera")
    photo.parent.rename(PHOTOS / "train" / "bats")
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


def test_digits_for_pretraining_training_and_validation_are_others_and_have_their_labels():
    X, y = load_digits(return_X_y=True)
    index = {image.tobytes(): i for i, image in enumerate(X.reshape(-1, 8, 8).astype(np.uint8))}
    with mock.patch.object(lesson, "DataLoader", return_value=[]) as loader:
        lesson.prepare_network_for_digits(500)
    sets, names = lesson.load_offline_data(3, 500)
    used = []
    for dataset, n in ((loader.call_args.args[0], 10), (sets["train"], 2), (sets["val"], 2)):
        images, labels = dataset.tensors
        pixels = (colors(images)[:, 2::4, 2::4] * 16).round()  # the centers of 4x4 equal pixels
        used.append([index[image.tobytes()] for image in pixels[..., 0].byte().numpy()])
        assert labels.tolist() == (y[used[-1]] % n).tolist() and pixels.std(dim=3).max() == 0
    assert [len(indices) for indices in used] == [500, 20, 300] and names == ["even", "odd"]
    assert len(set().union(*used)) == 820 and np.bincount(y[used[1]]).tolist() == 10 * [2]
    other = lesson.load_offline_data(4, 500)[0]["train"]
    assert not torch.equal(sets["train"].tensors[0], other.tensors[0])


def test_on_digits_both_networks_start_with_one_that_has_learned_to_name_digits():
    images, labels = (tensor[:8].to(lesson.device) for tensor in lesson.load_color_digits())
    with mock.patch.object(lesson, "DataLoader", return_value=2 * [(images, labels)]):
        prepared = lesson.prepare_network_for_digits(500)
    assert (prepared(images).argmax(dim=1) == labels).all()
    with (
        mock.patch.object(lesson, "prepare_network_for_digits", return_value=prepared),
        mock.patch.object(lesson, "train_model", lambda model, *settings: (model, [0.5])),
        spy(lesson, "train_model") as train_model,
    ):
        run(lesson, "--limit=10")
    starts = [call.args[0].conv1.weight for call in train_model.call_args_list]
    is_prepared = [torch.equal(start, prepared.conv1.weight) for start in starts]
    assert is_prepared == [True, True, False]
    assert len(train_model.call_args.args[4]["train"]) == 20 / 4


@pytest.mark.parametrize("broken", ["photos", "weights", "nothing"])
def test_a_download_is_complete_or_leaves_nothing_and_sets_the_timeout_back(broken, monkeypatch):
    timeouts = []

    def fetch_photos(url, folder):
        timeouts.append(socket.getdefaulttimeout())
        write_photos(Path(folder, "hymenoptera_data"))
        if broken == "photos":
            raise EOFError  # proxies can cause almost any error

    def fetch_weights(url, file, hash_prefix, progress):
        timeouts.append(socket.getdefaulttimeout())
        torch.save(resnet18().state_dict(), file)
        if broken == "weights" or hash_prefix not in file:
            raise EOFError

    monkeypatch.setattr(lesson.datasets.utils, "download_and_extract_archive", fetch_photos)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch_weights)
    found = lesson.download(lesson.parse_args([]))
    assert found == ("hymenoptera" if broken == "nothing" else "digits")
    assert PHOTOS.exists() == (broken != "photos") and len(list(Path("data").iterdir())) <= 1
    assert set(timeouts) == {15} and socket.getdefaulttimeout() is None
