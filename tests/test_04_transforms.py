"""Lesson 04: transforms that leave the data alone, and boxes that move with their images."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image, load_wine
from torchvision import tv_tensors
from torchvision.transforms import v2


@pytest.fixture(scope="module")
def lesson04(lesson):
    return lesson("04_")


@pytest.fixture(scope="module")
def image(lesson04):
    return v2.ToImage()(np.array(load_sample_image("flower.jpg"))).to(lesson04.DEVICE)


def test_metrics(lesson04, tmp_path):
    metrics = lesson04.main(["--output-dir", str(tmp_path)])
    assert metrics["repeat_difference"] == 0
    assert metrics["normalize_roundtrip_error"] < 1e-5
    assert metrics["n_transforms"] >= 10
    assert metrics["box_error"] == 0


def test_reading_twice_gives_the_same_and_the_trap_does_not(lesson04):
    first = load_wine().data[0, 0]
    for mul, factors in (
        (lesson04.MulTransform(4), (4, 4, 4)),
        (lesson04.MulTransformInPlace(4), (4, 16, 64)),
    ):
        readings = lesson04.read_three_times(mul)
        assert readings == pytest.approx([first * factor for factor in factors])


def test_transforms_of_our_own(lesson04):
    dataset = lesson04.WineDataset()
    assert len(dataset) == 178
    features, target = dataset[100]
    assert isinstance(features, np.ndarray)
    tensor, label = lesson04.ToTensor()((features, target))
    assert tensor.tolist() == features.tolist() and label.item() == target
    dataset.transform = v2.Compose([lesson04.ToTensor(), lesson04.MulTransform(3)])
    np.testing.assert_allclose(dataset[100][0], 3 * features)
    assert isinstance(dataset[100][0], torch.Tensor)


def test_steps_print_shapes_and_ranges(lesson04, capsys):
    photo = np.array(load_sample_image("flower.jpg"))
    result = lesson04.print_steps(photo)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == [
        "photo", "ToImage", "Resize", "CenterCrop", "ToDtype", "Normalize",
    ]  # fmt: skip
    assert "".join(rows[0][1:4]) == "(427,640,3)" and "".join(rows[1][1:4]) == "(3,427,640)"
    assert rows[3][4] == "torch.uint8" and rows[4][4] == "torch.float32"
    assert float(rows[4][6]) <= 1
    assert result.shape == (3, 224, 224)


def test_normalize_and_its_undoing(lesson04):
    images = torch.rand(2, 3, 4, 5)
    normalized = v2.Normalize(lesson04.MEAN, lesson04.STD)(images)
    expected = (images[1, 2] - lesson04.MEAN[2]) / lesson04.STD[2]
    torch.testing.assert_close(normalized[1, 2], expected)
    torch.testing.assert_close(lesson04.undo_normalize(normalized), images)


def test_training_varies_and_evaluation_does_not(lesson04, image):
    train, evaluation = lesson04.make_pipelines()
    assert train(image).shape == evaluation(image).shape == (3, 224, 224)
    assert torch.equal(evaluation(image), evaluation(image))
    torch.manual_seed(0)
    assert not torch.equal(train(image), train(image))


def test_box_error_is_measured(lesson04, image, monkeypatch, capsys):
    """The check of the lesson must notice a box that stays behind."""
    box = tv_tensors.BoundingBoxes([lesson04.FLOWER], format="XYXY", canvas_size=(427, 640))
    assert lesson04.move_box(image, box) == 0
    rows = [line.split()[-4:] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert rows[0] == ["172", "82", "450", "364"]
    assert rows[1:] == [["190", "82", "468", "364"], ["170", "62", "448", "344"]]

    def flip_image_alone(p):
        return lambda image, box: (image.flip(-1), box)

    monkeypatch.setattr(lesson04.v2, "RandomHorizontalFlip", flip_image_alone)
    assert lesson04.move_box(image, box) == 640 - 172 - 450


def test_gallery_moves_the_box_to_the_flower(lesson04):
    """A white square on black: where the picture is white, there the box must be."""
    image = tv_tensors.Image(torch.zeros(3, 427, 640, dtype=torch.uint8))
    image[:, 100:300, 150:350] = 255
    box = tv_tensors.BoundingBoxes([[150, 100, 350, 300]], format="XYXY", canvas_size=(427, 640))
    for name in ("RandomHorizontalFlip", "CenterCrop", "Pad", "RandomPerspective"):
        moved, boxes = lesson04.GALLERY[name](image, box)
        rows, columns = torch.where(moved[0] > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        for edge, expected in zip(boxes[0].tolist(), found, strict=True):
            assert abs(edge - expected.item()) <= 3, name
