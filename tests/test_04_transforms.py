"""Lesson 04: transforms that leave the data alone, and a photo that goes through several."""

import re

import pytest
import torch
from conftest import load_lesson
from sklearn.datasets import load_sample_image, load_wine
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import center_crop, normalize, resize

lesson = load_lesson("04")


def test_the_wine_transforms():
    wine, dataset = load_wine(), lesson.WineDataset()
    features, label = dataset[100]
    assert features == pytest.approx(wine.data[100]) and label == wine.target[100]
    in_place = lesson.MulTransformInPlace(3)  # it changes the dataset
    for transform, factors in ((lesson.MulTransform(3), (3, 3, 3)), (in_place, (3, 9, 27))):
        dataset.transform = v2.Compose([lesson.ToTensor(), transform])
        for factor in factors:
            inputs, label = dataset[100]
            assert inputs.tolist() == pytest.approx((wine.data[100] * factor).tolist())
            assert torch.is_tensor(inputs) and label.item() == wine.target[100]  # not multiplied


def test_the_photo_goes_through_each_step(tmp_path, capsys):
    metrics = lesson.main(["--output-dir", str(tmp_path)])
    assert metrics == {"repeat_difference": 0, "n_transforms": 11}
    out = capsys.readouterr().out
    resized = resize(torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1), 256)
    assert f"{tuple(resized.shape)}, torch.uint8" in out
    image = center_crop(resized, 224) / 255
    image = normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    last_step = r"Normalize .*\(3, 224, 224\), torch.float32, from (\S+) to (\S+)"
    found = [float(value) for value in re.search(last_step, out).groups()]
    assert found == pytest.approx([image.min().item(), image.max().item()], rel=0.01)
    assert "[56.92, 56.92, 56.92]" in out and "[56.92, 227.68, 910.72]" in out
