"""05 · Softmax and cross-entropy

Softmax turns the raw scores of a network, the logits, into probabilities; cross-entropy measures
how wrong they are. Both are written by hand and compared with PyTorch's. Then two networks are
trained with them, and the cost of a common mistake is measured.

    Linear -> logits [2.0, 1.0, 0.1] -> Softmax -> probabilities [0.66, 0.24, 0.10]

You will learn
    - softmax and cross-entropy by hand
    - that `nn.CrossEntropyLoss` takes logits and class labels, and what an extra softmax costs
    - which output and which loss to use for binary and for multiclass problems
    - that the sigmoid is a softmax over two classes

Run
    python 05_softmax_crossentropy.py
    python 05_softmax_crossentropy.py --epochs 50

Since the video
    - The binary network returns a logit for `BCEWithLogitsLoss`, which is numerically more stable
      than a sigmoid followed by `BCELoss` (see lesson 02).
    - Both networks are trained, on scikit-learn's 8x8 digits, with 32 hidden units.
    - The video's NumPy softmax overflows for logits around 1000. `stable_softmax` does not.

Try it
    - `--epochs 2000`: does the network with the extra softmax catch up in accuracy?
    - Set torch's `x` under "# Softmax" to three equal numbers. What are the probabilities?
    - Return `torch.sigmoid(...)` from `NeuralNet1`. What happens to the accuracy of "is it a 3?"

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=8653s (about 2:24:13)
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def softmax(x: np.ndarray) -> np.ndarray:
    """Return exp(x_i) / sum_j exp(x_j): positive numbers that sum to 1."""
    return np.exp(x) / np.sum(np.exp(x), axis=0)


def cross_entropy(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Return -sum_i actual_i * log(predicted_i), for a one-hot target and probabilities."""
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)  # log(0) is -infinity
    return -np.sum(actual * np.log(predicted))


