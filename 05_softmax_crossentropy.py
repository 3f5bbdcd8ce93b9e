"""05 · Softmax and cross-entropy

Softmax turns a network's raw scores, the logits, into probabilities; cross-entropy says how wrong
they are. Both are written by hand and held against PyTorch's, and so are their two-class versions,
sigmoid and binary cross-entropy. Then a frequent mistake with them is measured.

You will learn
    - softmax by hand, and why the largest logit is subtracted first
    - cross-entropy by hand, for one-hot targets and for class indices
    - that `nn.CrossEntropyLoss` takes logits, and what a softmax too many costs
    - that the sigmoid is the softmax of two classes

Run
    python 05_softmax_crossentropy.py
    python 05_softmax_crossentropy.py --epochs 30

Since the video
    - The video's NumPy softmax overflows for logits around 1000; ours does not.
    - The binary network returns a logit for `BCEWithLogitsLoss` instead of a sigmoid for `BCELoss`.
    - The mistake that the video warns of, softmax before `CrossEntropyLoss`, is tried and measured.

Try it
    - `--epochs 60`: does the network with one softmax too many catch up?
    - `--lr 0.5`: which of the two networks gains more?
    - Change `LOGITS` to three equal numbers. What are the probabilities, and what is the loss?
      (Compare it with `np.log(3)`.)

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=8653s (about 2:24:13)
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "05_softmax_crossentropy"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__
LOGITS = [2.0, 1.0, 0.1]  # for the first table, and the bars of the figure
GOOD, BAD = LOGITS, [0.5, 2.0, 0.3]  # logits of two predictions; class 0 is the true one


# %% 0) Softmax
def softmax_naive(logits: np.ndarray) -> np.ndarray:
    """Return exp(z_i) / sum_j exp(z_j), as the formula stands: overflows for large logits."""
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def softmax_numpy(logits: np.ndarray) -> np.ndarray:
    """Return the same probabilities, safe for every logit.

    A shift of all logits changes nothing: exp(z_i - m) / sum_j exp(z_j - m) loses the factor
    exp(-m) above and below. With m the largest logit, no exponent is above 0.
    """
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def softmax(logits: Tensor) -> Tensor:
    """Return the probabilities of logits (..., C) in PyTorch."""
    exponentials = torch.exp(logits - logits.amax(dim=-1, keepdim=True))
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


# %% 1) Cross-entropy
def log_softmax(logits: Tensor) -> Tensor:
    """Return log p_i = z_i - log sum_j exp(z_j), shifted as softmax is.

    It stays finite where p_i itself is so small that it becomes 0, and its logarithm -inf.
    """
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted - torch.exp(shifted).sum(dim=-1, keepdim=True).log()


def cross_entropy_one_hot(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Return the mean of -sum_c y_c log p_c for logits (N, C) and one-hot targets (N, C).

    One-hot: 1 at the true class, 0 elsewhere.
    """
    return -(one_hot * log_softmax(logits)).sum(dim=1).mean()


