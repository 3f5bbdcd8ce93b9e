"""03 · Dataset and DataLoader

A `Dataset` returns samples one at a time; a `DataLoader` groups them into batches, shuffled if you
like. The 178 wines of the video are read from a CSV file and loaded in batches of 4. Then a
classifier is trained with eight batch sizes, and the time that each takes is compared.

You will learn
    - what epoch, batch size, and iteration mean
    - how to write a `Dataset`: `__getitem__` returns one sample, `__len__` the number of samples
    - what a `DataLoader` does: batches, shuffling, worker processes, the short last batch
    - how the batch size trades the number of epochs against the time of each epoch

Run (add --show to open the figure in a window)
    python 03_dataset_dataloader.py
    python 03_dataset_dataloader.py --num-workers 2     (as in the video)

Changes from the video
    - `next(dataiter)` replaces `dataiter.next()`, which PyTorch has removed.
    - The CSV file comes with scikit-learn, so the script runs from any folder. It has the label in
      the last column, not the first, and the classes 0 to 2, not 1 to 3.
    - `num_workers` is 0: the script loads the batches itself, as starting two workers takes longer
      than reading so little data. On Windows and macOS (and on Linux from Python 3.14 on), each
      worker is a new Python that imports this file first. Without `if __name__ == "__main__":` at
      the end, it would run `main` again, and stop with a RuntimeError.
    - `FakeData`, random images, replaces MNIST, so that nothing has to be downloaded. The transform
      is what is recommended today in place of `ToTensor` (lesson 04).

Try it (answers: docs/answers.md)
    - `--num-workers 2`: where does the run pause now, and why?
    - `--lr 5`: which batch sizes gain from a learning rate ten times as large? Which do not?
    - `shuffle=False` in the first `train_loader`: what are the labels of the first batch, and why?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=7075s (about 1:57:55), course script:
    09_dataloader.py
"""

