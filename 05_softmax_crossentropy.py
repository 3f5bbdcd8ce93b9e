"""05 · Softmax and cross-entropy

Softmax turns the raw scores of a network, the logits, into probabilities; cross-entropy measures
how wrong these are. Both are written by hand and with PyTorch. Then networks are trained, with and
without a common mistake.

    Linear -> logits [2.0, 1.0, 0.1] -> Softmax -> probabilities [0.66, 0.24, 0.10]

You will learn
    - how to compute softmax and cross-entropy by hand
    - why `nn.CrossEntropyLoss` takes logits, and what an extra softmax costs
    - which output and which loss to use for binary and for multiclass problems
    - why the sigmoid is a softmax over two classes

Run (add --show to open the figure in a window)
    python 05_softmax_crossentropy.py
    python 05_softmax_crossentropy.py --epochs 50

Changes from the video
    - The binary network returns a logit for `BCEWithLogitsLoss`, which is also correct for large
      logits. The video has a sigmoid and `BCELoss` (see lesson 02).
    - The video ends with the two networks. Here, such networks are also trained, on digits.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - `--epochs 2000` (about 10 s): does the network with the extra softmax catch up in accuracy?
    - Set the tensor `x` under "# Softmax" to three equal numbers. What are the probabilities?
    - In `train_binary`, replace `> 0` with `> 0.5`. Which probability is the threshold now, and
      does the accuracy change?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=8653s (about 2:24:13), course script:
    11_softmax_and_crossentropy.py
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def softmax(x):
    """Return exp(x_i) / sum_j exp(x_j) for the logits (n_classes,) of one sample."""
    return np.exp(x) / np.sum(np.exp(x), axis=0)


def cross_entropy(actual, predicted):
    """Return -sum_i actual_i * log(predicted_i), for a one-hot target and probabilities."""
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)  # log(0) is -infinity
    loss = -np.sum(actual * np.log(predicted))
    return loss


# Binary problem
class NeuralNet1(nn.Module):
    """Images (N, input_size) -> logits (N, 1)."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()  # negative numbers become 0 (lesson 06)
        self.linear2 = nn.Linear(hidden_size, 1)

    def forward(self, x):
        out = self.linear1(x)
        out = self.relu(out)
        out = self.linear2(out)
        return out  # a logit; the video applies torch.sigmoid here