def cross_entropy_index(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the same mean for class indices (N,): only the true class's probability counts."""
    return -log_softmax(logits)[torch.arange(len(targets)), targets].mean()  # (N, C) -> (N,) -> ()


# %% 2) Two classes: sigmoid and binary cross-entropy
def two_logits(logits: Tensor) -> Tensor:
    """Return logits (N,) of "yes" as (N, 2), with a 0 for "no": exp(z) / (exp(z) + exp(0))."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


def sigmoid(logits: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-z)), (N,): the softmax of two classes, of which one has logit 0."""
    return softmax(two_logits(logits))[:, 0]


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -y log p - (1 - y) log(1 - p), with p = sigmoid(z)."""
    log_p = log_softmax(two_logits(logits))  # (N, 2): log p and log(1 - p)
    return -(targets * log_p[:, 0] + (1 - targets) * log_p[:, 1]).mean()


# %% 3) Prepare data and model
def load_data(limit: int | None) -> list[Tensor]:
    """Return X_train (N, 64), y_train (N,), X_test, y_test of the 8x8 digits; pixels in 0..1."""
    X, y = load_digits(return_X_y=True)  # (N, 64), 0..16
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=0, stratify=y)
    X = torch.tensor(X / 16, dtype=torch.float32, device=DEVICE)
    y = torch.tensor(y, device=DEVICE)
    return [X[train[:limit]], y[train[:limit]], X[test[:limit]], y[test[:limit]]]


def make_model(n_outputs: int) -> nn.Sequential:
    """Return a network (N, 64) -> (N, n_outputs) of logits, on the device."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_outputs))
    return model.to(DEVICE)


# %% 4) Training loop, right and wrong
def train(
    model: nn.Module,
    criterion: nn.Module,
    parts: list[Tensor],
    lr: float,
    batch_size: int,
    epochs: int,
) -> list[float]:
    """Train on batches and return the accuracy on the test part after each epoch."""
    X_train, y_train, X_test, y_test = parts
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    accuracies = []
    for _ in range(epochs):
        # As a DataLoader shuffles and deals, for data that is on the device already:
        for batch in torch.randperm(len(X_train)).split(batch_size):
            loss = criterion(model(X_train[batch]), y_train[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.inference_mode():
            logits = model(X_test)
        if logits.ndim == 2:  # (N, C): the class with the largest logit
            predicted = logits.argmax(dim=1)
        else:  # (N,): positive where the probability is above a half
            predicted = logits > 0
        accuracies.append((predicted == y_test).float().mean().item())
    return accuracies


# %% 5) By hand and by the library
def print_softmax() -> dict[str, float]:
    """Print what softmax makes of some logits; return its error and what the naive form gives."""
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    by_hand = softmax(logits)
    large = np.array([1000.0, 999.0, 998.0])
    with np.errstate(all="ignore"):  # the overflow is what we want to see
        naive = softmax_naive(large)
    rows = {
        "logits": LOGITS,
        "softmax": by_hand,
        "of logits + 100": softmax(logits + 100),
        "of logits * 2": softmax(logits * 2),
        "of 1000 999 998": softmax_numpy(large),
        "  the naive way": naive,
    }
    for label, values in rows.items():
        print(f"{label:16}" + "".join(f"{value:8.4f}" for value in values))
    library = torch.softmax(logits, dim=0)
    numpy_error = np.abs(softmax_numpy(np.array(LOGITS)) - library.numpy()).max()
    error = max(float(numpy_error), (by_hand - library).abs().max().item())
    print(f"The probabilities sum to {by_hand.sum():.6f}. A shift changes nothing, a scale does:")
    print("logits * 2 is temperature 1/2, and the lower the temperature, the surer the choice.")
    print(f"By hand and by torch.softmax they differ by {error:.1e} at most.")
    return {"softmax_error": error, "naive_is_nan": float(np.isnan(naive).all())}


def print_losses() -> dict[str, float]:
    """Print the losses of three predictions by hand and by the library; return what matters."""
    target = torch.tensor([0])  # class 0 is the true one
    one_hot = F.one_hot(target, num_classes=3)
    losses, errors = {}, []
    print("\ncross-entropy   logits                by index    one-hot   library   log of softmax")
    for name, values in (("good", GOOD), ("bad", BAD), ("very bad", [0.0, 1000.0, 0.0])):
        logits = torch.tensor([values], dtype=torch.float64)  # (1, 3)
        losses[name] = cross_entropy_index(logits, target).item()
        by_one_hot = cross_entropy_one_hot(logits, one_hot).item()
        library = nn.CrossEntropyLoss()(logits, target).item()
        naive = -torch.log(softmax(logits)[0, 0]).item()
        print(f"{name:15} {values!s:18} {losses[name]:11.4f} {by_one_hot:10.4f}", end=" ")
        print(f"{library:9.4f} {naive:16.4f}")
        errors += [abs(losses[name] - library), abs(by_one_hot - library)]
    print("The loss takes logits: where a probability becomes 0, its logarithm is lost.")

    z = torch.tensor([-3.0, 0.5, 2.0], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    sigmoid_error = (sigmoid(z) - torch.sigmoid(z)).abs().max().item()
    bce_error = abs(binary_cross_entropy(z, y) - nn.BCEWithLogitsLoss()(z, y)).item()
    print(f"Softmax of (z, 0) and torch.sigmoid(z) differ by {sigmoid_error:.1e},", end=" ")
    print(f"binary cross-entropy\nby hand and BCEWithLogitsLoss by {bce_error:.1e}.")
    return {
        "cross_entropy_error": max(errors),
        "bce_error": bce_error,
        "loss_good": losses["good"],
        "loss_bad": losses["bad"],
    }


# %% 6) Plot
def plot(accuracies: dict[str, list[float]]) -> plt.Figure:
    """Draw the loss by probability, softmax at three temperatures, and the two trainings."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    p = torch.linspace(0.01, 1, 200)
    left.plot(p, -torch.log(p), color="0.4")
    for name, logits, style in (("good", GOOD, "C0o"), ("bad", BAD, "C1s")):
        probability = softmax(torch.tensor(logits))[0]
        left.plot(probability, -torch.log(probability), style, ms=9, label=f"{name} prediction")
    left.set(title="Cross-entropy: -log p", xlabel="probability p of the true class", ylabel="loss")
    left.legend()

    for i, temperature in enumerate((0.5, 1.0, 5.0)):
        places = np.arange(3) + 0.27 * (i - 1)  # three bars side by side at each logit
        heights = softmax_numpy(np.array(LOGITS) / temperature)
        middle.bar(places, heights, width=0.25, label=f"temperature {temperature:g}")
    middle.set(title="softmax(logits / temperature)", xlabel="logit", ylabel="probability")
    middle.set_xticks(range(3), LOGITS)
    middle.legend()

    for (label, values), style in zip(accuracies.items(), ("C0-", "C1--"), strict=True):
        right.plot(range(1, len(values) + 1), values, style, label=label)
    right.set(title="The same network, 8x8 digits", xlabel="epoch", ylabel="test accuracy")
    right.locator_params(axis="x", integer=True)
    right.set_ylim(0, 1)
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
        description="Softmax, cross-entropy and sigmoid by hand, and a mistake measured.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=20, metavar="N", help="passes over the data")
    add("--batch-size", type=int, default=32, metavar="N", help="samples in a batch")
    add("--lr", type=float, default=0.1, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples of each part")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.batch_size < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--epochs, --batch-size and --limit must be at least 1")
    if not 0 < args.lr < float("inf") or not 0 <= args.seed < 2**32:
        parser.error("--lr must be finite and above 0, and --seed from 0 to 2**32 - 1")
    return args


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    make_output_dir(args.output_dir)
    torch.manual_seed(args.seed)

    X_train, y_train, X_test, y_test = load_data(args.limit)
    n_train, n_test = len(X_train), len(X_test)
    sizes = f"8x8 digits, {n_train} training and {n_test} test images"
    print(f"05 Softmax and cross-entropy | device: {DEVICE} | data: {sizes}\n")

    metrics = print_softmax() | print_losses()

    lr, batch_size, epochs = args.lr, args.batch_size, args.epochs
    digits = [X_train, y_train, X_test, y_test]
    torch.manual_seed(args.seed)
    right = train(make_model(10), nn.CrossEntropyLoss(), digits, lr, batch_size, epochs)
    torch.manual_seed(args.seed)  # the same start and the same batches
    wrong_model = make_model(10).append(nn.Softmax(dim=1))  # the mistake
    wrong = train(wrong_model, nn.CrossEntropyLoss(), digits, lr, batch_size, epochs)
    torch.manual_seed(args.seed)
    is_three = [X_train, (y_train == 3).float(), X_test, (y_test == 3).float()]
    binary_model = make_model(1).append(nn.Flatten(start_dim=0))  # (N, 1) -> (N,)
    binary = train(binary_model, nn.BCEWithLogitsLoss(), is_three, lr, batch_size, epochs)

    print("\nepoch   logits into CrossEntropyLoss   softmax in between   is it a 3?")
    for epoch in np.unique(np.linspace(1, epochs, 6).astype(int)):  # at most 6 rows
        row = right[epoch - 1], wrong[epoch - 1], binary[epoch - 1]
        print("{:5d} {:30.1%} {:20.1%} {:12.1%}".format(epoch, *row))
    share = (y_test != 3).float().mean().item()
    print(f"(To say 'no 3' every time would be right in {share:.1%} of the cases.)")
    most = math.e / (math.e + 9)
    print("CrossEntropyLoss applies a softmax itself. One more squeezes its input into 0..1: then")
    print(f"the best of ten classes gets at most e / (e + 9) = {most:.0%}, and a perfect answer")
    print(f"still costs a loss of {-math.log(most):.2f}.")

    figure_path = args.output_dir / f"{LESSON}.png"
    curves = {"logits into the loss": right, "softmax in between": wrong}
    save_figure(plot(curves), figure_path, args.show)
    print(f"\nTest accuracy: {right[-1]:.1%} with logits,", end=" ")
    print(f"{wrong[-1]:.1%} with a softmax too many (8x8 digits)")
    print(f"Figure: {figure_path}")
    return metrics | {
        "accuracy_logits": right[-1],
        "accuracy_double_softmax": wrong[-1],
        "accuracy_binary": binary[-1],
        "n_train": n_train,
        "n_test": n_test,
    }


if __name__ == "__main__":
    main()
