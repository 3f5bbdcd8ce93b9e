"""Lesson 04: transforms that leave the data alone, and boxes that move with their images."""

import numpy as np
import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import load_wine
from torchvision import tv_tensors
from torchvision.transforms import v2

lesson = load_lesson("04")


def test_the_gallery_has_at_least_ten_transforms():
    assert len({type(transform) for transform in lesson.GALLERY}) == len(lesson.GALLERY) >= 10


@pytest.mark.parametrize(
    ("transform", "factors"),
    [(lesson.MulTransform(4), (4, 4, 4)), (lesson.MulTransformInPlace(4), (4, 16, 64))],
)
def test_only_the_transform_in_place_changes_the_dataset(transform, factors):
    dataset = lesson.WineDataset(transform=v2.Compose([lesson.ToTensor(), transform]))
    readings = [dataset[0][0][0].item() for _ in range(3)]
    first = load_wine().data[0, 0]
    assert readings == pytest.approx([first * factor for factor in factors])


def test_transforms_of_our_own():
    dataset = lesson.WineDataset()
    assert len(dataset) == 178
    features, label = dataset[100]
    assert isinstance(features, np.ndarray) and isinstance(label, np.ndarray)
    dataset.transform = lesson.ToTensor()
    assert dataset[100][0].tolist() == features.tolist() and dataset[100][1].item() == label
    dataset.transform = v2.Compose([lesson.ToTensor(), lesson.MulTransform(3)])
    np.testing.assert_allclose(dataset[100][0], 3 * features)
    assert dataset[100][1].item() == label  # the label is not multiplied


def test_the_box_moves_with_the_picture():
    """A white square on black: where the picture is white, there the box must be."""
    image = tv_tensors.Image(torch.zeros(3, 427, 640, dtype=torch.uint8))
    image[:, 100:300, 150:350] = 255
    box = tv_tensors.BoundingBoxes([[150, 100, 350, 300]], format="XYXY", canvas_size=(427, 640))
    tried = 0
    for transform in lesson.GALLERY:
        if not isinstance(
            transform, v2.RandomHorizontalFlip | v2.CenterCrop | v2.Pad | v2.RandomPerspective
        ):
            continue
        moved, boxes = transform(image, box)
        rows, columns = torch.where(moved[0] > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        for edge, expected in zip(boxes[0].tolist(), found):
            assert abs(edge - expected.item()) <= 3, transform
        tried += 1
    assert tried == 4
