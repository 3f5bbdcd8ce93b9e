"""07 · Convolutional neural network on CIFAR-10

A convolution looks for one small pattern everywhere in an image; pooling keeps the strongest
answers. Four convolutions and three poolings turn 32x32 pixels into features from which two linear
layers tell plane, car, bird and seven more apart. The network is the video's idea with today's
recipe.

You will learn
    - how `nn.Conv2d` and `nn.MaxPool2d` change the shape of a batch, layer by layer
    - the recipe around the network: batch norm, momentum, a schedule, augmentation
    - how to measure the accuracy of a network and of each class, in `eval()` mode
    - how to save what was learned

Run
    python 07_cnn_cifar10.py
    python 07_cnn_cifar10.py --epochs 12

Since the video
    - The video's network reaches 49% in 5 epochs; ours gets past that in its first.
    - Batches of 128 instead of 4, and augmented as a whole: the processor is kept busy.
    - `model.eval()` before testing, and class counts that hold when the last batch is short.
    - Each test image is seen twice, as it is and mirrored (test-time augmentation).
    - Without the internet, the lesson goes on with scikit-learn's digits.

Try it
    - `--epochs 12`: more than twice the time. How many points does it buy?
    - `--lr 0.001`: as small as the video's. How far does it come now?
    - `return images` as the first line of `augment`: how far do the two curves lie apart on
      CIFAR-10? (The digits are too easy to show it.)

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=11653s (about 3:14:13)
"""

import argparse
import math
import queue
import socket
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity, download_url

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "07_cnn_cifar10"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__


# %% 0) Prepare data
class Data(NamedTuple):
    """Images as uint8 (N, 3, 32, 32) and their classes (N,): a part to train on, one to test on."""

    name: str
    classes: list[str]
    mirror: bool  # a mirrored car is a car, a mirrored 3 is no 3
    X_train: Tensor
    y_train: Tensor
    X_test: Tensor
    y_test: Tensor


def load_cifar10(data_dir: Path) -> Data:
    """Read CIFAR-10, fetching it first where it is missing. Raises OSError or RuntimeError."""
    try:
        train = CIFAR10(data_dir, train=True)  # torchvision checks the MD5 sum of each file
    except RuntimeError:  # missing or damaged
        fetch_cifar10(data_dir)
        train = CIFAR10(data_dir, train=True)
    test = CIFAR10(data_dir, train=False)
    tensors = []
    for part in (train, test):
        tensors.append(torch.tensor(part.data).permute(0, 3, 1, 2).contiguous())  # (N, 3, 32, 32)
        tensors.append(torch.tensor(part.targets))
    return Data("cifar10", train.classes, True, *tensors)


def load_digits_as_images() -> Data:
    """Return scikit-learn's 8x8 digits in the shape of CIFAR-10."""
    X, y = load_digits(return_X_y=True)  # (N, 64), 0..16
    X = torch.tensor(X, dtype=torch.float32).reshape(-1, 1, 8, 8) * 255 / 16
    X = F.interpolate(X, size=32, mode="bilinear").round().byte().repeat(1, 3, 1, 1)
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=0, stratify=y)
    y = torch.tensor(y)
    names = [str(digit) for digit in range(10)]
    return Data("digits", names, False, X[train], y[train], X[test], y[test])


def load_data(dataset: str, data_dir: Path) -> tuple[Data, str]:
    """Return the data, and what to tell the user where it is not what was hoped for."""
    if dataset == "digits":
        return load_digits_as_images(), ""
    try:
        return load_cifar10(data_dir), ""
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # on one line
    problem = f"CIFAR-10 is not whole in {data_dir} and cannot be downloaded ({reason})"
    if dataset == "cifar10":
        sys.exit(f"{problem}. Put {CIFAR10.url} there by hand, or use --dataset digits.")
    return load_digits_as_images(), f"{problem}: going on with scikit-learn's 8x8 digits"


