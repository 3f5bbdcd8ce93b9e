"""Lesson 04: transforms that leave the dataset alone, and a photo after each of them."""

from unittest import mock

import helpers
import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image, load_wine
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

lesson = helpers.load_lesson("04")
X, y = load_wine(return_X_y=True)
photo = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)  # (3, 427, 640)
preprocess = ResNet18_Weights.DEFAULT.transforms()  # comes with weights for ImageNet's photos
augment = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.ColorJitter(0.2, 0.2, 0.2)]
normalize = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocess.mean, preprocess.std)]
augmentation = v2.Compose([v2.ToImage(), *augment, *normalize])
EXAMPLES = {  # how a title goes on after the transform's name
    "640x427\nthe photo": v2.Identity(),
    "400x400\nnot random, for evaluation": v2.CenterCrop(400),
    "400x400\nanother part, enlarged and stretched": v2.RandomResizedCrop(400, (0.1, 0.3)),
    "640x427\nflipped (here always)": v2.RandomHorizontalFlip(1),
    "640x427\na tilted camera, black where nothing is": v2.RandomRotation(30),
    "640x427\nanother point of view": v2.RandomPerspective(p=1),
    "640x427\nother light": v2.ColorJitter(0.5, 0.5, 0.5),
    "640x427\nout of focus (always)": v2.GaussianBlur(21, sigma=5),
}


@pytest.fixture(scope="module")
def done():
    """Run the lesson; keep its pipelines for photos, which start with ToImage."""
    with mock.patch.object(v2, "Compose", wraps=v2.Compose) as compose:
        done = helpers.run(lesson, "--seed=2")  # at p=0.5, the flip of EXAMPLES would not flip
    pipelines = [call.args[0] for call in compose.call_args_list]
    done.evaluation, done.training = (p for p in pipelines if isinstance(p[0], v2.ToImage))
    return done


def test_the_dataset_gives_arrays_then_tensors_then_multiplied_tensors(done):
    both = v2.Compose([lesson.ToTensor(), lesson.MulTransform(4)])
    for heading, transform, kind, factor in (
        ("Without transform", None, np.ndarray, 1),
        ("With ToTensor", lesson.ToTensor(), torch.Tensor, 1),
        ("With ToTensor and MulTransform", both, torch.Tensor, 4),
    ):
        dataset = lesson.WineDataset(transform)
        features, labels = zip(*[dataset[i] for i in range(len(dataset))])
        assert np.array_equal(np.stack(features), np.float32(factor * X))
        assert np.array_equal(np.stack(labels), y[:, None])
        assert f"{heading}\n{kind} {kind}\n{features[0]} {labels[0]}\n" in done.output


def test_only_multiplication_in_place_changes_what_is_read_next(done):
    first, second, third = X[0, 0] * np.array([4, 16, 64])
    assert f" as a new tensor: [{first:.2f}, {first:.2f}, {first:.2f}]\n" in done.output
    assert f" in place:        [{first:.2f}, {second:.2f}, {third:.2f}]\n" in done.output
    assert f"0.00 with a new tensor, {third - first:.2f} in place" in done.result
    assert done.metrics["repeat_difference"] == 0


def test_the_pipelines_are_those_for_pretrained_weights(done):
    image = v2.Compose(done.evaluation)(photo)
    assert np.allclose(image, preprocess(photo), atol=0.02)  # rounding: 1/255, divided by std 0.224
    values = f"from {image.min():.4g} to {image.max():.4g}"
    assert f"\nNormalize  (3, 224, 224), torch.float32, {values}\n" in done.output
    assert str(done.training) == str(augmentation.transforms)  # the text has all settings


def test_the_seed_decides_how_the_photo_is_augmented_and_drawn(done):
    torch.manual_seed(2)  # from here, what is random comes in the order of the lesson
    equal = (augmentation(photo) == augmentation(photo)).float().mean()
    assert "\nPhoto read twice, without augmentation: 100.0% of the values" in done.output
    assert f"\nPhoto read twice, with augmentation: {equal:.1%} of the values" in done.output
    assert len(done.axes) == len(EXAMPLES) == done.metrics["n_transforms"] + 1  # 1: Identity
    for title, transform in EXAMPLES.items():
        ax = done.panels[f"{type(transform).__name__}, {title}"]
        image = transform(photo.to(helpers.DEVICE)).permute(1, 2, 0)
        assert np.array_equal(ax.images[0].get_array(), image.cpu())
        assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, 639.5), (426.5, -0.5))  # also for crops
