"""04 · Dataset transforms

A transform changes a sample on its way from the dataset to the model. The first half writes
transforms for the wine data by hand, as in the video, and shows how one of them can quietly
corrupt the dataset. The second half uses torchvision's ready-made transforms on a photo.

You will learn
    - how a `Dataset` takes a `transform`, and how `Compose` chains several
    - why a transform must not work in place
    - what each step from a photo to a normalised tensor does to shape, type and value range
    - why training draws random transforms and evaluation does not
    - how a bounding box moves along with its image

Run
    python 04_transforms.py
    python 04_transforms.py --seed 1

Since the video
    - The video's `MulTransform` multiplies in place, in memory that belongs to the dataset: each
      reading of a sample changes it again. Ours returns a new tensor.
    - `torchvision.transforms.v2` takes the place of the first version: `ToImage` and
      `ToDtype(torch.float32, scale=True)` instead of `ToTensor`, and boxes and masks move along.

Try it
    - `--seed 1`: which pictures of the gallery change, and which stay?
    - Swap `Resize` and `CenterCrop` in `make_steps`. How large is the result, and how much of the
      photo is left of it?
    - Change `p=1.0` to `p=0.5` in the gallery's flip, and run with `--seed 0` and `--seed 1`.

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=8007s (about 2:13:27)
"""

import argparse
import sys
import tempfile
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

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "04_transforms"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB channels
FLOWER = (172, 82, 450, 364)  # left, top, right, bottom of the flower, in pixels


# %% 0) A dataset with a transform
class WineDataset(Dataset):
    """178 wines as NumPy arrays; `transform` gets each sample (features, target) as it is read."""

    def __init__(self, transform: Callable | None = None) -> None:
        wine = load_wine()
        self.X = wine.data.astype(np.float32)  # (N, 13)
        self.y = wine.target  # (N,)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple:
        sample = self.X[index], self.y[index]
        return self.transform(sample) if self.transform else sample

    def __len__(self) -> int:
        return len(self.y)


# %% 1) Transforms of our own
class ToTensor:
    """Turn the sample's arrays into tensors; `from_numpy` shares the array's memory."""

    def __call__(self, sample: tuple) -> tuple[Tensor, Tensor]:
        features, target = sample
        return torch.from_numpy(features), torch.tensor(target)


class MulTransform:
    """Multiply the features by a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, sample: tuple) -> tuple[Tensor, Tensor]:
        features, target = sample
        return features * self.factor, target  # a new tensor: the dataset keeps its own


class MulTransformInPlace(MulTransform):
    """The trap: `*=` writes into memory that the tensor shares with the dataset."""

    def __call__(self, sample: tuple) -> tuple[Tensor, Tensor]:
        features, target = sample
        features *= self.factor
        return features, target


def read_three_times(mul: MulTransform) -> list[float]:
    """Return the first feature of the first wine, as three readings in a row give it."""
    dataset = WineDataset(transform=v2.Compose([ToTensor(), mul]))
    return [dataset[0][0][0].item() for _ in range(3)]


# %% 2) From a photo to a normalised tensor, step by step
def make_steps() -> list[Callable]:
    """Return the steps that prepare a photo for a network trained on ImageNet."""
    return [
        v2.ToImage(),  # array (H, W, C) -> tensor (C, H, W), still uint8
        v2.Resize(256),  # the shorter side becomes 256 pixels
        v2.CenterCrop(224),  # the middle
        v2.ToDtype(torch.float32, scale=True),  # 0..255 -> 0..1
        v2.Normalize(MEAN, STD),  # channel by channel: (x - mean) / std
    ]


def print_steps(photo: np.ndarray) -> Tensor:
    """Apply one step after the other, print what each one made, and return the last result."""
    print("step                   shape           dtype   smallest   largest")
    print(f"{'photo':12} {str(photo.shape):>15} {photo.dtype!s:>15}", end=" ")
    print(f"{photo.min():10.3f} {photo.max():9.3f}")
    image = photo
    for step in make_steps():
        image = step(image)
        print(
            f"{type(step).__name__:12} {str(tuple(image.shape)):>15} {image.dtype!s:>15}", end=" "
        )
        print(f"{image.min():10.3f} {image.max():9.3f}")
    return image


def undo_normalize(images: Tensor) -> Tensor:
    """Return normalised images (..., 3, H, W) in the range 0..1 again, to be looked at."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(3, 1, 1)
    return images * std + mean


# %% 3) Random transforms for training, fixed ones for evaluation
def make_pipelines() -> tuple[v2.Compose, v2.Compose]:
    """Return the training pipeline, which varies each picture, and the evaluation pipeline."""
    train = [v2.ToImage(), v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()]
    train += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return v2.Compose(train), v2.Compose(make_steps())


# %% 4) A box that moves with its image
def move_box(image: tv_tensors.Image, box: tv_tensors.BoundingBoxes) -> float:
    """Flip an image with its box, then crop both, and print where the box is after each step.

    Returns the largest difference from where arithmetic says the box must be, in pixels.
    """
    height, width = image.shape[-2:]
    left, top, right, bottom = box[0].tolist()
    print("\nThe box around the flower    left    top  right  bottom   pixels")
    print(f"as it is                   {left:6d} {top:6d} {right:6d} {bottom:7d}")
    steps = {  # each with the place where the box must be then
        "flipped": (v2.RandomHorizontalFlip(p=1.0), [width - right, top, width - left, bottom]),
        "and 20 cut from each side": (
            v2.CenterCrop((height - 40, width - 40)),
            [width - right - 20, top - 20, width - left - 20, bottom - 20],
        ),
    }
    errors = []
    for name, (transform, expected) in steps.items():
        image, box = transform(image, box)  # one call moves both
        found = box[0].tolist()
        print(f"{name:26} {found[0]:6.0f} {found[1]:6.0f} {found[2]:6.0f} {found[3]:7.0f}")
        errors += [abs(a - b) for a, b in zip(found, expected, strict=True)]
    return float(max(errors))