def augment(images: Tensor, mirror: bool) -> Tensor:
    """Shift each image of a batch (N, 3, 32, 32) by up to one pixel, and mirror half of them.

    A network that rarely sees the same pixels twice cannot learn them by heart. All images are
    moved at once, by indexing: one image at a time would take longer than the training step.
    """
    n, device = len(images), images.device
    padded = F.pad(images, (1, 1, 1, 1))  # (N, 3, 34, 34)
    top, left = torch.randint(3, (2, n, 1, 1), device=device)  # each 0, 1 or 2
    rows = top + torch.arange(32, device=device).reshape(1, 32, 1)  # (N, 32, 1)
    columns = left + torch.arange(32, device=device)  # (N, 1, 32)
    if mirror:
        flipped = torch.rand(n, 1, 1, device=device) < 0.5
        columns = torch.where(flipped, columns.flip(2), columns)
    each = torch.arange(n, device=device).reshape(n, 1, 1)
    # Together the three indices are (N, 32, 32): a place in `padded` for every pixel of the result.
    return padded.permute(0, 2, 3, 1)[each, rows, columns].permute(0, 3, 1, 2)


def to_input(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in -1..1.

    channels_last puts the channels of a pixel side by side in memory. The shape stays the same, and
    convolutions are faster.
    """
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


# %% 1) Model
class ConvNet(nn.Module):
    """Four convolutions and two linear layers: images (N, 3, 32, 32) -> logits (N, n_classes)."""

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        # padding=1 keeps a 3x3 convolution's output as large as its input.
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)  # the norm has a bias
        self.conv2 = nn.Conv2d(16, 64, kernel_size=3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(64, 96, kernel_size=3, padding=1, bias=False)
        self.conv4 = nn.Conv2d(96, 128, kernel_size=3, padding=1, bias=False)
        # Batch norm brings each channel of a batch to mean 0 and deviation 1, then scales and
        # shifts it by learned numbers. With it, large steps are safe.
        self.norm1, self.norm2 = nn.BatchNorm2d(16), nn.BatchNorm2d(64)
        self.norm3, self.norm4 = nn.BatchNorm2d(96), nn.BatchNorm2d(128)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(128 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, n_classes)

    def forward(self, X: Tensor) -> Tensor:
        # (N, 3, 32, 32). Pooling before norm and ReLU leaves them a quarter of the work.
        X = F.relu(self.norm1(self.pool(self.conv1(X))))  # (N, 16, 16, 16)
        X = F.relu(self.norm2(self.pool(self.conv2(X))))  # (N, 64, 8, 8)
        X = F.relu(self.norm3(self.pool(self.conv3(X))))  # (N, 96, 4, 4)
        X = F.relu(self.norm4(self.conv4(X)))  # (N, 128, 4, 4)
        X = X.flatten(start_dim=1)  # (N, 2048)
        X = F.relu(self.fc1(X))  # (N, 128)
        return self.fc2(X)  # (N, n_classes)


# %% 2) Loss and optimizer, 3) Training loop
def train(
    model: nn.Module, data: Data, lr: float, batch_size: int, epochs: int
) -> tuple[dict[str, list[float]], float]:
    """Train; return the accuracy on the training and the test part by epoch, and the seconds."""
    n_steps = math.ceil(len(data.X_train) / batch_size)  # the last batch may be short
    # Smoothed labels (0.91 for the true class, 0.01 for each other) keep it from being too sure.
    # Even a perfect network then has a loss of 0.50.
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    # Momentum carries on through small bumps (Nesterov's looks one step ahead); weight decay keeps
    # the weights small.
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-3
    )
    # One cycle: the learning rate warms up, then falls to nearly 0 for the finish.
    scheduler = OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * n_steps, cycle_momentum=False)
    history, seconds = {"training": [], "test": []}, 0.0
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        model.train()
        # Sums stay on the device: to fetch them at every step would make a GPU wait.
        loss_sum, n_right = torch.zeros(2, device=DEVICE)
        batches = torch.randperm(len(data.X_train)).to(DEVICE).split(batch_size)
        for step, batch in enumerate(batches, start=1):
            images, targets = data.X_train[batch], data.y_train[batch]
            logits = model(to_input(augment(images, data.mirror)))
            loss = criterion(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()  # after every batch, not every epoch
            loss_sum += loss.detach() * len(batch)
            n_right += (logits.argmax(dim=1) == targets).sum()
            if step % 100 == 0:
                print(f"    step {step} of {n_steps}: loss {loss.item():.4f}", flush=True)
        loss_train = loss_sum.item() / len(data.X_train)
        accuracy_train = n_right.item() / len(data.X_train)
        seconds += time.perf_counter() - start
        predicted = predict(model, data.X_test, data.mirror).argmax(dim=1)
        accuracy_test = (predicted == data.y_test).float().mean().item()
        history["training"].append(accuracy_train)
        history["test"].append(accuracy_test)
        print(f"epoch {epoch:2d} of {epochs}: training loss {loss_train:.4f},", end=" ")
        print(f"accuracy {accuracy_train:.1%}, test accuracy {accuracy_test:.1%},", end=" ")
        print(f"{seconds:.1f} s", flush=True)
    return history, seconds


# %% 4) Evaluate
@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, mirror: bool) -> Tensor:
    """Return the logits (N, n_classes) of uint8 images (N, 3, 32, 32).

    With `mirror`, the mean of the image's and its mirror image's: two looks see more than one.
    (This is called test-time augmentation, and brings about one point on CIFAR-10.)
    """
    model.eval()  # batch norm then uses its running averages, not the batch at hand
    logits = []
    for batch in images.split(500):
        batch = to_input(batch)
        views = [batch, batch.flip(3)] if mirror else [batch]
        logits.append(sum(model(view) for view in views) / len(views))
    return torch.cat(logits)


def accuracy_by_class(predicted: Tensor, targets: Tensor, classes: list[str]) -> dict[str, float]:
    """Return the share of right answers among the images of each class that has any."""
    accuracies = {}
    for index, name in enumerate(classes):
        of_class = targets == index
        if of_class.any():
            accuracies[name] = (predicted[of_class] == index).float().mean().item()
    return accuracies


# %% 5) Plot
def plot(
    history: dict[str, list[float]],
    by_class: dict[str, float],
    data: Data,
    predicted: Tensor,
) -> plt.Figure:
    """Draw the accuracy by epoch and by class, and test images that were right and wrong."""
    figure = plt.figure(figsize=(11, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    left, right = top.subplots(1, 2)
    epochs = range(1, len(history["test"]) + 1)
    left.plot(epochs, history["training"], "C0-o", label="training")
    left.plot(epochs, history["test"], "C1--s", label="test")
    left.set(title=f"Accuracy by epoch ({data.name})", xlabel="epoch", ylabel="accuracy")
    left.locator_params(axis="x", integer=True)
    left.legend()
    bars = right.barh(list(by_class), list(by_class.values()), color="C1")
    right.bar_label(bars, fmt="{:.0%}", padding=-32)
    right.set(title="Test accuracy by class", xlabel="accuracy", xlim=(0, 1))
    right.invert_yaxis()

    axes = bottom.subplots(2, 8)
    is_right = (predicted == data.y_test).cpu()
    for row, mask in zip(axes, (is_right, ~is_right), strict=True):
        for ax in row:
            ax.axis("off")
        for ax, index in zip(row, mask.nonzero().flatten().tolist(), strict=False):
            ax.imshow(data.X_test[index].permute(1, 2, 0).numpy(force=True))
            name, true = (data.classes[int(y[index])] for y in (predicted, data.y_test))
            ax.set_title(name if name == true else f"{name}?\n(is {true})", fontsize=9)
    bottom.suptitle("Test images: predicted right (above) and wrong (below, with the true name)")
    return figure


def save_model(model: nn.Module, path: Path) -> None:
    """Write the state dict whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        torch.save(model.state_dict(), part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # to torch.save, a full disk is a RuntimeError
        part.unlink(missing_ok=True)
        reason = " ".join(str(error).split())
        sys.exit(f"Cannot write {path}: {reason}. Choose another --output-dir.")


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


# %% Download
def ask_host(url: str, seconds: float = 10) -> None:
    """Raise OSError unless the host answers in time: looking up its name alone can take minutes."""
    answers = queue.Queue()
    request = urllib.request.Request(url, method="HEAD")

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=seconds).close())
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()  # a daemon does not keep Python from ending
    try:
        error = answers.get(timeout=seconds)
    except queue.Empty:
        error = TimeoutError(f"no answer within {seconds:g} seconds")
    if error:
        raise error


