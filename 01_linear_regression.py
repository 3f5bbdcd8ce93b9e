"""01 · Linear regression

A straight line is fitted to a hundred points by gradient descent. The same training is written
three times: with gradients derived by hand, with autograd, and with PyTorch's own building blocks.
All three walk the same path, and it ends at the exact least-squares answer.

You will learn
    - what a training step is: predict, measure the loss, find its gradient, update the parameters
    - what autograd, `nn.Linear`, `nn.MSELoss` and `torch.optim.SGD` each take off your hands
    - that gradient descent approaches the answer that linear algebra gives at once
    - what happens when the learning rate is too large

Run
    python 01_linear_regression.py
    python 01_linear_regression.py --lr 0.01 --epochs 100

Since the video
    - The video's 100 epochs at a learning rate of 0.01 stop well before the minimum; ours converge.
    - The exact solution stands beside the trained one, so you can see how close training came.

Try it
    - `--lr 0.01`: the loss is still falling after 100 epochs. How many does it need?
    - `--lr 0.9` and `--lr 1`: one converges, the other does not. Where does the limit lie?
    - `--limit 2`: why is the loss 0 now?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=5234s (about 1:27:14)
"""

import argparse
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_regression
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "01_linear_regression"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__
LR_TOO_LARGE = 1.05  # for these points: each step overshoots the minimum, and ends up higher


