"""09 · TensorBoard on MNIST

TensorBoard shows a training while it runs, and compares it with earlier ones. A small network
learns handwritten digits, and everything worth watching is logged: images, loss and accuracy, the
model's graph, a precision-recall curve of each digit, weights, features and hyper-parameters.

You will learn
    - what `SummaryWriter` can log, and with which call
    - how to put training and test into one chart, so that overfitting can be seen
    - how to read a precision-recall curve, one class against all others
    - how to compare two runs with different settings

Run
    python 09_tensorboard_mnist.py
    python 09_tensorboard_mnist.py --lr 0.03

Since the video
    - The images are one tensor, read once, not one PIL picture at a time in every epoch.
    - Loss and accuracy of the test images are logged beside those of the training images.
    - The softmax for the precision-recall curves is taken of all test images at once.
    - `jit.trace`, with which `add_graph` draws the graph, is deprecated: its warnings are silenced.

Try it
    - Run it with `--lr 0.0003`, then with `--lr 0.03`, and compare under Scalars and HParams.
    - `--epochs 20`: training and test loss drift apart. From which step on?
    - Which digit has the lowest average precision? Look for it among the mistakes under Images.

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=13881s (about 3:51:21)
"""

import argparse
import math
import queue
import socket
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.tensorboard import SummaryWriter
from torchvision.datasets import MNIST
from torchvision.utils import make_grid

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "09_tensorboard_mnist"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__
CLASSES = [str(digit) for digit in range(10)]
MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels


# %% 0) Prepare data
class Data(NamedTuple):
    """Images as float32 (N, 1, 28, 28) in 0..1 and their digits (N,), to train and to test on."""

    name: str
    X_train: Tensor
    y_train: Tensor
    X_test: Tensor
    y_test: Tensor


def load_mnist(data_dir: Path) -> Data:
    """Read MNIST. Raises whatever torchvision raises where a file is damaged."""
    tensors = []
    for train in (True, False):
        part = MNIST(data_dir, train=train)
        if len(part.data) != len(part.targets):
            raise ValueError(f"{len(part.data)} images have {len(part.targets)} labels")
        tensors += [part.data.unsqueeze(1) / 255, part.targets]  # (N, 28, 28) -> (N, 1, 28, 28)
    return Data("mnist", *tensors)


def load_digits_as_images() -> Data:
    """Return scikit-learn's 8x8 digits in the shape of MNIST."""
    X, y = load_digits(return_X_y=True)  # (N, 64), 0..16
    X = torch.tensor(X / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    X = F.interpolate(X, size=28, mode="bilinear")
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=0, stratify=y)
    y = torch.tensor(y)
    return Data("digits", X[train], y[train], X[test], y[test])


def load_data(dataset: str, data_dir: Path) -> tuple[Data, str]:
    """Return the data, and what to tell the user where it is not what was hoped for."""
    if dataset == "digits":
        return load_digits_as_images(), ""
    files = [name.removesuffix(".gz") for name, _ in MNIST.resources]
    if not all((data_dir / "MNIST" / "raw" / file).is_file() for file in files):
        try:
            fetch_mnist(data_dir)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # on one line
            problem = f"MNIST is not in {data_dir} and cannot be downloaded ({reason})"
            if dataset == "mnist":
                sys.exit(f"{problem}. Put its files into MNIST/raw there, or use --dataset digits.")
            return load_digits_as_images(), f"{problem}: going on with scikit-learn's 8x8 digits"
    try:
        return load_mnist(data_dir), ""
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        folder = data_dir / "MNIST"
        sys.exit(f"{folder} is damaged ({error}). Delete it; the next run downloads it again.")


# %% 1) Model
class Net(nn.Module):
    """Two linear layers: images (N, 1, 28, 28) -> logits (N, 10)."""

    def __init__(self, n_hidden: int = 500) -> None:
        super().__init__()
        self.hidden = nn.Linear(28 * 28, n_hidden)
        self.relu = nn.ReLU()
        self.output = nn.Linear(n_hidden, 10)

    def features(self, X: Tensor) -> Tensor:
        """Return what the hidden layer makes of the images: (N, n_hidden)."""
        X = (X.flatten(start_dim=1) - MEAN) / STD  # (N, 784)
        return self.relu(self.hidden(X))

    def forward(self, X: Tensor) -> Tensor:
        return self.output(self.features(X))


# %% 2) What is logged before training
def log_start(writer: SummaryWriter, model: nn.Module, images: Tensor) -> None:
    """Log a grid of images and the model's graph."""
    writer.add_image("digits", make_grid(images[:64], nrow=16))
    with warnings.catch_warnings():
        # add_graph draws with torch.jit.trace. Newer versions of torch call that deprecated, twice,
        # but have no other way to draw a graph yet.
        warnings.filterwarnings("ignore", message="`torch.jit.trace(_method)?` is")
        writer.add_graph(model, images[:1])


