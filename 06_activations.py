"""06 · Activation functions

An activation is the bend between two linear layers. Without one, any number of layers is still a
straight line; with the wrong one, the gradient dies on its way back. Eight activations are written
by their formula and held against PyTorch's, and then two experiments show why they matter.

You will learn
    - the formula, the shape and the derivative of eight activations
    - the two ways to use them: as a module (`nn.ReLU()`) and as a function (`torch.relu`)
    - that a network without them can only draw straight lines
    - why deep networks use ReLU and its relatives rather than the sigmoid

Run
    python 06_activations.py
    python 06_activations.py --epochs 1000

Since the video
    - `torch.sigmoid` and `torch.tanh` are the usual spellings now, no longer `F.sigmoid`, `F.tanh`.
    - GELU and SiLU, which are in common use now, stand beside the video's six.
    - The two reasons that the video names, lines that bend and gradients that vanish, are measured.

Try it
    - `--epochs 100`: which activations have bent their line by then, and which has not?
    - `--epochs 2000`: how far does the network without an activation come?
    - `depth=20` in `gradient_by_layer`: by what factor do sigmoid's gradients shrink now?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=9753s (about 2:42:33)
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional as F

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "06_activations"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__


# %% 0) The functions, by formula and in PyTorch
BY_FORMULA: dict[str, Callable[[Tensor], Tensor]] = {
    "step": lambda z: (z >= 0).to(z.dtype),
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "tanh": lambda z: (torch.exp(z) - torch.exp(-z)) / (torch.exp(z) + torch.exp(-z)),
    "ReLU": lambda z: torch.where(z > 0, z, 0.0),
    "leaky ReLU": lambda z: torch.where(z > 0, z, 0.01 * z),
    "softmax": lambda z: torch.exp(z) / (torch.exp(z) + 2),  # of (z, 0, 0), the first; exp(0) is 1
    "GELU": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "SiLU": lambda z: z / (1 + torch.exp(-z)),
}
IN_TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "step": lambda z: torch.heaviside(z, values=torch.ones_like(z)),  # `values` where z is 0
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "ReLU": torch.relu,
    "leaky ReLU": F.leaky_relu,
    "softmax": lambda z: torch.softmax(torch.stack([z, 0 * z, 0 * z]), dim=0)[0],
    "GELU": F.gelu,
    "SiLU": F.silu,
}


def derivative(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return the slope of an elementwise function at each z (N,), found by autograd."""
    z = z.clone().requires_grad_()
    values = function(z)
    if not values.requires_grad:  # the step: a comparison gives autograd nothing to follow
        return torch.zeros_like(z)
    return torch.autograd.grad(values.sum(), z)[0]


# %% 1) Model, in both spellings
class ModuleNet(nn.Module):
    """Two linear layers, (N, 2) -> (N,) logits, with the activation as a module."""

    def __init__(self, activation: nn.Module, n_hidden: int = 16) -> None:
        super().__init__()
        self.linear1 = nn.Linear(2, n_hidden)
        self.activation = activation
        self.linear2 = nn.Linear(n_hidden, 1)

    def forward(self, X: Tensor) -> Tensor:
        X = self.activation(self.linear1(X))  # (N, n_hidden)
        return self.linear2(X).squeeze(1)  # (N, 1) -> (N,)


class FunctionNet(nn.Module):
    """The same network, with the activation as a function in `forward`."""

    def __init__(self, n_hidden: int = 16) -> None:
        super().__init__()
        self.linear1 = nn.Linear(2, n_hidden)
        self.linear2 = nn.Linear(n_hidden, 1)

    def forward(self, X: Tensor) -> Tensor:
        X = torch.relu(self.linear1(X))
        return self.linear2(X).squeeze(1)


