"""03 · Dataset and DataLoader

A `Dataset` knows its samples one by one; a `DataLoader` deals them out in shuffled batches. The
178 wines of the video are dealt out in batches of 4, and then a classifier is trained on batches
of 1, of 16 and of all samples at once, to see what the batch size trades.

You will learn
    - how to write a `Dataset`: `__getitem__` returns one sample, `__len__` says how many there are
    - what a `DataLoader` does: batches, shuffling, the short last batch, `drop_last`, workers
    - how a generator of its own makes shuffling and splitting repeatable
    - what small and large batches cost in time and gain in loss

Run
    python 03_dataset_dataloader.py
    python 03_dataset_dataloader.py --batch-size 32 --num-workers 2

Since the video
    - `dataiter.next()` is gone from PyTorch: it is `next(dataiter)`, as for every Python iterator.
    - The wines come from scikit-learn, so no file path depends on the folder you start in.
    - On Windows, on macOS, and on Linux from Python 3.14 on, each worker is a new process that
      first imports this file. The `__main__` guard at the end of the file keeps it from running
      the lesson again; without the guard, the lesson crashes.

Try it
    - `--num-workers 2`: is it faster? (To be worth it, a sample must cost more than its way from
      one process to another: reading and decoding a photo does.)
    - `--epochs 200`: which batch size reaches the lowest loss, and after how many seconds?
    - `shuffle=False` in `make_loader`: which classes are in the first batch now? (The wines lie
      sorted by class. Training hardly suffers, since `random_split` has shuffled them before.)

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=7075s (about 1:57:55)
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, random_split

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "03_dataset_dataloader"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__


# %% 0) Prepare data
class WineDataset(Dataset):
    """178 wines: 13 measurements each, and the grape variety (class 0, 1 or 2)."""

    def __init__(self) -> None:
        wine = load_wine()
        self.X = torch.from_numpy(wine.data).float()  # (N, 13)
        self.y = torch.from_numpy(wine.target).long()  # (N,)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one sample: its features (13,) and its class ()."""
        return self.X[index], self.y[index]

    def __len__(self) -> int:
        return len(self.y)


def make_loader(
    dataset: Dataset, batch_size: int, seed: int, num_workers: int = 0, drop_last: bool = False
) -> DataLoader:
    """Return a loader that shuffles with a generator of its own.

    So the order depends on the seed, and on nothing else that draws random numbers.
    """
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        num_workers=num_workers,
        drop_last=drop_last,
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=num_workers > 0,  # started once, not anew in every epoch
    )


# %% 1) Model
class StandardizedLinear(nn.Module):
    """A linear classifier (N, 13) -> (N, 3) on features brought to mean 0 and deviation 1.

    The mean and the deviation are the training part's. Kept in the model, they are saved with it.
    """

    def __init__(self, X_train: Tensor, n_classes: int) -> None:
        super().__init__()
        # A buffer moves with .to() and is saved, like a weight, but is not trained.
        self.register_buffer("mean", X_train.mean(dim=0))
        std = X_train.std(dim=0, correction=0)  # divides by N, so a single sample has 0
        self.register_buffer("std", std.clamp(min=1e-6))  # never divides by 0
        self.linear = nn.Linear(X_train.shape[1], n_classes)

    def forward(self, X: Tensor) -> Tensor:
        return self.linear((X - self.mean) / self.std)


