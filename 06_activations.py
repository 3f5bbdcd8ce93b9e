"""06 · Activation functions

Without activation functions between them, linear layers would collapse into one. Five are
applied to the same numbers, each as a function and as a module. Then the video's network learns two
half moons, with and without ReLU between its layers, and gradients go back through ten layers.

You will learn
    - how to apply softmax, sigmoid, tanh, ReLU, and leaky ReLU, as functions and as modules
    - how to use an activation function in a network, and which one to choose
    - why a network without activation functions can only learn linear decision boundaries
    - how gradients vanish on their way back through many sigmoids

Run (add --show to open the figure in a window, as the video does)
    python 06_activations.py
    python 06_activations.py --seed 1

Changes from the video
    - The video uses one name for both options; here they are `NeuralNet1` and `NeuralNet2`.
    - All curves are in one figure, with derivatives. Beyond the video, `NeuralNet1` is trained, and
      gradients go back through ten layers.

Try it (answers: docs/answers.md)
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

# Hyper-parameters of the training beyond the video (defaults: flags such as --epochs change them,
# see parse_args)
num_epochs = 1000
learning_rate = 0.5


# Option 1: create nn modules. They are printed with the model, and fit into nn.Sequential.
class NeuralNet1(nn.Module):
    """Features (N, input_size) -> probabilities (N, 1), for BCELoss."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden_size, 1)
        self.sigmoid = nn.Sigmoid()

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
    """Run the lesson with these flags, or the command line's; return metrics for the tests."""
    args = parse_args(argv)
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

    # Tanh: (exp(x) - exp(-x)) / (exp(x) + exp(-x)), from -1 to 1
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
    #                             everywhere, so gradient descent learns nothing.
    #     last layer, binary      none for BCEWithLogitsLoss (recommended); sigmoid for BCELoss
    #     last layer, multiclass  none, as CrossEntropyLoss applies softmax. (Apply softmax yourself
    #                             to see probabilities.)
    #     last layer, regression  none, as the output may be any number

    # Beyond the video: two half moons cannot be separated by a straight line. Without ReLU, the
    # network can only learn such a line, since its two linear layers are one:
    # W2 (W1 x + b1) + b2 = W x + b with W = W2 W1 and b = W2 b1 + b2. (Identity returns its input.
    # The sigmoid at the end does not bend the line: it is 0.5 where its input is 0.)
    X_train, X_test, y_train, y_test = load_moons()
    linear_model, acc_linear = train(nn.Identity(), X_train, X_test, y_train, y_test, args)
    relu_model, acc_relu = train(nn.ReLU(), X_train, X_test, y_train, y_test, args)

    # Beyond the video: vanishing gradients. On its way back to the first of ten hidden layers, the
    # gradient is multiplied by weights, and by the derivative of each activation function. That of
    # the sigmoid is at most 0.25. That of ReLU is 1 or 0, for which larger random weights make up.
    sigmoid_gradients = gradient_by_layer(torch.sigmoid, nn.init.xavier_normal_, X_train, y_train)
    relu_gradients = gradient_by_layer(torch.relu, nn.init.kaiming_normal_, X_train, y_train)
    print("Mean absolute gradient of the weights")
    for name, values in (("sigmoid", sigmoid_gradients), ("ReLU", relu_gradients)):
        print(f"{name}: last hidden layer {values[-1]:.1e}, first {values[0]:.1e}")

    # The curves of the video's second script, and the results above
    models = {"without ReLU": linear_model, "with ReLU": relu_model}
    draw(models, X_test, y_test, sigmoid_gradients, relu_gradients, args)
    print(f"Test accuracy: {acc_relu:.1%} with ReLU, {acc_linear:.1%} without (make_moons)")
    print("Figure:", args.output_dir / "06_activations.png")
    return {
        "accuracy_identity": acc_linear,
        "accuracy_relu": acc_relu,
        "gradient_sigmoid": sigmoid_gradients[0],
        "gradient_relu": relu_gradients[0],
    }


# Beyond the video
def load_moons():
    """Return two half moons: features (500, 2) for training and testing, classes (500, 1)."""
    X, y = make_moons(n_samples=1000, noise=0.15, random_state=0)
    X = torch.from_numpy(X).float().to(device)  # (1000, 2)
    y = torch.from_numpy(y).float().view(-1, 1).to(device)  # (1000, 1)
    return X[:500], X[500:], y[:500], y[500:]


def train(activation, X_train, X_test, y_train, y_test, args):
    """Train a NeuralNet1 with this activation between its layers; return it and its accuracy."""
    torch.manual_seed(args.seed)  # the same initial weights for every model
    model = NeuralNet1(input_size=2, hidden_size=16).to(device)
    model.relu = activation  # replaces the ReLU that was made in __init__
    criterion = nn.BCELoss()  # as NeuralNet1 ends in a sigmoid
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        loss = criterion(model(X_train), y_train)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        predicted = model(X_test).round()
    return model, (predicted == y_test).float().mean().item()


def gradient_by_layer(activation, initialize, X, y):
    """Return the mean absolute gradient of the weights of ten hidden layers, before training.

    `initialize` fills the weights with random numbers, at the scale that is usual for each
    activation. He initialization (He et al., 2015; PyTorch calls it "kaiming") is made for ReLU: it
    keeps the size of values, and here of gradients, from layer to layer. Xavier (Glorot and Bengio,
    2010) does so for functions with a slope of about 1 near 0; that of the sigmoid is a quarter.
    """
    layers = [nn.Linear(2, 64).to(device)]
    for i in range(9):
        layers.append(nn.Linear(64, 64).to(device))
    last_layer = nn.Linear(64, 1).to(device)
    out = X
    for layer in layers:
        initialize(layer.weight)
        out = activation(layer(out))
    loss = nn.BCEWithLogitsLoss()(last_layer(out), y)
    loss.backward()
    return [layer.weight.grad.abs().mean().item() for layer in layers]


def draw(models, X, y, sigmoid_gradients, relu_gradients, args):
    """Draw the curves, the decision boundary of each model, and the gradients; save the figure."""
    # A letter for each column: five curves above, two boundaries and the gradients below
    figure, axes = plt.subplot_mosaic("ABCDE;FGHHH", figsize=(14, 7), layout="constrained")
    x = torch.linspace(-4, 4, 401, requires_grad=True)
    curves = {"sigmoid": torch.sigmoid(x), "tanh": torch.tanh(x), "ReLU": torch.relu(x)}
    step = (x > 0).float() + 0 * x  # `+ 0 * x` connects it with x, for backward()
    curves |= {"leaky ReLU (here 0.1 * x)": F.leaky_relu(x, 0.1), "step": step}
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
            moon = X[y.view(-1) == i].cpu()
            axes[letter].scatter(moon[:, 0], moon[:, 1], s=4, c=color, label=f"class {i}")
        axes[letter].set(title=title, xlabel="feature 1", ylabel="feature 2")
    axes["F"].legend()

    layers = range(1, len(relu_gradients) + 1)
    axes["H"].plot(layers, sigmoid_gradients, "s-", label="sigmoid")
    axes["H"].plot(layers, relu_gradients, "o--", label="ReLU")
    axes["H"].set(
        title=f"{len(layers)} hidden layers, before training",
        xlabel="hidden layer",
        yscale="log",
    )
    axes["H"].set_ylabel("mean absolute weight gradient")
    axes["H"].legend()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output_dir / "06_activations.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.description = __doc__.splitlines()[0]
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
