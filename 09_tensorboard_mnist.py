"""09 · TensorBoard

A small network learns to read handwritten digits, and the following is logged for TensorBoard:
images, the graph of the model, training and test loss and accuracy, histograms of its weights, and
a precision-recall curve for each digit.

You will learn
    - how to log images, a graph, scalars, and precision-recall curves with `SummaryWriter`
    - how to show training and test curves in one chart, and how to tell runs apart
    - what to look for in each tab of TensorBoard
    - what precision and recall say about each digit

Run
    python 09_tensorboard_mnist.py
    tensorboard --logdir runs        (then open http://localhost:6006 in a browser)

Changes from the video
    - Two writers, in the folders `train` and `test`, log under the same tags (names), so that both
      curves share a chart. The video logs training values only, as `training loss`.
    - Each run has a folder of its own, named after its learning rate and its time. It is created
      once the data is available, so that a failed download leaves no empty run.
    - 4 epochs and batches of 100 (video: 1 and 64), with a test after each epoch. Whole tensors are
      scaled to 0..1 once, as `ToTensor` would do image by image.
    - `flush()` after each epoch makes sure that its values are in the log, even after Ctrl-C. The
      video calls `close()` inside the loop over the classes by mistake; here it stands at the end.
    - The course's script, as first published, passed predictions as labels to the precision-recall
      curves, and divided the number of correct predictions by 100 steps, but not by the batch size.
    - If MNIST could not be downloaded, scikit-learn's digits are used.

Try it (answers: docs/answers.md)
    - `--lr 0.03`, then compare the two runs in TensorBoard. (To choose one of them, split off a
      validation set. Choosing by the test accuracy would be tuning on the test set.)
    - `--epochs 20`: does the test loss keep falling with the training loss?
    - Which digit has the lowest average precision? Look at the mistakes in the Images tab.

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=13881s (about 3:51:21), course script:
    16_tensorboard.py
"""

import argparse
import socket
import sys
import warnings
from datetime import datetime
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (the flags change the last three)
input_size = 784  # 28 * 28 pixels
hidden_size = 500
num_classes = 10
num_epochs = 4
batch_size = 100
learning_rate = 0.001


