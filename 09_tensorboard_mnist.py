"""09 · TensorBoard

A small network learns to read handwritten digits, and everything worth watching is logged for
TensorBoard: images, the model's graph, training and test loss and accuracy, and a precision-recall
curve for each digit.

You will learn
    - to log images, a graph, scalars, and precision-recall curves with `SummaryWriter`
    - to show training and test curves in one chart, and to tell runs apart
    - what precision and recall say about each digit
    - to close the writer whatever happens, so that nothing logged is lost

Run
    python 09_tensorboard_mnist.py
    tensorboard --logdir runs        (then open http://localhost:6006 in a browser)

Since the video
    - Two writers, in the folders `train` and `test`, log under the same names (tags): TensorBoard
      draws both curves in one chart. The video draws the training curves only.
    - Every run has a folder of its own, named after its learning rate, batch size, and time.
    - 4 epochs, batches of 100, and a learning rate falling from 0.003 to 0 (1, 64, 0.001 in the
      video), with a test after every epoch.
    - `with` replaces `writer.close()`, which the video calls inside the loop by mistake.
    - If MNIST cannot be downloaded, scikit-learn's digits take its place.

Try it
    - `--lr 0.03`, then compare the two runs in TensorBoard. (Do not choose the better one by its
      test accuracy: that would be tuning on the test set. To choose, split off a validation set.)
    - `--epochs 20`: does the test loss follow the training loss all the way?
    - Which digit has the lowest average precision? Look at the mistakes in the Images tab.

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=13881s (about 3:51:21)
"""