# %% 3) Training loop
def train(
    model: nn.Module, data: Data, writer: SummaryWriter, lr: float, batch_size: int, epochs: int
) -> list[dict]:
    """Train, log ten to twenty points per epoch (where it has as many steps), and return them."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    n_steps = math.ceil(len(data.X_train) / batch_size)  # the last batch may be short
    scheduler = OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * n_steps, cycle_momentum=False)
    log_every = max(1, n_steps // 10)
    points, step, start = [], 0, time.perf_counter()
    # Sums stay on the device: to fetch them at every step would make a GPU wait.
    sums, n_seen = torch.zeros(2, device=DEVICE), 0  # of the losses, and of the right answers
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(data.X_train)).to(DEVICE).split(batch_size):
            model.train()  # evaluate() leaves it in eval mode
            images, targets = data.X_train[batch], data.y_train[batch]
            logits = model(images)
            loss = criterion(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lr_now = scheduler.get_last_lr()[0]
            scheduler.step()  # after every batch, not every epoch
            step += 1
            sums[0] += loss.detach() * len(batch)
            sums[1] += (logits.argmax(dim=1) == targets).sum()
            n_seen += len(batch)
            if step % log_every == 0 or step % n_steps == 0:
                test_loss, test_accuracy = evaluate(model, data.X_test, data.y_test)
                losses = {"training": sums[0].item() / n_seen, "test": test_loss}
                accuracies = {"training": sums[1].item() / n_seen, "test": test_accuracy}
                writer.add_scalars("loss", losses, step)  # one chart, two lines
                writer.add_scalars("accuracy", accuracies, step)
                writer.add_scalar("learning_rate", lr_now, step)
                points.append({"step": step, "loss": losses, "accuracy": accuracies})
                sums, n_seen = torch.zeros_like(sums), 0
        for name, parameter in model.named_parameters():
            writer.add_histogram(name, parameter, epoch)
        print(f"epoch {epoch:2d} of {epochs}: test loss {test_loss:.4f},", end=" ")
        print(f"test accuracy {test_accuracy:.1%}, {time.perf_counter() - start:.1f} s", flush=True)
    return points


# %% 4) Evaluate
@torch.inference_mode()
def evaluate(model: nn.Module, X: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the loss and the accuracy."""
    model.eval()
    logits = model(X)
    loss = F.cross_entropy(logits, y)
    return loss.item(), (logits.argmax(dim=1) == y).float().mean().item()


def plot_mistakes(images: Tensor, predicted: Tensor, targets: Tensor) -> plt.Figure:
    """Draw up to 15 of the images that were taken for another digit."""
    figure, axes = plt.subplots(3, 5, figsize=(5, 4), layout="constrained")
    wrong = (predicted != targets).nonzero().flatten().tolist()
    for ax in axes.flat:
        ax.axis("off")
    for ax, index in zip(axes.flat, wrong, strict=False):
        ax.imshow(images[index, 0].numpy(force=True), cmap="gray")
        ax.set_title(f"{predicted[index]}? (is {targets[index]})", fontsize=11)
    return figure


@torch.inference_mode()
def log_end(writer: SummaryWriter, model: Net, data: Data, step: int) -> Tensor:
    """Log mistakes, precision-recall curves and features; return the probabilities (N, 10)."""
    probabilities = model(data.X_test).softmax(dim=1)
    predicted = probabilities.argmax(dim=1)
    writer.add_figure("mistakes", plot_mistakes(data.X_test, predicted, data.y_test), step)
    for digit, name in enumerate(CLASSES):  # each digit against all others
        writer.add_pr_curve(
            f"precision_recall/{name}", data.y_test == digit, probabilities[:, digit], step
        )
    some = data.X_test[:500]
    writer.add_embedding(
        model.features(some), metadata=data.y_test[:500].tolist(), label_img=some, global_step=step
    )
    return probabilities.cpu()


