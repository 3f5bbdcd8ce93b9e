"""Lesson 08: what frozen means, which weights are kept, and the class of a photo of one's own."""

import copy
import os
import shutil
from pathlib import Path
from unittest import mock

import helpers
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision import models
from torchvision.transforms import v2

lesson = helpers.load_lesson("08")
WEIGHTS = models.ResNet18_Weights.DEFAULT
WEIGHTS_FILE = Path("checkpoints", Path(WEIGHTS.url).name)
MODEL_FILE = Path("outputs/08_transfer_learning_hymenoptera.pth")
PHOTO = Path("data/hymenoptera_data/train/owls/04.png")
SHA256 = "fbc41b31d544714d18dd1230b1e2b455e1557766e13e67f9f5a7a23af7c02209"  # of the photos
NAMES = ["fine-tuned", "frozen", "randomly initialized"]
CLASSES = ["cats", "dogs", "owls"]
y = torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1, 2, 2])  # 6 for training, 9 for validation
rng = np.random.default_rng(6)  # with this seed, two epochs of fine-tuning are best
brightest = rng.integers(80, 160, 15) + 30 * y.numpy()  # owls are brighter than cats
photos = [Image.fromarray(rng.integers(n, size=(8, 8, 3), dtype=np.uint8)) for n in brightest]
X = torch.stack([WEIGHTS.transforms()(photo) for photo in photos])
# In `done`, photos for training are upside down, instead of cropped and flipped at random
upside_down = v2.Compose([WEIGHTS.transforms(), v2.RandomVerticalFlip(p=1)])
X_train, X_val, y_train, y_val = X[:6].flip(2), X[6:], y[:6], y[6:]


def write_data():
    """Write the photos, and weights to where torch.hub looks for them; return their network."""
    torch.hub.set_dir(".")  # from here on, torch.hub looks in checkpoints/ of the current folder
    network = models.resnet18()  # a small one, see conftest.py
    network(X)  # in train mode, so that batch norm's averages are not those of a new network
    WEIGHTS_FILE.parent.mkdir()
    torch.save(network.state_dict(), WEIGHTS_FILE)
    for i in range(15):
        folder = Path("data/hymenoptera_data", "train" if i < 6 else "val", CLASSES[y[i]])
        folder.mkdir(parents=True, exist_ok=True)
        photos[i].save(folder / f"{i:02}.png")
    return network


def train_alike(training, network, batches, inputs):
    """Check a training; add its accuracies for validation `inputs`."""
    helpers.check_training(training, network, cross_entropy, batches, X=inputs, momentum=0.9)
    training.accuracies = [helpers.accuracy(outputs, y_val) for outputs in training.outputs]


@pytest.fixture(scope="module")
def done():
    """Run the lesson on the photos; check its trainings."""
    torch.manual_seed(0)
    pretrained = write_data()
    transforms = mock.patch.dict(lesson.data_transforms, train=upside_down)
    with transforms, helpers.batches_in_order(lesson), helpers.record_training() as trainings:
        done = helpers.run(lesson, "--lr=0.02")
    done.finetuned, done.frozen, done.scratch = trainings
    done.trainings = dict(zip(NAMES, trainings))
    batches = [*zip(X_train.split(4), y_train.split(4))]  # by class, as ImageFolder reads them
    # Frozen: only a linear layer learns, from what all layers but `fc` give in eval mode
    layers = copy.deepcopy(pretrained[:-1]).eval().requires_grad_(False)
    features = [(layers(images), labels) for images, labels in batches]
    pretrained.fc = nn.Linear(32, 3)
    train_alike(done.finetuned, pretrained, batches, X_val)
    train_alike(done.frozen, nn.Linear(32, 3), features, layers(X_val))
    train_alike(done.scratch, models.resnet18(num_classes=3), batches, X_val)
    done.weights = helpers.to_vector(layers.parameters())
    done.network = models.resnet18(num_classes=3).eval()
    done.network.load_state_dict(torch.load(MODEL_FILE, map_location="cpu")["model_state"])
    return done


def test_fine_tuning_starts_with_the_weights_and_the_last_training_does_not(done):
    n = len(done.weights)
    assert torch.equal(done.finetuned.start[:n], done.weights)
    assert not torch.equal(done.scratch.start[:n], done.weights)