import argparse
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
import torch
import torch.nn as nn
import torchvision
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters of the training beyond the video (defaults: flags such as --lr change them, see
# parse_args)
max_epochs = 300
learning_rate = 0.5

# To compute a gradient over all samples of a large dataset takes long, and the samples may not fit
# into memory, so they are divided into batches:
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
        self.y_data = torch.from_numpy(xy[:, [-1]])  # the last, as a column of floats: (178, 1)
        self.n_samples = xy.shape[0]

    def __getitem__(self, index):  # dataset[index]: features (13,) and label (1,)
        return self.x_data[index], self.y_data[index]

    def __len__(self):  # len(dataset)
        return self.n_samples


def main(argv=None):
    """Run the lesson with these flags, or the command line's; return metrics for the tests."""
    args = parse_args(argv)
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
    print(total_samples, n_iterations)
    for epoch in range(num_epochs):
        for i, (inputs, labels) in enumerate(train_loader):
            # Forward pass, backward pass, and update would stand here (see `train`, below)
            if (i + 1) % 5 == 0:
                shapes = f"inputs {tuple(inputs.shape)}, labels {tuple(labels.shape)}"
                print(f"epoch: {epoch + 1}/{num_epochs}, step {i + 1}/{n_iterations}, {shapes}")

    # Famous datasets are ready to use in torchvision.datasets. FakeData has 12 random images of
    # 28x28 pixels, each with a random class. For MNIST (lesson 09), the call is
    #     torchvision.datasets.MNIST(root="data", train=True, transform=to_tensor, download=True)
    # to_tensor makes float tensors, from 0 to 1, of images.
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    train_dataset = torchvision.datasets.FakeData(12, (1, 28, 28), transform=to_tensor)
    train_loader = DataLoader(dataset=train_dataset, batch_size=3, shuffle=True)
    dataiter = iter(train_loader)
    data = next(dataiter)
    inputs, targets = data
    print("FakeData:", inputs.shape, targets.shape)

    # Beyond the video: 178 is not a multiple of 4, so the last batch is short. Code that assumes
    # full batches fails there. With drop_last=True, the loader leaves it out.
    last_batch = total_samples % 4
    print(f"The last batch has {last_batch} samples")

    # Beyond the video: how long until the loss of lesson 02's model (here for "is it variety 0?"),
    # checked after each epoch, is below 0.05, with the same learning rate for all? Small batches
    # need few epochs, as an epoch has many updates, but each epoch is slow, as each batch has a
    # fixed cost, however small it is. Large batches make epochs quick, but with few updates. The
    # time is the product, here shortest in between.
    print("Training until the loss is below 0.05, time including loading")
    epochs, seconds = {}, {}
    for batch_size in (1, 2, 4, 8, 16, 32, 64, 178):
        epochs[batch_size], seconds[batch_size] = time_training(dataset, batch_size, args)
        ms = 1000 * seconds[batch_size] / epochs[batch_size]
        print(f"batch size {batch_size:3}: {epochs[batch_size]:3} epochs of {ms:4.1f} ms")
    # Two other things matter. Memory: 64 photos alone (3x224x224 float32 numbers each) take 39 MB,
    # all 1.28 million of ImageNet 771 GB. And larger batches allow larger learning rates: in
    # proportion to the batch size, if the rate is raised gradually in the first epochs, on ImageNet
    # up to batches of 8,192 (Goyal et al., 2017).

    draw(epochs, seconds, args)
    times = ", ".join(f"{1000 * seconds[n]:.0f} ms with batches of {n}" for n in (1, 16, 178))
    print(f"Training time: {times} (wine)")
    print("Figure:", args.output_dir / "03_dataset_dataloader.png")
    metrics = {"n_samples": total_samples, "n_iterations": n_iterations, "last_batch": last_batch}
    for n in (1, 16, 178):
        metrics[f"epochs_{n}"], metrics[f"seconds_{n}"] = epochs[n], seconds[n]
    return metrics


# Beyond the video
def time_training(dataset, batch_size, args):
    """Return the epochs and the seconds until the loss is below 0.05 (the shortest of three runs).

    If the loss is never below 0.05, these are --epochs and the seconds that they took.
    """
    # The question is "is it variety 0?". Model, loss, and optimizer are those of lesson 02, and the
    # features are standardized as there. A TensorDataset is a ready-made Dataset of tensors.
    X = (dataset.x_data - dataset.x_data.mean(dim=0)) / dataset.x_data.std(dim=0)
    y = (dataset.y_data == 0).float()
    loader = DataLoader(TensorDataset(X, y), batch_size=batch_size, shuffle=True)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small gain nothing from more threads
    runs = []
    for run in range(3):
        torch.manual_seed(args.seed)  # the same start and the same order
        runs.append(train(loader, X.to(device), y.to(device), args))
    torch.set_num_threads(n_threads)
    return min(runs)  # the epochs are equal, so this is the shortest time


def train(loader, X, y, args):
    """Train until the loss on all samples is below 0.05; return the epochs and their seconds."""
    model = nn.Linear(13, 1).to(device)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    seconds = 0.0
    for epoch in range(args.epochs):
        start = time.perf_counter()
        for inputs, labels in loader:
            loss = criterion(model(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()  # waits until the GPU has finished, so that its time counts
        seconds += time.perf_counter() - start
        with torch.no_grad():
            if criterion(model(X), y) < 0.05:
                break
    return epoch + 1, seconds


def draw(epochs, seconds, args):
    """Draw epochs, time per epoch, and their product for each batch size; save the figure."""
    sizes = list(epochs)
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    axes[0].plot(sizes, [epochs[size] for size in sizes], "o-")
    axes[0].set(title="Epochs until the loss is below 0.05", ylabel="epochs")
    axes[1].plot(sizes, [1000 * seconds[size] / epochs[size] for size in sizes], "o-")
    axes[1].set(title="× time per epoch", ylabel="milliseconds per epoch")
    axes[2].plot(sizes, [1000 * seconds[size] for size in sizes], "o-")
    axes[2].set(title="= training time", ylabel="milliseconds")
    for ax in axes:
        ax.set(xlabel="batch size", xscale="log", ylim=0)
        ax.set_xticks(sizes, labels=sizes)
        ax.minorticks_off()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output_dir / "03_dataset_dataloader.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.description = __doc__.splitlines()[0]
    parser.add_argument("--epochs", type=int, default=max_epochs, help="at most this many epochs")
    parser.add_argument("--num-workers", type=int, default=0, help="for the first loader")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.num_workers < 0 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, --num-workers 0, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
