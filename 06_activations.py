"""06 · Activation functions

An activation function goes between two linear layers; without it, the two are equivalent to one.
Five are applied to the same numbers, as functions and as modules; curves show the functions and
their derivatives. Then two experiments show what activation functions do and how they differ.

You will learn
    - softmax, sigmoid, tanh, ReLU, and leaky ReLU, as functions and as modules
    - two options for using an activation function in a network
    - that a network without activation functions can only learn linear decision boundaries
    - how gradients vanish on their way back through many sigmoids

Run
    python 06_activations.py
    python 06_activations.py --seed 1

Since the video
    - GELU and SiLU, common in newer networks, are drawn beside the others.
    - The two options have separate class names, `NeuralNet1` and `NeuralNet2`, not one name.

Try it
    - `--epochs 3000`: does the network without an activation function catch up?
    - In `gradient_by_layer`, change `8 * [64]` to `18 * [64]`. What happens to each curve?
    - In `curves`, change `nn.LeakyReLU()` to `nn.LeakyReLU(0.2)` and its 0.01 to 0.2.

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=9753s (about 2:42:33)
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional as F

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class NeuralNet1(nn.Module):
    """Option 1, modules: features (N, input_size) -> probabilities (N, 1), for BCELoss."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.linear1(x))
        return self.sigmoid(self.linear2(out))