import argparse
import socket
import sys
import time
import warnings
from datetime import datetime
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.metrics import PrecisionRecallDisplay, average_precision_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class NeuralNet(nn.Module):
    """Images (N, input_size) -> logits (N, num_classes)."""

    def __init__(self, input_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.l2 = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.l1(x))
        return self.l2(out)  # no softmax: the loss applies it


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    input_size, hidden_size, num_classes = 784, 500, 10  # 784 = 28 * 28 pixels
    num_epochs, batch_size, learning_rate = args.epochs, args.batch_size, args.lr

    # TensorBoard: two writers, one for each curve in a chart
    run = f"lr{learning_rate:g}_batch{batch_size}_{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
    log_dir = args.log_dir / run
    # `with` closes the writers whatever happens, even after Ctrl-C, so that nothing logged is lost
    with SummaryWriter(log_dir / "train") as writer, SummaryWriter(log_dir / "test") as test_writer:
        # MNIST
        dataset = "digits" if args.dataset == "digits" else "mnist"
        if dataset == "mnist":
            socket.setdefaulttimeout(15)  # seconds to wait for a server to answer
            try:
                train_dataset = torchvision.datasets.MNIST(args.data_dir, train=True, download=True)
                test_dataset = torchvision.datasets.MNIST(args.data_dir, train=False, download=True)
                train_dataset, test_dataset = to_tensors(train_dataset), to_tensors(test_dataset)
            except (OSError, RuntimeError) as error:
                problem = f"MNIST cannot be downloaded ({' '.join(str(error).split())})"
                if args.dataset == "mnist":
                    sys.exit(f"{problem}. Check the connection, or use --dataset digits.")
                print(f"*** {problem}: using scikit-learn's digits ***")
                dataset = "digits"
            except Exception as error:  # a damaged file can raise almost anything
                sys.exit(f"{args.data_dir}/MNIST is damaged: delete it and try again ({error}).")
        if dataset == "digits":
            train_dataset, test_dataset = load_offline_data()
        # A slice of a TensorDataset is a tuple (images, labels)
        train_dataset = TensorDataset(*train_dataset[: args.limit])
        test_dataset = TensorDataset(*test_dataset[: args.limit])
        sizes = f"{len(train_dataset)} training and {len(test_dataset)} test images"
        print(f"09 TensorBoard | device: {device} | data: {dataset}, {sizes}")
        train_loader = DataLoader(train_dataset, batch_size=batch_size, shuffle=True)
        test_loader = DataLoader(test_dataset, batch_size=batch_size)

        # TensorBoard: test images. make_grid repeats the gray channel three times: [0] takes one.
        examples = iter(test_loader)
        example_data, example_targets = next(examples)  # (batch_size, 1, 28, 28) and (batch_size,)
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
        left.imshow(make_grid(example_data[:6], nrow=3, pad_value=1)[0].numpy(), cmap="gray")
        left.set(title=f"Test images: {example_targets[:6].tolist()}", xticks=[], yticks=[])
        img_grid = make_grid(example_data)
        test_writer.add_image("mnist_images", img_grid)

        model = NeuralNet(input_size, hidden_size, num_classes).to(device)

        # Loss and optimizer
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        n_total_steps = len(train_loader)
        # The learning rate falls linearly from its full value to 0
        scheduler = LinearLR(optimizer, 1.0, 0.0, total_iters=num_epochs * n_total_steps)

        # TensorBoard: graph
        with warnings.catch_warnings():  # add_graph calls torch.jit.trace, which is deprecated
            warnings.simplefilter("ignore")
            writer.add_graph(model, example_data.reshape(-1, 28 * 28).to(device))

        # Training loop
        log_every = min(100, n_total_steps)  # steps
        running_loss, running_correct, running_samples = 0.0, 0, 0
        start = time.perf_counter()
        for epoch in range(num_epochs):
            for i, (images, labels) in enumerate(train_loader):
                images = images.reshape(-1, 28 * 28).to(device)  # (N, 1, 28, 28) -> (N, 784)
                labels = labels.to(device)
                # Forward pass
                outputs = model(images)
                loss = criterion(outputs, labels)
                # Backward pass and update
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                running_loss += loss.item()
                _, predicted = torch.max(outputs, 1)
                running_correct += (predicted == labels).sum().item()
                running_samples += labels.size(0)
                step = epoch * n_total_steps + i + 1
                if step % log_every == 0:
                    # TensorBoard: training loss and accuracy, averaged over the last steps
                    running_loss /= log_every
                    running_accuracy = running_correct / running_samples
                    writer.add_scalar("loss", running_loss, step)
                    writer.add_scalar("accuracy", running_accuracy, step)
                    progress = f"Epoch [{epoch + 1}/{num_epochs}], Step [{i + 1}/{n_total_steps}]"
                    print(f"{progress}, Loss: {running_loss:.4f}", flush=True)
                    running_loss, running_correct, running_samples = 0.0, 0, 0

            # Test. Without dropout and batch norm, model.eval() would change nothing.
            class_labels, class_preds, test_loss = [], [], 0.0
            with torch.no_grad():
                for images, labels in test_loader:
                    outputs = model(images.reshape(-1, 28 * 28).to(device)).cpu()
                    test_loss += criterion(outputs, labels).item() * labels.size(0)  # a sum
                    class_preds.append(torch.softmax(outputs, dim=1))  # (N, 10)
                    class_labels.append(labels)
            test_loss /= len(test_dataset)
            class_preds, class_labels = torch.cat(class_preds), torch.cat(class_labels)
            predicted = class_preds.argmax(dim=1)
            acc = (predicted == class_labels).float().mean().item()
            print(f"Accuracy of the network: {acc:.1%}", flush=True)
            # TensorBoard: test loss and accuracy. Beyond the video: histograms of the parameters
            test_writer.add_scalar("loss", test_loss, step)
            test_writer.add_scalar("accuracy", acc, step)
            for name, parameter in model.named_parameters():
                writer.add_histogram(name, parameter, step)
        seconds = time.perf_counter() - start

        # TensorBoard: a precision-recall curve for each digit against all others. An image is a
        # predicted 3 if its probability exceeds a threshold. Precision: the fraction of predicted
        # 3s that are 3s. Recall: the fraction of all 3s that are predicted. The threshold trades
        # one for the other; average precision (AP) summarizes the curve..
        average_precisions = {}
        right.set_prop_cycle(color=2 * plt.cm.tab10.colors[:5], linestyle=5 * ["-"] + 5 * ["--"])
        for i in range(10):
            labels, preds = class_labels == i, class_preds[:, i]
            if labels.any():  # with --limit, a digit may be missing
                test_writer.add_pr_curve(f"digit/{i}", labels, preds, global_step=step)
                PrecisionRecallDisplay.from_predictions(labels, preds, name=str(i), ax=right)
                average_precision = float(average_precision_score(labels, preds))
                average_precisions[f"average_precision_{i}"] = average_precision
                print(f"Average precision of {i}: {average_precision:.4f}")

        # Beyond the video: the first ten mistakes, and the settings with the result
        mistakes = (predicted != class_labels).nonzero().flatten().tolist()  # indices
        mistakes_figure, axes = plt.subplots(2, 5, figsize=(6, 3), layout="constrained")
        for ax, i in zip(axes.flat, mistakes):
            ax.imshow(test_dataset[i][0][0].numpy(), cmap="gray")
            ax.set(title=f"{predicted[i]} (is {class_labels[i]})", xticks=[], yticks=[])
        test_writer.add_figure("mistakes", mistakes_figure, step)
        settings = {"lr": learning_rate, "batch_size": batch_size, "epochs": num_epochs}
        # run_name=".": in the folder of test_writer
        test_writer.add_hparams(settings, {"hparam/accuracy": acc}, run_name=".")

    right.set(title=f"Precision and recall ({dataset})", xlabel="recall", ylabel="precision")
    right.axis([0.8, 1.01, 0.8, 1.01])  # where the curves bend
    figure.savefig(args.output_dir / "09_tensorboard_mnist.png")
    if args.show:
        plt.show()
    plt.close(figure)

    print(f"Test accuracy: {acc:.1%} ({dataset})")
    print("Figure:", args.output_dir / "09_tensorboard_mnist.png")
    print(f"Log: {log_dir} (tensorboard --logdir {args.log_dir})")
    metrics = {"accuracy": acc, "loss": test_loss, **average_precisions}
    return {**metrics, "seconds": seconds, "dataset": dataset, "log_dir": str(log_dir)}


def to_tensors(dataset: torchvision.datasets.MNIST) -> TensorDataset:
    """Return all images as float32 (N, 1, 28, 28) from 0 to 1, and their labels (N,)."""
    return TensorDataset(dataset.data.unsqueeze(1) / 255, dataset.targets)


# Offline data
def load_offline_data() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's 8x8 digits, a training and a test set, in the shape of MNIST."""
    X, y = load_digits(return_X_y=True)
    X = torch.from_numpy(X / 16).float().view(-1, 1, 8, 8)
    X = nn.functional.interpolate(X, size=28, mode="bilinear")  # (1797, 1, 28, 28)
    X_train, X_test, y_train, y_test = train_test_split(X, torch.from_numpy(y), random_state=0)
    return TensorDataset(X_train, y_train), TensorDataset(X_test, y_test)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "mnist", "digits")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=100, help="samples per batch")
    parser.add_argument("--lr", type=float, default=0.003, help="learning rate")
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