# Multiclass problem
class NeuralNet2(nn.Module):
    """Images (N, input_size) -> logits (N, num_classes)."""

    def __init__(self, input_size, hidden_size, num_classes):
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, num_classes)

    def forward(self, x):
        out = self.linear1(x)
        out = self.relu(out)
        out = self.linear2(out)
        return out  # no softmax at the end: CrossEntropyLoss applies it


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
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

    # Cross-entropy, or log loss: the farther the true class's probability from 1, the higher.
    # Y is one-hot encoded: class 0 is [1 0 0], class 1 is [0 1 0], class 2 is [0 0 1]
    Y = np.array([1, 0, 0])
    Y_pred_good = np.array([0.7, 0.2, 0.1])  # probabilities
    Y_pred_bad = np.array([0.1, 0.3, 0.6])
    l1 = cross_entropy(Y, Y_pred_good)
    l2 = cross_entropy(Y, Y_pred_bad)
    print(f"Loss numpy, probabilities: good {l1:.4f}, bad {l2:.4f}")

    # CrossEntropyLoss = LogSoftmax, the log of softmax (z_i - log(sum_j exp(z_j)) for logits z),
    # and NLLLoss (negative log likelihood), minus the log for the true class. So Y_pred holds
    # logits (no softmax in the last layer!), and Y holds class labels, not one-hot vectors.
    loss = nn.CrossEntropyLoss()
    Y = torch.tensor([0])  # (n_samples,) = (1,)
    Y_pred_good = torch.tensor([[2.0, 1.0, 0.1]])  # (n_samples, n_classes) = (1, 3)
    Y_pred_bad = torch.tensor([[0.5, 2.0, 0.3]])
    l1 = loss(Y_pred_good, Y)
    l2 = loss(Y_pred_bad, Y)
    print(f"Loss torch, logits: good {l1.item():.4f}, bad {l2.item():.4f}")

    # max returns the largest value of each row and its index; the index is the predicted class
    _, predictions1 = torch.max(Y_pred_good, 1)
    _, predictions2 = torch.max(Y_pred_bad, 1)
    predictions = f"{predictions1.item()} (good), {predictions2.item()} (bad)"
    print(f"True class {Y.item()}, predicted {predictions}")

    # A batch of three samples: the loss is the mean of their losses
    Y = torch.tensor([2, 0, 1])
    Y_pred_good = torch.tensor([[0.1, 0.2, 3.9], [1.2, 0.1, 0.3], [0.3, 2.2, 0.2]])  # (3, 3)
    Y_pred_bad = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 1.5], [1.2, 0.2, 0.5]])
    l1 = loss(Y_pred_good, Y)
    l2 = loss(Y_pred_bad, Y)
    print(f"Batch loss: good {l1.item():.4f}, bad {l2.item():.4f}")
    _, predictions1 = torch.max(Y_pred_good, 1)
    _, predictions2 = torch.max(Y_pred_bad, 1)
    print("True classes", Y, "predicted", predictions1, "(good)", predictions2, "(bad)")

    # Binary problem: one output. Class NeuralNet1, above
    model = NeuralNet1(input_size=28 * 28, hidden_size=5)
    criterion = nn.BCEWithLogitsLoss()  # video: nn.BCELoss(), on probabilities

    # Multiclass problem: one output per class. Class NeuralNet2, above
    model = NeuralNet2(input_size=28 * 28, hidden_size=5, num_classes=3)
    criterion = nn.CrossEntropyLoss()  # applies softmax

    # Beyond the video: by hand and with torch, on the same input. Above, the losses differ because
    # their inputs differ. NumPy was given the probability 0.7, but softmax turns the logits 2.0,
    # 1.0, 0.1 into 0.659 for class 0.
    logits = torch.tensor([[2.0, 1.0, 0.1]], dtype=torch.float64)  # NumPy's floats have 64 bits
    probabilities = softmax(logits[0].numpy())
    by_hand = cross_entropy(np.array([1, 0, 0]), probabilities)
    by_torch = loss(logits, torch.tensor([0])).item()
    print(f"Loss of the same logits: numpy {by_hand:.4f}, torch {by_torch:.4f}")

    # Beyond the video: train networks of both kinds on images of digits
    #     problem                     binary                        multiclass
    #     outputs of the last layer   1 logit                       n_classes logits
    #     loss                        nn.BCEWithLogitsLoss()        nn.CrossEntropyLoss()
    #     target: dtype, shape        float32, (N, 1)               int64, (N,): class labels
    #     probabilities               torch.sigmoid(logits)         torch.softmax(logits, dim=1)
    #     prediction                  logit > 0, the same as        torch.max(logits, 1), the same
    #                                 probability > 0.5             as the largest probability
    data, lr, epochs, seed = load_data(), args.lr, args.epochs, args.seed
    accuracy_binary = train_binary(data, lr, epochs, seed)
    print(f"Is it a 3? Accuracy {accuracy_binary:.1%} (always answering no: about 90%)")
    accuracy_logits, losses = train_multiclass(data, lr, epochs, seed, extra_softmax=False)

    # Beyond the video: a softmax in the last layer, although CrossEntropyLoss applies its own. At
    # the start, gradients are a tenth as large, one reason why the network learns slowly; ten times
    # the rate makes up for it within 200 epochs (with a few seeds, a digit is never predicted, and
    # accuracy stays near 88%). But the loss misleads. At best, the first softmax outputs one 1 and
    # nine 0s. For these, the second one, in the loss, is at most exp(1) / (exp(1) + 9 · exp(0)) =
    # 0.232, and the loss at least -log(0.232) = 1.46.
    accuracy_double, double_losses = train_multiclass(data, lr, epochs, seed, extra_softmax=True)
    accuracy_fast, fast_losses = train_multiclass(data, 10 * lr, epochs, seed, extra_softmax=True)

    # Beyond the video: large logits. exp(1000) overflows to inf, and inf / inf is nan. Subtracting
    # the largest logit first, as torch does, too, avoids that, and does not change probabilities.
    # But exp(-1000), the probability of class 1, is still rounded to 0, which cross_entropy clips
    # to 1e-15, so its loss is wrong. CrossEntropyLoss needs no probability, as log(exp(1000) +
    # exp(0)) is 1000 + log(1 + exp(-1000)), and minus the logit of class 1, 0, this makes 1000.
    x = np.array([1000.0, 0.0])
    with np.errstate(over="ignore", invalid="ignore"):  # hide NumPy's warnings
        print("softmax of 1000 and 0:", softmax(x), "stable:", stable_softmax(x))
    large_by_hand = cross_entropy(np.array([0, 1]), stable_softmax(x))  # clipped: -log(1e-15)
    large_torch = loss(torch.tensor([[1000.0, 0.0]]), torch.tensor([1]))
    print(f"Loss if class 1 is true: numpy {large_by_hand:.1f}, torch {large_torch.item():.1f}")

    # Beyond the video: the sigmoid is a softmax over two classes, with logits z and 0. Divide both
    # parts of the fraction by exp(z): exp(z) / (exp(z) + exp(0)) = 1 / (1 + exp(-z)).
    print("sigmoid of 2:      ", torch.sigmoid(torch.tensor(2.0)))
    print("softmax of 2 and 0:", torch.softmax(torch.tensor([2.0, 0.0]), dim=0))

    draw(losses, double_losses, fast_losses, args)
    double = f"with an extra softmax {accuracy_double:.1%}, and at ten times the rate"
    result = f"{accuracy_logits:.1%}, {double} {accuracy_fast:.1%}"
    print(f"Test accuracy: {result} (digits)")
    print("Figure:", args.output_dir / "05_softmax_crossentropy.png")
    return {"logits": accuracy_logits, "extra_softmax": accuracy_double, "fast": accuracy_fast}


