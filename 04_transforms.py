"""04 · Transforms

A transform changes each sample as it is read from the dataset. The first part implements transforms
for the wine data, as in the video. The second part applies torchvision's built-in transforms to a
photo.

You will learn
    - how a `Dataset` takes a `transform`, and how `Compose` chains several
    - why a transform must not change its input in place
    - how each step from photo to normalized tensor changes shape, dtype, and value range
    - how a bounding box is transformed together with its image

Run
    python 04_transforms.py
    python 04_transforms.py --seed 1

Changes from the video
    - The video's `MulTransform` multiplies in place, in memory shared with the dataset, so every
      read changes the dataset again. Here it returns a new tensor.
    - `torchvision.transforms.v2` replaces `torchvision.transforms`, which is no longer developed.
      Its `ToImage` and `ToDtype(torch.float32, scale=True)` replace torchvision's `ToTensor`. (The
      `ToTensor` below is the video's own, for wines.) v2 also transforms boxes and masks.
    - The CSV file is scikit-learn's, as in lesson 03.

Try it (answers: docs/answers.md)
    - `--seed 1`: which images in the figure change, and which stay the same?
    - Remove `scale=True`. What is the range of the values now, and after `Normalize`?
    - Swap `Resize` and `CenterCrop`. How large is the result, and how much of the photo is left?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=8007s (about 2:13:27), course script:
    10_transformers.py
"""

import argparse
import importlib.resources
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.utils import draw_bounding_boxes

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Built-in transforms, in torchvision.transforms.v2
#     images and tensors:  CenterCrop, Grayscale, Pad, RandomAffine, RandomCrop, RandomErasing,
#                          RandomHorizontalFlip, RandomRotation, Resize, ColorJitter, ...
#     tensors only:        LinearTransformation, Normalize
#     conversion:          ToImage (image or array -> tensor), ToDtype (dtype), ToPILImage (back)
#     generic:             Lambda (wraps a function)
#     your own:            a class with `__call__`
#     several in a row:    Compose([transform1, transform2])


class WineDataset(Dataset):
    """178 wines as NumPy arrays; `transform` is applied to each sample as it is read."""

    def __init__(self, transform: Callable | None = None) -> None:
        path = importlib.resources.files("sklearn.datasets.data") / "wine_data.csv"
        xy = np.loadtxt(path, delimiter=",", dtype=np.float32, skiprows=1)
        self.x_data = xy[:, :-1]  # (178, 13), arrays here: ToTensor converts them
        self.y_data = xy[:, [-1]]  # (178, 1)
        self.n_samples = xy.shape[0]
        self.transform = transform

    def __getitem__(self, index: int) -> tuple:
        sample = self.x_data[index], self.y_data[index]
        if self.transform:
            sample = self.transform(sample)
        return sample

    def __len__(self) -> int:
        return self.n_samples


class ToTensor:
    """Convert the arrays of a sample to tensors, which share the arrays' memory."""

    def __call__(self, sample: tuple) -> tuple[Tensor, Tensor]:
        inputs, targets = sample
        return torch.from_numpy(inputs), torch.from_numpy(targets)