# %% 2) Prepare data
def load_data(limit: int | None) -> list[Tensor]:
    """Return X_train (N, 2), y_train (N,), X_test, y_test: two interleaved half circles."""
    X, y = make_moons(n_samples=1000, noise=0.15, random_state=0)
    X = torch.tensor(X, dtype=torch.float32, device=DEVICE)
    y = torch.tensor(y, dtype=torch.float32, device=DEVICE)
    return [X[:500][:limit], y[:500][:limit], X[500:][:limit], y[500:][:limit]]


# %% 3) Training loop: without an activation, and with six
MODULES = {  # they hold no weights, so one object can serve many networks
    "identity": nn.Identity(),  # no activation: returns what it is given
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "ReLU": nn.ReLU(),
    "leaky ReLU": nn.LeakyReLU(),
    "GELU": nn.GELU(),
    "SiLU": nn.SiLU(),
}


def train(model: nn.Module, X: Tensor, y: Tensor, lr: float, epochs: int) -> None:
    """Train on all samples at once."""
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        loss = criterion(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def evaluate(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """Return the share of the points on the right side of the line."""
    return ((model(X) > 0) == y.bool()).float().mean().item()


# %% 4) Vanishing gradients
def gradient_by_layer(
    activation: nn.Module, X: Tensor, y: Tensor, depth: int = 10, width: int = 64
) -> list[float]:
    """Return the mean size of the weights' gradients in each of `depth` layers, before training.

    The weights are drawn as He et al. (2015) derived for ReLU: with them a gradient neither grows
    nor shrinks from hidden layer to hidden layer, if the activation lets it through as ReLU does.
    """
    sizes = [2] + (depth - 1) * [width] + [1]
    linears = [nn.Linear(n_in, n_out) for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True)]
    layers = []
    for linear in linears:
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, activation]
    model = nn.Sequential(*layers[:-1], nn.Flatten(start_dim=0)).to(DEVICE)  # ends in a logit
    nn.BCEWithLogitsLoss()(model(X), y).backward()
    return [linear.weight.grad.abs().mean().item() for linear in linears]


