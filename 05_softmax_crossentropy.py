"""05 · Softmax and cross-entropy

Softmax turns the raw scores of a network, the logits, into probabilities; cross-entropy measures
how wrong they are. Both are written by hand and compared with PyTorch's versions. Two networks are
then trained, and the cost of a common mistake is measured.

    Linear -> logits [2.0, 1.0, 0.1] -> Softmax -> probabilities [0.66, 0.24, 0.10]

You will learn
    - how to compute softmax and cross-entropy by hand
    - why `nn.CrossEntropyLoss` takes logits, and what an extra softmax costs
    - which output and which loss to use for binary and for multiclass problems
    - why the sigmoid is a softmax over two classes

Run
    python 05_softmax_crossentropy.py
    python 05_softmax_crossentropy.py --epochs 50

Changes from the video
    - The binary network returns a logit for `BCEWithLogitsLoss`, which is numerically more stable
      than a sigmoid followed by `BCELoss` (see lesson 02).
    - The video only defines the two networks, for images of 28*28 pixels, with 5 hidden units and 3
      classes. Here they are also trained, with 32 hidden units, on scikit-learn's 8x8 digits.
    - The video's NumPy softmax overflows for logits above 709. `stable_softmax` does not.

Try it (answers: docs/answers.md)
    - `--epochs 2000`: does the network with the extra softmax catch up in accuracy?
    - Set the tensor `x` under "# Softmax" to three equal numbers. What are the probabilities?
    - In the binary problem, replace `.view(-1) > 0` with `.view(-1) > 0.5`. Which probability is
      the threshold now, and does the accuracy change?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=8653s (about 2:24:13), course script:
    11_softmax_and_crossentropy.py
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

# Hyper-parameters of the training runs beyond the video (the flags change them)
num_epochs = 200
learning_rate = 0.5


def softmax(x: np.ndarray) -> np.ndarray:
    """Return exp(x_i) / sum_j exp(x_j) for one sample x of shape (n_classes,): they sum to 1."""
    return np.exp(x) / np.sum(np.exp(x), axis=0)


def cross_entropy(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Return -sum_i actual_i * log(predicted_i), for a one-hot target and probabilities."""
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)  # log(0) is -infinity
    return -np.sum(actual * np.log(predicted))