class MulTransform:
    """Multiply the inputs of a sample by a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, sample: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = sample
        return inputs * self.factor, targets  # a new tensor: the dataset stays as it is


# Beyond the video: the images in the figure
EXAMPLES = [  # title and transform
    ("original", v2.Identity()),
    ("RandomHorizontalFlip", v2.RandomHorizontalFlip(p=1.0)),
    ("CenterCrop", v2.CenterCrop(400)),
    ("RandomResizedCrop", v2.RandomResizedCrop((427, 640), scale=(0.4, 0.6), ratio=(1.5, 1.5))),
    ("Pad", v2.Pad(60)),
    ("RandomRotation (box stays upright)", v2.RandomRotation((20, 40))),
    ("RandomPerspective", v2.RandomPerspective(distortion_scale=0.5, p=1.0)),
    ("ElasticTransform", v2.ElasticTransform(alpha=300.0)),
    ("ColorJitter", v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3)),
    ("RandomGrayscale", v2.RandomGrayscale(p=1.0)),
    ("GaussianBlur", v2.GaussianBlur(kernel_size=21, sigma=7.0)),
    ("RandomPosterize", v2.RandomPosterize(bits=2, p=1.0)),
]


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    print(f"04 Transforms | device: {device} | data: wine, 178 samples; flower.jpg, 427x640 pixels")
    print("Without transform")
    dataset = WineDataset()
    first_data = dataset[0]
    features, labels = first_data
    print(type(features), type(labels))
    print(features, labels)

    print("With ToTensor")
    dataset = WineDataset(transform=ToTensor())
    first_data = dataset[0]
    features, labels = first_data
    print(type(features), type(labels))
    print(features, labels)

    print("With ToTensor and MulTransform")
    composed = v2.Compose([ToTensor(), MulTransform(4)])
    dataset = WineDataset(transform=composed)
    first_data = dataset[0]
    features, labels = first_data
    print(type(features), type(labels))
    print(features, labels)

    # Beyond the video: the first feature of the first wine is read three times
    readings = [dataset[0][0][0].item() for _ in range(3)]
    print("MulTransform:       ", [round(value, 2) for value in readings])
    dataset = WineDataset(transform=v2.Compose([ToTensor(), MulTransformInPlace(4)]))
    readings_in_place = [dataset[0][0][0].item() for _ in range(3)]
    print("MulTransformInPlace:", [round(value, 2) for value in readings_in_place])

    # Beyond the video: from a photo to the input of a network that was trained on ImageNet, a
    # dataset of 1.3 million photos. H, W, C: height, width, and channels (red, green, and blue).
    photo = np.array(load_sample_image("flower.jpg"))  # a copy, as the original is read-only
    print(f"photo      {photo.shape}, {photo.dtype}, from {photo.min()} to {photo.max()}")
    photo = torch.from_numpy(photo).permute(2, 0, 1)  # (H, W, C) -> (C, H, W): what v2.ToImage does
    photo = photo.to(device)  # v2 transforms a tensor where it is, also on the GPU
    image = photo
    for transform in [
        v2.Resize(256),  # the shorter side; averaging pixels lowers the maximum
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),  # 0..255 -> 0..1; without scale, only the type
        # (x - mean) / std, with the mean and std of ImageNet's red, green, and blue values
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]:
        image = transform(image)
        values = f"from {image.min().item():.3g} to {image.max().item():.3g}"
        print(f"{type(transform).__name__:10} {tuple(image.shape)}, {image.dtype}, {values}")
    # For training, random transforms such as RandomResizedCrop(224) and RandomHorizontalFlip()
    # replace Resize and CenterCrop: the model sees a slightly different photo every time, which
    # reduces overfitting. Evaluation uses fixed transforms, so that results are comparable.

    # Beyond the video: one call transforms an image and its bounding box alike, a rectangle
    # that marks an object. "XYXY" means left, top, right, and bottom edge, in pixels.
    flower = [[172, 82, 450, 364]]
    box = tv_tensors.BoundingBoxes(flower, format="XYXY", canvas_size=photo.shape[-2:])
    figure, axes = plt.subplots(3, 4, figsize=(11, 6.6), layout="constrained")
    for ax, (title, transform) in zip(axes.flat, EXAMPLES):
        transformed, boxes = transform(photo, box)
        drawn = draw_bounding_boxes(transformed.cpu(), boxes, colors="white", width=5)
        ax.imshow(drawn.permute(1, 2, 0).numpy())  # (C, H, W) -> (H, W, C)
        ax.set_title(title, fontsize=10)
        ax.axis("off")
        ax.set_adjustable("datalim")  # keeps all titles at the same height
    figure.savefig(args.output_dir / "04_transforms.png")
    if args.show:
        plt.show()

    result = f"{readings[2]:.2f} with MulTransform, {readings_in_place[2]:.2f} in place"
    print(f"First feature after three reads: {result}, expected 14.23 x 4 = 56.92 (wine)")
    print("Figure:", args.output_dir / "04_transforms.png")
    return {"repeat_difference": max(readings) - min(readings), "n_transforms": len(EXAMPLES) - 1}


# Beyond the video
class MulTransformInPlace(MulTransform):
    """Incorrect on purpose: `*=` writes into memory that the tensor shares with the dataset."""

    def __call__(self, sample: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = sample
        inputs *= self.factor
        return inputs, targets


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