def average_precisions(probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the average precision of each digit that there is.

    Precision: of the images called a 3, the share that are. Recall: of all 3s, the share that was
    found. A lower threshold finds more of them, and calls more others a 3: that is the curve, and
    average precision sums up its precision from recall 0 to 1 (`average_precision_score`).
    """
    scores = {}
    for digit, name in enumerate(CLASSES):
        is_digit = targets == digit
        if is_digit.any():
            scores[name] = float(average_precision_score(is_digit, probabilities[:, digit]))
    return scores


# %% 5) Plot
def plot(points: list[dict], probabilities: Tensor, targets: Tensor, name: str) -> plt.Figure:
    """Draw loss and accuracy of both parts, and the precision-recall curve of each digit."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.5), layout="constrained")
    steps = [point["step"] for point in points]
    for ax, key in ((left, "loss"), (middle, "accuracy")):
        for part, style in (("training", "C0-"), ("test", "C1--")):
            ax.plot(steps, [point[key][part] for point in points], style, label=part)
        ax.set(title=f"{key.capitalize()} ({name})", xlabel="step", ylabel=key)
        ax.locator_params(axis="x", integer=True)
        ax.legend()
    for digit, digit_name in enumerate(CLASSES):
        if (targets == digit).any():
            precision, recall, _ = precision_recall_curve(targets == digit, probabilities[:, digit])
            style = "-" if digit < 5 else "--"
            color = f"C{digit % 5}"
            right.plot(recall, precision, style, color=color, ds="steps-post", label=digit_name)
    right.set(title="Precision and recall, from 0.8 on", xlabel="recall", ylabel="precision")
    right.set(xlim=(0.8, 1.005), ylim=(0.8, 1.005))
    right.legend(title="digit", ncols=2, loc="lower left")
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


def fetch_mnist(data_dir: Path) -> None:
    """Download MNIST beside its place and move it there whole. Raises OSError or RuntimeError."""
    ask_host(MNIST.mirrors[0] + MNIST.resources[0][0])
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # a download that stalls ends
    try:
        with tempfile.TemporaryDirectory(dir=data_dir) as folder:
            MNIST(folder, download=True)
            for file in Path(folder, "MNIST", "raw").iterdir():
                file.replace(raw / file.name)
    finally:
        socket.setdefaulttimeout(timeout_before)


# %% Run the lesson
def make_output_dir(path: Path, flag: str = "--output-dir") -> None:
    """Create the folder and try to write to it, so that a mistake shows before the work starts."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        sys.exit(f"Cannot write to {path}: {error.strerror}. Choose another {flag}.")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, or the command line where it is None; a bad value ends with exit status 2."""
    in_notebook = "ipykernel" in sys.modules and any(word.endswith(".json") for word in sys.argv)
    if argv is None and in_notebook:
        argv = ["--show"]  # the command line is Jupyter's, and names its kernel.json
    parser = argparse.ArgumentParser(
        description="Train on MNIST and log everything worth watching to TensorBoard.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=4, metavar="N", help="passes over the data")
    add("--batch-size", type=int, default=100, metavar="N", help="samples in a batch")
    add("--lr", type=float, default=0.003, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples of each part")
    names = ("auto", "mnist", "digits")
    add("--dataset", choices=names, default="auto", help="auto: digits if MNIST cannot be had")
    add("--data-dir", type=Path, default=HERE / "data", metavar="DIR", help="for the dataset")
    add("--log-dir", type=Path, default=HERE / "runs", metavar="DIR", help="for TensorBoard")
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
    make_output_dir(args.log_dir, "--log-dir")
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
    print(f"09 TensorBoard | device: {DEVICE} | data: {sizes}\n")
    if notice:
        print(f"*** {notice} ***\n")

    model = Net().to(DEVICE)
    log_dir = args.log_dir / LESSON / datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
    start = time.perf_counter()
    try:
        with SummaryWriter(log_dir) as writer:  # closed, and so complete, whatever happens
            log_start(writer, model, data.X_train)
            points = train(model, data, writer, args.lr, args.batch_size, args.epochs)
            probabilities = log_end(writer, model, data, points[-1]["step"])
            result = {"loss": points[-1]["loss"]["test"]}
            result["accuracy"] = points[-1]["accuracy"]["test"]
            settings = {"lr": args.lr, "batch_size": args.batch_size, "epochs": args.epochs}
            logged = {f"result/{name}": value for name, value in result.items()}
            writer.add_hparams(settings, logged, run_name=".")  # ".": in the same run
    except KeyboardInterrupt:
        print(f"Stopped. What was logged until now is in {log_dir}", file=sys.stderr)
        sys.exit(130)  # as a shell expects after Ctrl-C
    seconds = time.perf_counter() - start

    targets = data.y_test.cpu()
    print("\ndigit   average precision")
    precisions = average_precisions(probabilities, targets)
    for name, score in precisions.items():
        print(f"{name:5} {score:19.4f}")
    print("Of the images called a 3, precision is the share that are. Of all 3s, recall is the")
    print("share that was found. Average precision sums up the curve of the two; 1 is perfect.")

    figure_path = args.output_dir / f"{LESSON}.png"
    save_figure(plot(points, probabilities, targets, data.name), figure_path, args.show)
    print(f"\nTest accuracy: {result['accuracy']:.1%} after {seconds:.1f} s", end=" ")
    print(f"of training and logging ({data.name})")
    print(f"Figure: {figure_path}")
    print(f"Log:    {log_dir}\n")
    print(f"Look at it with   tensorboard --logdir {args.log_dir}   and open http://localhost:6006")
    print("    Scalars       do training and test drift apart? (In the list on the left, each is a")
    print("                  run of its own.) Does the learning rate rise and fall?")
    print("    Images        the digits, and at the end the mistakes: would you have known?")
    print("    Graphs        input, Net, output; a double-click on Net shows its layers")
    print("    Histograms    the weights spread out a little from epoch to epoch")
    print("    PR curves     the further a digit's curve stays in the upper right, the better")
    print("    Projector     the features of 500 test images, coloured by digit: they form islands")
    print("    HParams       this run's settings and result, beside those of other runs")
    return {
        **result,
        **{f"average_precision_{name}": score for name, score in precisions.items()},
        "seconds": seconds,
        "dataset": data.name,
        "n_train": n_train,
        "n_test": n_test,
        "log_dir": str(log_dir),
    }


if __name__ == "__main__":
    main()