class NeuralNet2(nn.Module):
    """Option 2, functions: features (N, input_size) -> probabilities (N, 1), for BCELoss."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.linear2 = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.linear1(x))
        return torch.sigmoid(self.linear2(out))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    X, y = make_moons(n_samples=1000, noise=0.15, random_state=0)
    X = torch.from_numpy(X).float().to(device)  # (1000, 2)
    y = torch.from_numpy(y).float().view(-1, 1).to(device)  # (1000, 1)
    X_train, X_test, y_train, y_test = X[:500], X[500:], y[:500], y[500:]
    print(f"06 Activation functions | device: {device} | data: make_moons, 500 training, 500 test")

    x = torch.tensor([-1.0, 1.0, 2.0, 3.0])

    # Softmax, as a function and as a module
    print("torch.softmax:", torch.softmax(x, dim=0))
    print("nn.Softmax:   ", nn.Softmax(dim=0)(x))
    # Sigmoid
    print("torch.sigmoid:", torch.sigmoid(x))
    print("nn.Sigmoid:   ", nn.Sigmoid()(x))
    # Tanh
    print("torch.tanh:   ", torch.tanh(x))
    print("nn.Tanh:      ", nn.Tanh()(x))
    # ReLU
    print("torch.relu:   ", torch.relu(x))
    print("nn.ReLU:      ", nn.ReLU()(x))
    # Leaky ReLU
    print("F.leaky_relu: ", F.leaky_relu(x))
    print("nn.LeakyReLU: ", nn.LeakyReLU()(x))

    # The two networks, option 1 (modules) and option 2 (functions): NeuralNet1, NeuralNet2, above

    # The curves, each with its derivative, computed by autograd
    z = torch.linspace(-4, 4, 401)
    curves = [  # name, PyTorch's module, and the formula
        ("sigmoid", nn.Sigmoid(), 1 / (1 + torch.exp(-z))),
        ("tanh", nn.Tanh(), (torch.exp(z) - torch.exp(-z)) / (torch.exp(z) + torch.exp(-z))),
        ("ReLU", nn.ReLU(), torch.where(z > 0, z, 0.0)),
        ("leaky ReLU", nn.LeakyReLU(), torch.where(z > 0, z, 0.01 * z)),
        ("GELU", nn.GELU(), z * (1 + torch.erf(z / 2**0.5)) / 2),  # z * P(standard normal < z)
        ("SiLU", nn.SiLU(), z / (1 + torch.exp(-z))),  # z * sigmoid(z)
    ]
    figure, axes = plt.subplots(2, 4, figsize=(12, 6), layout="constrained")
    max_error = 0.0
    for ax, (name, activation, formula) in zip(axes.flat, curves):
        x = z.clone().requires_grad_()
        output = activation(x)
        output.sum().backward()  # backward needs one number; x.grad: the derivative at each x
        max_error = max(max_error, (output - formula).abs().max().item())
        ax.plot(z, output.detach(), label="function")
        ax.plot(z, x.grad, "--", label="derivative")
        ax.set(title=name, xlabel="x", ylim=(-1.2, 2.2))
    axes.flat[0].legend()
    axes.flat[6].plot(z, torch.heaviside(z, torch.tensor(1.0)))  # 0 below 0, else 1
    axes.flat[6].set(title="step (its derivative is 0)", xlabel="x", ylim=(-1.2, 2.2))
    print(f"formulas and PyTorch: maximum difference {max_error:.1e}")

    # Beyond the video: two half circles cannot be separated by a straight line. Without an
    # activation function, that is all two layers can draw: together they are one linear layer.
    accuracies = {}
    for activation in (nn.Identity(), nn.Tanh(), nn.ReLU()):  # Identity: no activation
        torch.manual_seed(args.seed)  # the same start for all
        model = nn.Sequential(nn.Linear(2, 16), activation, nn.Linear(16, 1)).to(device)
        criterion = nn.BCEWithLogitsLoss()
        optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)  # a relative of SGD
        for _ in range(args.epochs):
            loss = criterion(model(X_train), y_train)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            predicted = model(X_test) > 0  # a logit above 0: a probability above 0.5
        name = type(activation).__name__
        acc = (predicted == y_test).float().mean().item()
        accuracies[f"accuracy_{name.lower()}"] = acc
        print(f"two layers on make_moons, {name}: accuracy {acc:.1%}")

    # Beyond the video: on its way back, the gradient passes nine activations and is multiplied by
    # each one's derivative (and the weights). The sigmoid's is 0.25 at most: little arrives.
    gradients = {}
    ax = axes.flat[7]
    for activation, style in ((nn.Sigmoid(), "s-"), (nn.Tanh(), "^--"), (nn.ReLU(), "o-.")):
        torch.manual_seed(args.seed)
        name, by_layer = type(activation).__name__, gradient_by_layer(activation, X_train, y_train)
        gradients[f"gradient_{name.lower()}"] = by_layer[0]
        ax.plot(range(1, len(by_layer) + 1), by_layer, style, label=name)
        print(f"gradient in the first of {len(by_layer)} layers, {name}: {by_layer[0]:.1e}")
    ax.set(title="Mean absolute gradient", xlabel="layer", yscale="log")
    ax.legend()
    figure.savefig(args.output_dir / "06_activations.png")
    if args.show:
        plt.show()
    plt.close(figure)

    relu, identity = accuracies["accuracy_relu"], accuracies["accuracy_identity"]
    print(f"Test accuracy: {relu:.1%} with ReLU, {identity:.1%} without activation (make_moons)")
    print("Figure:", args.output_dir / "06_activations.png")
    return {"max_error": max_error, **accuracies, **gradients}


# Beyond the video
def gradient_by_layer(activation: nn.Module, X: Tensor, y: Tensor) -> list[float]:
    """Return the mean absolute gradient of the weights of ten layers, before training.

    All but the last use He initialization (He et al., 2015), made for ReLU: gradients keep about
    the same size across layers.
    """
    layers = []
    for n_inputs in [2] + 8 * [64]:
        linear = nn.Linear(n_inputs, 64)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, activation]
    model = nn.Sequential(*layers, nn.Linear(64, 1)).to(device)
    nn.BCEWithLogitsLoss()(model(X), y).backward()
    return [layer.weight.grad.abs().mean().item() for layer in model[::2]]  # the linear layers


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=300, help="passes over the data")
    parser.add_argument("--lr", type=float, default=0.02, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
