"""09 · TensorBoard

A small network learns to read handwritten digits, and the following is logged for TensorBoard:
images, the graph of the model, training and test loss and accuracy, histograms of its weights, and
a precision-recall curve for each digit.

You will learn
    - how to log images, a graph, scalars, and precision-recall curves with `SummaryWriter`
    - how to show training and test curves in one chart, and how to tell runs apart
    - what to look for in each tab of TensorBoard
    - what precision and recall say about each digit

Run (add --show to open the figure in a window)
    python 09_tensorboard_mnist.py
    python 09_tensorboard_mnist.py --epochs 1 --batch-size 64   (as in the video)
    python 09_tensorboard_mnist.py --dataset digits             (without a download)
    tensorboard --logdir runs   (then open http://localhost:6006; a narrow window hides tabs at ">")

Changes from the video
    - A second writer logs the test under the same tags (names), so that both curves share a chart.
      The video logs scalars of the training only, `training loss` and `accuracy`.
    - Each run has a folder of its own, named after its learning rate and its time.
    - 4 epochs and batches of 100 (video: 1 and 64). A last, short batch is left out. Steps are
      counted through all epochs, and the printed loss is a mean, like the logged one.
    - All images are scaled to 0..1 at once (`to_tensors`), and `softmax` takes a whole batch.
    - `class_labels` has the true labels (course script: the predicted ones, so that the curves say
      nothing about mistakes). `close()` stands after the loop over the classes, not inside it.
    - If MNIST cannot be downloaded, scikit-learn's digits are used.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - `--lr 0.03`, then compare the two runs in TensorBoard. (To choose one of them, split off a
      validation set. Choosing by the test accuracy would be tuning on the test set.)
    - `--epochs 20`: does the test loss keep falling with the training loss?
    - Which digits have the lowest average precision? Look at the mistakes in the figure: which
      would you have read right?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=13881s (about 3:51:21), course script:
    16_tensorboard.py. The lines that do not log are those of 13_feedforward.py (about 2:52).
"""

import argparse
import socket
import sys
import warnings
from datetime import datetime
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (defaults of the last three: flags such as --epochs change them, see parse_args)
input_size = 784  # 28 * 28 pixels
hidden_size = 500
num_classes = 10
num_epochs = 4
batch_size = 100
learning_rate = 0.001