class NeuralNet(nn.Module):
    """Images (N, input_size) -> logits (N, num_classes)."""

    def __init__(self, input_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.l2 = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.l1(x)
        out = self.relu(out)
        out = self.l2(out)
        return out  # no softmax: the loss applies it


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    num_epochs, batch_size, learning_rate = args.epochs, args.batch_size, args.lr

    # MNIST
    data_name = "digits" if args.dataset == "digits" else "mnist"
    if data_name == "mnist":
        socket.setdefaulttimeout(15)  # seconds to wait for a server to answer
        if not (args.data_dir / "MNIST").exists():
            print("Downloading MNIST: 12 MB, once. (To do without: --dataset digits)", flush=True)
        try:
            train_dataset = torchvision.datasets.MNIST(args.data_dir, train=True, download=True)
            test_dataset = torchvision.datasets.MNIST(args.data_dir, train=False, download=True)
        except Exception as error:  # a damaged file can raise almost anything
            problem = f"MNIST could not be downloaded or read ({repr(error)[:200]})"
            problem += f"; if {args.data_dir / 'MNIST'} is damaged, delete it"
            if args.dataset == "mnist":
                sys.exit(f"{problem}. Check the connection, or use --dataset digits.")
            print(f"*** {problem}. Using scikit-learn's digits ***")
            data_name = "digits"
    if data_name == "digits":
        train_dataset, test_dataset = load_offline_data(args.limit)
    else:
        train_dataset = to_tensors(train_dataset, args.limit)
        test_dataset = to_tensors(test_dataset, args.limit)
    sizes = f"{len(train_dataset)} training and {len(test_dataset)} test images"
    print(f"09 TensorBoard | device: {device} | data: {data_name}, {sizes}")
    train_loader = DataLoader(train_dataset, batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(test_dataset, batch_size=batch_size)

    # TensorBoard: two writers, one for each curve in a chart
    log_dir = args.log_dir / f"lr{learning_rate:g}_{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    writer = SummaryWriter(log_dir / "train")
    test_writer = SummaryWriter(log_dir / "test")

    examples = iter(test_loader)
    example_data, example_targets = next(examples)  # (batch_size, 1, 28, 28) and (batch_size,)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    # make_grid repeats the gray channel for red, green, and blue: (6, 1, 28, 28) -> (3, 62, 92)
    six = torchvision.utils.make_grid(example_data[:6], nrow=3, pad_value=1)
    left.imshow(six.permute(1, 2, 0).numpy())
    left.set_title(f"Test images: {example_targets[:6].numpy()}")
    left.axis("off")

    # TensorBoard, Images tab. Look for wrong colors and for images upside down.
    img_grid = torchvision.utils.make_grid(example_data)
    test_writer.add_image("mnist_images", img_grid)

    # 1) Model: class NeuralNet, above
    model = NeuralNet(input_size, hidden_size, num_classes).to(device)

    # 2) Loss and optimizer
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    # TensorBoard, Graphs tab. Double-click NeuralNet: are all layers there, and in order?
    with warnings.catch_warnings():  # add_graph calls torch.jit.trace, which is deprecated
        warnings.simplefilter("ignore")
        writer.add_graph(model, example_data.reshape(-1, 28 * 28).to(device))

    # 3) Training loop
    running_loss = 0.0
    running_correct = 0
    running_samples = 0
    n_total_steps = len(train_loader)
    log_every = min(100, n_total_steps)  # steps
    for epoch in range(num_epochs):
        model.train()
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
            running_samples += labels.size(0)
            step = epoch * n_total_steps + i + 1  # continues across epochs
            if step % log_every == 0:
                # TensorBoard, Scalars tab: averages over the last steps
                running_loss /= log_every
                running_accuracy = running_correct / running_samples
                writer.add_scalar("loss", running_loss, step)
                writer.add_scalar("accuracy", running_accuracy, step)
                progress = f"Epoch [{epoch + 1}/{num_epochs}], Step [{i + 1}/{n_total_steps}]"
                print(f"{progress}, Loss: {running_loss:.4f}", flush=True)
                running_loss = 0.0
                running_correct = 0
                running_samples = 0

        # 4) Test, after each epoch
        model.eval()  # changes nothing in this network, but is needed as soon as it has dropout
        class_labels = []
        class_preds = []
        test_loss = 0.0
        with torch.no_grad():
            for images, labels in test_loader:
                outputs = model(images.reshape(-1, 28 * 28).to(device)).cpu()
                test_loss += criterion(outputs, labels).item() * labels.size(0)  # a sum
                class_preds.append(torch.softmax(outputs, dim=1))  # probabilities (N, 10)
                class_labels.append(labels)
        test_loss /= len(test_dataset)
        class_preds = torch.cat(class_preds)
        class_labels = torch.cat(class_labels)
        confidence, predicted = torch.max(class_preds, 1)
        acc = (predicted == class_labels).float().mean().item()
        print(f"Accuracy of the network: {acc:.1%}", flush=True)
        # TensorBoard, Scalars tab. Look for a test loss that rises while the training loss falls:
        # that is overfitting. (Training values are averages over the steps before; test values are
        # those of the network after the epoch.)
        test_writer.add_scalar("loss", test_loss, step)
        test_writer.add_scalar("accuracy", acc, step)
        # Beyond the video, Histograms tab. Look for weights that never move, or that explode.
        for name, parameter in model.named_parameters():
            writer.add_histogram(name, parameter, step)
        writer.flush()
        test_writer.flush()

    # TensorBoard, PR Curves tab: each digit against all others. An image is classified as a 3 if
    # its probability of a 3 is above a threshold. Precision is the fraction of images classified as
    # a 3 that are 3s, recall the fraction of all 3s that are classified as a 3. A lower threshold
    # raises recall and usually costs precision. Look for the curve farthest from the top right
    # corner. Average precision (AP) summarizes a curve; 1 is perfect.
    metrics = {"accuracy": acc, "loss": test_loss, "dataset": data_name, "log_dir": str(log_dir)}
    for i in range(num_classes):
        labels_i = class_labels == i
        preds_i = class_preds[:, i]
        if labels_i.any():  # with --limit, a digit may be missing
            test_writer.add_pr_curve(str(i), labels_i, preds_i, global_step=step)
            ap = float(average_precision_score(labels_i, preds_i))
            metrics[f"average_precision_{i}"] = ap
            print(f"Average precision of {i}: {ap:.4f}")
            precision, recall, _ = precision_recall_curve(labels_i, preds_i)
            style = "-" if i < 5 else "--"
            right.plot(recall, precision, style, color=f"C{i % 5}", label=f"{i}: AP {ap:.4f}")

    # Beyond the video, Images tab: the ten mistakes of which the network was surest
    mistakes = torch.nonzero(predicted != class_labels).flatten()  # their indices
    order = confidence[mistakes].argsort(descending=True)  # positions in mistakes, surest first
    surest = mistakes[order][:10]
    mistakes_figure, axes = plt.subplots(2, 5, figsize=(7, 3.5), layout="constrained")
    for ax, i in zip(axes.flat, surest.tolist()):
        ax.imshow(test_dataset[i][0][0].numpy(), cmap="gray")
        ax.set_title(f"{confidence[i]:.0%} a {predicted[i]}, is a {class_labels[i]}", fontsize=8)
        ax.axis("off")
    test_writer.add_figure("mistakes", mistakes_figure, step)
    writer.close()
    test_writer.close()

    right.set(xlabel="recall", ylabel="precision", xlim=(0.9, 1.002), ylim=(0.9, 1.002))
    right.set_title(f"Precision and recall ({data_name}; axes start at 0.9)")
    right.legend(loc="lower left")
    figure.savefig(args.output_dir / "09_tensorboard_mnist.png")
    if args.show:
        plt.show()

    print(f"Test accuracy: {acc:.1%} ({data_name})")
    print("Figure:", args.output_dir / "09_tensorboard_mnist.png")
    print(f"Log: {log_dir} (to see it: tensorboard --logdir {args.log_dir})")
    return metrics


def to_tensors(dataset: torchvision.datasets.MNIST, limit: int) -> TensorDataset:
    """Return the first images as float32 (N, 1, 28, 28) from 0 to 1, and their labels (N,)."""
    return TensorDataset(dataset.data[:limit].unsqueeze(1) / 255, dataset.targets[:limit])


# Offline data
def load_offline_data(limit: int) -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's 8x8 digits, a training and a test set, in the shape of MNIST."""
    X, y = load_digits(return_X_y=True)
    X = torch.from_numpy(X / 16).float().view(-1, 1, 8, 8)
    X = nn.functional.interpolate(X, size=28, mode="bilinear")  # (1797, 1, 28, 28)
    X_train, X_test, y_train, y_test = train_test_split(X, torch.from_numpy(y), random_state=0)
    train_dataset = TensorDataset(X_train[:limit], y_train[:limit])
    return train_dataset, TensorDataset(X_test[:limit], y_test[:limit])


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "mnist", "digits")
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="samples per batch")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--limit", type=int, default=10**6, help="at most LIMIT samples per set")
    parser.add_argument("--dataset", choices=names, default="auto", help="auto: digits if offline")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="dataset folder")
    parser.add_argument("--log-dir", type=Path, default=Path("runs"), help="TensorBoard's folder")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if min(args.epochs, args.batch_size, args.limit) < 1 or not 0 < args.lr < float("inf"):
        parser.error("--epochs, --batch-size, --limit, and --lr must be positive, and --lr finite")
    return args


if __name__ == "__main__":
    main()
