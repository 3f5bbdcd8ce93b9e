"""02 · Logistic regression

Is a breast tumour malignant or benign? A linear model turns thirty measurements into one number,
the logit, and the sigmoid turns the logit into a probability. It is trained on 80% of 569 real
cases, judged on the others, and held against scikit-learn's logistic regression.

You will learn
    - how a binary classifier is trained: one logit per sample and `nn.BCEWithLogitsLoss`
    - why the features are standardised, and why with the training part's numbers only
    - why the loss takes logits: `nn.BCELoss` on probabilities goes wrong where they reach 0 or 1
    - what a confusion matrix, precision and recall tell that accuracy does not

Run
    python 02_logistic_regression.py
    python 02_logistic_regression.py --epochs 20 --lr 0.01

Since the video
    - The model returns logits for `BCEWithLogitsLoss`: more stable than sigmoid + `BCELoss`.
    - After the video's 100 epochs at a learning rate of 0.01, the loss is still falling; ours is
      trained at 0.5.

Try it
    - `--epochs 5`: malignant taken for benign, or benign for malignant, which is more frequent?
    - `--epochs 5000`: the training loss keeps falling. Does the test loss?
    - Delete the two lines with `scaler` in `load_data`. What happens to the loss, and why?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=5968s (about 1:39:28)
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "02_logistic_regression"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__
CLASSES = ["malignant", "benign"]  # class 0 and class 1, as scikit-learn numbers them


# %% 0) Prepare data
def load_data(limit: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return X_train (N, 30), y_train (N, 1), X_test, y_test; at most `limit` samples of each."""
    X, y = load_breast_cancer(return_X_y=True)
    # The video's split: 1234 decides which samples go where.
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1234)
    X_train, X_test, y_train, y_test = (part[:limit] for part in (X_train, X_test, y_train, y_test))

    # Some features are around 0.01, others around 1000: one learning rate cannot suit them all. The
    # scaler brings each to mean 0 and deviation 1. It never sees the test part: that is the future.
    scaler = StandardScaler().fit(X_train)
    X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)

    X_train, X_test, y_train, y_test = (
        torch.tensor(part, dtype=torch.float32, device=DEVICE)
        for part in (X_train, X_test, y_train, y_test)
    )
    return X_train, y_train.unsqueeze(1), X_test, y_test.unsqueeze(1)  # y: (N,) -> (N, 1)


# %% 1) Model
def make_model(n_features: int) -> nn.Linear:
    """Return a linear model (N, n_features) -> (N, 1) of logits; the loss adds the sigmoid."""
    return nn.Linear(n_features, 1).to(DEVICE)


# %% 2) Loss and optimizer
def compare_losses(logits: Tensor, targets: Tensor) -> float:
    """Return how far BCELoss(sigmoid(z)) and BCEWithLogitsLoss(z) differ at most, per sample."""
    on_probabilities = nn.BCELoss(reduction="none")(torch.sigmoid(logits), targets)
    on_logits = nn.BCEWithLogitsLoss(reduction="none")(logits, targets)
    return (on_probabilities - on_logits).abs().max().item()


def loss_and_gradient(logit: float, target: float, with_logits: bool) -> tuple[float, float]:
    """Return the loss of one logit and its gradient with respect to that logit."""
    z, y = torch.tensor([logit], requires_grad=True), torch.tensor([target])
    loss = nn.BCEWithLogitsLoss()(z, y) if with_logits else nn.BCELoss()(torch.sigmoid(z), y)
    loss.backward()
    return loss.item(), z.grad.item()