# %% 5) Plot
GALLERY = {
    "RandomHorizontalFlip": v2.RandomHorizontalFlip(p=1.0),
    "CenterCrop": v2.CenterCrop(400),
    "RandomResizedCrop": v2.RandomResizedCrop((427, 640), scale=(0.4, 0.6), ratio=(1.5, 1.5)),
    "Pad": v2.Pad(60),
    "RandomRotation": v2.RandomRotation((20, 40)),  # degrees; the box stays upright, so it grows
    "RandomPerspective": v2.RandomPerspective(distortion_scale=0.5, p=1.0),
    "ElasticTransform": v2.ElasticTransform(alpha=300.0),
    "ColorJitter": v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3),
    "RandomGrayscale": v2.RandomGrayscale(p=1.0),
    "GaussianBlur": v2.GaussianBlur(kernel_size=21, sigma=7.0),
    "RandomPosterize": v2.RandomPosterize(bits=2, p=1.0),
}


def plot(image: tv_tensors.Image, box: tv_tensors.BoundingBoxes) -> plt.Figure:
    """Draw the photo, and what each transform of the gallery makes of it, with its box."""
    figure, axes = plt.subplots(3, 4, figsize=(11, 6.6), layout="constrained")
    pictures = {"original": (image, box)}
    pictures |= {name: transform(image, box) for name, transform in GALLERY.items()}
    for ax, (name, (picture, boxes)) in zip(axes.flat, pictures.items(), strict=True):
        ax.imshow(picture.permute(1, 2, 0).numpy(force=True))  # (C, H, W) -> (H, W, C)
        left, top, right, bottom = boxes[0].tolist()
        ax.add_patch(
            plt.Rectangle((left, top), right - left, bottom - top, fill=False, ec="w", lw=2)
        )
        ax.set_title(name, fontsize=10)
        ax.axis("off")
    figure.suptitle("One photo, eleven transforms: the box moves with the flower")
    return figure


def save_figure(figure: plt.Figure, path: Path, show: bool) -> None:
    """Write the figure whole or not at all: to a temporary file that is then moved into place."""
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png", dpi=100)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        sys.exit(f"Cannot write {path}: {error.strerror}. Choose another --output-dir.")
    if show and plt.get_backend().lower() != "agg":  # Agg: there is no screen to show it on
        plt.show()
    plt.close(figure)


# %% Run the lesson
def make_output_dir(path: Path) -> None:
    """Create the folder and try to write to it, so that a mistake shows before the work starts."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        sys.exit(f"Cannot write to {path}: {error.strerror}. Choose another --output-dir.")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, or the command line where it is None; a bad value ends with exit status 2."""
    in_notebook = "ipykernel" in sys.modules and any(word.endswith(".json") for word in sys.argv)
    if argv is None and in_notebook:
        argv = ["--show"]  # the command line is Jupyter's, and names its kernel.json
    parser = argparse.ArgumentParser(
        description="Dataset transforms by hand and from torchvision, and a trap.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 2**32 - 1")
    return args


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    make_output_dir(args.output_dir)
    torch.manual_seed(args.seed)

    photo = np.array(load_sample_image("flower.jpg"))  # (H, W, C), uint8; a copy we may write to
    size = f"{photo.shape[0]}x{photo.shape[1]} pixels"
    print(f"04 Dataset transforms | device: {DEVICE} | data: wine, 178 samples; flower.jpg, {size}")

    good, bad = read_three_times(MulTransform(4)), read_three_times(MulTransformInPlace(4))
    print(f"\nThe first feature of the first wine is {WineDataset().X[0, 0]:.2f}.", end=" ")
    print("Read three times:")
    print("    MulTransform(4)         " + "".join(f"{value:9.2f}" for value in good))
    print("    MulTransformInPlace(4)  " + "".join(f"{value:9.2f}" for value in bad))
    print("Working in place multiplies the dataset itself by 4, again with every reading.\n")

    normalized = print_steps(photo)
    before = v2.Compose(make_steps()[:-1])(photo)
    roundtrip_error = (undo_normalize(normalized) - before).abs().max().item()
    print(f"Normalize undone differs from the picture before it by {roundtrip_error:.1e} at most.")

    image = v2.ToImage()(photo).to(DEVICE)  # v2 transforms run where the image is
    train, evaluation = make_pipelines()
    for name, pipeline in (("training", train), ("evaluation", evaluation)):
        difference = (pipeline(image) - pipeline(image)).abs().max()
        print(f"Two passes through the {name} pipeline: values differ by up to {difference:.3f}.")
    print("Training sees each picture a little differently every time, so it cannot learn it by")
    print("heart; evaluation sees it the same way, so that two models can be compared.")

    # XYXY: a box is given by its left, top, right and bottom; the canvas is the image it lies in.
    box = tv_tensors.BoundingBoxes(
        [FLOWER], format="XYXY", canvas_size=photo.shape[:2], device=DEVICE
    )
    box_error = move_box(image, box)

    figure_path = args.output_dir / f"{LESSON}.png"
    save_figure(plot(image, box), figure_path, args.show)
    print(f"\nBox error: {box_error:g} pixels, against arithmetic (flower.jpg)")
    print(f"Figure: {figure_path}")
    return {
        "repeat_difference": max(good) - min(good),
        "normalize_roundtrip_error": roundtrip_error,
        "n_transforms": len(GALLERY),
        "box_error": box_error,
    }


if __name__ == "__main__":
    main()
