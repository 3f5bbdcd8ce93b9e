"""Lesson 08: what frozen means, which weights are kept, and the class of a photo of one's own."""

import copy
import hashlib
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import batches_in_order, check_training, load_lesson, record_training, refusal, run
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision import models, utils

lesson = load_lesson("08")
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
labels = torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1, 2, 2])  # the first 6 for training
rng = np.random.default_rng(60)
brightness = rng.integers(80, 160, 15) + 30 * labels.numpy()
photos = [Image.fromarray(rng.integers(b, size=(32, 32, 3), dtype=np.uint8)) for b in brightness]
normalize = WEIGHTS.transforms(crop_size=32, resize_size=32)  # images of 32x32 pixels
X_train, X_val = torch.stack([normalize(photo) for photo in photos]).split([6, 9])
X_val, (y_train, y_val) = X_val.flip(3), labels.split([6, 9])


def write_data():
    """Write photos, and weights to where torch.hub looks for them; return their network."""
    torch.hub.set_dir(".")
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
    """Check a training; add the loss of each step, and outputs for X and accuracy of each epoch."""
    assert training.rates == pytest.approx(14 * [0.02] + 2 * [0.002])
    copies = []  # before each step, of which an epoch has two
    network.register_forward_pre_hook(lambda *_: copies.append(copy.deepcopy(network).cpu().eval()))
    training.losses = check_training(training, network, cross_entropy, batches, momentum=0.9)
    training.outputs = [trained(X).detach() for trained in (*copies[2::2], network)]
    training.accuracies = [(o.argmax(1) == y_val).double().mean().item() for o in training.outputs]


@pytest.fixture(scope="module")
def done():
    """Train on photos, which are flipped for validation, then train networks alike."""
    layers = nn.Sequential(*list(write_data())[:-1]).eval().requires_grad_(False)
    steps = {"train": normalize, "val": lambda photo: normalize(photo).flip(2)}
    small = mock.patch.multiple(lesson, data_transforms=steps, batch_size={"train": 4, "val": 8})
    with small, batches_in_order(lesson) as loaders, record_training() as trainings:
        done = run(lesson, "--lr=0.02")
    done.layers, (done.finetuned, done.frozen, done.scratch) = layers, trainings
    batches = [*zip(X_train.split(4), y_train.split(4))]
    features = [(layers(X), y) for X, y in batches]
    train_alike(done.finetuned, models.resnet18(num_classes=3), batches, X_val)
    train_alike(done.frozen, nn.Linear(32, 3), features, layers(X_val))
    train_alike(done.scratch, models.resnet18(num_classes=3), batches, X_val)
    done.network = models.resnet18(num_classes=3).eval()
    done.network.load_state_dict(torch.load(MODEL_FILE, map_location="cpu")["model_state"])
    return done


def test_fine_tuning_starts_with_the_weights_and_those_of_the_best_epoch_are_saved(done):
    weights = torch.cat([weight.flatten() for weight in done.layers.parameters()])
    assert torch.equal(done.finetuned.start[: len(weights)], weights)
    assert not torch.equal(done.scratch.start[: len(weights)], weights)
    best = np.argmax(done.finetuned.accuracies)  # the first of two
    assert_allclose(done.network(X_val).detach(), done.finetuned.outputs[best], rtol=1e-3)


def test_accuracies_are_drawn_the_best_are_the_result_and_losses_are_printed(done):
    assert done.metrics["dataset"] == "hymenoptera" and "Downloading" not in done.output
    drawn = {line.get_label(): line.get_xydata().T for line in done.axes[1].lines}
    for name, label in NAMES.items():
        accuracies = vars(done)[name].accuracies
        assert_allclose(drawn[label], [range(1, 9), accuracies])
        assert done.metrics[f"accuracy_{name}"] == pytest.approx(max(accuracies))
        assert f"{label} {max(accuracies):.1%}" in done.output.splitlines()[-3]
    loss, val_loss = done.finetuned.losses, cross_entropy(done.finetuned.outputs[0], y_val)
    for phase, mean in (("train", (4 * loss[0] + 2 * loss[1]) / 6), ("val", val_loss)):
        assert f"\nEpoch 1/8 {phase} Loss: {mean:.4f} Acc: " in done.output


def test_the_figure_shows_a_training_batch_and_the_least_confident_predictions(done):
    batch, _, *predictions = done.axes
    images = torch.tensor(np.stack(photos)).permute(0, 3, 1, 2) / 255
    grid = utils.make_grid(images[:4], pad_value=-1).permute(1, 2, 0).numpy()
    assert_allclose(batch.images[0].get_array()[grid >= 0], grid[grid >= 0], atol=1e-5)
    assert batch.get_title() == f"A training batch: {['cats', 'cats', 'dogs', 'dogs']}"
    values, preds = done.network(X_val[:8]).softmax(dim=1).max(dim=1)  # of the first batch
    for ax, i in zip(predictions, values.argsort()[:6], strict=True):
        assert_allclose(ax.images[0].get_array(), images[6 + i].flip(2).permute(1, 2, 0), atol=1e-5)
        title = f"{CLASSES[preds[i]]} ({values[i]:.0%})\ntrue: {CLASSES[y_val[i]]}"
        assert ax.get_title() == title and not ax.axison


