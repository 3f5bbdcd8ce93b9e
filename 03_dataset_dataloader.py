"""03 · Dataset and DataLoader

A `Dataset` returns samples one at a time; a `DataLoader` groups them into batches, shuffled if you
like. The 178 wines of the video are read from a CSV file and loaded in batches of 4. Then a
classifier is trained with several batch sizes, first at the same learning rate for all, then at
rates in proportion to the size.

You will learn
    - what epoch, batch size, and iteration mean
    - how to write a `Dataset`: `__getitem__` returns one sample, `__len__` the number of samples
    - what a `DataLoader` does: batches, shuffling, worker processes, the short last batch
    - what the batch size has to do with the learning rate and with the time of training

Run (add --show to open the figure in a window)
    python 03_dataset_dataloader.py
    python 03_dataset_dataloader.py --num-workers 2     (as in the video)

Changes from the video
    - `next(dataiter)` replaces `dataiter.next()`, which PyTorch has removed.
    - The CSV file comes with scikit-learn, so the script runs from any folder. It has the label in
      the last column, not the first, and the classes 0 to 2, not 1 to 3.
    - `num_workers` is 0: the script loads the batches itself, as starting two workers takes longer
      than reading so little data. On Windows and macOS, each worker is a new Python that imports
      this file first. Without `if __name__ == "__main__":` at the end, the import would run `main`
      again, which stops with a RuntimeError. (Linux needs it, too, from Python 3.14 on.)
    - `FakeData`, random images, replaces MNIST, so that nothing has to be downloaded. The transform
      is what is recommended today in place of `ToTensor` (lesson 04).

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - `--num-workers 2`: where does the run pause now, and why? (On Linux, the pause may be short.)
    - `--lr 5`: which batch sizes need fewer updates than with 0.5? Which do not, and why?
    - `shuffle=False` in the first `train_loader`: what are the labels of the first batch, and why?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=7075s (about 1:57:55), course script:
    09_dataloader.py
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
import torch
import torch.nn as nn
import torchvision
from matplotlib.ticker import LogLocator
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
from torchvision.transforms import v2

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Computing a gradient over all samples of a large dataset takes a long time, and the samples may
# not fit into memory, so they are divided into batches, with an update of the weights after each:
#     for epoch in range(num_epochs):
#         for i in range(total_batches):  # loop over all batches
# epoch: one forward and backward pass of all training samples
# batch size: the number of samples in one forward and backward pass
# number of iterations: the number of passes, each with one batch, in an epoch
# Example: 100 samples with a batch size of 20 make 100 / 20 = 5 iterations per epoch.


class WineDataset(Dataset):
    """178 wines: 13 measurements each, and the grape variety (0, 1, or 2)."""

    def __init__(self):
        # Where scikit-learn is installed. For a file of your own: path = "data/wine.csv"
        path = Path(sklearn.datasets.__file__).parent / "data" / "wine_data.csv"
        xy = np.loadtxt(path, delimiter=",", dtype=np.float32, skiprows=1)  # skip the header
        self.x_data = torch.from_numpy(xy[:, :-1])  # all columns but the last: (178, 13)
        # The last, as a column of floats (178, 1), the shape that lesson 02's loss takes. Lesson
        # 05's takes integers (178,), which would be torch.from_numpy(xy[:, -1].astype(np.int64)).
        self.y_data = torch.from_numpy(xy[:, [-1]])
        self.n_samples = xy.shape[0]

    def __getitem__(self, index):  # dataset[index]: features (13,) and label (1,)
        return self.x_data[index], self.y_data[index]

    def __len__(self):  # len(dataset)
        return self.n_samples


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    print(f"03 Dataset and DataLoader | device: {device} | data: wine, 178 samples")

    # Dataset: class WineDataset, above
    dataset = WineDataset()
    first_data = dataset[0]
    features, labels = first_data
    print(features, labels)

    # DataLoader. shuffle: a new random order in each epoch, so that batches mix the varieties (the
    # file has one after the other). num_workers: processes that load batches while you train.
    train_loader = DataLoader(
        dataset=dataset, batch_size=4, shuffle=True, num_workers=args.num_workers
    )
    dataiter = iter(train_loader)  # convert to an iterator, to look at one batch
    data = next(dataiter)
    features, labels = data
    print(features, labels)  # (4, 13) and (4, 1)

    # Dummy training loop
    num_epochs = 2
    total_samples = len(dataset)
    n_iterations = math.ceil(total_samples / 4)  # 178 / 4 = 44.5 -> 45
    print(f"{total_samples} samples, {n_iterations} iterations per epoch")
    for epoch in range(num_epochs):
        for i, (inputs, labels) in enumerate(train_loader):
            # Forward pass, backward pass, and update would stand here (see `train`, below)
            if (i + 1) % 5 == 0:
                shapes = f"inputs {tuple(inputs.shape)}, labels {tuple(labels.shape)}"
                print(f"epoch: {epoch + 1}/{num_epochs}, step {i + 1}/{n_iterations}, {shapes}")

    # Famous datasets are ready to use in torchvision.datasets. FakeData has 12 random images of
    # 28x28 pixels, each with a random class. For MNIST (lesson 09), the call is
    #     torchvision.datasets.MNIST(root="data", train=True, transform=to_tensor, download=True)
    # to_tensor converts images to float tensors with values from 0 to 1.
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    train_dataset = torchvision.datasets.FakeData(12, (1, 28, 28), transform=to_tensor)
    train_loader = DataLoader(dataset=train_dataset, batch_size=3, shuffle=True)
    dataiter = iter(train_loader)
    data = next(dataiter)
    inputs, targets = data
    print("FakeData:", inputs.shape, targets.shape)

    # Beyond the video: 178 is not a multiple of 4, so the last batch is short. Code that assumes
    # full batches may fail there. With drop_last=True, the loader leaves it out.
    print(f"The last batch has {total_samples % 4} samples")

    # Beyond the video: a validation set, to choose settings on (not used below, where the time of
    # training is compared). Both sets share the dataset, and the transforms that it may have.
    train_set, val_set = random_split(dataset, [0.8, 0.2])
    print(f"random_split: {len(train_set)} training samples, {len(val_set)} validation samples")

    # Beyond the video: batch size and learning rate. Lesson 02's model learns to answer "is it
    # variety 0?" until the loss on all samples, checked after each update, is below 0.05.
    X = (dataset.x_data - dataset.x_data.mean(dim=0)) / dataset.x_data.std(dim=0)
    y = (dataset.y_data == 0).float()
    samples = TensorDataset(X.to(device), y.to(device))  # a ready-made Dataset of tensors
    sizes = (1, 4, 16, 32, 64, 178)
    # At the same low rate, all need about the same number of updates: the loss is the mean over a
    # batch, so its gradient is, on average, the same for any size. (With size 1, it varies most.)
    print("Updates until the loss is below 0.05 (at most 2000; medians of three seeds)")
    same = measure(samples, {n: args.lr for n in sizes}, args.seed)
    # At a rate in proportion to the size (equal at size 10), steps grow with it: all need about the
    # same number of epochs while rates are low (here, up to size 32). So large batches need far
    # fewer updates, and less time, until the rate gets too high (for size 1, see `--lr 5`).
    print("With a learning rate in proportion to the batch size")
    scaled = measure(samples, {n: args.lr / 10 * n for n in sizes}, args.seed)

    draw(same, scaled, args)
    updates = ", ".join(f"{same[n][0]} (batch size {n})" for n in (1, 16, 178))
    print(f"Updates at the same learning rate: {updates} (wine)")
    print("Figure:", args.output_dir / "03_dataset_dataloader.png")
    return {f"updates_{n}": same[n][0] for n in (1, 16, 178)}


# Beyond the video
def measure(samples, rates, seed):
    """Train with each batch size n at the learning rate rates[n]; print what it takes.

    Return {n: (updates, seconds)}, medians of three seeds. An epoch, printed, is 178 samples used.
    """
    results = {}
    for n, lr in rates.items():
        runs = [train(samples, n, lr, seed + i) for i in range(3)]
        updates = statistics.median([n_updates for n_updates, seconds in runs])
        seconds = statistics.median([seconds for n_updates, seconds in runs])
        results[n] = (updates, seconds)
        took = f"{updates:4} updates, {updates * n / len(samples):4.1f} epochs"
        print(f"batch size {n:3}, learning rate {lr:4.3g}: {took}, {1000 * seconds:3.0f} ms")
    return results


def train(samples, batch_size, lr, seed):
    """Train until the loss on all samples is below 0.05; return the updates and their seconds."""
    torch.manual_seed(seed)  # of the initial weights and the order of the samples
    X, y = samples.tensors
    loader = DataLoader(samples, batch_size=batch_size, shuffle=True, drop_last=True)
    model = nn.Linear(13, 1).to(device)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    n_updates = 0
    seconds = 0.0
    while True:
        start = time.perf_counter()
        for inputs, labels in loader:
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            n_updates += 1
            model.bias.item()  # waits until the GPU has finished, so that its time counts
            seconds += time.perf_counter() - start
            with torch.no_grad():  # the time of this check does not count
                if criterion(model(X), y) < 0.05 or n_updates == 2000:  # 2000: give up
                    return n_updates, seconds
            start = time.perf_counter()


def draw(same, scaled, args):
    """Draw updates, epochs, and time for each batch size, with both kinds of rate; save it."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for results, style, label in (
        (same, "o-", f"same learning rate: {args.lr:g}"),
        (scaled, "s--", f"in proportion: {args.lr / 10:g} × batch size"),
    ):
        sizes = list(results)
        axes[0].plot(sizes, [results[n][0] for n in sizes], style, label=label)
        axes[1].plot(sizes, [results[n][0] * n / 178 for n in sizes], style, label=label)
        axes[2].plot(sizes, [1000 * results[n][1] for n in sizes], style, label=label)
    for ax, title in zip(axes, ("Updates", "Epochs", "Milliseconds")):
        ax.set(title=f"{title} until the loss is below 0.05")
        ax.set(xlabel="batch size", xscale="log", yscale="log")
        ax.set_xticks(sizes, labels=sizes)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")  # 100, not 10²
        ax.minorticks_off()
    axes[0].legend()
    figure.savefig(args.output_dir / "03_dataset_dataloader.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--num-workers", type=int, default=0, help="for the first loader")
    parser.add_argument("--lr", type=float, default=0.5, help="the same learning rate for all")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.num_workers < 0 or not 0 < args.lr <= 1000 or not 0 <= args.seed < 2**32:
        parser.error("--num-workers must be >= 0, and 0 < --lr <= 1000, and 0 <= --seed < 2**32")
    return args


if __name__ == "__main__":
    main()
