"""04 · Transforms

A transform changes each sample before the dataset returns it. The first part writes transforms for
the wine data, as in the video. The second part applies torchvision's built-in ones to a photo.

You will learn
    - how a `Dataset` takes a `transform`, and how `Compose` chains several
    - why a transform must not change its input in place
    - how each step from photo to normalized tensor changes shape, dtype, and value range
    - how random transforms vary the photos that a network is trained on

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

Try it (answers: docs/answers.md)
    - `--seed 1`: which photos in the figure change, and which stay the same?
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

# Built-in transforms, in torchvision.transforms.v2
#     on images and tensors:  CenterCrop, Grayscale, Pad, RandomAffine, RandomCrop, RandomErasing,
#                             RandomHorizontalFlip, RandomRotation, Resize, ...
#     on tensors:             LinearTransformation, Normalize
#     conversion:             ToPILImage (from tensor or array), ToImage and ToDtype (from PIL image
#                             or array to tensor; video: ToTensor)
#     generic:                Lambda (wraps a function)
#     your own:               a class with `__call__`, as below
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
    """Run the lesson with these flags, or the command line's; return metrics for the tests."""
    args = parse_args(argv)
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
    print("\nRead three times:          ", readings)
    print("Read three times, in place:", readings_in_place)

    # Beyond the video: from a photo to the input of a network that was trained on ImageNet (1.28
    # million photos), as in lesson 08: 224x224 pixels, normalized with the mean and the standard
    # deviation of ImageNet's red, green, and blue values. Copy it, and pass it to an image dataset
    # as transform=composed (lesson 08); the DataLoader then adds the dimension of the batch.
    photo = load_photo()  # for a file of your own: Image.open("photo.jpg").convert("RGB")
    composed = v2.Compose(
        [
            v2.ToImage(),  # PIL image or array (H, W, C) -> tensor (C, H, W): channels first
            v2.Resize(256),  # the shorter side, here the height
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),  # 0..255 -> 0..1 (without scale: 0..255)
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # (x - mean) / std
        ]
    )
    print_steps(composed, photo)

    # Beyond the video: random transforms, for training only. They draw anew each time that a photo
    # is read, so that a network rarely sees the same image twice, which reduces overfitting. Choose
    # those that keep the label right.
    # RandomResizedCrop(224) takes the place of Resize and CenterCrop; others can follow. The figure
    # shows what each imitates (see EXAMPLES, below).
    draw(photo, args)

    repeat_difference = max(readings) - min(readings)
    in_place = max(readings_in_place) - min(readings_in_place)
    print(f"Difference between reads: {repeat_difference:.2f}, in place {in_place:.2f} (wine)")
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


def load_photo():
    """Return a photo of 640x427 pixels that comes with scikit-learn, as a PIL image."""
    return Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))


def print_steps(composed, photo):
    """Print the shape, the dtype, and the range of a photo after each transform."""
    print(f"\nphoto: PIL image, {photo.width}x{photo.height} pixels")
    image = photo
    for transform in composed.transforms:
        image = transform(image)
        values = f"from {image.min().item():.4g} to {image.max().item():.4g}"
        print(f"{type(transform).__name__:10} {tuple(image.shape)}, {image.dtype}, {values}")


EXAMPLES = [  # a transform, strong enough to be seen, and what it imitates
    (v2.CenterCrop(400), "not random, for evaluation"),
    (v2.RandomResizedCrop(400, scale=(0.2, 0.5)), "nearer, partly outside the frame"),
    (v2.RandomHorizontalFlip(p=1.0), "mirrored (here always)"),  # p: probability
    (v2.RandomRotation(30), "a tilted camera"),  # from -30 to 30 degrees
    (v2.RandomPerspective(p=1.0), "another point of view"),
    (v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5), "other light"),
    (v2.GaussianBlur(kernel_size=21, sigma=5.0), "out of focus (fixed sigma)"),
]


def draw(photo, args):
    """Draw a photo as it is, and after each of the EXAMPLES; save the figure."""
    image = v2.functional.pil_to_tensor(photo)  # (3, 427, 640), from 0 to 255, as by ToImage
    image = image.to(device)  # tensors can also be transformed on the GPU
    figure, axes = plt.subplots(2, 4, figsize=(13, 5.6), sharex=True, sharey=True)
    for ax, (transform, purpose) in zip(axes.flat, [(v2.Identity(), "the photo"), *EXAMPLES]):
        transformed = transform(image).permute(1, 2, 0)  # (C, H, W) -> (H, W, C)
        ax.imshow(transformed.cpu().numpy())
        size = f"{transformed.shape[1]}x{transformed.shape[0]}"
        ax.set_title(f"{type(transform).__name__}, {size}\n{purpose}", fontsize=9)
    figure.supxlabel("pixels of the result")
    figure.tight_layout()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output_dir / "04_transforms.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.description = __doc__.splitlines()[0]
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
