"""02 · Logistic regression

Is a breast tumor malignant or benign? A linear model turns thirty measurements into one number,
the logit, and the sigmoid function turns the logit into a probability.

You will learn
    - how to train a binary classifier: a model class, `nn.BCEWithLogitsLoss`, SGD
    - why features are standardized, and why the scaler is fitted on the training set only
    - why the loss function takes logits rather than probabilities
    - how the decision threshold affects recall

Run
    python 02_logistic_regression.py
    python 02_logistic_regression.py --epochs 20 --lr 0.01

Changes from the video
    - The model returns logits for `BCEWithLogitsLoss`, which applies the sigmoid itself. This is
      the same loss as sigmoid + `BCELoss`, but numerically stable (see "why logits" below).
    - The learning rate is 0.5. After 100 epochs at the video's 0.01, the training loss is 0.24; at
      0.5, it is 0.05. (The test loss stops falling earlier, when it has reached 0.15.)

Try it (answers: docs/answers.md)
    - `--lr 0.01 --epochs 1000`: how many epochs does it take to get below a loss of 0.1?
    - Remove the two lines that scale the data with `sc`. What happens to the loss, and why?
    - Add a third threshold, 0.99, to `(0.5, 0.9)`. What does it gain, and what does it cost?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=5968s (about 1:39:28), course script:
    08_logistic_regression.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, classification_report, recall_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (the flags change them)
num_epochs = 100
learning_rate = 0.5


class Model(nn.Module):
    """Linear model f = wx + b: features (N, n_input_features) -> logits (N, 1)."""

    def __init__(self, n_input_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_input_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # logits; the video applies torch.sigmoid here


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    num_epochs, learning_rate = args.epochs, args.lr

    # 0) Prepare data
    bc = datasets.load_breast_cancer()
    X, y = bc.data, bc.target  # class 0 is malignant, class 1 is benign
    n_samples, n_features = X.shape
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)
    X_train, y_train = X_train[: args.limit], y_train[: args.limit]
    X_test, y_test = X_test[: args.limit], y_test[: args.limit]
    sizes = f"{len(X_train)} training and {len(X_test)} test samples"
    print(f"02 Logistic regression | device: {device} | data: breast cancer, {sizes}")

    # Scale to zero mean and unit standard deviation. A weight's gradient grows with its feature,
    # and the means of the features range from 0.004 to 881: one learning rate cannot suit them all.
    # The test set stands for data that nobody has seen yet, so the scaler must not use it.
    sc = StandardScaler()
    X_train = sc.fit_transform(X_train)
    X_test = sc.transform(X_test)

    X_train = torch.from_numpy(X_train.astype(np.float32)).to(device)
    X_test = torch.from_numpy(X_test.astype(np.float32)).to(device)
    y_train = torch.from_numpy(y_train.astype(np.float32)).to(device)
    y_test = torch.from_numpy(y_test.astype(np.float32)).to(device)
    y_train = y_train.view(y_train.shape[0], 1)  # (N,) -> (N, 1), the shape of the model's output
    y_test = y_test.view(y_test.shape[0], 1)

    # 1) Model: class Model, above
    model = Model(n_features).to(device)

    # 2) Loss and optimizer
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)

    # 3) Training loop
    train_losses, test_losses = [], []
    for epoch in range(num_epochs):
        # Forward pass and loss
        y_pred = model(X_train)  # logits, not yet probabilities
        loss = criterion(y_pred, y_train)
        # Backward pass and update
        loss.backward()
        optimizer.step()
        # Zero the gradients before the next step
        optimizer.zero_grad()
        if (epoch + 1) % 10 == 0:
            print(f"epoch: {epoch + 1}, loss = {loss.item():.4f}")
        # Both losses after the update, for the figure: they need no gradients
        with torch.no_grad():
            train_losses.append(criterion(model(X_train), y_train).item())
            test_losses.append(criterion(model(X_test), y_test).item())

    # 4) Evaluate
    with torch.no_grad():
        y_predicted = torch.sigmoid(model(X_test))  # probability of class 1, benign
        y_predicted_cls = y_predicted.round()
        acc = y_predicted_cls.eq(y_test).sum().item() / y_test.shape[0]
    print(f"accuracy: {acc:.4f}")

    # Beyond the video: accuracy does not say which mistakes are made. Precision is the fraction of
    # a class's predictions that are correct, recall the fraction of its samples that are found, f1
    # their harmonic mean, support the number of its samples. "macro avg" is the mean over classes,
    # "weighted avg" weights it by support. scikit-learn takes NumPy arrays, here of shape (N,).
    y_test, y_predicted = y_test.view(-1).cpu().numpy(), y_predicted.view(-1).cpu().numpy()
    y_predicted_cls = y_predicted_cls.view(-1).cpu().numpy()
    names = list(bc.target_names)
    print(classification_report(y_test, y_predicted_cls, target_names=names, zero_division=0))

    # Malignant is the class that must not be missed. Calling a tumor benign only if its probability
    # is above 0.9 finds more malignant ones, at the price of false alarms: benign tumors that are
    # called malignant. (In practice, choose the threshold on a validation set, not the test set.)
    for threshold in (0.5, 0.9):
        benign = y_predicted > threshold  # True counts as class 1; ~benign is its opposite
        recall = recall_score(y_test, benign, pos_label=0, zero_division=0)  # class 0: malignant
        false_alarms = ((y_test == 1) & ~benign).sum()
        print(f"threshold {threshold}: malignant recall {recall:.1%}, false alarms {false_alarms}")

    # Beyond the video: compare with scikit-learn, which adds an L2 penalty on large weights. One of
    # 114 tumors changes the accuracy by about 0.01.
    reference = LogisticRegression().fit(X_train.cpu().numpy(), y_train.view(-1).cpu().numpy())
    acc_sklearn = reference.score(X_test.cpu().numpy(), y_test)
    print(f"accuracy of scikit-learn's LogisticRegression: {acc_sklearn:.4f}")

    # Beyond the video: why logits. For z = 200 or -200, sigmoid(z) is exactly 1 or 0 in float32 and
    # its derivative is 0. The log of 0 is -infinity, so BCELoss clamps the loss to 100, and no
    # gradient reaches the logit.
    for logit, target in ((2.0, 0.0), (200.0, 0.0), (-200.0, 1.0)):
        for name, with_logits in (("BCELoss(sigmoid(z))", False), ("BCEWithLogitsLoss(z)", True)):
            value, gradient = loss_and_gradient(logit, target, with_logits)
            case = f"z = {logit:4.0f}, class {target:.0f}"
            print(f"{case}: {name:20} {value:7.3f}, gradient {gradient:6.3f}")

    # The test loss stops falling while the training loss keeps falling: the model is overfitting
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    left.plot(range(1, num_epochs + 1), train_losses, label="training set")
    left.plot(range(1, num_epochs + 1), test_losses, "--", label="test set")
    left.set(title="Loss", xlabel="epoch", ylabel="binary cross-entropy")
    left.legend()
    ConfusionMatrixDisplay.from_predictions(
        y_test, y_predicted_cls, display_labels=names, cmap="Blues", colorbar=False, ax=right
    )
    right.set(title="Number of tumors in the test set")
    figure.savefig(args.output_dir / "02_logistic_regression.png")
    if args.show:
        plt.show()

    print(f"Test accuracy: {acc:.1%} (breast cancer)")
    print("Figure:", args.output_dir / "02_logistic_regression.png")
    return {"accuracy": acc, "accuracy_sklearn": acc_sklearn, "loss": train_losses[-1]}


# Beyond the video
def loss_and_gradient(logit: float, target: float, with_logits: bool) -> tuple[float, float]:
    """Return the loss of one sample, and its gradient with respect to the logit."""
    z = torch.tensor([logit], requires_grad=True)
    y = torch.tensor([target])
    loss = nn.BCEWithLogitsLoss()(z, y) if with_logits else nn.BCELoss()(torch.sigmoid(z), y)
    loss.backward()
    return loss.item(), z.grad.item()


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--limit", type=int, default=10**6, help="at most LIMIT samples per set")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.limit < 4 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, --limit 4, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
