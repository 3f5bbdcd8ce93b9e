"""01 · Linear regression

A straight line is fitted to 100 points by gradient descent, with PyTorch's model, loss, and
optimizer. Then the same training is written without them, and all are compared with the
least-squares line, the line with the smallest mean squared error, which linear algebra finds
exactly.

You will learn
    - how a PyTorch training script is built: data, model, loss and optimizer, training loop
    - what `nn.Linear`, `nn.MSELoss`, `backward()`, and `torch.optim.SGD` each do for you
    - how close gradient descent comes to the exact solution
    - how the learning rate makes training slow, fast, or divergent

Run (add --show to open the figure in a window, as the video does)
    python 01_linear_regression.py
    python 01_linear_regression.py --lr 0.01        (the video's learning rate)

Changes from the video
    - The learning rate is 0.1. With the video's 0.01, the loss is still 411 in epoch 100. No line
      has a loss below 290, because `noise=20` scatters the points around any line.
    - The data is moved to the GPU if there is one, so `predicted` needs `.cpu()` before `.numpy()`.
    - Early copies of 05_1_gradientdescent_manually.py (see "Recap") have a gradient that is 4 times
      too large: `np.dot(2*x, y_pred - y)` is already a sum over the 4 samples, not a mean.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - `--lr 0.01`: how far is the loss from the exact solution's after 100 epochs? After 500?
    - `--lr 0.9` and `--lr 1`: which one converges? At which epoch can you tell?
    - Remove the line with `y.view`. The model still trains. What does it learn, and why? (The loss
      of the exact solution is then wrong for the same reason.)

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=5234s (about 1:27:14), course script:
    07_linear_regression.py
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn as nn
from sklearn import datasets

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (defaults: flags such as --epochs change them, see parse_args)
num_epochs = 100
learning_rate = 0.1


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    num_epochs, learning_rate = args.epochs, args.lr
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    print(f"01 Linear regression | device: {device} | data: make_regression, 100 samples")

    # 0) Prepare data
    X_numpy, y_numpy = datasets.make_regression(
        n_samples=100, n_features=1, noise=20, random_state=4
    )
    # NumPy's floats have 64 bits, the model's weights 32: without astype, model(X) raises an error
    X = torch.from_numpy(X_numpy.astype(np.float32)).to(device)
    y = torch.from_numpy(y_numpy.astype(np.float32)).to(device)
    # view gives the same numbers another shape: (100,) -> (100, 1), that of the model's output
    y = y.view(y.shape[0], 1)
    n_samples, n_features = X.shape

    # 1) Model. Linear model f = w·x + b; w is model.weight, b is model.bias
    input_size = n_features
    output_size = 1
    model = nn.Linear(input_size, output_size).to(device)

    # 2) Loss and optimizer. Each step uses all 100 points, so an epoch is one update here.
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)

    # 3) Training loop
    for epoch in range(num_epochs):
        # Forward pass and loss
        y_predicted = model(X)
        loss = criterion(y_predicted, y)

        # Backward pass and update
        loss.backward()
        optimizer.step()

        # Zero the gradients, as backward() adds to them
        optimizer.zero_grad()

        if (epoch + 1) % 10 == 0:  # float32 has about 7 digits, so the last ones may vary
            print(f"epoch: {epoch + 1}, loss = {loss.item():.4f}")

    # Plot: the left half of the figure, completed by draw. numpy() raises an error if a tensor
    # requires gradients, so detach() comes first.
    predicted = model(X).detach().cpu().numpy()
    plt.figure(figsize=(11, 4.5))
    plt.subplot(1, 2, 1)
    plt.plot(X_numpy, y_numpy, "ro", markersize=4, label="data")
    plt.plot(X_numpy, predicted, "b", linewidth=4, alpha=0.5, label="trained line")

    # Recap of earlier chapters of the video (05_1_gradientdescent_manually.py and
    # 05_2_gradientdescent_auto.py): the same training, without nn and optim. The same seed gives
    # the same initial weight and bias. The losses of the training by hand are drawn on the right.
    torch.manual_seed(args.seed)
    start = nn.Linear(input_size, output_size)
    w_hand, b_hand, losses = train_by_hand(X, y, start, learning_rate, num_epochs)
    w_auto, b_auto = train_with_autograd(X, y, start, learning_rate, num_epochs)
    print(f"nn.Linear and SGD:    weight {model.weight.item():.4f}, bias {model.bias.item():.4f}")
    print(f"gradient by hand:     weight {w_hand:.4f}, bias {b_hand:.4f}")
    print(f"gradient by autograd: weight {w_auto:.4f}, bias {b_auto:.4f}")

    # Beyond the video: the exact solution. A row [x, 1] times the column [w, b] is w * x + b, so
    # linear algebra finds the [w, b] for which A @ [w, b] is closest to y.
    A = torch.cat([X, torch.ones_like(X)], dim=1)  # (100, 2)
    w_exact, b_exact = torch.linalg.lstsq(A, y).solution.flatten().tolist()
    print(f"least squares, exact: weight {w_exact:.4f}, bias {b_exact:.4f}")

    # Beyond the video: other learning rates, the video's, and one above the limit of this data
    print(f"On this data, training converges if the rate is below {learning_rate_limit(X):.2f}")
    _, _, slow = train_by_hand(X, y, start, 0.01, 100)
    _, _, diverging = train_by_hand(X, y, start, 1.05, 20)
    print(f"learning rate 0.01: epoch 1 loss {slow[0]:.0f}, epoch 100 loss {slow[-1]:.0f}")
    print(f"learning rate 1.05: epoch 1 loss {diverging[0]:.0f}, epoch 20 loss {diverging[-1]:.0f}")

    # The loss after the last update (the loop prints losses before each update)
    loss = criterion(model(X), y).item()
    loss_exact = criterion(w_exact * X + b_exact, y).item()
    plt.axline((0, b_exact), slope=w_exact, color="k", linestyle="--", label="least-squares line")
    draw(losses, slow, diverging, loss_exact, args)
    result = f"Loss after the last update: {loss:.2f}, of the exact solution: {loss_exact:.2f}"
    print(f"{result} (make_regression)")
    print("Figure:", args.output_dir / "01_linear_regression.png")
    return {"loss": loss, "loss_exact": loss_exact}


# Recap: each comment is the line in main that does this
def train_by_hand(X, y, start, lr, epochs):
    """Run gradient descent without autograd; return weight, bias, and the loss of each epoch.

    The loss is mean(error²) with error = w·x + b - y, so by the chain rule
    d loss / dw = mean(2 · error · x) and d loss / db = mean(2 · error).
    """
    w, b = start.weight.item(), start.bias.item()
    losses = []
    for epoch in range(epochs):
        y_predicted = w * X + b  # y_predicted = model(X)
        error = y_predicted - y
        loss = (error**2).mean()  # loss = criterion(y_predicted, y)
        w_gradient = (2 * error * X).mean().item()  # loss.backward()
        b_gradient = (2 * error).mean().item()  # (computed anew: no zero_grad)
        w -= lr * w_gradient  # optimizer.step()
        b -= lr * b_gradient
        losses.append(loss.item())
    return w, b, losses


def train_with_autograd(X, y, start, lr, epochs):
    """Run gradient descent with autograd, but without an optimizer; return weight and bias."""
    w = torch.tensor(start.weight.item(), device=device, requires_grad=True)
    b = torch.tensor(start.bias.item(), device=device, requires_grad=True)
    for epoch in range(epochs):
        y_predicted = w * X + b  # y_predicted = model(X)
        loss = ((y_predicted - y) ** 2).mean()  # loss = criterion(y_predicted, y)
        loss.backward()  # computes w.grad and b.grad
        with torch.no_grad():  # autograd must not record the update
            w -= lr * w.grad  # optimizer.step()
            b -= lr * b.grad
        w.grad.zero_()  # optimizer.zero_grad()
        b.grad.zero_()
    return w.item(), b.item()


# Beyond the video
def learning_rate_limit(X):
    """Return the learning rate above which gradient descent for w·x + b diverges.

    With one weight, the loss is a parabola, and the limit is 2 / (its second derivative). At this
    rate, each step ends as far beyond the minimum as it began before it; above it, farther away.
    With two weights, the largest second derivative in any direction of (w, b) counts; the formula
    is from linear algebra. In the perpendicular direction, training may still converge, so the loss
    may fall at first.
    """
    m1 = X.mean().item()
    m2 = (X**2).mean().item()
    largest_second_derivative = m2 + 1 + math.sqrt((m2 - 1) ** 2 + 4 * m1**2)
    return 2 / largest_second_derivative


def draw(losses, slow, diverging, loss_exact, args):
    """Complete the left half of the figure, draw the losses of each epoch on the right; save it."""
    plt.gca().set(title="Linear regression", xlabel="feature x", ylabel="target y")
    plt.legend()

    ax = plt.subplot(1, 2, 2)
    ax.plot(range(1, args.epochs + 1), losses, "b", label=f"learning rate {args.lr}")
    ax.plot(range(1, 101), slow, "C1--", label="learning rate 0.01 (video)")
    ax.plot(range(1, 21), diverging, "C4-.", label="learning rate 1.05")
    ax.axhline(loss_exact, color="k", linestyle="--", label=f"least squares: {loss_exact:.0f}")
    ax.set(title="Training loss", xlabel="epoch", ylabel="mean squared error", yscale="log")
    ax.set_ylim(loss_exact / 2, 2 * max(diverging[-1], losses[0]))
    ax.legend()

    plt.tight_layout()
    plt.savefig(args.output_dir / "01_linear_regression.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 0 < args.lr <= 1000 or not 0 <= args.seed < 2**32:
        parser.error("--epochs must be at least 1, and 0 < --lr <= 1000, and 0 <= --seed < 2**32")
    return args


if __name__ == "__main__":
    main()