class NeuralNet(nn.Module):
    """Images (N, input_size) -> logits (N, num_classes)."""

    def __init__(self, input_size, hidden_size, num_classes):
        super().__init__()
        self.l1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.l2 = nn.Linear(hidden_size, num_classes)

    def forward(self, x):
        out = self.l1(x)
        out = self.relu(out)
        out = self.l2(out)
        return out  # no softmax: the loss applies it


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    num_epochs, batch_size, learning_rate = args.epochs, args.batch_size, args.lr
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    data_name = download(args)  # "mnist", or "digits" if it could not be downloaded
    print(f"09 TensorBoard | device: {device} | data: {data_name}")
    log_dir = args.log_dir / f"lr{learning_rate}_{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"

    # TensorBoard
    writer = SummaryWriter(log_dir / "train")
    test_writer = SummaryWriter(log_dir / "test")  # for all that is about test images

    # MNIST dataset
    if data_name == "mnist":
        train_dataset = to_tensors(torchvision.datasets.MNIST(args.data_dir, train=True))
        test_dataset = to_tensors(torchvision.datasets.MNIST(args.data_dir, train=False))
    else:
        train_dataset, test_dataset = load_offline_data()

    # Data loader. drop_last: only full batches, so that means over batches are means over images.
    train_loader = DataLoader(
        dataset=train_dataset, batch_size=batch_size, shuffle=True, drop_last=True
    )
    test_loader = DataLoader(dataset=test_dataset, batch_size=batch_size, shuffle=False)

    examples = iter(test_loader)
    example_data, example_targets = next(examples)  # (100, 1, 28, 28) and (100,)
    figure = plt.figure(figsize=(13, 8))
    for i in range(min(6, batch_size)):
        plt.subplot(3, 6, i + 1)  # row 1; `draw` fills rows 2 and 3
        plt.imshow(example_data[i][0].numpy(), cmap="gray")
        plt.title(f"test image: {example_targets[i]}")
        plt.axis("off")

    # TensorBoard, Images tab
    img_grid = torchvision.utils.make_grid(example_data)
    test_writer.add_image("mnist_images", img_grid)

    # 1) Model: class NeuralNet, above
    model = NeuralNet(input_size, hidden_size, num_classes).to(device)

    # 2) Loss and optimizer. Adam, a variant of SGD, averages the last gradients of each parameter,
    # and divides by their usual size, so that parameters with small gradients move as well.
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    # TensorBoard, Graphs tab: this calls writer.add_graph
    add_graph(writer, model, example_data.reshape(-1, 28 * 28).to(device))

    # 3) Training loop
    running_loss = 0.0
    running_correct = 0
    n_total_steps = len(train_loader)
    log_every = min(100, n_total_steps)  # steps (the digits have only 13 in an epoch)
    for epoch in range(num_epochs):
        for i, (images, labels) in enumerate(train_loader):
            images = images.reshape(-1, 28 * 28).to(device)  # (N, 1, 28, 28) -> (N, 784)
            labels = labels.to(device)

            # Forward pass
            outputs = model(images)
            loss = criterion(outputs, labels)

            # Backward and optimize
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            running_loss += loss.item()
            # max returns the largest value of each row and its index, which is the class
            _, predicted = torch.max(outputs, 1)
            running_correct += (predicted == labels).sum().item()
            step = epoch * n_total_steps + i  # counted through all epochs
            if (step + 1) % log_every == 0:
                position = f"Epoch [{epoch + 1}/{num_epochs}], Step [{i + 1}/{n_total_steps}]"
                print(f"{position}, Loss: {running_loss / log_every:.4f}", flush=True)
                # TensorBoard, Scalars tab
                writer.add_scalar("loss", running_loss / log_every, step)
                running_accuracy = running_correct / log_every / predicted.size(0)
                writer.add_scalar("accuracy", running_accuracy, step)
                running_loss = 0.0
                running_correct = 0
        log_epoch(writer, test_writer, model, test_dataset, step)  # also logs histograms

    # 4) Test
    class_labels = []
    class_preds = []
    with torch.no_grad():
        n_correct = 0
        n_samples = 0
        for images, labels in test_loader:
            images = images.reshape(-1, 28 * 28).to(device)
            labels = labels.to(device)
            outputs = model(images)
            _, predicted = torch.max(outputs, 1)
            n_samples += labels.size(0)
            n_correct += (predicted == labels).sum().item()

            class_preds.append(F.softmax(outputs, dim=1))  # probabilities (N, 10)
            class_labels.append(labels)

        # cat concatenates the batches: (10000, 10) and (10000,)
        class_preds = torch.cat(class_preds)
        class_labels = torch.cat(class_labels)
        acc = n_correct / n_samples
        print(f"Accuracy of the network: {acc:.1%}")

    # TensorBoard, PR Curves tab: each digit against all others. At a threshold, an image counts as
    # a 3 if its probability of a 3 is at least that high. Precision is the fraction of the images
    # counted as 3s that are 3s, recall the fraction of all 3s that are counted. Each threshold
    # gives a point of the curve. At a lower one, recall never falls, but precision may.
    classes = range(10)
    for i in classes:
        labels_i = class_labels == i
        preds_i = class_preds[:, i]
        test_writer.add_pr_curve(str(i), labels_i, preds_i, global_step=0)
    writer.close()

    # Beyond the video: what to look for in the tabs of TensorBoard
    #     Images      images that are all black, upside down, or without grays (not scaled to 0..1)
    #     Graphs      missing layers (double-click NeuralNet to see them)
    #     Scalars     a test loss that rises while the training loss falls: overfitting. Set
    #                 Smoothing to 0. (At first, test may be better: a point of train is a mean of
    #                 many steps, in which the weights improved.)
    #     Histograms  weights that spread ever faster, or a layer that never changes. (Weights of
    #                 pixels that are black in all training images do not change.)
    #     PR Curves   a curve that stays away from the top right corner: zoom in there

    # Beyond the video: the average precision of each digit, which is the area under its curve. It
    # is 1 if every 3, say, gets a higher probability of a 3 than any image of another digit. The
    # figure shows the lowest, and the mistakes of which the network was most confident.
    average_precisions = draw(test_dataset, class_labels.cpu(), class_preds.cpu(), args)
    for i in classes:
        print(f"Average precision of {i}: {average_precisions[i]:.4f}")
    test_writer.add_figure("mistakes", figure, close=False)
    test_writer.close()

    print(f"Test accuracy: {acc:.1%} ({data_name})")
    print("Figure:", args.output_dir / "09_tensorboard_mnist.png")
    print(f"Log: {log_dir} (to see it: tensorboard --logdir {args.log_dir})")
    return {"dataset": data_name, "accuracy": acc, "log_dir": str(log_dir)}


# Beyond the video
def add_graph(writer, model, inputs):
    """Log the graph of the model. If that is not possible, say so, and go on."""
    try:
        with warnings.catch_warnings():  # that torch.jit.trace, used by add_graph, is deprecated
            warnings.simplefilter("ignore")
            writer.add_graph(model, inputs)
    except Exception as error:  # torch.jit.trace may break on new Python versions
        print(f"No graph was logged ({error!r:.200})")


def log_epoch(writer, test_writer, model, test_dataset, step):
    """Log the weights, and loss and accuracy of the test, after `step`."""
    images, labels = test_dataset.tensors  # all test images at once: they are small
    labels = labels.to(device)
    with torch.no_grad():
        outputs = model(images.reshape(-1, 28 * 28).to(device))
    loss = F.cross_entropy(outputs, labels).item()
    accuracy = (outputs.argmax(dim=1) == labels).float().mean().item()
    print(f"Test after epoch: loss {loss:.4f}, accuracy {accuracy:.1%}", flush=True)
    test_writer.add_scalar("loss", loss, step)
    test_writer.add_scalar("accuracy", accuracy, step)
    for name, parameter in model.named_parameters():
        writer.add_histogram(name, parameter, step)
    writer.flush()  # so that the log is complete up to here, even after Ctrl-C
    test_writer.flush()


