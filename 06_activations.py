"""06 · Activation functions

An activation function goes between two linear layers; without it, they collapse into one. Five are
applied to the same numbers, each as a function and as a module. Then the video's network learns two
half moons, with and without ReLU between its layers, and gradients go back through ten layers.

You will learn
    - how to apply softmax, sigmoid, tanh, ReLU, and leaky ReLU, as functions and as modules
    - how to use an activation function in a network: two options, and when to take which
    - why a network without activation functions can only learn linear decision boundaries
    - how gradients vanish on their way back through many sigmoids

Run
    python 06_activations.py
    python 06_activations.py --seed 1

Changes from the video
    - The video uses one name for both options; here they are `NeuralNet1` and `NeuralNet2`.
    - `NeuralNet1` is also trained, once as it is, and once without its ReLU, for comparison.

Which activation function?
    - In hidden layers: ReLU. A unit that is 0 for all samples gets no gradient and may stay so
      (a "dying ReLU"); if too many die, try leaky ReLU.
    - At the output: what the loss needs. `BCELoss` needs a sigmoid; `BCEWithLogitsLoss` and
      `CrossEntropyLoss` need none, since they apply sigmoid and softmax themselves.

Try it (answers: docs/answers.md)
    - `--epochs 3000`: does the network without ReLU catch up?
    - In `gradient_by_layer`, change `8 * [64]` to `18 * [64]`. What happens to each curve?
    - Replace `nn.ReLU()` in `NeuralNet1` with `nn.Tanh()`. How does the decision boundary change?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=9753s (about 2:42:33), course scripts:
    12_activation_functions.py, 12_plot_activations.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional as F

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters of the training runs beyond the video (the flags change them)
num_epochs = 300
learning_rate = 0.02


# Option 1: modules, made in __init__. They are printed with the model, and fit into nn.Sequential.
class NeuralNet1(nn.Module):
    """Features (N, input_size) -> probabilities (N, 1), for BCELoss."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.linear1(x))
        return self.sigmoid(self.linear2(out))


