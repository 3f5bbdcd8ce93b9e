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

Since the video
    - The video's `MulTransform` multiplies in place, in memory that the dataset shares, so every
      read changes the dataset again. Ours returns a new tensor.
    - `torchvision.transforms.v2` replaces `torchvision.transforms`, which is no longer developed:
      `ToImage` and `ToDtype(torch.float32, scale=True)` instead of `ToTensor`. v2 also transforms
      bounding boxes and masks.

Try it
    - `--seed 1`: which pictures of the gallery change, and which stay the same?
    - Swap `Resize` and `CenterCrop`. How large is the result, and how much of the photo is left?
    - In `GALLERY`, change `(20, 40)` to `(90, 90)`. Is the box still around the flower?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=8007s (about 2:13:27)
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image, load_wine
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.utils import draw_bounding_boxes

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Built-in transforms, in torchvision.transforms.v2
#     images and tensors:  CenterCrop, Grayscale, Pad, RandomAffine, RandomCrop, RandomRotation,
#                          RandomHorizontalFlip, RandomVerticalFlip, Resize, ColorJitter, ...
#     tensors only:        LinearTransformation, Normalize, RandomErasing
#     conversion:          ToImage (image or array -> tensor), ToDtype (dtype), ToPILImage (back)
#     generic:             Lambda (wraps a function)
#     your own:            a class with `__call__`
#     several in a row:    Compose([transform1, transform2])


class WineDataset(Dataset):
    """178 wines as NumPy arrays; `transform` is applied to each sample as it is read."""

    def __init__(self, transform: Callable | None = None) -> None:
        wine = load_wine()
        self.x_data = wine.data.astype(np.float32)  # (178, 13)
        self.y_data = wine.target.astype(np.float32).reshape(-1, 1)  # (178, 1)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple:
        sample = self.x_data[index], self.y_data[index]
        if self.transform:
            sample = self.transform(sample)
        return sample

    def __len__(self) -> int:
        return len(self.x_data)


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

    # Beyond the video: the first feature of the first wine, read three times. The in-place version
    # multiplies the stored sample by 4 on every read.
    readings = [dataset[0][0][0].item() for _ in range(3)]
    dataset = WineDataset(transform=v2.Compose([ToTensor(), MulTransformInPlace(4)]))
    readings_in_place = [dataset[0][0][0].item() for _ in range(3)]
    print("MulTransform:       ", [round(value, 2) for value in readings])
    print("MulTransformInPlace:", [round(value, 2) for value in readings_in_place])

    # Beyond the video: from a photo to the input of a network that was trained on ImageNet
    photo = np.array(load_sample_image("flower.jpg"))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB channels
    transforms = [
        v2.ToImage(),  # array (H, W, C) -> tensor (C, H, W)
        v2.Resize(256),  # the shorter side; averaging pixels lowers the maximum
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),  # 0..255 -> 0..1
        v2.Normalize(mean, std),  # (x - mean) / std, channel by channel
    ]
    image = photo
    for transform in transforms:
        image = transform(image)
        values = f"from {image.min():.3g} to {image.max():.3g}"
        print(f"{type(transform).__name__:10} {tuple(image.shape)}, {image.dtype}, {values}")
    # For training, random transforms such as RandomResizedCrop(224) and RandomHorizontalFlip()
    # replace Resize and CenterCrop: the model sees a slightly different photo every time, which
    # reduces overfitting. Evaluation uses fixed transforms, so that results are comparable.

    # Beyond the video: one call transforms an image together with its bounding box
    image = v2.ToImage()(photo)
    flower = [[172, 82, 450, 364]]  # left, top, right, bottom, in pixels
    box = tv_tensors.BoundingBoxes(flower, format="XYXY", canvas_size=image.shape[-2:])
    figure, axes = plt.subplots(3, 4, figsize=(11, 6.6), layout="constrained")
    for ax, transform in zip(axes.flat, [v2.Identity(), *GALLERY]):  # Identity: the original
        transformed, boxes = transform(image, box)
        picture = draw_bounding_boxes(transformed, boxes, colors="white", width=5)
        ax.imshow(picture.permute(1, 2, 0).numpy())  # (C, H, W) -> (H, W, C)
        ax.set_title(type(transform).__name__, fontsize=10)
        ax.axis("off")
    figure.savefig(args.output_dir / "04_transforms.png")
    if args.show:
        plt.show()
    plt.close(figure)

    values = f"{readings[2]:.2f} with MulTransform, {readings_in_place[2]:.2f} in place"
    print(f"First value on the third read: {values} (wine)")
    print("Figure:", args.output_dir / "04_transforms.png")
    return {"repeat_difference": max(readings) - min(readings), "n_transforms": len(GALLERY)}


# Beyond the video
class MulTransformInPlace(MulTransform):
    """The trap: `*=` writes into memory that the tensor shares with the dataset."""

    def __call__(self, sample: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = sample
        inputs *= self.factor
        return inputs, targets


GALLERY = [
    v2.RandomHorizontalFlip(p=1.0),
    v2.CenterCrop(400),
    v2.RandomResizedCrop((427, 640), scale=(0.4, 0.6), ratio=(1.5, 1.5)),
    v2.Pad(60),
    v2.RandomRotation((20, 40)),  # the box stays upright, so it grows
    v2.RandomPerspective(distortion_scale=0.5, p=1.0),
    v2.ElasticTransform(alpha=300.0),
    v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3),
    v2.RandomGrayscale(p=1.0),
    v2.GaussianBlur(kernel_size=21, sigma=7.0),
    v2.RandomPosterize(bits=2, p=1.0),
]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