def draw(test_dataset, class_labels, class_preds, args):
    """Add six mistakes and the precision-recall curves to the figure, and save it.

    Return the average precision of each digit, a list.
    """
    confidence, predicted = torch.max(class_preds, 1)
    confidence[predicted == class_labels] = 0  # only mistakes keep theirs
    most_confident = confidence.argsort(descending=True)[:6].tolist()
    # Rows 2 and 3, left half. There may be fewer than six mistakes.
    for position, i in zip((7, 8, 9, 13, 14, 15), most_confident):
        if confidence[i] > 0:
            plt.subplot(3, 6, position)
            plt.imshow(test_dataset[i][0][0].numpy(), cmap="gray")  # an image is (1, 28, 28)
            percentage = min(confidence[i].item(), 0.999)  # not "100.0%"
            title = f"predicted {predicted[i]} ({percentage:.1%})\ntrue: {class_labels[i]}"
            plt.title(title, fontsize=10)
            plt.axis("off")

    ax = plt.subplot(3, 2, (4, 6))  # the right half of rows 2 and 3
    average_precisions = [
        float(average_precision_score(class_labels == i, class_preds[:, i])) for i in range(10)
    ]
    start = 1.0
    for i in np.argsort(average_precisions)[:3]:  # the three lowest
        precision, recall, _ = precision_recall_curve(class_labels == i, class_preds[:, i])
        label = f"{i}: average precision {average_precisions[i]:.4f}"
        ax.plot(recall, precision, drawstyle="steps-post", label=label)
        # The axes start three times as far from 1 as the point where both are about equal
        break_even = np.minimum(precision, recall).max()
        start = max(0, min(start, 1 - 3 * (1 - break_even)))
    ax.set(xlim=(start, 1.002), ylim=(start, 1.002), xlabel="recall", ylabel="precision")
    ax.set_title(f"Precision and recall (axes start at {start:.2f})")
    ax.legend(title="the three lowest averages", loc="lower left")
    plt.tight_layout()
    plt.savefig(args.output_dir / "09_tensorboard_mnist.png")
    if args.show:
        plt.show()
    return average_precisions


# Data
def download(args):
    """Download MNIST if it is not there; return the name of the data: "mnist" or "digits"."""
    if args.dataset == "digits":
        return "digits"
    folder = args.data_dir / "MNIST"
    if not (folder / "raw" / "t10k-labels-idx1-ubyte").exists():  # the last of four files
        print("Downloading MNIST (12 MB, once). To skip it: Ctrl-C, then --dataset digits")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(15)  # seconds without an answer from the server
    try:
        torchvision.datasets.MNIST(args.data_dir, train=True, download=True)
        torchvision.datasets.MNIST(args.data_dir, train=False)
        return "mnist"
    except Exception as error:  # servers, proxies, and damaged files can raise almost anything
        problem = f"MNIST could not be downloaded or read ({error!r:.200})"
    finally:
        socket.setdefaulttimeout(timeout)
    if args.dataset == "mnist":
        sys.exit(f"{problem}. Check the connection, delete {folder}, or use --dataset digits.")
    print(f"*** {problem}. Using scikit-learn's digits ***")
    return "digits"


def to_tensors(dataset):
    """Return MNIST's images as float32 (N, 1, 28, 28) from 0 to 1, and their labels (N,).

    A transform and list(), as in lesson 07, give the same, but take several seconds.
    """
    return TensorDataset(dataset.data.unsqueeze(1) / 255, dataset.targets)


def load_offline_data():
    """Return scikit-learn's 8x8 digits, a training and a test set, in the shape of MNIST."""
    X, y = load_digits(return_X_y=True)
    X = torch.from_numpy(X / 16).float().view(-1, 1, 8, 8)
    X = nn.functional.interpolate(X, size=28, mode="bilinear")  # (1797, 1, 28, 28)
    X_train, X_test, y_train, y_test = train_test_split(X, torch.from_numpy(y), random_state=0)
    return TensorDataset(X_train, y_train), TensorDataset(X_test, y_test)


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "mnist", "digits")
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="samples per batch")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--dataset", choices=names, default="auto", help="auto: digits if offline")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="dataset folder")
    parser.add_argument("--log-dir", type=Path, default=Path("runs"), help="TensorBoard's folder")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 1 <= args.batch_size <= 1000:
        parser.error("--epochs must be at least 1, and --batch-size from 1 to 1000")
    if not 0 < args.lr <= 1000 or not 0 <= args.seed < 2**32:
        parser.error("--lr must be above 0 and at most 1000, and --seed from 0 to 2**32 - 1")
    return args


if __name__ == "__main__":
    main()
