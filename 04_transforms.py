"""04 · Transforms

A transform changes each sample before the dataset returns it. The first part writes transforms for
the wine data, as in the video. The second part applies torchvision's built-in ones to a photo.

You will learn
    - how a `Dataset` takes a `transform`, and how `Compose` chains several
    - why a transform must not work in place on memory that it shares with the dataset
    - how each step from photo to normalized tensor changes shape, dtype, and value range
    - how random transforms vary the photos that a network is trained on (augmentation)

Run (add --show to open the figure in a window)
    python 04_transforms.py
    python 04_transforms.py --seed 1

Changes from the video
    - The video's `MulTransform` multiplies in place, in memory shared with the dataset, so every
      read changes the dataset again. Here it returns a new tensor.
    - `torchvision.transforms.v2` replaces `torchvision.transforms`, which is no longer developed.
      Its `ToImage` and `ToDtype(torch.float32, scale=True)` replace torchvision's `ToTensor`. (The
      `ToTensor` below is the video's own class for wines.)
    - The CSV file is scikit-learn's, as in lesson 03: the label comes last, and counts from 0.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - `--seed 1`: which images in the figure change, and which stay the same?
    - Remove `scale=True`. What is the range of the values now, and after `Normalize`?
    - Swap `Resize` and `CenterCrop`. How large is the result, and how much of the photo is left?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=8007s (about 2:13:27), course script:
    10_transformers.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Built-in transforms (all of them: https://docs.pytorch.org/vision/stable/transforms.html)
#     on images and tensors:  CenterCrop, Grayscale, Pad, RandomAffine, RandomCrop, RandomErasing,
#                             RandomHorizontalFlip, RandomRotation, Resize, ...
#     on tensors:             LinearTransformation, Normalize
#     conversion:             ToPILImage (from tensor or array), ToImage and ToDtype (from PIL image
#                             or array to tensor; video: ToTensor)
#     generic:                Lambda (wraps a function)
#     your own:               a class with `__call__`, which runs if you write transform(sample)
#     several in a row:       composed = Compose([Resize(256), RandomCrop(224)])


class WineDataset(Dataset):
    """178 wines as NumPy arrays; `transform` is applied to each sample that is read."""

    def __init__(self, transform=None):
        path = Path(sklearn.datasets.__file__).parent / "data" / "wine_data.csv"
        xy = np.loadtxt(path, delimiter=",", dtype=np.float32, skiprows=1)
        self.n_samples = xy.shape[0]
        self.x_data = xy[:, :-1]  # (178, 13), arrays here: ToTensor converts them
        self.y_data = xy[:, [-1]]  # (178, 1)
        self.transform = transform

    def __getitem__(self, index):
        sample = self.x_data[index], self.y_data[index]
        if self.transform:
            sample = self.transform(sample)
        return sample

    def __len__(self):
        return self.n_samples


class ToTensor:
    """Convert the arrays of a sample to tensors. Both share the memory of the dataset's arrays."""

    def __call__(self, sample):
        inputs, targets = sample
        return torch.from_numpy(inputs), torch.from_numpy(targets)


