"""06 · Activation functions

Without activation functions between them, linear layers would collapse into one. Five are
applied to the same numbers, each as a function and as a module. Then the video's network learns two
half moons, with and without ReLU between its layers, and gradients go back through ten layers.

You will learn
    - how to apply softmax, sigmoid, tanh, ReLU, and leaky ReLU, as functions and as modules
    - how to use an activation function in a network, and which one to choose
    - why a network without activation functions can only learn linear decision boundaries
    - what makes gradients vanish on their way back through many layers, and what keeps them

Run (add --show to open the figure in a window, as the video does)
    python 06_activations.py
    python 06_activations.py --seed 1

Changes from the video
    - The video uses one name for both options; here they are `NeuralNet1` and `NeuralNet2`.
    - All curves are in one figure, with derivatives. Beyond the video, `NeuralNet1` is trained, and
      gradients go back through ten layers.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - `--epochs 3000`: does the network without ReLU catch up?
    - In `gradient_by_layer`, change `range(9)` to `range(19)`. What happens to each curve?
    - In `main`, train with `nn.Tanh()` instead of `nn.ReLU()`. How does the boundary change? (The
      output and the figure will still say ReLU.)

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=9753s (about 2:42:33), course scripts:
    12_activation_functions.py, 12_plot_activations.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_moons

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# Option 1: create nn modules. They are printed with the model, and fit into nn.Sequential.
class NeuralNet1(nn.Module):
    """Features (N, input_size) -> probabilities (N, 1), for BCELoss."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, 1)
        self.sigmoid = nn.Sigmoid()  # for BCELoss, as in the video (see "last layer", below)

    def forward(self, x):
        out = self.linear1(x)
        out = self.relu(out)
        out = self.linear2(out)
        out = self.sigmoid(out)
        return out


