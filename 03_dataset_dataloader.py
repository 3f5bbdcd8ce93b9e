"""03 · Dataset and DataLoader

A `Dataset` returns samples one at a time; a `DataLoader` groups them into batches, shuffled if you
like. The 178 wines of the video are read from a CSV file and loaded in batches of 4. Then a
classifier is trained with batches of 1, of 16, and of all samples, to compare loss and time.

You will learn
    - what epoch, batch size, and iteration mean
    - how to write a `Dataset`: `__getitem__` returns one sample, `__len__` the number of samples
    - what a `DataLoader` does: batches, shuffling, worker processes, the short last batch
    - how batch size and learning rate together affect training time and loss

Run
    python 03_dataset_dataloader.py
    python 03_dataset_dataloader.py --num-workers 2

Changes from the video
    - `dataiter.next()` was removed. Use `next(dataiter)`, as for every Python iterator. (As first
      published, the course's script unpacked `first_data` here, and so printed sample 0 again.)
    - The CSV file comes with scikit-learn, so the script runs from any folder. It has the label in
      the last column, not the first, and the classes 0 to 2, not 1 to 3.
    - No worker processes by default, as starting them takes longer than reading so little data. On
      Windows and macOS (and on Linux from Python 3.14 on), a worker may import this file again;
      without the `__main__` guard at its end, that would run the lesson again and crash.
    - `FakeData` replaces MNIST, so that nothing has to be downloaded.

Try it (answers: docs/answers.md)
    - `--num-workers 2`: how much longer does the run take, and why?
    - `--batch-size 64`: where do its curves lie in both halves of the figure?
    - `shuffle=False` in `train_loader`: what do the labels of the first batch look like, and why?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=7075s (about 1:57:55), course script:
    09_dataloader.py
"""

import argparse
import importlib.resources
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters of the training runs beyond the video (the flags change them)
num_epochs = 20
batch_size = 16
learning_rate = 0.08  # for this batch size