# %% 3) Training loop
def train(
    model: nn.Module, parts: tuple[Tensor, Tensor, Tensor, Tensor], lr: float, epochs: int
) -> tuple[list[float], list[float]]:
    """Train on the whole training part at once; return its loss and the test part's, by epoch."""
    X_train, y_train, X_test, y_test = parts
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    train_losses, test_losses = [], []
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        loss = criterion(model(X_train), y_train)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        with torch.inference_mode():
            train_losses.append(criterion(model(X_train), y_train).item())
            test_losses.append(criterion(model(X_test), y_test).item())
        if epoch % max(1, epochs // 10) == 0:
            print(f"epoch {epoch:4d} of {epochs}: loss {train_losses[-1]:.4f},", end=" ")
            print(f"test loss {test_losses[-1]:.4f}")
    print(f"{epochs} epochs in {time.perf_counter() - start:.2f} s")
    return train_losses, test_losses


# %% 4) Evaluate
@torch.inference_mode()
def predict(model: nn.Module, X: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (N,) and the predicted classes (N,): 1 where the probability is >= 0.5."""
    logits = model(X).squeeze(1)  # (N, 1) -> (N,)
    return logits.cpu().numpy(), (torch.sigmoid(logits) >= 0.5).int().cpu().numpy()


def print_report(targets: np.ndarray, predicted: np.ndarray) -> None:
    """Print the confusion matrix, and each class's precision and recall.

    Precision: of the samples predicted as the class, the share that is. Recall: of the samples
    that are of the class, the share that was found.
    """
    matrix = confusion_matrix(targets, predicted, labels=[0, 1])  # rows: true, columns: predicted
    precision, recall, _, _ = precision_recall_fscore_support(
        targets, predicted, labels=[0, 1], zero_division=0.0
    )
    print("\n               predicted as")
    print("true         malignant    benign   precision    recall")
    for i, name in enumerate(CLASSES):
        print(f"{name:12} {matrix[i, 0]:9d} {matrix[i, 1]:9d}", end=" ")
        print(f"{precision[i]:11.1%} {recall[i]:9.1%}")
    print(f"{matrix[0, 1]} of {matrix[0].sum()} malignant tumours were missed:", end=" ")
    print("the worse of the two errors. Accuracy counts both alike.")


# %% 5) Plot
def plot(
    train_losses: list[float], test_losses: list[float], logits: np.ndarray, targets: np.ndarray
) -> plt.Figure:
    """Draw the losses by epoch, and the test logits of both classes under the sigmoid."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    epochs = range(1, len(train_losses) + 1)
    left.plot(epochs, train_losses, color="C0", label="training")
    left.plot(epochs, test_losses, color="C1", ls="--", label="test")
    left.set(title="Loss by epoch", xlabel="epoch", ylabel="binary cross-entropy", ylim=(0, None))
    left.locator_params(axis="x", integer=True)
    left.legend()

    z = torch.linspace(-max(6, abs(logits).max()), max(6, abs(logits).max()), 400)
    right.plot(z, torch.sigmoid(z), color="0.4", label="sigmoid")
    for label, style, height in ((0, "C0o", -0.08), (1, "C1^", 1.08)):
        of_class = logits[targets == label]
        heights = np.full(len(of_class), height)
        right.plot(of_class, heights, style, ms=5, alpha=0.5, label=CLASSES[label])
    right.axvline(0, color="0.4", ls=":", label="decision threshold")
    right.set(title="Test samples under the sigmoid", xlabel="logit")
    right.set_ylabel("probability of 'benign'")
    right.legend(loc="center right")
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
        description="Logistic regression on breast cancer, beside scikit-learn's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=100, metavar="N", help="passes over the data")
    add("--lr", type=float, default=0.5, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples of each part")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or (args.limit is not None and args.limit < 4):
        parser.error("--epochs must be at least 1, and --limit at least 4 (for both classes)")
    if not 0 < args.lr < float("inf") or not 0 <= args.seed < 2**32:
        parser.error("--lr must be finite and above 0, and --seed from 0 to 2**32 - 1")
    return args


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    make_output_dir(args.output_dir)
    torch.manual_seed(args.seed)

    X_train, y_train, X_test, y_test = parts = load_data(args.limit)
    sizes = f"{len(X_train)} training and {len(X_test)} test samples"
    print(f"02 Logistic regression | device: {DEVICE} | data: breast cancer, {sizes}\n")

    model = make_model(n_features=X_train.shape[1])
    train_losses, test_losses = train(model, parts, args.lr, args.epochs)

    targets = y_test.squeeze(1).int().cpu().numpy()
    logits, predicted = predict(model, X_test)
    print_report(targets, predicted)

    # scikit-learn's own adds a penalty on large weights, so the two need not agree on every sample.
    reference = LogisticRegression().fit(X_train.cpu(), y_train.squeeze(1).cpu())
    metrics = {
        "accuracy": float((predicted == targets).mean()),
        "accuracy_sklearn": float(reference.score(X_test.cpu(), targets)),
        "loss": test_losses[-1],
        "bce_difference": compare_losses(model(X_test).detach(), y_test),
        "n_train": len(X_train),
        "n_test": len(X_test),
    }

    print("\nOn these test samples BCELoss(sigmoid(z)) and BCEWithLogitsLoss(z) differ by", end=" ")
    print(f"{metrics['bce_difference']:.1e}\nat most. Far out they part:")
    print("                      BCELoss(sigmoid(z))      BCEWithLogitsLoss(z)")
    print("logit z   target         loss    gradient          loss    gradient")
    for logit, target in ((2.0, 0.0), (200.0, 0.0), (-200.0, 1.0)):
        row = loss_and_gradient(logit, target, False) + loss_and_gradient(logit, target, True)
        print("{:7.0f} {:8.0f} {:12.3f} {:11.3f} {:13.3f} {:11.3f}".format(logit, target, *row))
    print("At |z| = 200 the sigmoid is exactly 0 or 1 in float32: BCELoss caps the loss at 100,")
    print("and its gradient is gone. From the worst mistakes, nothing would be learned.")

    figure_path = args.output_dir / f"{LESSON}.png"
    save_figure(plot(train_losses, test_losses, logits, targets), figure_path, args.show)
    print(f"\nTest accuracy: {metrics['accuracy']:.1%},", end=" ")
    print(f"{metrics['accuracy_sklearn']:.1%} by scikit-learn (breast cancer)")
    print(f"Figure: {figure_path}")
    return metrics


if __name__ == "__main__":
    main()
