"""02 · Logistic regression

Is a breast tumor malignant or benign? A linear model turns thirty measurements into one number,
the logit, and the sigmoid function turns the logit into a probability.

You will learn
    - how to train a binary classifier: a model class, `nn.BCEWithLogitsLoss`, SGD
    - why features are standardized, and why the scaler is fitted on the training set only
    - why the loss function takes logits rather than probabilities
    - what overfitting is, and which mistakes an accuracy hides

Run (add --show to open the figure in a window)
    python 02_logistic_regression.py
    python 02_logistic_regression.py --lr 0.01      (the video's learning rate)

Changes from the video
    - The model returns logits for `BCEWithLogitsLoss`, which applies the sigmoid itself. This is
      the same loss as sigmoid + `BCELoss`, but also correct for large logits (see "why logits").
    - The learning rate is 0.5. With the video's 0.01, 100 epochs do not get far: the test loss is
      0.27 and the accuracy 91.2%. With 0.5, they are 0.15 and 96.0% (mean of seeds 0-4).

Try it (answers: docs/answers.md)
    - `--lr 0.01 --epochs 1000`: after how many epochs is the training loss below 0.1?
    - Remove the two lines that scale the data with `sc`. What happens to the loss, and why?
    - Set `careful = 0.99`. What does the higher threshold gain, and what does it cost?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=5968s (about 1:39:28), course script:
    08_logistic_regression.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn as nn
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (defaults: flags such as --epochs override them, see parse_args)
num_epochs = 100
learning_rate = 0.5


# Linear model: the logit z = w·x + b, then the probability sigmoid(z) = 1 / (1 + exp(-z))
class Model(nn.Module):
    """Features (N, n_input_features) -> logits (N, 1)."""

    def __init__(self, n_input_features):
        super().__init__()
        self.linear = nn.Linear(n_input_features, 1)

    def forward(self, x):
        y_pred = self.linear(x)  # logits; the video applies torch.sigmoid here
        return y_pred


def main(argv=None):
    """Run the lesson with these flags, or the command line's; return metrics for the tests."""
    args = parse_args(argv)
    num_epochs, learning_rate = args.epochs, args.lr
    torch.manual_seed(args.seed)
    print(f"02 Logistic regression | device: {device} | data: breast cancer, 569 tumors")

    # 0) Prepare data
    bc = datasets.load_breast_cancer()
    X, y = bc.data, bc.target  # class 0 is malignant, class 1 is benign
    n_samples, n_features = X.shape
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)

    # Scale to zero mean and unit standard deviation. The means of the features range from 0.004 to
    # 881, and a weight's gradient grows with its feature: one learning rate cannot suit them all.
    sc = StandardScaler()
    X_train = sc.fit_transform(X_train)  # computes mean and standard deviation, and scales
    X_test = sc.transform(X_test)  # scales with the same numbers: test data must teach us nothing

    X_train = torch.from_numpy(X_train.astype(np.float32)).to(device)
    X_test = torch.from_numpy(X_test.astype(np.float32)).to(device)
    y_train = torch.from_numpy(y_train.astype(np.float32)).to(device)
    y_test = torch.from_numpy(y_test.astype(np.float32)).to(device)

    y_train = y_train.view(y_train.shape[0], 1)  # (455,) -> (455, 1), the shape of the outputs
    y_test = y_test.view(y_test.shape[0], 1)  # (114,) -> (114, 1)

    # 1) Model: class Model, above
    model = Model(n_features).to(device)

    # 2) Loss and optimizer. With p = sigmoid(z), binary cross-entropy is the mean of
    # -(y · log(p) + (1 - y) · log(1 - p)): minus the log of the true class's probability.
    criterion = nn.BCEWithLogitsLoss()  # video: nn.BCELoss, on probabilities
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)

    # 3) Training loop
    for epoch in range(num_epochs):
        # Forward pass and loss
        y_pred = model(X_train)
        loss = criterion(y_pred, y_train)

        # Backward pass and update
        loss.backward()
        optimizer.step()

        # Zero the gradients
        optimizer.zero_grad()

        if (epoch + 1) % 10 == 0:
            print(f"epoch: {epoch + 1}, loss = {loss.item():.4f}")

    # Evaluate
    with torch.no_grad():
        y_predicted = torch.sigmoid(model(X_test))  # logits -> probabilities of class 1, benign
        y_predicted_cls = y_predicted.round()  # 1 if the probability is above 0.5, else 0
        acc = y_predicted_cls.eq(y_test).sum().item() / y_test.shape[0]
        print(f"accuracy: {acc:.4f}")

    # Beyond the video: which mistakes? A tumor is called benign if its probability is above a
    # threshold, 0.5 in round(). A higher one misses fewer malignant tumors, but raises more false
    # alarms. (Choose a threshold on a validation set: the test set is for the final result.)
    careful = 0.9
    matrix = count_predictions(y_test, y_predicted, 0.5)
    careful_matrix = count_predictions(y_test, y_predicted, careful)

    # Beyond the video: overfitting. Two learning rates, ten times as many epochs. With 0.01, both
    # losses still fall at the end. With 0.5, the training loss falls, too, but the test loss rises:
    # the model learns details that only the training set has, and grows too sure of its mistakes.
    slow = record_losses(X_train, X_test, y_train, y_test, 0.01, args)
    fast = record_losses(X_train, X_test, y_train, y_test, 0.5, args)

    # Beyond the video: why logits. In class 0, the loss of a logit z is log(1 + exp(z)), nearly 20
    # for z = 20. But float32 rounds sigmoid(20) to 1. BCELoss then needs log(1 - 1), replaces it by
    # -100, and no gradient gets back through the flat end of the sigmoid: from its worst mistakes,
    # the model learns nothing.
    for z in (2, 20):
        print(f"z = {z}, class 0, sigmoid + BCELoss:  {loss_and_gradient(z, with_logits=False)}")
        print(f"z = {z}, class 0, BCEWithLogitsLoss: {loss_and_gradient(z, with_logits=True)}")

    # Beyond the video: scikit-learn's own logistic regression. By default, it also keeps the
    # weights small (an L2 penalty). One of the 114 tumors in the test set is 0.9%.
    reference = LogisticRegression().fit(X_train.cpu(), y_train.view(-1).cpu())
    acc_sklearn = reference.score(X_test.cpu(), y_test.view(-1).cpu())

    draw(slow, fast, matrix, careful_matrix, careful, args)
    result = f"{acc:.1%}, scikit-learn's LogisticRegression {acc_sklearn:.1%}"
    print(f"Test accuracy: {result} (breast cancer)")
    print("Figure:", args.output_dir / "02_logistic_regression.png")
    return {"accuracy": acc, "accuracy_sklearn": acc_sklearn, "loss": loss.item()}