class MulTransform:
    """Multiply the inputs of a sample by a factor."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, sample):
        inputs, targets = sample
        inputs = inputs * self.factor  # a new tensor; `inputs *= ...` would change the dataset
        return inputs, targets


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    print(f"04 Transforms | device: {device} | data: wine, 178 samples; china.jpg, 1 photo")

    print("Without transform")
    dataset = WineDataset()
    first_data = dataset[0]
    features, labels = first_data
    print(type(features), type(labels))
    print(features, labels)

    print("\nWith ToTensor")
    dataset = WineDataset(transform=ToTensor())
    first_data = dataset[0]
    features, labels = first_data
    print(type(features), type(labels))
    print(features, labels)

    print("\nWith ToTensor and MulTransform")
    composed = v2.Compose([ToTensor(), MulTransform(4)])
    dataset = WineDataset(transform=composed)
    first_data = dataset[0]
    features, labels = first_data
    print(type(features), type(labels))
    print(features, labels)

    # Beyond the video: why not `inputs *= self.factor`, as in the video? `*=` works in place. A row
    # of x_data is a view, not a copy, and from_numpy does not copy either, so `*=` writes into the
    # dataset. The first feature is read three times: 4 x 14.23 = 56.92 is right.
    readings = read_three_times(MulTransform(4))
    readings_in_place = read_three_times(MulTransformInPlace(4))
    print("\nRead three times, multiplied as a new tensor:", readings)
    print("Read three times, multiplied in place:       ", readings_in_place)

    # Beyond the video: from a photo to the input of a network that was trained on ImageNet (1.28
    # million photos): usually 224x224 pixels, normalized with the mean and standard deviation of
    # its red, green, and blue values. (If you train from scratch, use those of your own photos.)
    # Copy this pipeline for an image dataset (lesson 08), which transforms the image alone.
    photo = Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))
    composed = v2.Compose(
        [
            v2.ToImage(),  # height, width, channels (H, W, C) -> tensor (C, H, W)
            v2.Resize(256),  # the shorter side; the longer one depends on the photo
            v2.CenterCrop(224),  # as all images of a batch must have the same size
            v2.ToDtype(torch.float32, scale=True),  # 0..255 -> 0..1 (without scale: 0..255)
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # (x - mean) / std
        ]
    )
    print_steps(composed, photo)

    # Beyond the video: augmentation, for training only. Random transforms choose new values each
    # time a photo is read, so a network rarely sees the same image twice, which usually reduces
    # overfitting. The dataset does not get larger: an epoch still reads each photo once. Use only
    # transforms that do not change the label. The figure shows some (see EXAMPLES, below).
    augmented = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(224),  # a random part of the photo, in place of Resize, CenterCrop
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2),  # before Normalize: it clips to the range of pixels
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    for name, transform in (("without", composed), ("with", augmented)):
        equal = (transform(photo) == transform(photo)).float().mean().item()
        print(f"Photo read twice, {name} augmentation: {equal:.1%} of the values are equal")
    draw(photo, args)

    repeat_difference = max(readings) - min(readings)
    in_place = max(readings_in_place) - min(readings_in_place)
    result = f"{repeat_difference:.2f} with a new tensor, {in_place:.2f} in place"
    print(f"Difference between three reads: {result} (wine)")
    print("Figure:", args.output_dir / "04_transforms.png")
    return {"repeat_difference": repeat_difference, "n_transforms": len(EXAMPLES)}


# Beyond the video
class MulTransformInPlace(MulTransform):
    """The video's version: `*=` writes into memory that the tensor shares with the dataset."""

    def __call__(self, sample):
        inputs, targets = sample
        inputs *= self.factor
        return inputs, targets


def read_three_times(transform):
    """Return the first feature of the first wine, read three times from one dataset."""
    dataset = WineDataset(transform=v2.Compose([ToTensor(), transform]))
    readings = []
    for i in range(3):
        features, labels = dataset[0]
        readings.append(round(features[0].item(), 2))
    return readings


def print_steps(composed, photo):
    """Print the shape, the dtype, and the range of a photo after each transform."""
    print(f"\nphoto: PIL image, width {photo.width}, height {photo.height}")
    image = photo
    for transform in composed.transforms:
        image = transform(image)
        values = f"from {image.min().item():.4g} to {image.max().item():.4g}"
        print(f"{type(transform).__name__:10} {tuple(image.shape)}, {image.dtype}, {values}")


EXAMPLES = [  # a transform, strong enough to be seen, and what it imitates
    (v2.CenterCrop(400), "not random, for evaluation"),
    (v2.RandomResizedCrop(400, scale=(0.1, 0.3)), "another part, enlarged and stretched"),
    (v2.RandomHorizontalFlip(p=1.0), "flipped (here always)"),  # p: probability
    (v2.RandomRotation(30), "a tilted camera, black where nothing is"),  # from -30 to 30 degrees
    (v2.RandomPerspective(p=1.0), "another point of view"),
    (v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5), "other light"),
    (v2.GaussianBlur(kernel_size=21, sigma=5.0), "out of focus (always)"),  # sigma in pixels
]


def draw(photo, args):
    """Draw a photo as it is, and after each of the EXAMPLES; save the figure."""
    image = v2.functional.pil_to_tensor(photo)  # as by ToImage, which returns a kind of tensor
    image = image.to(device)  # tensors can also be transformed on the GPU
    figure, axes = plt.subplots(2, 4, figsize=(13, 5.6), sharex=True, sharey=True)
    for ax, (transform, purpose) in zip(axes.flat, [(v2.Identity(), "the photo"), *EXAMPLES]):
        transformed = transform(image).permute(1, 2, 0)  # (C, H, W) -> (H, W, C)
        ax.imshow(transformed.cpu().numpy())
        size = f"{transformed.shape[1]}x{transformed.shape[0]}"
        ax.set_title(f"{type(transform).__name__}, {size}\n{purpose}", fontsize=9)
    figure.supxlabel("pixels of the result (all axes are the same; white margin: no pixels)")
    figure.tight_layout()
    figure.savefig(args.output_dir / "04_transforms.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 2**32 - 1")
    return args


if __name__ == "__main__":
    main()
