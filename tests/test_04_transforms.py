"""Lesson 04: transforms that leave the dataset alone, and a photo after each of them."""

import numpy as np
import torch
from helpers import DEVICE, load_lesson, numbers, run, run_once, spy
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_sample_image, load_wine
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

lesson = load_lesson("04")
wine = load_wine()
photo = load_sample_image("china.jpg")  # (427, 640, 3)
# Not RandomHorizontalFlip, which here always flips
RANDOM = {"RandomResizedCrop", "RandomRotation", "RandomPerspective", "ColorJitter"}


def test_the_dataset_gives_arrays_then_tensors_then_multiplied_tensors():
    both = v2.Compose([lesson.ToTensor(), lesson.MulTransform(4)])
    for heading, transform, kind, factor in (
        ("Without transform", None, np.ndarray, 1),
        ("With ToTensor", lesson.ToTensor(), torch.Tensor, 1),
        ("With ToTensor and MulTransform", both, torch.Tensor, 4),
    ):
        dataset = lesson.WineDataset(transform)
        features, labels = zip(*[dataset[i] for i in range(len(dataset))])
        assert {type(value) for value in features + labels} == {kind}
        assert_allclose(np.stack(features), factor * wine.data, rtol=1e-6)
        assert_array_equal(np.stack(labels)[:, 0], wine.target)  # not multiplied
        assert f"\n{heading}\n{kind} {kind}\n" in run_once(lesson).output
        printed = numbers(run_once(lesson).output, heading, end="\n\n")
        assert_allclose(printed, [*factor * wine.data[0], 0], rtol=1e-3)


def test_only_multiplication_in_place_changes_what_is_read_next():
    output = run_once(lesson).output
    assert numbers(output, "Read three times:") == [56.92, 56.92, 56.92]
    assert numbers(output, "Read three times, in place:") == [56.92, 227.68, 910.72]
    assert numbers(output, "Difference between reads:") == [0, 853.80]
    assert run_once(lesson).metrics == {"repeat_difference": 0, "n_transforms": 7}


def test_the_transforms_to_copy_are_those_of_the_pretrained_weights():
    with spy(lesson, "print_steps") as print_steps:
        output = run(lesson).output
    composed, image = print_steps.call_args.args
    expected = ResNet18_Weights.DEFAULT.transforms()(torch.tensor(photo).permute(2, 0, 1))
    assert_allclose(composed(image), expected, atol=0.02)  # 1 of 255
    for transform in composed.transforms:
        image = transform(image)
        line = f"{type(transform).__name__:10} {tuple(image.shape)}, {image.dtype}, from"
        assert_allclose(numbers(output, line), [image.min(), image.max()], rtol=1e-3)


def test_transforms_change_the_photo_and_random_ones_each_time_anew():
    image = torch.tensor(photo).permute(2, 0, 1)[:, ::4, ::4]
    torch.manual_seed(0)
    for transform, _ in lesson.EXAMPLES:
        results = {transform(image).numpy().tobytes() for _ in range(9)}
        assert image.numpy().tobytes() not in results, transform
        assert len(results) == (9 if type(transform).__name__ in RANDOM else 1), transform


def test_the_figure_shows_the_photo_and_each_transform_with_its_name():
    axes = run_once(lesson).axes
    image = torch.tensor(photo, device=DEVICE).permute(2, 0, 1)
    torch.manual_seed(0)
    transforms = [v2.Identity(), *(transform for transform, _ in lesson.EXAMPLES)]
    for ax, transform in zip(axes, transforms, strict=True):
        assert ax.get_title().startswith(type(transform).__name__)
        assert_array_equal(ax.images[0].get_array(), transform(image).permute(1, 2, 0).cpu())


def test_the_crop_is_enlarged_and_the_blur_is_seen():
    axes = {ax.get_title().partition(",")[0]: ax for ax in run_once(lesson).axes}
    images = {name: axes[name].images[0].get_array().astype(int) for name in axes}
    contrast = {name: np.abs(np.diff(image, axis=1)).mean() for name, image in images.items()}
    assert contrast["RandomResizedCrop"] < 0.8 * contrast["Identity"]
    assert contrast["GaussianBlur"] < 0.1 * contrast["Identity"]