# Computing a gradient over all samples of a large dataset takes long, so training uses batches.
# epoch: one pass over all training samples
# batch size: the number of samples in one forward and backward pass
# iterations: the number of batches in an epoch, each used for one update
# Example: 100 samples with a batch size of 20 make 100 / 20 = 5 iterations per epoch.
class WineDataset(Dataset):
    """178 wines: 13 measurements each, and the grape variety (0, 1, or 2)."""

    def __init__(self) -> None:
        # For a file of your own: path = "data/wine.csv", relative to the current folder
        path = importlib.resources.files("sklearn.datasets.data") / "wine_data.csv"
        xy = np.loadtxt(path, delimiter=",", dtype=np.float32, skiprows=1)  # skip the header
        self.x_data = torch.from_numpy(xy[:, :-1])  # all columns but the last: (178, 13)
        self.y_data = torch.from_numpy(xy[:, [-1]])  # the last, as a column: (178, 1)
        self.n_samples = xy.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one sample, for `dataset[index]`: features (13,) and label (1,)."""
        return self.x_data[index], self.y_data[index]

    def __len__(self) -> int:
        """Return the number of samples, for `len(dataset)`."""
        return self.n_samples


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    # Dataset: class WineDataset, above
    dataset = WineDataset()
    print(f"03 Dataset and DataLoader | device: {device} | data: wine, {len(dataset)} samples")
    first_data = dataset[0]
    features, labels = first_data
    print(features, labels)

    # DataLoader. shuffle: a new order in each epoch, so that batches mix the classes, which the
    # file has one after the other. num_workers: processes that load batches while you train.
    train_loader = DataLoader(
        dataset=dataset, batch_size=4, shuffle=True, num_workers=args.num_workers
    )
    dataiter = iter(train_loader)  # convert to an iterator, to look at one batch
    data = next(dataiter)
    features, labels = data
    print(features, labels)  # (4, 13) and (4, 1)

    # Dummy training loop
    num_epochs = 2  # only here; the training runs below use args.epochs
    total_samples = len(dataset)
    n_iterations = math.ceil(total_samples / 4)  # 178 / 4 = 44.5 -> 45
    print(total_samples, n_iterations)
    for epoch in range(num_epochs):
        for i, (inputs, labels) in enumerate(train_loader):
            # here: forward pass, backward pass, and update
            if (i + 1) % 5 == 0:
                step = f"epoch: {epoch + 1}/{num_epochs}, step {i + 1}/{n_iterations}"
                print(f"{step}, inputs {tuple(inputs.shape)}, labels {tuple(labels.shape)}")

    # Famous datasets are ready to use in torchvision.datasets. The transform makes float tensors of
    # images (see lesson 04). For MNIST, which is downloaded (see lesson 09), the call is
    #     torchvision.datasets.MNIST(root="data", train=True, transform=..., download=True)
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    fake_dataset = torchvision.datasets.FakeData(12, (1, 28, 28), transform=to_tensor)
    fake_loader = DataLoader(dataset=fake_dataset, batch_size=3, shuffle=True)
    inputs, targets = next(iter(fake_loader))
    print(f"FakeData: inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}")

    # Beyond the video: 178 is not a multiple of 4, so the last batch is short. Code that assumes
    # full batches fails there. drop_last=True drops it.
    last_batch = total_samples % 4  # 178 = 44 * 4 + 2
    n_full_batches = len(DataLoader(dataset=dataset, batch_size=4, drop_last=True))
    print(f"last batch: {last_batch} samples; with drop_last: {n_full_batches} batches of 4")

    # Beyond the video: does the batch size matter? The task is "is it variety 0?"; model, loss, and
    # optimizer are those of lesson 02. A TensorDataset is a ready-made Dataset of tensors. There is
    # no test set here, so the scaler may see all samples.
    X = torch.from_numpy(StandardScaler().fit_transform(dataset.x_data.numpy()))
    standardized = TensorDataset(X, (dataset.y_data == 0).float())
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharex=True)
    epochs = range(1, args.epochs + 1)
    metrics = {"n_samples": total_samples, "n_iterations": n_iterations, "last_batch": last_batch}
    for size, name in ((1, "1"), (args.batch_size, "some"), (total_samples, "all")):
        loader = DataLoader(standardized, batch_size=size, shuffle=True)
        # With a learning rate proportional to the batch size (Goyal et al., 2017), all get about as
        # far in an epoch, and large batches take less time
        lr = args.lr * size / args.batch_size
        losses, seconds = train(loader, lr, args.epochs, args.seed)
        label = f"batch size {size}: {1000 * seconds:.1f} ms per epoch"
        print(f"{label}, learning rate {lr:.3f}, loss {losses[-1]:.4f}")
        axes[0].plot(epochs, losses, label=label)
        metrics[f"loss_{name}"] = losses[-1]
        metrics[f"seconds_{name}"] = seconds
        # With one learning rate for all, large batches get less far, as they make fewer updates
        losses, _ = train(loader, args.lr, args.epochs, args.seed)
        print(f"batch size {size}, learning rate {args.lr:.3f}, loss {losses[-1]:.4f}")
        axes[1].plot(epochs, losses, label=f"batch size {size}")
        metrics[f"loss_same_lr_{name}"] = losses[-1]
    axes[0].set_title("Learning rate proportional to the batch size")
    axes[1].set_title(f"Learning rate {args.lr:g} for all batch sizes")
    for ax in axes:
        ax.set(xlabel="epoch", ylabel="loss on all samples", yscale="log", ylim=(0.005, 1))
        ax.locator_params(axis="x", integer=True)
        ax.legend()
    figure.savefig(args.output_dir / "03_dataset_dataloader.png")
    if args.show:
        plt.show()

    result = f"{metrics['loss_1']:.4f} with batches of 1, {metrics['loss_all']:.4f} with all"
    print(f"Training loss: {result} (wine)")
    print("Figure:", args.output_dir / "03_dataset_dataloader.png")
    return metrics


# Beyond the video
def train(loader: DataLoader, lr: float, num_epochs: int, seed: int) -> tuple[list[float], float]:
    """Train a logistic regression on the loader's TensorDataset; `seed` sets the initial weights.

    Return the loss on all samples after each epoch, and the training time in seconds per epoch.
    """
    torch.manual_seed(seed)
    X, y = loader.dataset.tensors
    X, y = X.to(device), y.to(device)
    model = nn.Linear(X.shape[1], 1).to(device)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    criterion(model(X), y).backward()  # not measured: the first pass takes longer on a GPU
    optimizer.zero_grad()
    losses, seconds = [], 0.0
    for _ in range(num_epochs):
        start = time.perf_counter()
        for inputs, labels in loader:
            loss = criterion(model(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()  # waits until the GPU has finished, so that its time is counted
        seconds += time.perf_counter() - start
        with torch.no_grad():
            losses.append(criterion(model(X), y).item())
    return losses, seconds / num_epochs


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="between 1 and all")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that load batches")
    parser.add_argument("--lr", type=float, default=learning_rate, help="for --batch-size")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if min(args.epochs, args.batch_size) < 1 or not 0 < args.lr < float("inf"):
        parser.error("--epochs and --batch-size must be at least 1, and --lr finite and above 0")
    if args.num_workers < 0:
        parser.error("--num-workers must be at least 0")
    return args


if __name__ == "__main__":
    main()
