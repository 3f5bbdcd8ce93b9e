"""Lesson 04: transforms that leave the dataset alone, and a photo after each of them."""

import re

import numpy as np
import pytest
import torch
from helpers import load_lesson, numbers, run_once, spy
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_sample_image, load_wine
from torchvision.models import ResNet18_Weights

lesson = load_lesson("04")
wine = load_wine()
photo = load_sample_image("china.jpg")  # (427, 640, 3)
RANDOM = {"RandomResizedCrop", "RandomRotation", "RandomPerspective", "ColorJitter"}


def drawn(seed):
    """Return the images of the figure by the names of their transforms."""
    axes = run_once(lesson, f"--seed={seed}").axes
    return {re.match(r"\w+", ax.get_title())[0]: ax.images[0].get_array().data for ax in axes}


def test_the_dataset_gives_arrays_then_tensors_then_multiplied_tensors():
    with spy(lesson.WineDataset, "__init__") as init:
        lesson.main([])
    datasets = [call.args[0] for call in init.call_args_list]
    for dataset, kind, factor in zip(datasets, (np.ndarray, torch.Tensor, torch.Tensor), (1, 1, 4)):
        features, labels = zip(*[dataset[i] for i in range(len(dataset))])
        assert {type(value) for value in features + labels} == {kind}
        assert_allclose(np.stack(features), factor * wine.data, rtol=1e-6)
        assert_array_equal(np.stack(labels)[:, 0], wine.target)  # not multiplied


def test_only_multiplication_in_place_changes_what_is_read_next():
    done = run_once(lesson, "--seed=0")
    in_place = [14.23 * factor for factor in (4, 16, 64)]
    printed = numbers(done.output, "Read three times:", end="photo")
    assert_allclose(printed, [*3 * [56.92], *in_place])
    assert_allclose(numbers(done.output, "Difference between reads:"), [0, 14.23 * 60])
    assert done.metrics == {"repeat_difference": 0, "n_transforms": 7}


def test_the_transforms_to_copy_are_those_of_the_pretrained_weights(capsys):
    with spy(lesson, "print_steps") as print_steps:
        lesson.main([])
    output, (composed, image) = capsys.readouterr().out, print_steps.call_args.args
    expected = ResNet18_Weights.DEFAULT.transforms()(torch.tensor(photo).permute(2, 0, 1))
    assert_allclose(composed(image), expected, atol=0.02)  # 1 of 255
    for transform in composed.transforms:
        image = transform(image)
        values = [8 * image.dtype.itemsize, image.min(), image.max()]  # uint8, from 0 to 255
        printed = numbers(output, type(transform).__name__)
        assert_allclose(printed, [*image.shape, *values], rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 2])
def test_transforms_do_what_their_names_say(seed):
    images, others = drawn(seed), drawn(2 - seed)
    assert {name for name in images if not np.array_equal(images[name], others[name])} == RANDOM
    assert_array_equal(images["Identity"], photo)
    assert_array_equal(images["CenterCrop"], photo[14:414, 120:520])
    assert_array_equal(images["RandomHorizontalFlip"], photo[:, ::-1])
    black = {name: np.mean(image.max(axis=2) == 0) for name, image in images.items()}
    assert 0.03 < black["RandomRotation"] < 0.2 < black["RandomPerspective"] < 0.5
    assert np.corrcoef(images["ColorJitter"].flat, photo.flat)[0, 1] > 0.9
    contrast = {name: np.abs(np.diff(images[name].astype(int), axis=1)).mean() for name in images}
    assert contrast["RandomResizedCrop"] < 0.8 * contrast["Identity"]  # enlarged
    assert contrast["GaussianBlur"] < 0.1 * contrast["Identity"]