# problem                         binary: is it a 3?           multiclass: which digit?
# outputs of the last layer       1, a logit                   n_classes logits
# loss                            nn.BCEWithLogitsLoss()       nn.CrossEntropyLoss()
# target: dtype, shape            float32, (N, 1)              int64, (N,): class labels
# prediction                      logit > 0, or                torch.max(logits, 1): the index
#                                 torch.sigmoid(logit) > 0.5   of the largest logit
class NeuralNet1(nn.Module):
    """Binary problem: images (N, input_size) -> logits (N, 1)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.linear1(x))
        return self.linear2(out)  # a logit; the video applies torch.sigmoid here


class NeuralNet2(nn.Module):
    """Multiclass problem: images (N, input_size) -> logits (N, num_classes)."""

    def __init__(self, input_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.linear1(x))
        return self.linear2(out)  # no softmax: CrossEntropyLoss applies it


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    print(f"05 Softmax and cross-entropy | device: {device} | data: digits, 1797 images")

    # Softmax
    x = np.array([2.0, 1.0, 0.1])
    outputs = softmax(x)
    print("softmax numpy:", outputs)
    x = torch.tensor([2.0, 1.0, 0.1])
    outputs = torch.softmax(x, dim=0)  # along the only axis, so that all three sum to 1
    print("softmax torch:", outputs)

    # Cross-entropy, on probabilities. One-hot: 1 at the true class, 0 elsewhere. The loss increases
    # as the predicted probability of the true class diverges from 1.
    Y = np.array([1, 0, 0])  # class 0
    Y_pred_good = np.array([0.7, 0.2, 0.1])
    Y_pred_bad = np.array([0.1, 0.3, 0.6])
    l1 = cross_entropy(Y, Y_pred_good)
    l2 = cross_entropy(Y, Y_pred_bad)
    print(f"Loss numpy, good and bad: {l1:.4f}, {l2:.4f}")

    # CrossEntropyLoss is LogSoftmax + NLLLoss (negative log-likelihood). It takes logits, and class
    # labels. (One-hot targets work, too, if they are floats: they count as class probabilities.)
    loss = nn.CrossEntropyLoss()
    Y = torch.tensor([0])  # (N,) = (1,)
    Y_pred_good = torch.tensor([[2.0, 1.0, 0.1]])  # (N, n_classes) = (1, 3)
    Y_pred_bad = torch.tensor([[0.5, 2.0, 0.3]])
    l1 = loss(Y_pred_good, Y)
    l2 = loss(Y_pred_bad, Y)
    print(f"Loss torch, good and bad: {l1.item():.4f}, {l2.item():.4f}")
    # max returns the largest value of each row and its index; the index is the class
    _, predictions1 = torch.max(Y_pred_good, 1)
    _, predictions2 = torch.max(Y_pred_bad, 1)
    print("Predictions, good and bad:", predictions1, predictions2)

    # A batch of three samples: the loss is the mean of their losses
    Y = torch.tensor([2, 0, 1])
    # The largest logit of each row predicts classes 2, 0, and 1 (good), and 0, 2, and 0 (bad)
    Y_pred_good = torch.tensor([[0.1, 0.2, 3.9], [1.2, 0.1, 0.3], [0.3, 2.2, 0.2]])
    Y_pred_bad = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 1.5], [1.2, 0.2, 0.5]])
    l1 = loss(Y_pred_good, Y)
    l2 = loss(Y_pred_bad, Y)
    print(f"Batch loss, good and bad: {l1.item():.4f}, {l2.item():.4f}")
    _, predictions1 = torch.max(Y_pred_good, 1)
    _, predictions2 = torch.max(Y_pred_bad, 1)
    print("Predictions, good and bad:", predictions1, predictions2)

    # The data for both networks
    X, y = load_digits(return_X_y=True)  # pixels from 0 to 16
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    X_train = torch.from_numpy(X_train[: args.limit]).float().to(device)
    X_test = torch.from_numpy(X_test[: args.limit]).float().to(device)
    y_train = torch.from_numpy(y_train[: args.limit]).to(device)
    y_test = torch.from_numpy(y_test[: args.limit]).to(device)
    print(f"digits: {len(X_train)} training and {len(X_test)} test images")

    # Binary problem: is it a 3? (Always answering no would be about 90% accurate.)
    torch.manual_seed(args.seed)
    model = NeuralNet1(input_size=8 * 8, hidden_size=32).to(device)
    criterion = nn.BCEWithLogitsLoss()
    is_three = (y_train == 3).float().view(-1, 1)  # (N,) -> (N, 1), the shape of the model's output
    train(model, criterion, X_train, is_three, args.lr, args.epochs)
    with torch.no_grad():
        predictions = model(X_test).view(-1) > 0  # a logit above 0 is a probability above 0.5
    accuracy_binary = (predictions == (y_test == 3)).float().mean().item()
    print(f"Is it a 3? Accuracy {accuracy_binary:.1%}")

    # Multiclass problem: which digit?
    torch.manual_seed(args.seed)
    model = NeuralNet2(input_size=8 * 8, hidden_size=32, num_classes=10).to(device)
    criterion = nn.CrossEntropyLoss()
    losses = train(model, criterion, X_train, y_train, args.lr, args.epochs)
    with torch.no_grad():
        _, predictions = torch.max(model(X_test), 1)
    accuracy_logits = (predictions == y_test).float().mean().item()
    print(f"Which digit? Accuracy {accuracy_logits:.1%} with logits")

    # Beyond the video: repeat with an extra softmax. CrossEntropyLoss applies its own to the
    # result, so even a perfect [1, 0, ..., 0] becomes e / (e + 9) = 0.23 for the true class, a loss
    # of 1.46, and gradients are small. With the same learning rate and epochs, it learns less.
    torch.manual_seed(args.seed)  # the same start
    network = NeuralNet2(input_size=8 * 8, hidden_size=32, num_classes=10)
    model = nn.Sequential(network, nn.Softmax(dim=1)).to(device)  # one after the other
    double_losses = train(model, criterion, X_train, y_train, args.lr, args.epochs)
    with torch.no_grad():
        _, predictions = torch.max(model(X_test), 1)
    accuracy_double = (predictions == y_test).float().mean().item()
    print(f"Which digit? Accuracy {accuracy_double:.1%} with an extra softmax")

    # Beyond the video: by hand compared with torch
    logits = torch.tensor([2.0, 1.0, 0.1], dtype=torch.float64)
    probabilities = softmax(logits.numpy())
    softmax_error = np.abs(probabilities - torch.softmax(logits, dim=0).numpy()).max()
    l1 = cross_entropy(np.array([1, 0, 0]), probabilities)
    l2 = loss(logits, torch.tensor(0)).item()
    print(f"By hand vs. torch: {softmax_error:.0e} in softmax, {abs(l1 - l2):.0e} in the loss")

    # Beyond the video: exp(1000) overflows to inf, and inf / inf is nan
    large = np.array([1000.0, 999.0, 998.0])
    with np.errstate(over="ignore", invalid="ignore"):  # hide the warnings of inf and of nan
        print("softmax of 1000, 999, 998:", softmax(large))
    print("stable softmax of the same:", stable_softmax(large))

    # Beyond the video: the sigmoid is a softmax over two classes, the second with logit 0, since
    # exp(2) / (exp(2) + exp(0)) = 1 / (1 + exp(-2))
    z = torch.tensor([2.0, 0.0])
    print("sigmoid of 2:", torch.sigmoid(z[0]), "softmax of (2, 0):", torch.softmax(z, dim=0))

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    p = np.linspace(0.01, 1, 200)
    left.plot(p, -np.log(p), color="gray")
    left.plot(0.7, -np.log(0.7), "C0o", markersize=9, label="good prediction: 0.36")
    left.plot(0.1, -np.log(0.1), "C1s", markersize=9, label="bad prediction: 2.30")
    left.set(title="Cross-entropy: -log p", xlabel="probability p of the true class", ylabel="loss")
    left.legend()
    right.plot(range(1, args.epochs + 1), losses, label="logits")
    right.plot(range(1, args.epochs + 1), double_losses, "--", label="extra softmax")
    right.set(title="Which digit?", xlabel="epoch", ylabel="training loss")
    right.legend()
    figure.savefig(args.output_dir / "05_softmax_crossentropy.png")
    if args.show:
        plt.show()

    result = f"{accuracy_logits:.1%}, with an extra softmax {accuracy_double:.1%}"
    print(f"Test accuracy: {result} (digits)")
    print("Figure:", args.output_dir / "05_softmax_crossentropy.png")
    return {
        "softmax_error": softmax_error,
        "cross_entropy_error": abs(l1 - l2),
        "accuracy_logits": accuracy_logits,
        "accuracy_double_softmax": accuracy_double,
        "accuracy_binary": accuracy_binary,
    }


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
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
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
