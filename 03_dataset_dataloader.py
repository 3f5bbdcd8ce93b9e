"""03 · Dataset and DataLoader

A `Dataset` returns samples one at a time; a `DataLoader` groups them into shuffled batches. The 178
wines of the video are loaded in batches of 4, and then a classifier is trained with batches of 1,
of 16, and of all samples, to see what the batch size trades off.

You will learn
    - what epoch, batch size, and iteration mean
    - how to write a `Dataset`: `__getitem__` returns one sample, `__len__` the number of samples
    - what a `DataLoader` does: batches, shuffling, worker processes, the short last batch
    - how the batch size affects training time and loss

Run
    python 03_dataset_dataloader.py
    python 03_dataset_dataloader.py --num-workers 2

Since the video
    - `dataiter.next()` is gone: use `next(dataiter)`, as for every Python iterator.
    - The wines come from scikit-learn, so the script runs from any folder. Their
      classes are numbered from 0 to 2, not from 1 to 3.
    - No worker processes by default: starting them takes longer than reading these few numbers. On
      Windows and macOS (and on Linux from Python 3.14 on) each worker imports this file again;
      without the `__main__` guard at its end, that would run the lesson again and crash.

Try it
    - `--num-workers 2`: how much longer do you wait for the first batch (the second print)?
    - `--epochs 200`: which batch size reaches a loss of 0.1 first, in epochs and in seconds?
    - `shuffle=False` in `train_loader`: what do the labels of the first batch look like, and why?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=7075s (about 1:57:55)
"""

import argparse
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# epoch: one pass over all training samples
# batch size: the number of samples in one forward and backward pass
# iterations: the number of passes in an epoch, each over one batch
# Example: 100 samples with a batch size of 20 make 100 / 20 = 5 iterations per epoch.
class WineDataset(Dataset):
    """178 wines: 13 measurements each, and the grape variety (0, 1, or 2)."""

    def __init__(self) -> None:
        wine = load_wine()
        self.x_data = torch.from_numpy(wine.data).float()  # (178, 13)
        self.y_data = torch.from_numpy(wine.target).float().view(-1, 1)  # (178, 1)
        self.n_samples = self.x_data.shape[0]

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

    # DataLoader. Its own generator makes the order of the samples depend on the seed alone, not on
    # what else draws random numbers.
    order = torch.Generator().manual_seed(args.seed)
    train_loader = DataLoader(
        dataset=dataset, batch_size=4, shuffle=True, num_workers=args.num_workers, generator=order
    )
    dataiter = iter(train_loader)
    data = next(dataiter)
    features, labels = data  # (4, 13) and (4, 1)
    print(features, labels)

    # Dummy training loop
    num_epochs = 2
    total_samples = len(dataset)
    n_iterations = math.ceil(total_samples / 4)
    print(f"{total_samples} samples, {n_iterations} iterations per epoch")
    for epoch in range(num_epochs):
        for i, (inputs, labels) in enumerate(train_loader):
            # here: forward pass, backward pass, and update
            if (i + 1) % 5 == 0:
                step = f"epoch: {epoch + 1}/{num_epochs}, step {i + 1}/{n_iterations}"
                print(f"{step}, inputs {tuple(inputs.shape)}, labels {tuple(labels.shape)}")

    # Famous datasets are ready to use in torchvision.datasets (see lessons 07 and 09):
    #     train_dataset = torchvision.datasets.MNIST(root="data", transform=..., download=True)
    #     train_loader = DataLoader(dataset=train_dataset, batch_size=3, shuffle=True)
    #     inputs, targets = next(iter(train_loader))

    # Beyond the video: 178 is not a multiple of 4, so the last batch is short. Code that assumes
    # full batches fails there. drop_last=True drops it.
    last_batch = len(labels)  # of the loop above
    n_full_batches = len(DataLoader(dataset=dataset, batch_size=4, drop_last=True))
    print(f"last batch: {last_batch} samples; with drop_last: {n_full_batches} batches of 4")

    # Beyond the video: what the batch size trades off. The task is "is it variety 0?"; model, loss,
    # and optimizer are those of lesson 02. A TensorDataset is a ready-made Dataset of tensors.
    X = torch.from_numpy(StandardScaler().fit_transform(dataset.x_data)).float()
    standardized = TensorDataset(X, (dataset.y_data == 0).float())
    results = {}
    for batch_size in (1, args.batch_size, total_samples):
        torch.manual_seed(args.seed)  # the same start for every batch size
        loader = DataLoader(standardized, batch_size=batch_size, shuffle=True)
        losses, seconds = train(loader, args.lr, args.epochs)
        results[batch_size] = losses, seconds
        summary = f"loss {losses[-1]:.4f}, {1000 * seconds[-1] / args.epochs:.1f} ms per epoch"
        print(f"batch size {batch_size:3}, iterations per epoch {len(loader):3}: {summary}")
    # Small batches update the model more often, so they get further in an epoch, but the epoch
    # takes longer. All have the same learning rate; large batches usually allow a larger one.

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for (batch_size, (losses, seconds)), style in zip(results.items(), ("-", "--", "-.")):
        left.plot(range(1, args.epochs + 1), losses, style, label=f"batch size {batch_size}")
        right.plot(seconds, losses, style, label=f"batch size {batch_size}")
    left.set(title="Loss by epoch", xlabel="epoch", ylabel="loss on all samples", yscale="log")
    right.set(title="Loss by time", xlabel="seconds of training", xscale="log")
    left.locator_params(axis="x", integer=True)
    left.legend()
    figure.savefig(args.output_dir / "03_dataset_dataloader.png")
    if args.show:
        plt.show()
    plt.close(figure)

    loss_batch_1, loss_batch_all = results[1][0][-1], results[total_samples][0][-1]
    print(f"Training loss: {loss_batch_1:.4f} at batch size 1, {loss_batch_all:.4f} at 178 (wine)")
    print("Figure:", args.output_dir / "03_dataset_dataloader.png")
    sizes = {"n_samples": total_samples, "n_iterations": n_iterations, "last_batch": last_batch}
    return {**sizes, "loss_batch_1": loss_batch_1, "loss_batch_all": loss_batch_all}


# Beyond the video
def train(loader: DataLoader, lr: float, num_epochs: int) -> tuple[list[float], list[float]]:
    """Train a logistic regression on the loader's TensorDataset.

    Return the loss on all samples and the training time so far in seconds, after each epoch.
    """
    X, y = loader.dataset.tensors
    X, y = X.to(device), y.to(device)
    model = nn.Linear(X.shape[1], 1).to(device)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses, seconds, elapsed = [], [], 0.0
    for _ in range(num_epochs):
        start = time.perf_counter()
        for inputs, labels in loader:
            loss = criterion(model(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()  # waits for the GPU, if any
        elapsed += time.perf_counter() - start
        seconds.append(elapsed)
        with torch.no_grad():
            losses.append(criterion(model(X), y).item())
    return losses, seconds


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=16, help="middle batch size")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that load batches")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.batch_size < 1 or not 0 < args.lr < float("inf"):
        parser.error("--epochs and --batch-size must be at least 1, and --lr finite and above 0")
    if args.num_workers < 0:
        parser.error("--num-workers must be at least 0")
    return args


if __name__ == "__main__":
    main()
