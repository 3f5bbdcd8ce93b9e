"""02 · Logistic regression

Is a breast tumor malignant or benign? A linear model turns thirty measurements into one number,
the logit, and the sigmoid function turns the logit into the probability that the tumor is benign.

You will learn
    - how to train a binary classifier: a model class, `nn.BCEWithLogitsLoss`, SGD
    - why features are standardized, and why the scaler is fitted on the training set only
    - why the loss function takes logits rather than probabilities
    - when a model starts to overfit, and which mistakes an accuracy hides

Run (add --show to open the figure in a window)
    python 02_logistic_regression.py
    python 02_logistic_regression.py --lr 0.01      (the video's learning rate)

Changes from the video
    - The model returns logits for `BCEWithLogitsLoss`, which applies the sigmoid itself. This is
      the same loss as sigmoid + `BCELoss`, but also correct for large logits (see "why logits").
    - The learning rate is 0.5. With the video's 0.01, 100 epochs do not get far: the training loss
      is then 0.24, with 0.5 it is 0.05.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - `--lr 0.01 --epochs 1000` (half a minute): after how many epochs is the training loss below
      0.1?
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

# Hyper-parameters (defaults: flags such as --epochs change them, see parse_args)
num_epochs = 100
learning_rate = 0.5


# Linear model: the logit z = w·x + b, then the probability sigmoid(z) = 1 / (1 + exp(-z))
class Model(nn.Module):
    """Features (N, n_input_features) -> logits (N, 1)."""

    def __init__(self, n_input_features):
        super().__init__()
        self.linear = nn.Linear(n_input_features, 1)

    def forward(self, x):  # model(x) calls it
        y_pred = self.linear(x)  # logits; the video applies torch.sigmoid here
        return y_pred


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    num_epochs, learning_rate = args.epochs, args.lr
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    print(f"02 Logistic regression | device: {device} | data: breast cancer, 569 tumors")

    # 0) Prepare data
    bc = datasets.load_breast_cancer()
    X, y = bc.data, bc.target  # class 0 is malignant, class 1 is benign
    n_samples, n_features = X.shape
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)

    # Scale to zero mean and unit standard deviation. A weight's gradient grows with its
    # feature, and the features' means range from 0.004 to 881: no learning rate would suit all.
    sc = StandardScaler()
    X_train = sc.fit_transform(X_train)  # computes mean and standard deviation, and scales
    X_test = sc.transform(X_test)  # uses those of the training set: new data is not known yet

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

    # Beyond the video: which mistakes? A tumor is classified as benign if its probability of being
    # benign is above a threshold. round() uses 0.5. A higher one misses fewer malignant tumors, but
    # raises more false alarms. (Choose it on a validation set, see lesson 03, not on the test set.)
    careful = 0.9
    matrix = count_predictions(y_test, y_predicted, 0.5)
    careful_matrix = count_predictions(y_test, y_predicted, careful)

    # Beyond the video: overfitting. At both rates, if one trains for long enough, the training loss
    # still falls while the test loss turns and rises: the model becomes overconfident (its accuracy
    # hardly changes). A step is the rate times the gradient, so with a 50th of the rate, the model
    # takes nearly the same path in 50 times as many epochs. (With 20 other random splits and 0.5,
    # the test loss turned later, in epochs 74 to 997, or, in five cases, not by epoch 2000.)
    data = (X_train, X_test, y_train, y_test)
    fast = record_losses(data, 0.5, 10 * num_epochs, args.seed)
    slow = record_losses(data, 0.01, 60 * num_epochs, args.seed)

    # Beyond the video: why logits. In class 0, the loss of a logit z is -log(1 - sigmoid(z)), which
    # equals log(1 + exp(z)), slightly above 20 for z = 20. But float32 rounds sigmoid(20) to 1, so
    # BCELoss has to compute -log(1 - 1), which it limits to 100. The slope of the sigmoid is
    # rounded to 0, too, so the gradient is 0 instead of 1: the model learns nothing from such
    # mistakes.
    for z in (2, 20):
        print(f"logit {z}, class 0, sigmoid + BCELoss:  {loss_and_gradient(z, with_logits=False)}")
        print(f"logit {z}, class 0, BCEWithLogitsLoss: {loss_and_gradient(z, with_logits=True)}")

    # Beyond the video: scikit-learn's own logistic regression. By default, it also keeps the
    # squared weights small (an L2 penalty). A difference of one tumor of 114, 0.9%, is a tie.
    reference = LogisticRegression().fit(X_train.cpu(), y_train.flatten().cpu())
    acc_sklearn = reference.score(X_test.cpu(), y_test.flatten().cpu())

    draw({0.5: fast, 0.01: slow}, matrix, careful_matrix, careful, args)
    result = f"{acc:.1%}, scikit-learn's LogisticRegression {acc_sklearn:.1%}"
    print(f"Test accuracy: {result} (breast cancer)")
    print("Figure:", args.output_dir / "02_logistic_regression.png")
    return {"accuracy": acc, "accuracy_sklearn": acc_sklearn}


# Beyond the video
def count_predictions(y_test, y_predicted, threshold):
    """Return, and print, the confusion matrix: a row per true class, a column per predicted one."""
    matrix = confusion_matrix(y_test.cpu(), (y_predicted > threshold).cpu())
    found, missed = matrix[0]
    false_alarms, correctly_benign = matrix[1]
    recall = f"recall {found / (found + missed):.1%} ({found} of {found + missed} malignant found)"
    alarms = f"false alarms for {false_alarms} of {false_alarms + correctly_benign} benign tumors"
    print(f"threshold {threshold}: {recall}, {alarms}")
    return matrix


def record_losses(data, lr, epochs, seed):
    """Train as in main; return the losses of each epoch, {"training": [...], "test": [...]}."""
    X_train, X_test, y_train, y_test = data
    torch.manual_seed(seed)  # the same initial weights as in main
    model = Model(X_train.shape[1]).to(device)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = {"training": [], "test": []}
    for epoch in range(epochs):
        loss = criterion(model(X_train), y_train)
        losses["training"].append(loss.item())
        with torch.no_grad():
            losses["test"].append(criterion(model(X_test), y_test).item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    turn = np.argmin(losses["test"])  # counted from 0
    print(f"rate {lr}: lowest test loss {losses['test'][turn]:.3f} in epoch {turn + 1}")
    return losses


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


def draw(histories, matrix, careful_matrix, careful, args):
    """Draw both losses at each learning rate, and both confusion matrices; save the figure."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    for (lr, losses), color in zip(histories.items(), ("C1", "C0")):
        epochs = range(1, len(losses["test"]) + 1)
        for name, style in (("test", "--"), ("training", "-")):
            axes[0].plot(epochs, losses[name], color + style, label=f"rate {lr}, {name} set")
        turn = np.argmin(losses["test"])
        axes[0].plot(epochs[turn], losses["test"][turn], color + "o")
    axes[0].set(title="Loss (dots: lowest test loss)", xlabel="epoch", xscale="log")
    axes[0].set(ylabel="binary cross-entropy", ylim=(0, 0.5))
    axes[0].legend(loc="upper right", fontsize="small")
    for ax, counts, threshold in ((axes[1], matrix, 0.5), (axes[2], careful_matrix, careful)):
        display = ConfusionMatrixDisplay(counts, display_labels=["malignant", "benign"])
        display.plot(ax=ax, cmap="Blues", colorbar=False)
        ax.set(title=f"Test set, threshold {threshold}")
    figure.savefig(args.output_dir / "02_logistic_regression.png")
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
