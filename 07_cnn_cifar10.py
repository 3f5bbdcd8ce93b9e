"""07 · Convolutional neural network

A convolution looks for small patterns everywhere in an image; pooling keeps the strongest
response. Four convolutions turn the 32x32 pixels of a CIFAR-10 image into features, from which two
linear layers tell planes, cars, birds, and seven other classes apart.

You will learn
    - how `nn.Conv2d` and `nn.MaxPool2d` change the shape of a batch, layer by layer
    - to train and test on batches, on the GPU if there is one
    - to measure the accuracy of the network and of each class
    - what batch norm, augmentation, and a learning rate schedule are for

Run
    python 07_cnn_cifar10.py
    python 07_cnn_cifar10.py --dataset digits --epochs 2

Since the video
    - Four 3x3 convolutions with batch norm and two linear layers; SGD with momentum, weight decay,
      and a schedule; batches of 128: one epoch (`--epochs 1`) beats the video's 49% accuracy.
    - Groups of 32 images are augmented: shifted by up to one pixel and mirrored at random.
    - The loops, not the dataset, apply the transform; `v2.ToDtype` replaces `ToTensor` (lesson 04).
    - `model.eval()` before testing, and per-class counts that also work if the last batch is short.
    - If CIFAR-10 cannot be downloaded, scikit-learn's digits take its place.

Try it
    - `--epochs 1` and `--epochs 12`: what does more training gain?
    - `--lr 0.001`: as small as the video's. How far does it get?
    - Replace `train_transform(part)` with `transform(part)`. What happens to the training loss, and
      what to the test accuracy?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=11653s (about 3:14:13)
"""