# Beyond the video
def load_data():
    """Return training and test images (N, 64), from 0 to 1, and their digits (N,)."""
    X, y = load_digits(return_X_y=True)  # (1797, 64) pixels from 0 to 16, (1797,)
    X, y = torch.from_numpy(X / 16).float(), torch.from_numpy(y)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    return X_train.to(device), X_test.to(device), y_train.to(device), y_test.to(device)


def train(model, criterion, X, y, lr, epochs):
    """Train on all samples at once, as in lesson 02, and return the loss of each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for epoch in range(epochs):
        loss = criterion(model(X), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def train_binary(data, lr, epochs, seed):
    """Train a NeuralNet1 to tell 3s from other digits; return its test accuracy."""
    X_train, X_test, y_train, y_test = data
    torch.manual_seed(seed)
    model = NeuralNet1(input_size=8 * 8, hidden_size=32).to(device)
    is_three = (y_train == 3).float().view(-1, 1)  # (N,) -> (N, 1); -1: as many as there are
    train(model, nn.BCEWithLogitsLoss(), X_train, is_three, lr, epochs)
    with torch.no_grad():
        predictions = model(X_test).view(-1) > 0  # a logit above 0 is a probability above 0.5
    return (predictions == (y_test == 3)).float().mean().item()


def train_multiclass(data, lr, epochs, seed, extra_softmax):
    """Train a NeuralNet2 to name the digit; return its test accuracy and the loss of each epoch."""
    X_train, X_test, y_train, y_test = data
    torch.manual_seed(seed)  # the same initial weights with and without the extra softmax
    model = NeuralNet2(input_size=8 * 8, hidden_size=32, num_classes=10)
    if extra_softmax:
        model = nn.Sequential(model, nn.Softmax(dim=1))  # one after the other
    model = model.to(device)
    losses = train(model, nn.CrossEntropyLoss(), X_train, y_train, lr, epochs)
    with torch.no_grad():
        probabilities = torch.softmax(model(X_test), dim=1)  # as in the loss
    values, predictions = torch.max(probabilities, 1)
    accuracy = (predictions == y_test).float().mean().item()
    name = "Extra softmax" if extra_softmax else "Logits"
    results = f"training loss {losses[-1]:.2f}, highest probability {values.max().item():.3f}"
    print(f"{name}, learning rate {lr:g}: test accuracy {accuracy:.1%}, {results}")
    return accuracy, losses


def stable_softmax(x):
    """Return softmax(x) without overflow: the largest exponent is 0."""
    return softmax(x - np.max(x))


def draw(losses, double_losses, fast_losses, args):
    """Draw cross-entropy as a function of p, and the losses of the trainings; save the figure."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    p = np.linspace(0.01, 1, 200)
    left.plot(p, -np.log(p), color="gray")
    left.plot(0.7, -np.log(0.7), "ko", markersize=9, label="good prediction: loss 0.36")
    left.plot(0.1, -np.log(0.1), "ks", markersize=9, label="bad prediction: loss 2.30")
    left.set(title="Cross-entropy: -log p", xlabel="probability p of the true class", ylabel="loss")
    left.legend()
    epochs = range(1, args.epochs + 1)
    right.plot(epochs, losses, label=f"logits, learning rate {args.lr:g}")
    right.plot(epochs, double_losses, "--", label=f"extra softmax, learning rate {args.lr:g}")
    right.plot(epochs, fast_losses, "-.", label=f"extra softmax, learning rate {10 * args.lr:g}")
    lowest = -math.log(math.e / (math.e + 9))
    label = f"lowest possible with an extra softmax: {lowest:.2f}"
    right.axhline(lowest, color="gray", linestyle=":", label=label)
    right.set(title="Training on digits", xlabel="epoch", ylabel="training loss", ylim=0)
    right.legend(loc="center right", bbox_to_anchor=(1, 0.42))
    figure.savefig(args.output_dir / "05_softmax_crossentropy.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="passes over the data")
    parser.add_argument("--lr", type=float, default=0.5, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 0 < args.lr <= 1000 or not 0 <= args.seed < 2**32:
        parser.error("--epochs must be at least 1, and 0 < --lr <= 1000, and 0 <= --seed < 2**32")
    return args


if __name__ == "__main__":
    main()