# Option 2: use activation functions directly in the forward pass. This is shorter.
class NeuralNet2(nn.Module):
    """The same network: features (N, input_size) -> probabilities (N, 1)."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.linear2 = nn.Linear(hidden_size, 1)

    def forward(self, x):
        out = torch.relu(self.linear1(x))
        out = torch.sigmoid(self.linear2(out))
        return out


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    print(f"06 Activation functions | device: {device} | data: make_moons, 1000 samples")

    x = torch.tensor([-1.0, 1.0, 2.0, 3.0])

    # Softmax: probabilities, which sum to 1
    output = torch.softmax(x, dim=0)
    print("torch.softmax:", output)
    sm = nn.Softmax(dim=0)
    output = sm(x)
    print("nn.Softmax:   ", output)

    # Sigmoid: 1 / (1 + exp(-x)), from 0 to 1
    output = torch.sigmoid(x)
    print("torch.sigmoid:", output)
    s = nn.Sigmoid()
    output = s(x)
    print("nn.Sigmoid:   ", output)

    # Tanh: (exp(x) - exp(-x)) / (exp(x) + exp(-x)) = 2 · sigmoid(2x) - 1, from -1 to 1
    output = torch.tanh(x)
    print("torch.tanh:   ", output)
    t = nn.Tanh()
    output = t(x)
    print("nn.Tanh:      ", output)

    # ReLU: x if x > 0, else 0
    output = torch.relu(x)
    print("torch.relu:   ", output)
    relu = nn.ReLU()
    output = relu(x)
    print("nn.ReLU:      ", output)

    # Leaky ReLU: x if x > 0, else 0.01 * x. (The function is in torch.nn.functional, here F.)
    output = F.leaky_relu(x)
    print("F.leaky_relu: ", output)
    lrelu = nn.LeakyReLU()
    output = lrelu(x)
    print("nn.LeakyReLU: ", output)

    # In a network: classes NeuralNet1 (option 1) and NeuralNet2 (option 2), above. Which function?
    #     hidden layers           ReLU, if you do not know what to use. A unit that outputs 0 for
    #                             all samples gets no gradient, as the derivative is 0 there, and
    #                             may never recover; then try leaky ReLU. Others: tanh, and GELU, a
    #                             smooth variant of ReLU. Not the step function: its derivative is 0
    #                             (at the step, there is none), so layers before it learn nothing.
    #     last layer, binary      none for BCEWithLogitsLoss (recommended); sigmoid for BCELoss
    #     last layer, multiclass  none, as CrossEntropyLoss applies softmax. (Apply softmax yourself
    #                             to see probabilities.)
    #     last layer, regression  none, as the output may be any number

    # Beyond the video: two half moons cannot be separated by a straight line. Without ReLU, the
    # network can only learn such a line, since its two linear layers are one:
    # W2 (W1 x + b1) + b2 = W x + b with W = W2 W1 and b = W2 b1 + b2. (Identity returns its input.
    # The sigmoid does not bend the line: on it, the sigmoid's input is 0, and its output is 0.5.)
    data, lr, epochs, seed = load_moons(), args.lr, args.epochs, args.seed
    identity_model, acc_identity = train(nn.Identity(), data, lr, epochs, seed)
    relu_model, acc_relu = train(nn.ReLU(), data, lr, epochs, seed)

    # Beyond the video: vanishing gradients. On its way back to the first of ten hidden layers, the
    # gradient is multiplied by weights and by derivatives of the activation function: at most 0.25
    # for sigmoid, 1 or 0 for ReLU. With the same initialization, nn.Linear's own, far less of the
    # gradient reaches the first layer with sigmoid than with ReLU. He initialization makes weights
    # 2.4 times as large, so that with ReLU, gradients keep their size. (The gradient of a weight is
    # also multiplied by the layer's input. Without He's weights, the inputs of ReLU layers shrink
    # from layer to layer, so its gradients are small in the tenth layer, too.) SGD changes a weight
    # by the learning rate times its gradient, so layers with tiny gradients hardly learn.
    gradients = {
        "sigmoid, nn.Linear's initialization": gradient_by_layer(torch.sigmoid, data, seed),
        "ReLU, nn.Linear's initialization": gradient_by_layer(torch.relu, data, seed),
        "ReLU, He initialization": gradient_by_layer(torch.relu, data, seed, he_init=True),
    }
    print("Mean absolute gradient of the weights of a hidden layer")
    for name, values in gradients.items():
        print(f"{name}: layer {len(values)} {values[-1]:.1e}, layer 1 {values[0]:.1e}")

    # The curves of the video's second script, and the results above
    models = {"without ReLU": identity_model, "with ReLU": relu_model}
    draw(models, data, gradients, args)
    print(f"Test accuracy: {acc_relu:.1%} with ReLU, {acc_identity:.1%} without (make_moons)")
    print("Figure:", args.output_dir / "06_activations.png")
    return {"accuracy_relu": acc_relu, "accuracy_identity": acc_identity}


# Beyond the video
def load_moons():
    """Return two half moons: features (500, 2) to train on and to test on, classes (500, 1)."""
    X, y = make_moons(n_samples=1000, noise=0.15, random_state=0)
    X = torch.from_numpy(X).float().to(device)  # (1000, 2)
    y = torch.from_numpy(y).float().view(-1, 1).to(device)  # (1000, 1)
    return X[:500], X[500:], y[:500], y[500:]


def train(activation, data, lr, epochs, seed):
    """Train a NeuralNet1 with this activation between its layers; return it and its accuracy."""
    X_train, X_test, y_train, y_test = data
    torch.manual_seed(seed)  # the same initial weights for every model
    model = NeuralNet1(input_size=2, hidden_size=16).to(device)
    model.relu = activation  # replaces the ReLU that was made in __init__
    criterion = nn.BCELoss()  # as NeuralNet1 ends in a sigmoid
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        loss = criterion(model(X_train), y_train)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        predicted = model(X_test).round()
    return model, (predicted == y_test).float().mean().item()


def gradient_by_layer(activation, data, seed, he_init=False):
    """Return the mean absolute gradient of the weights of ten hidden layers, before training.

    With `he_init`, their weights are initialized as Kaiming He et al. (2015) propose for ReLU.
    """
    X_train, _, y_train, _ = data
    torch.manual_seed(seed)
    layers = [nn.Linear(2, 64).to(device)]
    for i in range(9):
        layers.append(nn.Linear(64, 64).to(device))
    output_layer = nn.Linear(64, 1).to(device)
    out = X_train
    for layer in layers:
        if he_init:
            nn.init.kaiming_uniform_(layer.weight)  # overwrites (the underscore) its numbers
        out = activation(layer(out))
    criterion = nn.BCEWithLogitsLoss()
    loss = criterion(output_layer(out), y_train)
    loss.backward()
    return [layer.weight.grad.abs().mean().item() for layer in layers]


def draw(models, data, gradients, args):
    """Draw the curves, the decision boundary of each model, and the gradients; save the figure."""
    _, X_test, _, y_test = data
    # A letter for each column: five curves above, two boundaries and the gradients below
    figure, axes = plt.subplot_mosaic("ABCDE;FGHHH", figsize=(14, 7), layout="constrained")
    x = torch.linspace(-4, 4, 401, requires_grad=True)
    curves = {
        "sigmoid": torch.sigmoid(x),
        "tanh": torch.tanh(x),
        "ReLU": torch.relu(x),
        "leaky ReLU (here 0.1 * x)": F.leaky_relu(x, 0.1),
        "step": (x > 0).float() + 0 * x,  # `+ 0 * x` connects it with x, for backward()
    }
    for letter, (title, outputs) in zip("ABCDE", curves.items()):
        # backward() needs one number. An output depends on its own x only, so the gradient of the
        # sum of all outputs is the derivative at each x.
        x.grad = None
        outputs.sum().backward()
        axes[letter].plot(x.detach(), outputs.detach(), label="function")
        axes[letter].plot(x.detach(), x.grad, "--", label="derivative")
        axes[letter].set(title=title, xlabel="x", ylim=(-1.2, 2.2))
    axes["A"].axhline(0.25, color="gray", linestyle=":", label="0.25")
    axes["A"].legend()

    # The models' predictions at 8000 points that cover the plane: each x1 with each x2
    x1, x2 = torch.meshgrid(torch.linspace(-2, 3, 100), torch.linspace(-2, 2, 80), indexing="xy")
    grid = torch.stack([x1.flatten(), x2.flatten()], dim=1).to(device)  # (8000, 2)
    for letter, (title, model) in zip("FG", models.items()):
        with torch.no_grad():
            probability = model(grid).view(80, 100).cpu()
        axes[letter].contourf(x1, x2, probability, levels=[0, 0.5, 1], cmap="coolwarm", alpha=0.4)
        for i, color in ((0, "C0"), (1, "C3")):
            moon = X_test[y_test.view(-1) == i].cpu()
            axes[letter].scatter(moon[:, 0], moon[:, 1], s=4, c=color, label=f"class {i}")
        axes[letter].set(title=f"{title} (test set)", xlabel="feature 1", ylabel="feature 2")
    axes["F"].legend()

    for (name, values), style in zip(gradients.items(), ("s-", "o--", "^-.")):
        axes["H"].plot(range(1, len(values) + 1), values, style, label=name)
    axes["H"].set(title="Gradients before training", xlabel="hidden layer (1: the first)")
    axes["H"].set(ylabel="mean absolute weight gradient", yscale="log")
    axes["H"].legend()
    figure.savefig(args.output_dir / "06_activations.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1000, help="passes over the data")
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