def test_the_weights_of_the_first_of_the_best_epochs_are_saved(done):
    accuracies = done.finetuned.accuracies
    assert accuracies.count(max(accuracies)) == 2 and accuracies[-1] < max(accuracies)
    best = accuracies.index(max(accuracies))  # the first of the two
    assert_allclose(done.network(X_val).detach(), done.finetuned.outputs[best], rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_accuracies_are_drawn_the_best_is_the_result_and_the_rate_falls(done, name):
    training, drawn = done.trainings[name], helpers.lines(done.panels["Validation"])[name]
    assert_allclose(drawn, [range(1, 9), training.accuracies])
    assert done.metrics[name] == pytest.approx(max(training.accuracies))
    assert f"{name} {max(training.accuracies):.1%}" in done.result
    assert training.rates == pytest.approx(14 * [0.02] + 2 * [0.002])  # 8 epochs of 2 steps


def test_the_printed_loss_is_the_mean_over_all_photos(done):
    of_4_photos, of_2_photos, *_ = done.finetuned.losses  # the first epoch's batches
    loss = (4 * of_4_photos + 2 * of_2_photos) / 6
    assert f"\nEpoch 1/8 train Loss: {loss:.4f} Acc: " in done.output


def test_the_figure_shows_a_training_batch_and_the_least_confident_predictions(done):
    to_pixels = WEIGHTS.transforms(mean=[0, 0, 0], std=[1, 1, 1])  # from 0 to 1, not normalized
    pixels = torch.stack([to_pixels(photo) for photo in photos]).permute(0, 2, 3, 1)  # (N, H, W, 3)
    batch = done.panels["A training batch: ['cats', 'cats', 'dogs', 'dogs']"].images[0].get_array()
    assert_allclose(batch[2:226, 2:226], pixels[0].flip(0), atol=1e-5)  # after 2 pixels of margin
    values, preds = done.network(X_val).softmax(dim=1).max(dim=1)
    for ax, i in zip(done.axes[2:], values.argsort()[:6], strict=True):
        title = f"{CLASSES[preds[i]]} ({values[i]:.0%})\ntrue: {CLASSES[y_val[i]]}"
        assert ax.get_title() == title and not ax.axison
        assert_allclose(ax.images[0].get_array(), pixels[6 + i], atol=1e-5)


def test_a_photo_that_a_phone_has_turned_is_predicted_upright(done):
    photo, exif = photos[0].resize((60, 40)), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    turned = photo.rotate(90, expand=True)
    turned.convert("RGBA").save("photo.png", exif=exif)  # a PNG file may have a fourth channel
    value, pred = done.network(WEIGHTS.transforms()(photo)[None]).softmax(dim=1)[0].max(dim=0)
    output = helpers.run(lesson, "--predict", "photo.png", "photo.png").output
    assert output == 2 * f"photo.png: {CLASSES[pred]} ({value:.1%})\n"


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)  # called by torch.load(..., weights_only=False)


@pytest.mark.parametrize(
    "flag, file, content, words",
    [
        (f"--predict={PHOTO}", MODEL_FILE, Hostile(), "Run --dataset hymenoptera"),
        (f"--predict={PHOTO}", MODEL_FILE, {"epoch": 3}, "Run --dataset hymenoptera"),
        ("--dataset=hymenoptera", WEIGHTS_FILE, Hostile(), "use --dataset digits"),
        ("--dataset=hymenoptera", PHOTO, "not a photo", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_run(flag, file, content, words, empty_folder):
    write_data()
    MODEL_FILE.parent.mkdir()
    torch.save(content, file)
    message = helpers.refusal(lesson, flag)
    assert str(file) in message and words in message and not Path("hacked").exists()


def test_a_photo_that_is_too_large_is_named(done, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow refuses more than twice as many
    assert f"{PHOTO} cannot be read" in helpers.refusal(lesson, f"--predict={PHOTO}")


def test_a_class_without_validation_photos_is_refused(empty_folder):
    write_data()
    shutil.copytree(PHOTO.parent, PHOTO.parent.with_name("bats"))
    Path("data").rename("mine")
    message = helpers.refusal(lesson, "--dataset=hymenoptera", "--data-dir=mine")
    assert str(["bats", *CLASSES]) in message and str(CLASSES) in message


def test_photos_and_weights_are_downloaded_with_their_hashes(empty_folder, capsys):
    write_data()
    files = {SHA256: shutil.make_archive("photos", "zip", "data")}
    files["f37072fd"] = WEIGHTS_FILE.rename("weights")  # the hash is a part of WEIGHTS.url
    shutil.rmtree("data")

    def download(url, file, hash_prefix, progress=True):
        shutil.copy(files[hash_prefix], file)  # KeyError: another hash

    with mock.patch.object(torch.hub, "download_url_to_file", download):
        assert lesson.download(lesson.parse_args(["--data-dir=mine"])) == "hymenoptera"
    assert len([*Path("mine").rglob("*.png")]) == 15 and WEIGHTS_FILE.exists()
    assert "94 MB" in capsys.readouterr().out


def test_training_photos_are_cropped_and_flipped_at_random():
    random = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), lesson.to_tensor]
    assert str(lesson.data_transforms["train"]) == str(v2.Compose(random))  # with all settings


@pytest.fixture(scope="module")
def digits():
    """Run the lesson on digits."""
    with helpers.batches_in_order(lesson) as loaders, helpers.record_training() as trainings:
        digits = helpers.run(lesson, "--dataset=digits", "--epochs=1", "--seed=3")
    digits.loaders, digits.trainings = loaders, trainings
    return digits


def test_digits_for_pretraining_training_and_validation_do_not_overlap(digits):
    X, y = load_digits(return_X_y=True)
    split = {"train_size": 20, "test_size": 300, "stratify": y[1000:], "random_state": 3}
    train, val = train_test_split(range(1000, 1797), **split)
    odd = y % 2
    expected = [(train, odd), (val, odd), (range(500), y), (range(500, 1000), y)]
    for loader, (used, classes) in zip(digits.loaders, expected, strict=True):
        images, labels = (torch.cat(parts) for parts in zip(*loader))
        pixels = (
            0.229 * images[:, 0, ::4, ::4] + 0.485
        )  # red, unnormalized; each is there 4x4 times
        assert_allclose(16 * pixels.flatten(1), X[list(used)], atol=1e-4)
        assert labels.tolist() == classes[list(used)].tolist()
    assert [loader.shuffle for loader in digits.loaders] == [True, True, True, False]


def test_fine_tuning_on_digits_starts_with_a_network_that_was_trained_for_4_epochs(digits):
    prepared, finetuned, *_ = digits.trainings
    assert prepared.rates == 64 * [0.01]  # 4 epochs of 16 batches
    network, batches = models.resnet18(num_classes=10), digits.loaders[2]
    helpers.check_training(prepared, network, cross_entropy, batches, momentum=0.9)
    # All but the last layer's weights and biases are kept. (With seed 3, the last epoch is best.)
    kept = prepared.end[: -(32 * 10 + 10)]
    assert torch.equal(finetuned.start[: len(kept)], kept)
