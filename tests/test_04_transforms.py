"""Lesson 04: transforms that leave the data alone, and boxes that move with their images."""

import re

import numpy as np
import pytest
import torch
from conftest import load_lesson, tiny_args
from sklearn.datasets import load_sample_image, load_wine
from torchvision import tv_tensors
from torchvision.transforms import v2

lesson = load_lesson("04")


def test_the_wine_transforms():
    wine, dataset = load_wine(), lesson.WineDataset()
    features, label = dataset[100]
    assert isinstance(features, np.ndarray) and len(dataset) == 178
    assert features == pytest.approx(wine.data[100]) and label == wine.target[100]
    dataset.transform = lesson.ToTensor()
    assert isinstance(dataset[100][0], torch.Tensor)
    for transform, factors in (
        (lesson.MulTransform(3), (3, 3, 3)),
        (lesson.MulTransformInPlace(3), (3, 9, 27)),  # it changes the dataset
    ):
        dataset.transform = v2.Compose([lesson.ToTensor(), transform])
        for factor in factors:
            inputs, label = dataset[100]
            assert inputs.tolist() == pytest.approx((wine.data[100] * factor).tolist())
            assert label.item() == wine.target[100]  # the label is not multiplied


def test_the_photo_goes_through_each_step(tmp_path, capsys):
    metrics = lesson.main(tiny_args(lesson, tmp_path))
    assert metrics == {"repeat_difference": 0, "n_transforms": 11}
    out = capsys.readouterr().out
    photo = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)
    image = v2.functional.center_crop(v2.functional.resize(photo, 256), 224) / 255
    image = v2.functional.normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    last_step = r"Normalize .*\(3, 224, 224\), torch.float32, from (\S+) to (\S+)"
    found = [float(value) for value in re.search(last_step, out).groups()]
    assert found == pytest.approx([image.min().item(), image.max().item()], rel=0.01)
    assert f"Resize     {tuple(v2.functional.resize(photo, 256).shape)}, torch.uint8" in out
    assert "[56.92, 56.92, 56.92]" in out and "[56.92, 227.68, 910.72]" in out


def test_the_box_moves_with_the_image():
    """A white square on black: where the image is white, there the box must be."""
    image = tv_tensors.Image(torch.zeros(3, 427, 640, dtype=torch.uint8))
    image[:, 100:300, 150:350] = 255
    box = tv_tensors.BoundingBoxes([[150, 100, 350, 300]], format="XYXY", canvas_size=(427, 640))
    torch.manual_seed(0)
    for title, transform in lesson.EXAMPLES:
        if title in ("original", "RandomHorizontalFlip", "CenterCrop", "Pad", "RandomPerspective"):
            moved, boxes = transform(image, box)
            rows, columns = torch.where(moved[0] > 127)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (title == "original") == (found == [150, 100, 350, 300])
            assert boxes[0].tolist() == pytest.approx([int(edge) for edge in found], abs=3)