def fetch_cifar10(data_dir: Path) -> None:
    """Download the archive, unless it is there, and unpack it. Raises OSError or RuntimeError."""
    archive = data_dir / CIFAR10.filename
    if not check_integrity(archive, CIFAR10.tgz_md5):
        ask_host(CIFAR10.url)
        timeout_before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(10)  # a download that stalls ends
        try:
            download_url(CIFAR10.url, data_dir, CIFAR10.filename, CIFAR10.tgz_md5)
        finally:
            socket.setdefaulttimeout(timeout_before)
            if not check_integrity(archive, CIFAR10.tgz_md5):  # half a download is of no use
                archive.unlink(missing_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(data_dir, filter="data")


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
        description="A convolutional network on CIFAR-10, and its accuracy for each class.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=5, metavar="N", help="passes over the data")
    add("--batch-size", type=int, default=128, metavar="N", help="samples in a batch")
    add("--lr", type=float, default=0.1, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples of each part")
    names = ("auto", "cifar10", "digits")
    add("--dataset", choices=names, default="auto", help="auto: digits if CIFAR-10 cannot be had")
    add("--data-dir", type=Path, default=HERE / "data", metavar="DIR", help="for the dataset")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.batch_size < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--epochs, --batch-size and --limit must be at least 1")
    if not 0 < args.lr < float("inf") or not 0 <= args.seed < 2**32:
        parser.error("--lr must be finite and above 0, and --seed from 0 to 2**32 - 1")
    return args


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    make_output_dir(args.output_dir)
    torch.manual_seed(args.seed)

    data, notice = load_data(args.dataset, args.data_dir)
    data = data._replace(
        X_train=data.X_train[: args.limit].to(DEVICE),
        y_train=data.y_train[: args.limit].to(DEVICE),
        X_test=data.X_test[: args.limit].to(DEVICE),
        y_test=data.y_test[: args.limit].to(DEVICE),
    )
    n_train, n_test = len(data.X_train), len(data.X_test)
    sizes = f"{data.name}, {n_train} training and {n_test} test images"
    print(f"07 Convolutional neural network | device: {DEVICE} | data: {sizes}\n")
    if notice:
        print(f"*** {notice} ***\n")

    print("Training accuracy is that of the augmented batches while they are learned. Test")
    print("accuracy is measured in eval() mode, where batch norm uses running averages: in the")
    print("first few steps these lag behind, so on little data the first epoch's can be low.")
    model = ConvNet().to(DEVICE, memory_format=torch.channels_last)
    history, seconds = train(model, data, args.lr, args.batch_size, args.epochs)

    logits = predict(model, data.X_test, data.mirror)
    predicted = logits.argmax(dim=1)
    loss = F.cross_entropy(logits, data.y_test).item()
    by_class = accuracy_by_class(predicted, data.y_test, data.classes)
    print("\nclass        test accuracy")
    for name, share in by_class.items():
        print(f"{name:12} {share:13.1%}")

    figure_path, model_path = args.output_dir / f"{LESSON}.png", args.output_dir / f"{LESSON}.pt"
    save_model(model, model_path)
    save_figure(plot(history, by_class, data, predicted), figure_path, args.show)
    accuracy = history["test"][-1]
    print(f"\nTest accuracy: {accuracy:.1%}, loss {loss:.4f} without smoothing,", end=" ")
    print(f"after {seconds:.1f} s of training ({data.name})")
    print(f"Figure: {figure_path}")
    print(f"Model:  {model_path}")
    print("Load it with")
    print("    model = ConvNet()")
    print(f"    model.load_state_dict(torch.load({str(model_path)!r}, map_location='cpu'))")
    print("    model.eval()")
    return {
        "accuracy": accuracy,
        **{f"accuracy_{name}": share for name, share in by_class.items()},
        "loss": loss,
        "seconds": seconds,
        "dataset": data.name,
        "n_train": n_train,
        "n_test": n_test,
    }


if __name__ == "__main__":
    main()
