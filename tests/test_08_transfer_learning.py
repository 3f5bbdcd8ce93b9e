"""Lesson 08: what frozen means, which weights are kept, and the class of a photo of one's own."""

import copy
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import helpers
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision import models

lesson = helpers.load_lesson("08")
WEIGHTS = models.ResNet18_Weights.DEFAULT
WEIGHTS_FILE = Path("checkpoints", Path(WEIGHTS.url).name)
MODEL_FILE = Path("outputs/08_transfer_learning_hymenoptera.pth")
PHOTO = Path("data/hymenoptera_data/train/owls/04.png")
HOSTILE = b"cos\nmkdir\n(S'hacked'\ntR."  # a pickle that calls os.mkdir("hacked")
# A PNG file that claims to have 20000x10000 pixels
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x4e\x20\0\0\x27\x10\x08\x02\0\0\0vF\xdf\xf5\0\0\0\0IDAT"
PHOTOS_SHA256 = "fbc41b31d544714d18dd1230b1e2b455e1557766e13e67f9f5a7a23af7c02209"
NAMES = {"finetuned": "fine-tuned", "frozen": "frozen", "scratch": "randomly initialized"}
CLASSES = ["cats", "dogs", "owls"]
NO_WEIGHTS = {"model_state": {}, "class_names": CLASSES}
labels = torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1, 2, 2])
y_train, y_val = labels.split([6, 9])
rng = np.random.default_rng(60)  # a seed with which the best epochs are in the middle
limits = rng.integers(80, 160, 15) + 30 * labels.numpy()  # pixels are below; owls are bright
photos = [Image.fromarray(rng.integers(n, size=(32, 32, 3), dtype=np.uint8)) for n in limits]
normalize = WEIGHTS.transforms(crop_size=32, resize_size=32)  # images of 32x32 pixels
X_train = torch.stack([normalize(photo) for photo in photos[:6]])
# The lesson gets mirrored photos for validation, so that a test sees whether it confuses the two
X_val = torch.stack([normalize(ImageOps.mirror(photo)) for photo in photos[6:]])


def write_data():
    """Write photos, and weights to where torch.hub looks for them; return their network."""
    torch.hub.set_dir(".")  # from here on, torch.hub looks in checkpoints/ of the current folder
    torch.manual_seed(0)
    network = models.resnet18()  # a small one, see conftest.py
    WEIGHTS_FILE.parent.mkdir()
    torch.save(network.state_dict(), WEIGHTS_FILE)
    for i, (photo, label) in enumerate(zip(photos, labels, strict=True)):
        folder = Path("data/hymenoptera_data", "train" if i < 6 else "val", CLASSES[label])
        folder.mkdir(parents=True, exist_ok=True)
        photo.save(folder / f"{i:02}.png")
    return network


def train_alike(training, network, batches, X):
    """Check a training; return its start and losses, and outputs for X and accuracy by epoch."""
    assert training.rates == pytest.approx(14 * [0.02] + 2 * [0.002])  # 8 epochs of 2 steps
    copies = []  # of the network, before each epoch

    def batches_of_all_epochs():
        for epoch in range(8):
            copies.append(copy.deepcopy(network).cpu().eval())
            yield from batches

    shown = batches_of_all_epochs()
    losses = helpers.check_training(training, network, cross_entropy, shown, momentum=0.9)
    outputs = [trained(X).detach() for trained in (*copies[1:], network)]  # after each
    accuracies = [helpers.accuracy(output, y_val) for output in outputs]
    return SimpleNamespace(**vars(training), losses=losses, outputs=outputs, accuracies=accuracies)


@pytest.fixture(scope="module")
def done():
    """Run the lesson on the photos, then train networks alike."""
    pretrained = write_data()
    layers = nn.Sequential(*list(pretrained)[:-1]).eval().requires_grad_(False)  # all but the last
    steps = {"train": normalize, "val": lambda photo: normalize(ImageOps.mirror(photo))}
    small = mock.patch.multiple(lesson, data_transforms=steps, batch_size={"train": 4, "val": 8})
    with small, helpers.batches_in_order(lesson), helpers.record_training() as trainings:
        done = helpers.run(lesson, "--lr=0.02")
    finetuned, frozen, scratch = trainings
    batches = [*zip(X_train.split(4), y_train.split(4))]
    features = [(layers(images), y) for images, y in batches]
    done.finetuned = train_alike(finetuned, models.resnet18(num_classes=3), batches, X_val)
    done.frozen = train_alike(frozen, nn.Linear(32, 3), features, layers(X_val))
    done.scratch = train_alike(scratch, models.resnet18(num_classes=3), batches, X_val)
    done.weights = helpers.to_vector(layers.parameters())
    done.network = models.resnet18(num_classes=3).eval()
    done.network.load_state_dict(torch.load(MODEL_FILE, map_location="cpu")["model_state"])
    return done