def test_a_photo_that_a_phone_has_turned_is_predicted_upright(done):
    photo, exif = photos[9].resize((60, 40)), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    photo.convert("RGBA").rotate(90, expand=True).save("photo.png", exif=exif)
    value, pred = done.network(WEIGHTS.transforms()(photo)[None]).softmax(dim=1)[0].max(dim=0)
    output = run(lesson, "--predict", "photo.png", "photo.png").output
    assert output == 2 * f"photo.png: {CLASSES[pred]} ({value:.1%})\n"
    Path("bomb.png").write_bytes(BOMB)
    assert "bomb.png" in refusal(lesson, "--predict=bomb.png")


@pytest.mark.parametrize(
    "flag, file, content, words",
    [
        ("--predict=a.png", MODEL_FILE, b"", "--dataset hymenoptera"),
        ("--predict=a.png", MODEL_FILE, HOSTILE, "--dataset hymenoptera"),
        ("--predict=a.png", MODEL_FILE, {"epoch": 3}, "--dataset hymenoptera"),
        ("--predict=a.png", MODEL_FILE, {"model_state": {}, "class_names": CLASSES}, "hymenoptera"),
        ("--dataset=hymenoptera", WEIGHTS_FILE, HOSTILE, "--dataset digits"),
        ("--dataset=hymenoptera", PHOTO, b"not a photo", PHOTO.name),
        ("--dataset=hymenoptera", PHOTO, BOMB, PHOTO.name),
        ("--dataset=hymenoptera", PHOTO.parents[1] / "bats/0.png", b"", str(CLASSES)),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_run(flag, file, content, words, empty_folder):
    write_data()
    file.parent.mkdir(exist_ok=True)
    torch.save(content, file) if isinstance(content, dict) else file.write_bytes(content)
    message = refusal(lesson, flag)
    assert words in message and file.parent.name in message and not Path("hacked").exists()


@pytest.mark.parametrize("expected, n_photos", [("hymenoptera", 15), ("digits", 0)])
def test_downloads_are_used_if_their_hashes_are_right(expected, n_photos, empty_folder, capsys):
    write_data()
    archive = Path(shutil.make_archive("photos", "zip", "data"))
    shutil.rmtree("data")
    sources = {PHOTOS_SHA256: archive, "f37072fd": WEIGHTS_FILE.rename("weights").absolute()}
    fetch = torch.hub.download_url_to_file

    def from_disk(url, file, hash_prefix, progress=True):
        found = hashlib.sha256(sources[hash_prefix].read_bytes()).hexdigest()
        fetch(sources[hash_prefix].as_uri(), file, found if n_photos else hash_prefix)

    with mock.patch.object(torch.hub, "download_url_to_file", from_disk):
        assert lesson.download(lesson.parse_args([])) == expected
    assert len([*Path("data").rglob("*.png")]) == n_photos and "94 MB" in capsys.readouterr().out


def test_validation_photos_are_transformed_as_the_weights_expect_and_others_at_random():
    photo = Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (200, 1))).convert("RGB")
    torch.testing.assert_close(lesson.data_transforms["val"](photo), WEIGHTS.transforms()(photo))
    images = torch.stack([lesson.data_transforms["train"](photo) for _ in range(30)])
    rows = 255 * (0.229 * images[:, 0, 0] + 0.485)  # (30, 224): each gets brighter or darker
    ranges = rows[:, -1] - rows[:, 0]
    assert rows.shape == (30, 224) and rows.min() > -1 and rows.max() < 251
    assert 5 < (ranges < 0).sum() < 25 and len(ranges.abs().round().unique()) > 10


def test_digits_for_pretraining_training_and_validation_do_not_overlap():
    X, y = load_digits(return_X_y=True)
    X = normalize(torch.tensor(np.kron(X.reshape(-1, 1, 8, 8) / 16, np.ones((1, 3, 4, 4)))).float())
    with batches_in_order(lesson) as loaders, record_training() as trainings:
        done = run(lesson, "--dataset=digits", "--epochs=1", "--seed=3")
    split = {"train_size": 20, "test_size": 300, "stratify": y[1000:], "random_state": 3}
    train, val = train_test_split(range(1000, 1797), **split)
    indices = train, val, range(500), range(500, 1000)
    for loader, n_classes, used in zip(loaders, (2, 2, 10, 10), indices, strict=True):
        images, labels = map(torch.cat, zip(*loader))
        assert_allclose(images, X[list(used)], atol=1e-5)
        assert labels.tolist() == (y[list(used)] % n_classes).tolist()
    prepared, finetuned, *_ = trainings
    assert prepared.rates == 80 * [0.01] and finetuned.rates == 5 * [0.001]
    assert [loader.batch_size for loader in loaders] == [4, 50, 32, 32]
    assert [loader.shuffle for loader in loaders] == [True, True, True, False]
    network = models.resnet18(num_classes=10)
    check_training(prepared, network, cross_entropy, list(loaders[2]), momentum=0.9)
    assert torch.equal(finetuned.start[:1200], prepared.end[:1200])  # all but the last layer