# %% 0) Prepare data
def load_data(limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the points of the video as X (N, 1) and y (N, 1), at most `limit` of them."""
    X, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=4)
    X = torch.tensor(X, dtype=torch.float32, device=DEVICE)  # (N, 1)
    y = torch.tensor(y, dtype=torch.float32, device=DEVICE).unsqueeze(1)  # (N,) -> (N, 1), like X
    return X[:limit], y[:limit]


# %% 1) Model
def predict(X: Tensor, parameters: Tensor) -> Tensor:
    """Return weight * x + bias for every x in X (N, 1); `parameters` holds (weight, bias)."""
    return X * parameters[0] + parameters[1]


# %% 2) Loss and gradient
def mean_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of the squared errors, a scalar."""
    return ((predictions - targets) ** 2).mean()


def gradient_by_hand(X: Tensor, y: Tensor, parameters: Tensor) -> Tensor:
    """Return the gradient (2,) of the mean squared error, from the chain rule.

    With error = weight * x + bias - y:  d/d weight mean(error**2) = mean(2 * error * x)
    and d/d bias mean(error**2) = mean(2 * error).
    """
    error = predict(X, parameters) - y
    return torch.stack([(2 * error * X).mean(), (2 * error).mean()])


def gradient_by_autograd(X: Tensor, y: Tensor, parameters: Tensor) -> Tensor:
    """Return the same gradient (2,), found by autograd."""
    parameters = parameters.clone().requires_grad_()
    mean_squared_error(predict(X, parameters), y).backward()
    return parameters.grad


# %% 3) Training loop, three times
# Each function starts at the same (weight, bias) and returns the path: a tensor (epochs + 1, 2)
# with the parameters before the first epoch and after each one. An epoch is a single step here,
# since each step uses all points at once.
def train_by_hand(X: Tensor, y: Tensor, start: Tensor, lr: float, epochs: int) -> Tensor:
    """Tensors only: we derive the gradient and we update the parameters."""
    parameters = start.clone()
    path = [parameters]
    for _ in range(epochs):
        parameters = parameters - lr * gradient_by_hand(X, y, parameters)
        path.append(parameters)
    return torch.stack(path)


def train_with_autograd(X: Tensor, y: Tensor, start: Tensor, lr: float, epochs: int) -> Tensor:
    """Autograd finds the gradient; we still update the parameters."""
    parameters = start.clone().requires_grad_()
    path = [start]
    for _ in range(epochs):
        loss = mean_squared_error(predict(X, parameters), y)
        loss.backward()
        with torch.no_grad():  # the update itself is no part of the model
            parameters -= lr * parameters.grad
        parameters.grad.zero_()  # backward() adds to .grad, so it must be emptied every time
        path.append(parameters.detach().clone())
    return torch.stack(path)


def train_with_modules(X: Tensor, y: Tensor, start: Tensor, lr: float, epochs: int) -> Tensor:
    """The PyTorch way: a module, a loss and an optimizer do all of it."""
    model = nn.Linear(in_features=1, out_features=1).to(DEVICE)
    nn.init.constant_(model.weight, start[0].item())
    nn.init.constant_(model.bias, start[1].item())
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    path = [start]
    for _ in range(epochs):
        loss = criterion(model(X), y)  # forward pass
        optimizer.zero_grad()
        loss.backward()  # gradients
        optimizer.step()  # update
        path.append(torch.stack([model.weight.detach().squeeze(), model.bias.detach().squeeze()]))
    return torch.stack(path)


# %% 4) Evaluate
def solve_exactly(X: Tensor, y: Tensor) -> Tensor:
    """Return the (weight, bias) with the least mean squared error, by `torch.linalg.lstsq`."""
    A = torch.cat([X, torch.ones_like(X)], dim=1)  # (N, 2): the column of ones carries the bias
    return torch.linalg.lstsq(A.double(), y.double()).solution.squeeze(1).float()  # (2, 1) -> (2,)


def losses_along(path: Tensor, X: Tensor, y: Tensor) -> list[float]:
    """Return the loss at each point of a training's path."""
    return [mean_squared_error(predict(X, parameters), y).item() for parameters in path]


# %% 5) Plot
def plot(
    X: Tensor, y: Tensor, path: Tensor, exact: Tensor, curves: dict[str, list[float]]
) -> plt.Figure:
    """Draw the points, the line before and after training and the exact one, and the losses."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    x = torch.stack([X.min(), X.max()])
    left.scatter(X.cpu(), y.cpu(), s=16, color="0.5", label="data")
    left.plot(x.cpu(), predict(x, path[0]).cpu(), "k:", label="before training")
    left.plot(x.cpu(), predict(x, exact).cpu(), "C0-", lw=5, label="exact")
    left.plot(x.cpu(), predict(x, path[-1]).cpu(), "C1--", lw=2, label="trained")
    left.set(title="Linear regression", xlabel="feature x", ylabel="target y")
    left.legend()

    loss_exact = mean_squared_error(predict(X, exact), y).item()
    right.axhline(loss_exact, color="C0", lw=5, label="exact solution")
    for (label, losses), style in zip(curves.items(), ("C1--", "C3-."), strict=True):
        right.plot(losses, style, lw=2, label=label)
    right.set(title="Loss by epoch", xlabel="epoch", ylabel="mean squared error", yscale="log")
    # With two points the exact loss is 0, which has no place on a log axis; the diverging loss
    # leaves the picture at the top.
    right.set_ylim(max(loss_exact / 2, 1e-3), 10 * losses[0])
    right.locator_params(axis="x", integer=True)
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
        description="Linear regression three ways, beside the exact answer.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=100, metavar="N", help="passes over the data")
    add("--lr", type=float, default=0.1, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or (args.limit is not None and args.limit < 2):
        parser.error("--epochs must be at least 1, and --limit at least 2 (for a line)")
    if not 0 < args.lr < float("inf") or not 0 <= args.seed < 2**32:
        parser.error("--lr must be finite and above 0, and --seed from 0 to 2**32 - 1")
    return args


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    make_output_dir(args.output_dir)
    torch.manual_seed(args.seed)

    X, y = load_data(args.limit)
    print(f"01 Linear regression | device: {DEVICE} | data: make_regression, {len(X)} points")

    start = torch.randn(2, device=DEVICE)  # a random weight and bias, the same for all three
    trainings = (train_by_hand, train_with_autograd, train_with_modules)
    paths = torch.stack([train(X, y, start, args.lr, args.epochs) for train in trainings])
    losses = losses_along(paths[2], X, y)
    print(f"\nThe same training three times (learning rate {args.lr:g}): weight, bias")
    print("epoch         by hand               autograd           nn.Linear + SGD           loss")
    for epoch in np.unique(np.linspace(0, args.epochs, 11).astype(int)):  # at most 11 rows
        columns = "   ".join(f"{path[epoch, 0]:9.3f} {path[epoch, 1]:9.3f}" for path in paths)
        print(f"{epoch:5d}   {columns}   {losses[epoch]:12.3f}")

    gradient_error = gradient_by_hand(X, y, start) - gradient_by_autograd(X, y, start)
    path_error = paths[:, -1].amax(dim=0) - paths[:, -1].amin(dim=0)
    print(f"By hand or by autograd, the gradients differ by {gradient_error.abs().max():.1e},")
    print(f"and the three trainings end at most {path_error.max():.1e} apart.")

    diverging = losses_along(train_by_hand(X, y, start, LR_TOO_LARGE, epochs=20), X, y)
    print(f"\nA learning rate can be too large: at {LR_TOO_LARGE:g}, the loss goes from", end=" ")
    print(f"{diverging[0]:,.0f} to {diverging[-1]:,.0f} in 20 epochs.")

    weight, bias = paths[2, -1].tolist()
    exact = solve_exactly(X, y)
    loss_exact = mean_squared_error(predict(X, exact), y).item()
    print("\n              weight       bias         loss")
    print(f"trained   {weight:10.4f} {bias:10.4f} {losses[-1]:12.3f}")
    print(f"exact     {exact[0]:10.4f} {exact[1]:10.4f} {loss_exact:12.3f}")

    figure_path = args.output_dir / f"{LESSON}.png"
    curves = {f"learning rate {args.lr:g}": losses, f"learning rate {LR_TOO_LARGE:g}": diverging}
    save_figure(plot(X, y, paths[2], exact, curves), figure_path, args.show)
    print(f"\nLoss: {losses[-1]:.3f} trained, {loss_exact:.3f} exact", end=" ")
    print(f"(make_regression, {len(X)} points)")
    print(f"Figure: {figure_path}")
    return {
        "weight": weight,
        "bias": bias,
        "loss": losses[-1],
        "weight_exact": exact[0].item(),
        "bias_exact": exact[1].item(),
        "loss_exact": loss_exact,
        "gradient_error": gradient_error.abs().max().item(),
        "path_error": path_error.max().item(),
    }


if __name__ == "__main__":
    main()