def test_fine_tuning_starts_with_the_weights_and_those_of_the_first_best_epoch_are_saved(done):
    n = len(done.weights)
    assert torch.equal(done.finetuned.start[:n], done.weights)
    assert not torch.equal(done.scratch.start[:n], done.weights)
    accuracies = done.finetuned.accuracies
    first, second = [epoch for epoch in range(8) if accuracies[epoch] == max(accuracies)]  # a tie
    assert_allclose(done.network(X_val).detach(), done.finetuned.outputs[first], rtol=1e-3)


def test_accuracies_are_drawn_the_best_are_the_result_and_losses_are_printed(done):
    assert done.metrics["dataset"] == "hymenoptera" and "94 MB" not in done.output
    for name, label in NAMES.items():
        accuracies = getattr(done, name).accuracies
        drawn = helpers.lines(done.panels["Validation"])[label]
        assert_allclose(drawn, [range(1, 9), accuracies])
        assert done.metrics[f"accuracy_{name}"] == pytest.approx(max(accuracies))
        assert f"{label} {max(accuracies):.1%}" in done.result
    first, second, *_ = done.finetuned.losses
    train = (4 * first + 2 * second) / 6  # the batches have 4 and 2 photos
    val = cross_entropy(done.finetuned.outputs[0], y_val)
    assert f"\nEpoch 1/8 train Loss: {train:.4f} Acc: " in done.output
    assert f"\nEpoch 1/8 val Loss: {val:.4f} Acc: " in done.output


def test_the_figure_shows_a_training_batch_and_the_least_confident_predictions(done):
    batch = done.panels["A training batch: ['cats', 'cats', 'dogs', 'dogs']"].images[0].get_array()
    for i, photo in enumerate(photos[:4]):
        left = 2 + 34 * i  # there are 2 pixels around each photo
        assert_allclose(batch[2:34, left : left + 32], np.asarray(photo) / 255, atol=1e-5)
    values, preds = done.network(X_val[:8]).softmax(dim=1).max(dim=1)  # of the first batch
    for ax, i in zip(done.axes[2:], values.argsort()[:6], strict=True):
        photo = ImageOps.mirror(photos[6 + i])  # the first 6 are for training
        assert_allclose(ax.images[0].get_array(), np.asarray(photo) / 255, atol=1e-5)
        title = f"{CLASSES[preds[i]]} ({values[i]:.0%})\ntrue: {CLASSES[y_val[i]]}"
        assert ax.get_title() == title and not ax.axison


def test_a_photo_that_a_phone_has_turned_is_predicted_upright(done):
    photo, exif = photos[9].resize((60, 40)), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    turned = photo.rotate(90, expand=True)
    turned.convert("RGBA").save("photo.png", exif=exif)  # a PNG file may have a fourth channel
    value, pred = done.network(WEIGHTS.transforms()(photo)[None]).softmax(dim=1)[0].max(dim=0)
    output = helpers.run(lesson, "--predict", "photo.png", "photo.png").output
    assert output == 2 * f"photo.png: {CLASSES[pred]} ({value:.1%})\n"