# Beyond the video
def count_predictions(y_test, y_predicted, threshold):
    """Return the confusion matrix [[found, missed], [false alarms, correctly benign]]; print it.

    The rows are the true classes, malignant and benign, the columns the predicted ones.
    """
    matrix = confusion_matrix(y_test.cpu(), (y_predicted > threshold).cpu())
    found, missed = matrix[0]
    false_alarms, correctly_benign = matrix[1]
    recall = f"found {found} of {found + missed} malignant tumors ({found / (found + missed):.1%})"
    alarms = f"false alarms: {false_alarms} of {false_alarms + correctly_benign} benign ones"
    print(f"threshold {threshold}, recall: {recall}, {alarms}")
    return matrix


def record_losses(X_train, X_test, y_train, y_test, lr, args):
    """Train as in main, ten times as long; return training and test losses of all epochs."""
    torch.manual_seed(args.seed)  # the same start as in main
    model = Model(X_train.shape[1]).to(device)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    train_losses, test_losses = [], []
    for epoch in range(10 * args.epochs):
        loss = criterion(model(X_train), y_train)
        with torch.no_grad():
            test_losses.append(criterion(model(X_test), y_test).item())
        train_losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for n in (args.epochs, 10 * args.epochs):
        losses = f"training loss {train_losses[n - 1]:.3f}, test loss {test_losses[n - 1]:.3f}"
        print(f"learning rate {lr}, epoch {n}: {losses}")
    return train_losses, test_losses


def loss_and_gradient(z, with_logits):
    """Return the loss of one sample of class 0 with logit `z`, and its gradient, as text."""
    z = torch.tensor([float(z)], requires_grad=True)
    y = torch.tensor([0.0])
    if with_logits:
        loss = nn.BCEWithLogitsLoss()(z, y)
    else:
        loss = nn.BCELoss()(torch.sigmoid(z), y)
    loss.backward()
    return f"loss {loss.item():.3f}, gradient {z.grad.item():.3f}"


def draw(slow, fast, matrix, careful_matrix, careful, args):
    """Draw the losses of both learning rates, and both confusion matrices; save the figure."""
    figure, axes = plt.subplots(
        1, 3, figsize=(13, 4.5), width_ratios=[1.4, 1, 1], layout="constrained"
    )
    epochs = range(1, 10 * args.epochs + 1)
    for history, lr, color in ((slow, 0.01, "C0"), (fast, 0.5, "C1")):
        axes[0].plot(epochs, history[0], color, label=f"learning rate {lr}, training set")
        axes[0].plot(epochs, history[1], color + "--", label=f"learning rate {lr}, test set")
    axes[0].set(xscale="log", yscale="log", ylim=(0.01, None))
    axes[0].set(title="Loss", xlabel="epoch", ylabel="binary cross-entropy")
    axes[0].legend(loc="lower left")
    for ax, counts, threshold in ((axes[1], matrix, 0.5), (axes[2], careful_matrix, careful)):
        display = ConfusionMatrixDisplay(counts, display_labels=["malignant", "benign"])
        display.plot(ax=ax, cmap="Blues", colorbar=False)
        ax.set(title=f"Test set, threshold {threshold}")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output_dir / "02_logistic_regression.png")
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