# %% 2) Loss and optimizer, 3) Training loop
def train(
    model: nn.Module, loader: DataLoader, lr: float, epochs: int
) -> tuple[list[float], list[float]]:
    """Train, and return the loss on all training samples and the seconds used, after each epoch."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses, seconds = [], []
    for _ in range(epochs):
        start = time.perf_counter()
        for features, targets in loader:
            loss = criterion(model(features.to(DEVICE)), targets.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()  # a GPU may still be at work when Python goes on
        seconds.append(time.perf_counter() - start)
        losses.append(evaluate(model, loader.dataset)[0])
    return losses, seconds


# %% 4) Evaluate
@torch.inference_mode()
def evaluate(model: nn.Module, dataset: Dataset) -> tuple[float, float]:
    """Return the mean loss, and the share of the samples whose class the model predicts."""
    loss_sum, n_right = 0.0, 0
    for features, targets in DataLoader(dataset, batch_size=100):
        logits, targets = model(features.to(DEVICE)), targets.to(DEVICE)
        loss_sum += F.cross_entropy(logits, targets, reduction="sum").item()  # batches may differ
        n_right += (logits.argmax(dim=1) == targets).sum().item()
    return loss_sum / len(dataset), n_right / len(dataset)


# %% 5) Plot
def plot(curves: dict[int, tuple[list[float], list[float]]]) -> plt.Figure:
    """Draw the loss of each batch size, against epochs and against seconds of training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for (size, (losses, seconds)), style in zip(
        curves.items(), ("C0-o", "C1-s", "C2-^"), strict=False
    ):
        epochs = range(1, len(losses) + 1)
        left.plot(epochs, losses, style, ms=4, label=f"batch size {size}")
        right.plot(np.cumsum(seconds), losses, style, ms=4, label=f"batch size {size}")
    left.set(title="Loss by epoch", xlabel="epoch", ylabel="training loss", yscale="log")
    left.locator_params(axis="x", integer=True)
    right.set(title="Loss by time", xlabel="seconds of training", xscale="log")
    right.legend()
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
        description="Dataset and DataLoader, and what the batch size trades.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=20, metavar="N", help="passes over the data")
    add("--batch-size", type=int, default=16, metavar="N", help="samples in a batch")
    add("--num-workers", type=int, default=0, metavar="N", help="processes that load batches")
    add("--lr", type=float, default=0.1, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples of each part")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.batch_size < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--epochs, --batch-size and --limit must be at least 1")
    if args.num_workers < 0:
        parser.error("--num-workers must be at least 0")
    if not 0 < args.lr < float("inf") or not 0 <= args.seed < 2**32:
        parser.error("--lr must be finite and above 0, and --seed from 0 to 2**32 - 1")
    return args


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    make_output_dir(args.output_dir)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so few numbers, threads would wait for each other more than work
    torch.manual_seed(args.seed)

    dataset = WineDataset()
    print(f"03 Dataset and DataLoader | device: {DEVICE} | data: wine, {len(dataset)} samples\n")
    features, target = dataset[0]
    print(f"dataset[0]: {len(features)} features, the first {features[0]:.2f}, class {target}")

    loader = make_loader(dataset, 4, args.seed)
    dataiter = iter(loader)
    features, targets = next(dataiter)
    shapes = f"features {tuple(features.shape)}, classes {tuple(targets.shape)}"
    print(f"the first batch of 4: {shapes}")
    batch_sizes = [len(targets) for _, targets in loader]
    print(f"all batches of 4: {len(batch_sizes)}, the last one of {batch_sizes[-1]}")
    full_batches = make_loader(dataset, 4, args.seed, drop_last=True)
    print(f"with drop_last=True: {len(full_batches)}, all of 4")
    for seed in (0, 0, 1):
        _, targets = next(iter(make_loader(dataset, 4, seed)))
        print(f"with seed {seed}, the classes of the first batch: {targets.tolist()}")

    n_test = len(dataset) // 5
    generator = torch.Generator().manual_seed(args.seed)
    parts = random_split(dataset, [len(dataset) - n_test, n_test], generator)
    train_part, test_part = (Subset(dataset, part.indices[: args.limit]) for part in parts)
    n_train, n_test = len(train_part), len(test_part)
    batch_size = min(args.batch_size, n_train)
    print(f"random_split: {n_train} samples to train on, {n_test} to test on\n")

    metrics = {
        "n_samples": len(dataset),
        "n_batches": len(batch_sizes),
        "last_batch": batch_sizes[-1],
    }
    curves = {}
    print("batch size   steps per epoch   ms per epoch   final loss   test accuracy")
    for size in sorted({1, batch_size, n_train}):
        torch.manual_seed(args.seed)  # the same start for each batch size
        model = StandardizedLinear(dataset.X[train_part.indices], n_classes=3).to(DEVICE)
        loader = make_loader(train_part, size, args.seed, num_workers=args.num_workers)
        losses, seconds = train(model, loader, args.lr, args.epochs)
        curves[size] = losses, seconds
        _, accuracy = evaluate(model, test_part)
        metrics[f"loss_batch_{size}"] = losses[-1]
        metrics[f"seconds_batch_{size}"] = sum(seconds)
        if size == batch_size:
            metrics["accuracy"] = accuracy
        milliseconds = 1000 * float(np.median(seconds))  # the first epoch takes longer
        print(f"{size:10d} {len(loader):17d} {milliseconds:14.1f}", end="")
        print(f" {losses[-1]:12.4f} {accuracy:15.1%}")
    torch.set_num_threads(n_threads)
    print("Small batches take more steps per epoch: an epoch gets further, but takes longer.")
    print("All have the same learning rate here; large batches usually allow a larger one.")

    figure_path = args.output_dir / f"{LESSON}.png"
    save_figure(plot(curves), figure_path, args.show)
    print(f"\nTest accuracy: {metrics['accuracy']:.1%} with batches of {batch_size} (wine)")
    print(f"Figure: {figure_path}")
    return metrics


if __name__ == "__main__":
    main()