@pytest.mark.parametrize(
    "flag, file, content, words",
    [
        ("--predict=a.png", MODEL_FILE, b"", "Run --dataset hymenoptera"),
        ("--predict=a.png", MODEL_FILE, HOSTILE, "Run --dataset hymenoptera"),
        ("--predict=a.png", MODEL_FILE, {"epoch": 3}, "Run --dataset hymenoptera"),
        ("--predict=a.png", MODEL_FILE, NO_WEIGHTS, "Run --dataset hymenoptera"),
        ("--predict=a.png", Path("a.png"), BOMB, "cannot be read"),
        ("--dataset=hymenoptera", WEIGHTS_FILE, HOSTILE, "use --dataset digits"),
        ("--dataset=hymenoptera", PHOTO, b"not a photo", "cannot be read"),
        ("--dataset=hymenoptera", PHOTO, BOMB, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_run(flag, file, content, words, empty_folder):
    pickle.loads(HOSTILE)
    Path("hacked").rmdir()  # it was there: HOSTILE does what it should not do below
    write_data()
    MODEL_FILE.parent.mkdir()
    weights = models.resnet18(num_classes=3).state_dict()
    torch.save({"model_state": weights, "class_names": CLASSES}, MODEL_FILE)
    if isinstance(content, dict):
        torch.save(content, file)
    else:
        file.write_bytes(content)
    message = helpers.refusal(lesson, flag)
    assert str(file) in message and words in message and not Path("hacked").exists()


def test_a_class_without_validation_photos_is_refused(empty_folder):
    write_data()
    shutil.copytree(PHOTO.parent, PHOTO.parents[1] / "bats")
    message = helpers.refusal(lesson, "--dataset=hymenoptera")
    assert str(["bats", *CLASSES]) in message and str(CLASSES) in message


@pytest.mark.parametrize("hash_is_right", [True, False])
def test_downloads_are_used_if_their_hashes_are_right(hash_is_right, empty_folder, capsys):
    write_data()
    archive, weights = shutil.make_archive("photos", "zip", "data"), WEIGHTS_FILE.rename("weights")
    shutil.rmtree("data")
    sources = {PHOTOS_SHA256: archive, "f37072fd": weights}  # by hash; WEIGHTS.url ends with one

    def download(url, file, hash_prefix, progress=True):
        shutil.copy(sources[hash_prefix], file)
        if not hash_is_right:
            raise RuntimeError("invalid hash value")  # as the original does

    with mock.patch.object(torch.hub, "download_url_to_file", download):
        dataset = lesson.download(lesson.parse_args([]))
    assert dataset == ("hymenoptera" if hash_is_right else "digits")
    assert len([*Path("data").rglob("*.png")]) == (15 if hash_is_right else 0)
    assert "94 MB" in capsys.readouterr().out


def test_validation_photos_are_transformed_as_the_weights_expect_and_others_at_random():
    values = np.arange(250, dtype=np.uint8)  # from left to right, the photo gets brighter
    photo = Image.fromarray(np.tile(values, (200, 1))).convert("RGB")
    torch.testing.assert_close(lesson.data_transforms["val"](photo), WEIGHTS.transforms()(photo))
    torch.manual_seed(0)
    images = torch.stack([lesson.data_transforms["train"](photo) for _ in range(30)])
    rows = 255 * (0.229 * images[:, 0, 0] + 0.485)  # each image's first row: red, not normalized
    assert rows.shape == (30, 224) and rows.min() > -1 and rows.max() < 250
    ranges = rows[:, -1] - rows[:, 0]  # below 0 if flipped; each crop has another one
    assert 5 < (ranges < 0).sum() < 25 and len(ranges.abs().round().unique()) > 10


def test_digits_for_pretraining_training_and_validation_do_not_overlap():
    X, y = load_digits(return_X_y=True)  # kron: three channels, and each pixel becomes 4x4
    X = normalize(torch.tensor(np.kron(X.reshape(-1, 1, 8, 8) / 16, np.ones((1, 3, 4, 4)))).float())
    with helpers.batches_in_order(lesson) as loaders, helpers.record_training() as trainings:
        helpers.run(lesson, "--dataset=digits", "--epochs=1", "--seed=3")
    split = {"train_size": 20, "test_size": 300, "stratify": y[1000:], "random_state": 3}
    train, val = train_test_split(range(1000, 1797), **split)
    train_loader, val_loader, prepare_loader, check_loader = loaders
    for loader, used, expected, batch_size, shuffle in (
        (train_loader, train, y % 2, 4, True),  # even or odd?
        (val_loader, val, y % 2, 50, True),  # shuffled, as the figure shows its first batch
        (prepare_loader, range(500), y, 32, True),  # which digit?
        (check_loader, range(500, 1000), y, 32, False),
    ):
        images, labels = (torch.cat(parts) for parts in zip(*loader))
        assert_allclose(images, X[list(used)], atol=1e-5)
        assert labels.tolist() == expected[list(used)].tolist()
        assert (loader.batch_size, loader.shuffle) == (batch_size, shuffle)
    prepared, finetuned, *_ = trainings
    assert prepared.rates == 64 * [0.01]  # 4 epochs of 16 batches
    assert finetuned.rates == 5 * [0.001]  # 1 epoch of 5
    network = models.resnet18(num_classes=10)
    helpers.check_training(prepared, network, cross_entropy, prepare_loader, momentum=0.9)
    kept = prepared.end[: -(32 * 10 + 10)]  # all but the weights and biases of the last layer
    assert torch.equal(finetuned.start[: len(kept)], kept)