# Option 2: functions, called in forward. Shorter, as there is nothing to store.
class NeuralNet2(nn.Module):
    """Features (N, input_size) -> probabilities (N, 1), for BCELoss."""

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
    print(f"06 Activation functions | device: {device} | data: make_moons, 1000 samples")

    x = torch.tensor([-1.0, 1.0, 2.0, 3.0])

    # Softmax
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

    # The curves, with their derivatives, computed by autograd
    z = torch.linspace(-4, 4, 401)
    curves = [  # name, PyTorch's module, and the formula
        ("sigmoid", nn.Sigmoid(), 1 / (1 + torch.exp(-z))),
        ("tanh", nn.Tanh(), (torch.exp(z) - torch.exp(-z)) / (torch.exp(z) + torch.exp(-z))),
        ("ReLU", nn.ReLU(), torch.where(z > 0, z, 0.0)),
        ("leaky ReLU (slope 0.1)", nn.LeakyReLU(0.1), torch.where(z > 0, z, 0.1 * z)),
    ]
    figure, axes = plt.subplots(2, 4, figsize=(12, 6), layout="constrained")
    max_error = 0.0
    for ax, (name, activation, formula) in zip(axes[0], curves):
        inputs = z.clone().requires_grad_()
        outputs = activation(inputs)
        # backward() needs a scalar. Each input affects its own output only, so the gradient of the
        # sum holds the derivative at each input.
        outputs.sum().backward()
        max_error = max(max_error, (outputs - formula).abs().max().item())
        ax.plot(z, outputs.detach(), label="function")
        ax.plot(z, inputs.grad, "--", label="derivative")
        ax.set(title=name, xlabel="x", ylim=(-1.2, 2.2))
    axes[0, 0].legend()
    axes[1, 0].plot(z, torch.where(z > 0, 1.0, 0.0))
    axes[1, 0].set(title="step (derivative 0, none at 0)", xlabel="x", ylim=(-1.2, 2.2))
    print(f"formulas and PyTorch: maximum difference {max_error:.1e}")

    # Beyond the video: two half moons cannot be separated by a straight line. Without ReLU between
    # them, two layers can draw nothing else, since together they are one linear layer.
    X, y = make_moons(n_samples=1000, noise=0.15, random_state=0)
    X = torch.from_numpy(X).float().to(device)  # (1000, 2)
    y = torch.from_numpy(y).float().view(-1, 1).to(device)  # (1000, 1)
    X_train, X_test, y_train, y_test = X[:500], X[500:], y[:500], y[500:]
    accuracies = []
    for ax, name in zip(axes[1, 1:], ("without ReLU", "with ReLU")):
        torch.manual_seed(args.seed)  # the same start for both
        model = NeuralNet1(input_size=2, hidden_size=16).to(device)
        if name == "without ReLU":
            model.relu = nn.Identity()  # returns its input; the sigmoid at the end stays
        criterion = nn.BCELoss()  # NeuralNet1 ends in a sigmoid; logits are better (lesson 02)
        # Adam is a variant of SGD that adapts the step size of each parameter
        optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
        for _ in range(args.epochs):
            loss = criterion(model(X_train), y_train)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            predicted = model(X_test).round()
        acc = (predicted == y_test).float().mean().item()
        accuracies.append(acc)
        print(f"NeuralNet1 on make_moons, {name}: accuracy {acc:.1%}")
        draw_boundary(model, X_test, y_test, ax)
        ax.set(title=f"{name}: {acc:.1%}", xlabel="feature 1", ylabel="feature 2")

    # Beyond the video: on its way back, the gradient passes nine activation functions and is
    # multiplied by the derivative of each, and by weights. The derivative of the sigmoid is at most
    # 0.25, so little of the gradient remains.
    gradients = []
    for name, activation, style in (("sigmoid", nn.Sigmoid(), "s-"), ("ReLU", nn.ReLU(), "o--")):
        torch.manual_seed(args.seed)
        by_layer = gradient_by_layer(activation, X_train, y_train)
        gradients.append(by_layer[0])
        print(f"gradient in the first of {len(by_layer)} layers, {name}: {by_layer[0]:.1e}")
        axes[1, 3].plot(range(1, len(by_layer) + 1), by_layer, style, label=name)
    axes[1, 3].set(title="Mean absolute gradient", xlabel="layer", yscale="log")
    axes[1, 3].legend(loc="lower right")
    figure.savefig(args.output_dir / "06_activations.png")
    if args.show:
        plt.show()

    result = f"{accuracies[1]:.1%} with ReLU, {accuracies[0]:.1%} without"
    print(f"Test accuracy: {result} (make_moons)")
    print("Figure:", args.output_dir / "06_activations.png")
    return {
        "max_error": max_error,
        "accuracy_identity": accuracies[0],
        "accuracy_relu": accuracies[1],
        "gradient_sigmoid": gradients[0],
        "gradient_relu": gradients[1],
    }


# Beyond the video
def draw_boundary(model: nn.Module, X: Tensor, y: Tensor, ax: plt.Axes) -> None:
    """Draw where the model predicts each class, and the samples."""
    x1, x2 = torch.meshgrid(torch.linspace(-2, 3, 100), torch.linspace(-2, 2, 80), indexing="xy")
    grid = torch.stack([x1.flatten(), x2.flatten()], dim=1).to(device)  # (8000, 2)
    with torch.no_grad():
        probability = model(grid).view(80, 100).cpu()
    ax.contourf(x1, x2, probability, levels=[0, 0.5, 1], cmap="coolwarm", alpha=0.4)
    ax.scatter(X[:, 0].cpu(), X[:, 1].cpu(), s=4, c=y.cpu(), cmap="coolwarm")


def gradient_by_layer(activation: nn.Module, X: Tensor, y: Tensor) -> list[float]:
    """Return the mean absolute gradient of the weights of ten layers, before training.

    All but the last use He initialization (He et al., 2015), which keeps the gradients of ReLU
    networks at about the same size across layers. PyTorch calls it "kaiming", his first name.
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
