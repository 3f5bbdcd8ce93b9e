"""01 · Linear regression

A straight line is fitted to 100 points by gradient descent, first with PyTorch's building blocks,
as in the video, then without `nn` or `optim`. Both approach the least-squares line, the line with
the smallest mean squared error, which linear algebra finds exactly.

You will learn
    - how a PyTorch training script is built: data, model, loss and optimizer, training loop
    - what `nn.Linear`, `nn.MSELoss`, `backward()`, and `torch.optim.SGD` each do for you
    - how close gradient descent comes to the exact solution
    - how the learning rate decides between too slow, fast, and diverging

Run
    python 01_linear_regression.py
    python 01_linear_regression.py --lr 0.01 --epochs 500

Changes from the video
    - The learning rate is 0.1. At the video's 0.01, the loss is still 411 in epoch 100, where 290
      is the least possible. The figure shows both learning rates.
    - The data is moved to the GPU if there is one, so `predicted` needs `.cpu()` before `.numpy()`.

Try it (answers: docs/answers.md)
    - `--lr 0.01`: how far is the loss from the exact solution's after 100 epochs? After 500?
    - `--lr 0.9` and `--lr 1`: which one converges? At which epoch can you tell?
    - Remove the line with `y.view`. The model still trains. What does it learn, and why?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=5234s (about 1:27:14), course script:
    07_linear_regression.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (the flags change them)
num_epochs = 100
learning_rate = 0.1


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    num_epochs, learning_rate = args.epochs, args.lr

    # 0) Prepare data
    X_numpy, y_numpy = datasets.make_regression(
        n_samples=100, n_features=1, noise=20, random_state=4
    )
    # NumPy's floats have 64 bits, the model's weights 32: without astype, model(X) raises an error
    X = torch.from_numpy(X_numpy.astype(np.float32)).to(device)
    y = torch.from_numpy(y_numpy.astype(np.float32)).to(device)
    y = y.view(y.shape[0], 1)  # (N,) -> (N, 1), the shape of the model's output
    n_samples, n_features = X.shape
    print(f"01 Linear regression | device: {device} | data: make_regression, {n_samples} samples")

    # 1) Model
    input_size, output_size = n_features, 1
    model = nn.Linear(input_size, output_size).to(device)
    w_start, b_start = model.weight.item(), model.bias.item()  # all training runs start here

    # 2) Loss and optimizer
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)

    # 3) Training loop
    losses = []
    for epoch in range(num_epochs):
        # Forward pass and loss
        y_predicted = model(X)
        loss = criterion(y_predicted, y)
        # Backward pass and update
        loss.backward()
        optimizer.step()
        # Zero the gradients: backward() adds to them
        optimizer.zero_grad()
        losses.append(loss.item())
        if (epoch + 1) % 10 == 0:
            print(f"epoch: {epoch + 1}, loss = {loss.item():.4f}")

    # Plot
    predicted = model(X).detach().cpu().numpy()  # detach: numpy() refuses tensors that require grad
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    left.plot(X_numpy, y_numpy, "ro", markersize=4, label="data")
    left.plot(X_numpy, predicted, "b", linewidth=4, alpha=0.5, label="trained line")

    # Beyond the video: the same training without nn or optim, from the same start. By hand, w and b
    # are Python's floats, with 64 bits, hence the small difference.
    weight, bias = model.weight.item(), model.bias.item()
    print(f"nn.Linear and SGD:    weight {weight:.4f}, bias {bias:.4f}")
    w, b, _ = train_by_hand(X, y, w_start, b_start, learning_rate, num_epochs)
    by_hand = max(abs(w - weight), abs(b - bias))
    print(f"gradient by hand:     weight {w:.4f}, bias {b:.4f}, difference at most {by_hand:.1e}")
    w, b = train_with_autograd(X, y, w_start, b_start, learning_rate, num_epochs)
    autograd = max(abs(w - weight), abs(b - bias))
    print(f"gradient by autograd: weight {w:.4f}, bias {b:.4f}, difference at most {autograd:.1e}")

    # Beyond the video: the exact solution, found by linear algebra in one step
    A = torch.cat([X, torch.ones_like(X)], dim=1)  # (N, 2): the column of ones is for the bias
    solution = torch.linalg.lstsq(A, y).solution  # (2, 1): weight and bias
    w, b = solution.flatten().tolist()
    loss = criterion(model(X), y).item()
    loss_exact = criterion(A @ solution, y).item()
    print(f"exact least squares:  weight {w:.4f}, bias {b:.4f}, loss {loss_exact:.4f}")

    # Beyond the video: the video's learning rate, and one that is too large for this data (the
    # limit is 0.98, see docs/answers.md). With it, each step jumps past the minimum and soon lands
    # farther from it than the step before, so the loss rises.
    _, _, slow = train_by_hand(X, y, w_start, b_start, lr=0.01, epochs=100)
    _, _, diverging = train_by_hand(X, y, w_start, b_start, lr=1.05, epochs=20)
    print(f"learning rate 0.01:   loss {slow[-1]:.0f} in epoch 100")
    print(f"learning rate 1.05:   loss {diverging[-1]:.0f} in epoch 20, from {diverging[0]:.0f}")

    left.plot(X_numpy, (A @ solution).cpu().numpy(), "k--", linewidth=1, label="exact line")
    left.set(title="Linear regression", xlabel="feature x", ylabel="target y")
    left.legend()
    right.plot(range(1, num_epochs + 1), losses, "b", label=f"learning rate {learning_rate:g}")
    right.plot(range(1, 101), slow, "C1--", label="learning rate 0.01 (video)")
    right.plot(range(1, 21), diverging, "k-.", label="learning rate 1.05")
    right.axhline(loss_exact, color="gray", linestyle=":", label=f"exact line: {loss_exact:.0f}")
    right.set(title="Training loss", xlabel="epoch", ylabel="mean squared error", yscale="log")
    right.set_ylim(loss_exact / 2, 2 * max(diverging[-1], losses[0]))
    right.legend()
    figure.savefig(args.output_dir / "01_linear_regression.png")
    if args.show:
        plt.show()

    print(f"Training loss: {loss:.2f}, exact solution: {loss_exact:.2f} (make_regression)")
    print("Figure:", args.output_dir / "01_linear_regression.png")
    return {
        "weight": weight,
        "bias": bias,
        "loss": loss,
        "loss_exact": loss_exact,
        "loss_video": slow[-1],
        "difference_by_hand": by_hand,
        "difference_autograd": autograd,
    }


# Beyond the video
def train_by_hand(X: Tensor, y: Tensor, w: float, b: float, lr: float, epochs: int) -> tuple:
    """Run gradient descent without autograd; return weight, bias, and the loss of each epoch.

    loss = mean(error²) with error = w·x + b - y, so by the chain rule
    d loss / dw = mean(2 · error · x) and d loss / db = mean(2 · error).
    """
    losses = []
    for _ in range(epochs):
        error = w * X + b - y  # nn.Linear, without the - y
        losses.append((error**2).mean().item())  # nn.MSELoss
        w_gradient = (2 * error * X).mean().item()  # loss.backward()
        b_gradient = (2 * error).mean().item()
        w -= lr * w_gradient  # optimizer.step()
        b -= lr * b_gradient
    return w, b, losses


def train_with_autograd(X: Tensor, y: Tensor, w: float, b: float, lr: float, epochs: int) -> tuple:
    """Run gradient descent with autograd but no optimizer; return weight and bias."""
    w = torch.tensor(w, device=X.device, requires_grad=True)
    b = torch.tensor(b, device=X.device, requires_grad=True)
    for _ in range(epochs):
        loss = ((w * X + b - y) ** 2).mean()
        loss.backward()  # computes w.grad and b.grad
        with torch.no_grad():  # autograd must not record the update
            w -= lr * w.grad  # optimizer.step()
            b -= lr * b.grad
        w.grad.zero_()  # optimizer.zero_grad()
        b.grad.zero_()
    return w.item(), b.item()


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