# %% 5) Plot
def plot(
    models: dict[str, nn.Module], X: Tensor, y: Tensor, gradients: dict[str, list[float]]
) -> plt.Figure:
    """Draw the functions with their derivatives, two boundaries, and the gradient by layer."""
    figure = plt.figure(figsize=(12, 10), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[5, 4])

    z = torch.linspace(-4, 4, 401)
    for ax, (name, function) in zip(top.subplots(2, 4).flat, BY_FORMULA.items(), strict=True):
        ax.plot(z, function(z), "C0-", lw=2, label="function")
        ax.plot(z, derivative(function, z), "C1--", label="derivative")
        title = "softmax of (z, 0, 0), first" if name == "softmax" else name
        ax.set(title=title, xlabel="z", ylim=(-1.2, 2.2))
        ax.grid(alpha=0.3)
    top.axes[0].legend(loc="lower right")

    left, middle, right = bottom.subplots(1, 3)
    first, second = np.meshgrid(np.linspace(-1.8, 2.8, 200), np.linspace(-1.3, 1.8, 200))
    grid = torch.tensor(np.stack([first, second], axis=-1), dtype=torch.float32, device=DEVICE)
    points, classes = X.cpu(), y.cpu()
    for ax, name in ((left, "identity"), (middle, "ReLU")):
        with torch.inference_mode():
            logits = models[name](grid.flatten(0, 1)).reshape(200, 200).cpu()
        ax.contourf(first, second, logits > 0, levels=1, colors=["C0", "C1"], alpha=0.25)
        for label, style in enumerate(("C0o", "C1^")):
            part = points[classes == label]
            ax.plot(part[:, 0], part[:, 1], style, ms=3, label=f"class {label}")
        accuracy = evaluate(models[name], X, y)
        title = "no activation" if name == "identity" else name
        ax.set(title=f"{title}: {accuracy:.1%} right", xlabel="feature 1", ylabel="feature 2")
        ax.legend(loc="lower left")

    for (name, sizes), style in zip(gradients.items(), ("C3-s", "C2-^", "C0-o"), strict=True):
        right.plot(range(1, len(sizes) + 1), sizes, style, label=name)
    right.set(title="Gradients before training", xlabel="layer (1 is the first)", yscale="log")
    right.set_ylabel("mean size of a weight's gradient")
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
        description="Activation functions by formula, and two experiments that show why.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=300, metavar="N", help="passes over the data")
    add("--lr", type=float, default=0.02, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples of each part")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--epochs and --limit must be at least 1")
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
    sizes = f"moons, {n_train} training and {n_test} test points"
    print(f"06 Activation functions | device: {DEVICE} | data: {sizes}\n")

    z = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], dtype=torch.float64)
    many = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    print("z            " + "".join(f"{value:8.2f}" for value in z) + "    error against torch")
    errors = []
    for name, function in BY_FORMULA.items():
        errors.append((function(many) - IN_TORCH[name](many)).abs().max().item())
        print(f"{name:13}" + "".join(f"{value:8.4f}" for value in function(z)), end="")
        print(f"{errors[-1]:23.1e}")
        slopes = derivative(function, z)
        print("  derivative " + "".join(f"{slope:8.4f}" for slope in slopes))
    print("(softmax: of the three logits z, 0, 0, the first probability; the error is the largest")
    print("from -6 to 6)")

    module_net, function_net = ModuleNet(nn.ReLU()).to(DEVICE), FunctionNet().to(DEVICE)
    function_net.load_state_dict(module_net.state_dict())  # an nn.ReLU has nothing to save
    difference = (module_net(X_test) - function_net(X_test)).abs().max().item()
    print(f"\nWith nn.ReLU() or with torch.relu, a network's logits differ by {difference:g}.")

    print(f"\nTwo layers on the moons, {args.epochs} epochs: test accuracy")
    models, accuracies = {}, {}
    for name, activation in MODULES.items():
        torch.manual_seed(args.seed)  # the same start for each activation
        models[name] = ModuleNet(activation).to(DEVICE)
        train(models[name], X_train, y_train, args.lr, args.epochs)
        accuracies[name] = evaluate(models[name], X_test, y_test)
        print(f"    {name:12} {accuracies[name]:6.1%}")
    print("Without an activation, two linear layers are one: the boundary stays a straight line.")

    gradients = {}
    print("\nHow large a gradient arrives, before training, on its way back from the output")
    print("                in the last hidden layer   in the first   it shrinks by a factor of")
    for name in ("sigmoid", "tanh", "ReLU"):
        torch.manual_seed(args.seed)
        gradients[name] = gradient_by_layer(MODULES[name], X_train, y_train)
        first, *_, last, _ = gradients[name]
        print(f"    {name:12} {last:23.1e} {first:14.1e} {last / first:27,.1f}")
    ratio = gradients["ReLU"][0] / gradients["sigmoid"][0]
    print("The sigmoid's slope is at most 0.25, so each layer takes its share. The slope of tanh")
    print("reaches 1, that of ReLU is 1 for every positive z: with them, more of it arrives. The")
    print(f"first layer's gradient is {ratio:,.0f} times as large with ReLU as with the sigmoid.")

    figure_path = args.output_dir / f"{LESSON}.png"
    save_figure(plot(models, X_test, y_test, gradients), figure_path, args.show)
    print(f"\nTest accuracy: {accuracies['ReLU']:.1%} with ReLU,", end=" ")
    print(f"{accuracies['identity']:.1%} without an activation (moons)")
    print(f"Figure: {figure_path}")
    metrics = {"max_error": max(errors), "form_difference": difference}
    for name, accuracy in accuracies.items():
        metrics[f"accuracy_{name.lower().replace(' ', '_')}"] = accuracy
    for name, by_layer in gradients.items():
        metrics[f"gradient_{name.lower()}"] = by_layer[0]
    return {**metrics, "n_train": n_train, "n_test": n_test}


if __name__ == "__main__":
    main()
