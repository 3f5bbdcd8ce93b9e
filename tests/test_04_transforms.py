"""Lesson 04: transforms that leave the dataset alone, and a photo after each of them."""

import numpy as np
import torch
from helpers import DEVICE, check_print, load_lesson, run, run_once, spy
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_sample_image, load_wine
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

lesson = load_lesson("04")
wine = load_wine()
photo = load_sample_image("china.jpg")  # (427, 640, 3)
TRANSFORMS = [
    v2.Identity(),
    v2.CenterCrop(400),
    v2.RandomResizedCrop(400, scale=(0.2, 0.5)),
    v2.RandomHorizontalFlip(p=1),
    v2.RandomRotation(30),
    v2.RandomPerspective(p=1),
    v2.ColorJitter(0.5, 0.5, 0.5),
    v2.GaussianBlur(21, sigma=5),
]


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
        start = f"{heading}\n{kind} {kind}\n"
        check_print(run_once(lesson).output, start, [*factor * wine.data[0], 0], end="\n\n")


def test_only_multiplication_in_place_changes_what_is_read_next():
    output = run_once(lesson).output
    check_print(output, "Read three times:", [56.92, 56.92, 56.92])
    check_print(output, "Read three times, in place:", [56.92, 227.68, 910.72])
    check_print(output, "Difference between reads:", [0, 853.80])
    assert run_once(lesson).metrics == {"repeat_difference": 0, "n_transforms": 7}


def test_the_transforms_to_copy_are_those_of_the_pretrained_weights():
    with spy(lesson, "print_steps") as print_steps:
        output = run(lesson).output
    check_print(output, "photo: PIL image,", [640, 427])
    composed, image = print_steps.call_args.args
    expected = ResNet18_Weights.DEFAULT.transforms()(torch.tensor(photo).permute(2, 0, 1))
    assert_allclose(composed(image), expected, atol=0.02)  # 1 of 255
    for transform in composed.transforms:
        image = transform(image)
        line = f"{type(transform).__name__:10} {tuple(image.shape)}, {image.dtype}, from"
        check_print(output, line, [image.min(), image.max()])


def test_transforms_change_the_photo_and_random_ones_each_time_anew():
    image = torch.tensor(photo).permute(2, 0, 1)[:, ::4, ::4]
    torch.manual_seed(0)
    for transform, _ in lesson.EXAMPLES:
        results = {transform(image).numpy().tobytes() for _ in range(9)}
        assert len(results) in (1, 9) and image.numpy().tobytes() not in results, transform


def test_the_figure_shows_the_photo_after_each_transform_with_its_name():
    axes = run_once(lesson).axes
    image = torch.tensor(photo, device=DEVICE).permute(2, 0, 1)
    torch.manual_seed(0)
    for ax, transform in zip(axes, TRANSFORMS, strict=True):
        assert ax.get_title().startswith(type(transform).__name__)
        assert_array_equal(ax.images[0].get_array(), transform(image).permute(1, 2, 0).cpu())