class NeuralNet1(nn.Module):
    """Binary problem: images (N, input_size) -> logits (N, 1)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.relu(self.linear1(x)))  # a logit; the video adds a sigmoid


class NeuralNet2(nn.Module):
    """Multiclass problem: images (N, input_size) -> logits (N, num_classes)."""

    def __init__(self, input_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.relu(self.linear1(x)))  # no softmax: CrossEntropyLoss applies it


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)

    # Prepare data, for the networks below
    X, y = load_digits(return_X_y=True)  # pixels from 0 to 16
    X, y = torch.from_numpy(X / 16).float().to(device), torch.from_numpy(y).to(device)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    X_train, y_train = X_train[: args.limit], y_train[: args.limit]
    X_test, y_test = X_test[: args.limit], y_test[: args.limit]
    sizes = f"{len(X_train)} training and {len(X_test)} test images"
    print(f"05 Softmax and cross-entropy | device: {device} | data: digits, {sizes}")

    # Softmax
    x = np.array([2.0, 1.0, 0.1])
    outputs = softmax(x)
    print("softmax numpy:", outputs)
    x = torch.tensor([2.0, 1.0, 0.1])
    outputs_torch = torch.softmax(x, dim=0)  # along the only axis, so that all three sum to 1
    print("softmax torch:", outputs_torch)

    # Cross-entropy, on probabilities
    Y = np.array([1, 0, 0])  # one-hot: the true class is 0
    Y_pred_good = np.array([0.7, 0.2, 0.1])
    Y_pred_bad = np.array([0.1, 0.3, 0.6])
    l1 = cross_entropy(Y, Y_pred_good)
    l2 = cross_entropy(Y, Y_pred_bad)
    print(f"Loss numpy: {l1:.4f} {l2:.4f}")

    # CrossEntropyLoss is LogSoftmax + NLLLoss: it takes logits, and class labels as indices
    loss = nn.CrossEntropyLoss()
    Y = torch.tensor([0])  # (N,) = (1,)
    Y_pred_good = torch.tensor([[2.0, 1.0, 0.1]])  # (N, n_classes) = (1, 3)
    Y_pred_bad = torch.tensor([[0.5, 2.0, 0.3]])
    l1 = loss(Y_pred_good, Y)
    l2 = loss(Y_pred_bad, Y)
    softmax_error = np.abs(outputs - outputs_torch.numpy()).max()
    cross_entropy_error = abs(cross_entropy(np.array([1, 0, 0]), outputs) - l1.item())
    by_hand = f"(l1 by hand differs by {cross_entropy_error:.0e})"
    print(f"Loss torch: {l1.item():.4f} {l2.item():.4f}", by_hand)
    _, predictions1 = torch.max(Y_pred_good, 1)
    _, predictions2 = torch.max(Y_pred_bad, 1)
    print("Predictions, good and bad:", predictions1, predictions2)

    # A batch of three samples
    Y = torch.tensor([2, 0, 1])
    Y_pred_good = torch.tensor([[0.1, 0.2, 3.9], [1.2, 0.1, 0.3], [0.3, 2.2, 0.2]])
    Y_pred_bad = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 1.5], [1.2, 0.2, 0.5]])
    l1 = loss(Y_pred_good, Y)
    l2 = loss(Y_pred_bad, Y)
    print(f"Batch loss: {l1.item():.4f} {l2.item():.4f}")
    _, predictions1 = torch.max(Y_pred_good, 1)
    _, predictions2 = torch.max(Y_pred_bad, 1)
    print("Predictions, good and bad:", predictions1, predictions2)

    # Binary problem: is it a 3? (Always answering no would be about 90% accurate.)
    torch.manual_seed(args.seed)
    model = NeuralNet1(input_size=8 * 8, hidden_size=32).to(device)
    is_three = (y_train == 3).float().view(-1, 1)  # (N,) -> (N, 1), like the model's output
    train(model, nn.BCEWithLogitsLoss(), X_train, is_three, args.lr, args.epochs)
    with torch.no_grad():
        predictions = model(X_test).view(-1) > 0  # a logit above 0 is a probability above 0.5
    accuracy_binary = (predictions == (y_test == 3)).float().mean().item()
    print(f"Is it a 3? Accuracy {accuracy_binary:.1%}")

    # Multiclass problem: which digit? Beyond the video: then with an extra softmax. Its outputs
    # lie between 0 and 1, so even a perfect [1, 0, ..., 0] has a loss of 1.46, and gradients are
    # small: training is slow.
    losses, accuracies = {}, {}
    for name in ("logits", "extra softmax"):
        torch.manual_seed(args.seed)  # the same start for both
        model = NeuralNet2(input_size=8 * 8, hidden_size=32, num_classes=10).to(device)
        if name == "extra softmax":
            model = nn.Sequential(model, nn.Softmax(dim=1))  # one after the other
        losses[name] = train(model, nn.CrossEntropyLoss(), X_train, y_train, args.lr, args.epochs)
        with torch.no_grad():
            _, predictions = torch.max(model(X_test), 1)
        accuracies[name] = (predictions == y_test).float().mean().item()
        print(f"Which digit? Accuracy {accuracies[name]:.1%} with {name}")

    # Beyond the video: exp(1000) overflows to inf, and inf / inf is nan
    x = np.array([1000.0, 999.0, 998.0])
    with np.errstate(all="ignore"):  # the overflow is intended: hide its warning
        print("softmax of 1000, 999, 998:", softmax(x))
    print("stable softmax of the same:", stable_softmax(x))

    # Beyond the video: sigmoid(2) is the first of the two probabilities of softmax(2, 0)
    z = torch.tensor([2.0, 0.0])
    print("sigmoid of 2:", torch.sigmoid(z[0]), "softmax of (2, 0):", torch.softmax(z, dim=0))

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    p = np.linspace(0.01, 1, 200)
    left.plot(p, -np.log(p), color="gray")
    left.plot(0.7, -np.log(0.7), "C0o", markersize=9, label="good prediction")
    left.plot(0.1, -np.log(0.1), "C1s", markersize=9, label="bad prediction")
    left.set(title="Cross-entropy: -log p", xlabel="probability p of the true class", ylabel="loss")
    left.legend()
    right.plot(losses["logits"], label="logits")
    right.plot(losses["extra softmax"], "--", label="extra softmax")
    right.set(title="Which digit?", xlabel="epoch", ylabel="training loss")
    right.legend()
    figure.savefig(args.output_dir / "05_softmax_crossentropy.png")
    if args.show:
        plt.show()
    plt.close(figure)

    accuracy, double = accuracies["logits"], accuracies["extra softmax"]
    print(f"Test accuracy: {accuracy:.1%}, with an extra softmax {double:.1%} (digits)")
    print("Figure:", args.output_dir / "05_softmax_crossentropy.png")
    errors = {"softmax_error": softmax_error, "cross_entropy_error": cross_entropy_error}
    metrics = {"accuracy_logits": accuracy, "accuracy_double_softmax": double}
    return {**errors, **metrics, "accuracy_binary": accuracy_binary}


# Beyond the video
def train(model: nn.Module, criterion, X: Tensor, y: Tensor, lr: float, epochs: int) -> list[float]:
    """Train on all samples at once, as in lesson 02, and return the loss of each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        loss = criterion(model(X), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def stable_softmax(x: np.ndarray) -> np.ndarray:
    """Return softmax(x) without overflow.

    Subtracting the same number from every x_i changes nothing: it divides numerator and denominator
    by the same factor. After subtracting the largest x_i, no exponent is above 0.
    """
    return softmax(x - np.max(x))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="passes over the data")
    parser.add_argument("--lr", type=float, default=0.5, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--limit", type=int, default=10**6, help="at most LIMIT samples per set")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if min(args.epochs, args.limit) < 1 or not 0 < args.lr < float("inf"):
        parser.error("--epochs and --limit must be at least 1, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