import argparse
import socket
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class ConvNet(nn.Module):
    """Images (N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        # Channels in, channels out, kernel size. A 3x3 convolution with padding=1 keeps height and
        # width; pooling halves them: 32 -> 16 -> 8 -> 4. So fc1 gets 128 * 4 * 4 features.
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)  # batch norm has its own bias
        self.conv2 = nn.Conv2d(16, 64, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(64, 96, 3, padding=1, bias=False)
        self.conv4 = nn.Conv2d(96, 128, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2, 2)
        # Batch norm standardizes each channel of a batch, then scales and shifts it by learned
        # numbers. It allows a larger learning rate.
        self.norm1, self.norm2 = nn.BatchNorm2d(16), nn.BatchNorm2d(64)
        self.norm3, self.norm4 = nn.BatchNorm2d(96), nn.BatchNorm2d(128)
        self.fc1 = nn.Linear(128 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        # -> N, 3, 32, 32. Pooling first leaves batch norm and ReLU a quarter of the values.
        x = F.relu(self.norm1(self.pool(self.conv1(x))))  # -> N, 16, 16, 16
        x = F.relu(self.norm2(self.pool(self.conv2(x))))  # -> N, 64, 8, 8
        x = F.relu(self.norm3(self.pool(self.conv3(x))))  # -> N, 96, 4, 4
        x = F.relu(self.norm4(self.conv4(x)))  # -> N, 128, 4, 4
        x = x.flatten(start_dim=1)  # -> N, 2048; view fails with channels_last
        x = F.relu(self.fc1(x))  # -> N, 128
        return self.fc2(x)  # -> N, 10


def imshow(img: Tensor, ax: plt.Axes) -> None:
    """Show a normalized image (3, H, W)."""
    img = img / 2 + 0.5  # unnormalize: -1..1 -> 0..1
    ax.imshow(img.permute(1, 2, 0).cpu().numpy())  # (H, W, 3)
    ax.axis("off")


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    num_epochs, batch_size, learning_rate = args.epochs, args.batch_size, args.lr

    # 0) Prepare data. The images are tensors of 0..255; they are transformed in the two loops.
    # ToDtype: 0..255 -> 0..1. Normalize: -> -1..1
    normalize = v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), normalize])
    crop = v2.RandomCrop(32, padding=1)
    train_transform = v2.Compose([crop, v2.RandomHorizontalFlip(), transform])
    classes = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    dataset = "digits" if args.dataset == "digits" else "cifar10"
    if dataset == "cifar10":
        socket.setdefaulttimeout(15)  # seconds to wait for a server to answer
        try:
            train_dataset = torchvision.datasets.CIFAR10(args.data_dir, train=True, download=True)
            test_dataset = torchvision.datasets.CIFAR10(args.data_dir, train=False, download=True)
            train_dataset, test_dataset = to_tensors(train_dataset), to_tensors(test_dataset)
        except (OSError, RuntimeError) as error:
            problem = f"CIFAR-10 cannot be downloaded ({' '.join(str(error).split())})"
            if args.dataset == "cifar10":
                sys.exit(f"{problem}. Check the connection, or use --dataset digits.")
            print(f"*** {problem}: using scikit-learn's digits ***")
            dataset = "digits"
    if dataset == "digits":
        train_dataset, test_dataset = load_offline_data()
        train_transform = v2.Compose([crop, transform])  # a mirrored 3 is not a 3
        classes = tuple("0123456789")
    # A slice of a TensorDataset is a tuple (images, labels)
    train_dataset = TensorDataset(*train_dataset[: args.limit])
    test_dataset = TensorDataset(*test_dataset[: args.limit])
    sizes = f"{len(train_dataset)} training and {len(test_dataset)} test images"
    print(f"07 Convolutional neural network | device: {device} | data: {dataset}, {sizes}")
    train_loader = DataLoader(train_dataset, batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(test_dataset, batch_size=500)

    # A look at a training batch, here with the same shift and flip for all 36 images
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    dataiter = iter(train_loader)
    images, labels = next(dataiter)
    imshow(torchvision.utils.make_grid(train_transform(images[:36]), nrow=6), left)
    left.set_title("Training images")

    # 1) Model: class ConvNet, above. With channels_last weights, convolutions store all channels of
    # a pixel side by side, which is usually faster; shapes stay the same.
    model = ConvNet().to(device, memory_format=torch.channels_last)

    # 2) Loss and optimizer. Momentum keeps the direction of earlier steps; weight decay keeps the
    # weights small; the scheduler raises the learning rate to its maximum, then lowers it to nearly
    # 0; cycle_momentum=False keeps the momentum constant.
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=1e-3)
    n_total_steps = len(train_loader)  # per epoch
    n_steps = num_epochs * n_total_steps
    scheduler = OneCycleLR(optimizer, learning_rate, total_steps=n_steps, cycle_momentum=False)

    # 3) Training loop
    losses, start = [], time.perf_counter()
    for epoch in range(num_epochs):
        for i, (images, labels) in enumerate(train_loader):
            images, labels = images.to(device), labels.to(device)  # (N, 3, 32, 32) and (N,)
            # One random shift and flip per group of 32 images: faster than one per image
            images = torch.cat([train_transform(part) for part in images.split(32)])
            # Forward pass and loss
            outputs = model(images)
            loss = criterion(outputs, labels)
            # Backward pass and update
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()  # after each batch, not each epoch
            losses.append(loss.item())
            if (i + 1) % 100 == 0 or i + 1 == n_total_steps:
                progress = f"Epoch [{epoch + 1}/{num_epochs}], Step [{i + 1}/{n_total_steps}]"
                print(f"{progress}, Loss: {loss.item():.4f}", flush=True)
    seconds = time.perf_counter() - start
    print(f"Finished Training in {seconds:.1f} s")
    PATH = args.output_dir / "07_cnn_cifar10.pth"
    torch.save(model.state_dict(), PATH)

    # 4) Test
    model.eval()  # batch norm uses running averages, not the batch's mean and variance
    with torch.no_grad():
        n_correct, n_samples = 0, 0
        n_class_correct = [0 for i in range(10)]
        n_class_samples = [0 for i in range(10)]
        for images, labels in test_loader:
            images, labels = transform(images.to(device)), labels.to(device)
            outputs = model(images)
            _, predicted = torch.max(outputs, 1)
            n_samples += labels.size(0)
            n_correct += (predicted == labels).sum().item()
            for label, prediction in zip(labels.tolist(), predicted.tolist()):
                n_class_correct[label] += label == prediction  # True counts as 1
                n_class_samples[label] += 1
    acc = n_correct / n_samples
    print(f"Accuracy of the network: {acc:.1%}")
    metrics = {"accuracy": acc, "seconds": seconds, "dataset": dataset}
    for i in range(10):
        if n_class_samples[i] > 0:  # with --limit, a class may be missing
            class_acc = n_class_correct[i] / n_class_samples[i]
            print(f"Accuracy of {classes[i]}: {class_acc:.1%}")
            metrics[f"accuracy_{classes[i]}"] = class_acc
            right.barh(classes[i], class_acc, color="C0")

    middle.plot(losses)
    middle.set(title="Training loss", xlabel="step", ylabel="cross-entropy")
    right.set(title=f"Test accuracy by class ({dataset})", xlabel="accuracy", xlim=(0, 1.02))
    right.invert_yaxis()
    figure.savefig(args.output_dir / "07_cnn_cifar10.png")
    if args.show:
        plt.show()
    plt.close(figure)

    print(f"Test accuracy: {acc:.1%} ({dataset})")
    print("Figure:", args.output_dir / "07_cnn_cifar10.png")
    print(f"Model: {PATH}")
    return metrics


def to_tensors(dataset: torchvision.datasets.CIFAR10) -> TensorDataset:
    """Return all images as uint8 (N, 3, 32, 32) and their labels (N,)."""
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)  # (N, 32, 32, 3) -> (N, 3, 32, 32)
    return TensorDataset(images, torch.tensor(dataset.targets))


# Offline data
def load_offline_data() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's 8x8 digits, a training and a test set, in the shape of CIFAR-10."""
    X, y = load_digits(return_X_y=True)
    X = torch.from_numpy(X * 255 / 16).to(torch.uint8).view(-1, 1, 8, 8)
    X = v2.functional.resize(X, [32, 32]).repeat(1, 3, 1, 1)  # (1797, 3, 32, 32)
    X_train, X_test, y_train, y_test = train_test_split(X, torch.from_numpy(y), random_state=0)
    return TensorDataset(X_train, y_train), TensorDataset(X_test, y_test)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "cifar10", "digits")
    parser.add_argument("--epochs", type=int, default=7, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=128, help="samples per batch")
    parser.add_argument("--lr", type=float, default=0.1, help="highest learning rate")
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
