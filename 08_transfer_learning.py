"""08 · Transfer learning

A pretrained network needs few images to learn a task that is close to what it was trained on. A
ResNet-18 that was trained on the 1,000 classes of ImageNet learns to tell ants from bees: first by
fine-tuning all layers, then as a fixed feature extractor, with all pretrained layers frozen, so
that only a new last layer is trained.

You will learn
    - how to load pretrained weights, and how to replace the last layer
    - how to train with a training and a validation phase, and to keep the best weights
    - how to freeze layers, also batch norm's running averages (explained below)
    - what pretraining gains over random initialization, and how to classify a photo of your own

Run (add --show to open the figure in a window)
    python 08_transfer_learning.py                          (several minutes without a GPU)
    python 08_transfer_learning.py --epochs 25              (as many as in the video)
    python 08_transfer_learning.py --dataset digits         (without a download)
    python 08_transfer_learning.py --predict photo.jpg      (after a run on photos)

Changes from the video
    - `weights=ResNet18_Weights.DEFAULT` replaces `pretrained=True`, which is deprecated. The
      transforms (lesson 04's v2) use ImageNet's mean and std, as the weights expect them.
    - `train_model` takes `dataloaders`, a global variable in the video, and also returns the
      validation accuracy of each epoch. Batch norm in frozen layers stays in eval mode.
    - Both trainings use momentum. There are 8 epochs instead of 25.
    - If photos or weights cannot be downloaded, the task is to tell even from odd digits.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - `--dataset digits` with `--seed 1`, `2`, and `3`: other images, other initial weights. Does
      fine-tuning or freezing win?
    - `--dataset digits --epochs 25`: does the randomly initialized network catch up?
    - Your own classes: one folder of photos for each in `data/hymenoptera_data/train`, and in
      `.../val`. What happens if you leave the ants and bees there?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=12983s (about 3:36:23), course script:
    15_transfer_learning.py
"""

import argparse
import copy
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
import torchvision
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets, models
from torchvision.transforms import v2

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (defaults: flags such as --epochs change them, see parse_args)
num_epochs = 8
learning_rate = 0.001
batch_size = {"train": 4, "val": 50}  # video: 4 for both; in validation, more is only faster

# ToDtype with scale: 0..255 -> 0..1. Training photos are cropped and flipped at random, to reduce
# overfitting; validation photos are not, so that results are comparable. Pretrained weights come
# with their preprocessing, weights.transforms(), here the same as "val".
mean = np.array([0.485, 0.456, 0.406])  # of the red, green, and blue values of ImageNet's photos
std = np.array([0.229, 0.224, 0.225])
to_tensor = v2.Compose(
    [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
)
data_transforms = {
    "train": v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), to_tensor]),
    "val": v2.Compose([v2.Resize(256), v2.CenterCrop(224), to_tensor]),
}


def imshow(inp, title):
    """Show a normalized image (3, H, W)."""
    inp = inp.numpy().transpose((1, 2, 0))  # (3, H, W) -> (H, W, 3)
    inp = std * inp + mean
    inp = np.clip(inp, 0, 1)
    plt.imshow(inp)
    plt.title(title, fontsize=10)
    plt.axis("off")


def train_model(model, criterion, optimizer, scheduler, dataloaders, num_epochs=25):
    """Return the model with its best weights, and the validation accuracy of each epoch (0 to 1).

    `dataloaders` has a loader for each phase, "train" and "val", of images (N, 3, H, W) and classes
    (N,).
    """
    since = time.time()
    # state_dict: all weights and batch norm's averages, by name. A copy, as training changes them.
    best_model_wts = copy.deepcopy(model.state_dict())
    best_acc = 0.0
    val_accuracies = []

    for epoch in range(num_epochs):
        for phase in ["train", "val"]:
            if phase == "train":
                model.train()
                keep_frozen_batch_norm(model)  # acts in 2) only, where layers are frozen
            else:
                model.eval()

            running_loss = 0.0
            running_corrects = 0
            for inputs, labels in dataloaders[phase]:
                inputs = inputs.to(device)
                labels = labels.to(device)

                # Forward. Gradients are needed in the training phase only.
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    # max returns the largest value of each row and its index, which is the class
                    _, preds = torch.max(outputs, 1)
                    loss = criterion(outputs, labels)

                    # Backward and optimize
                    if phase == "train":
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()

                running_loss += loss.item() * inputs.size(0)  # loss is the mean over the batch
                running_corrects += torch.sum(preds == labels).item()

            if phase == "train":
                scheduler.step()  # once per epoch

            # Acc may be lower for train than for val, as the weights still improve in the epoch,
            # and photos are cropped at random. It may be lower for val if the network overfits, or
            # because batch norm's averages, which val uses, follow slowly (in 2, they are frozen).
            epoch_loss = running_loss / len(dataloaders[phase].dataset)
            epoch_acc = running_corrects / len(dataloaders[phase].dataset)
            result = f"Loss: {epoch_loss:.4f} Acc: {epoch_acc:.4f}"
            print(f"Epoch {epoch + 1}/{num_epochs} {phase} {result}", flush=True)

        val_accuracies.append(epoch_acc)  # that of val, the last phase
        if epoch_acc > best_acc:
            best_acc = epoch_acc
            best_model_wts = copy.deepcopy(model.state_dict())

    time_elapsed = time.time() - since
    print(f"Training complete in {time_elapsed:.0f} s, best validation Acc: {best_acc:.4f}")
    model.load_state_dict(best_model_wts)
    return model, val_accuracies


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    if args.predict:
        return predict(args)  # an empty dict: there are no metrics
    num_epochs, learning_rate = args.epochs, args.lr
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    # 0) Prepare data: a folder for each phase, "train" and "val", with a folder for each class
    data_name = download(args)  # "hymenoptera", or "digits" if it could not be downloaded
    print(f"08 Transfer learning | device: {device} | data: {data_name}")
    if data_name == "hymenoptera":
        data_dir = args.data_dir / "hymenoptera_data"
        image_datasets = {
            x: datasets.ImageFolder(data_dir / x, data_transforms[x], loader=read_photo)
            for x in ["train", "val"]
        }
        class_names = image_datasets["train"].classes
        check_classes(image_datasets)  # labels must mean the same in both
    else:
        image_datasets, class_names = load_offline_data(args.seed)
    dataloaders = {
        x: DataLoader(image_datasets[x], batch_size=batch_size[x], shuffle=True)
        for x in ["train", "val"]
    }
    dataset_sizes = {x: len(image_datasets[x]) for x in ["train", "val"]}
    print("Images:", dataset_sizes, "classes:", class_names)

    # Show a batch of training images
    inputs, classes = next(iter(dataloaders["train"]))
    out = torchvision.utils.make_grid(inputs)
    plt.figure(figsize=(13, 6))
    plt.subplot(2, 2, 1)
    imshow(out, title=f"A training batch: {[class_names[x] for x in classes]}")

    # 1) Finetuning the convnet: a pretrained model gets a new last layer; all layers are trained.
    # ResNet-18 has 17 convolutions (and three in shortcuts, which bypass some of them), then a
    # linear layer, `fc`. print(model) shows the names of all layers; in some networks, the last
    # one is `classifier`, `classifier[-1]`, or `head`.
    if data_name == "hymenoptera":
        pretrained = models.resnet18(weights=models.ResNet18_Weights.DEFAULT)
    else:
        pretrained = prepare_network_for_digits()
    print("\nFinetuning the convnet")
    model = copy.deepcopy(pretrained)  # pretrained is used again in 2)
    num_ftrs = model.fc.in_features  # 512 features, which the other layers compute
    model.fc = nn.Linear(num_ftrs, len(class_names))
    model = model.to(device)

    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)  # video: without it

    # The learning rate is multiplied by 0.1 every 7 epochs: of 8 epochs, only the last is affected
    step_lr_scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    model, finetuned = train_model(
        model, criterion, optimizer, step_lr_scheduler, dataloaders, num_epochs
    )

    # 2) ConvNet as fixed feature extractor: all layers but the new last one are frozen
    print("\nConvNet as fixed feature extractor")
    model_conv = copy.deepcopy(pretrained)
    for param in model_conv.parameters():
        param.requires_grad = False  # no gradient is computed for it, so an epoch is faster

    # Parameters of newly constructed modules have requires_grad=True by default
    model_conv.fc = nn.Linear(num_ftrs, len(class_names))
    model_conv = model_conv.to(device)

    # Only the parameters of the last layer are optimized. (Batch norm also has running averages,
    # which are no parameters: train_model calls keep_frozen_batch_norm, below, to freeze them.)
    optimizer_conv = optim.SGD(model_conv.fc.parameters(), lr=learning_rate, momentum=0.9)
    exp_lr_scheduler = lr_scheduler.StepLR(optimizer_conv, step_size=7, gamma=0.1)
    model_conv, frozen = train_model(
        model_conv, criterion, optimizer_conv, exp_lr_scheduler, dataloaders, num_epochs
    )

    # Beyond the video: the same network without pretraining, with the same learning rate, schedule,
    # and number of epochs. (On digits, other rates do not help: 79.1 ± 2.0% with 0.0003,
    # 79.5 ± 3.2% with 0.001, 67.3 ± 6.5% with 0.003, and 63.0 ± 5.6% with 0.01, over five seeds.)
    print("\nRandomly initialized network")
    _, scratch = train_from_scratch(dataloaders, len(class_names), num_epochs, learning_rate)

    # Beyond the video: save the fine-tuned network, with what --predict needs
    FILE = args.output_dir / f"08_transfer_learning_{data_name}.pth"
    torch.save({"model_state": model.state_dict(), "class_names": class_names}, FILE)

    # Each accuracy is that of the best epoch, chosen on the validation images, so it is optimistic,
    # the more so the noisier the epochs are. (On digits, the last epochs have 89.3 ± 4.7% (five
    # seeds) fine-tuned, 89.4 ± 3.5% frozen, and 78.0 ± 4.5% randomly initialized.) And pretraining
    # has it easy here: the weights may have been trained on these photos (PyTorch's tutorial calls
    # them a subset of ImageNet), and a network that names digits knows which are even.
    accuracies = {"fine-tuned": finetuned, "frozen": frozen, "randomly initialized": scratch}
    draw(accuracies, model, dataloaders["val"], class_names, args)
    best = {name: max(values) for name, values in accuracies.items()}
    result = ", ".join(f"{name} {value:.1%}" for name, value in best.items())
    print(f"Best validation accuracy: {result} ({data_name})")
    print("Figure:", args.output_dir / "08_transfer_learning.png")
    print("Model:", FILE)
    return {"dataset": data_name, **best}


def keep_frozen_batch_norm(model):
    """Put batch norm in frozen layers into eval mode.

    Batch norm brings each channel to zero mean and unit standard deviation, then applies a learned
    weight and bias. In train mode, it takes mean and variance from the batch, and updates running
    averages of both, which it uses in eval mode. They are not parameters, so requires_grad=False
    does not freeze them. (On digits, eval mode gains nothing beyond the spread: 90.2 ± 2.6%
    with it, 89.7 ± 3.3% without, over five seeds. But a frozen network should stay as it is.)
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


# Beyond the video
def train_from_scratch(dataloaders, num_classes, num_epochs, learning_rate):
    """Train a randomly initialized ResNet-18; return it, and the accuracy of each epoch."""
    model = models.resnet18(num_classes=num_classes).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    return train_model(model, criterion, optimizer, scheduler, dataloaders, num_epochs)


def predict(args):
    """Print the class of each photo of --predict, by the network that main has saved.

    It knows no other classes: a photo of a cat is classified as ants or bees, too, maybe at 99%.
    """
    file = args.output_dir / "08_transfer_learning_hymenoptera.pth"
    try:
        saved = torch.load(file, map_location="cpu")  # weights_only=True is the default
        class_names = saved["class_names"]
        model = models.resnet18(num_classes=len(class_names))
        model.load_state_dict(saved["model_state"])
    except Exception as error:  # missing, damaged, and other files can raise almost anything
        sys.exit(f"{file} cannot be used ({error!r:.200}). Run --dataset hymenoptera first.")
    model.eval()
    for photo in args.predict:
        image = data_transforms["val"](read_photo(photo))  # (3, 224, 224)
        inputs = image.unsqueeze(0)  # (1, 3, 224, 224): a model takes batches, here of one image
        with torch.no_grad():
            probabilities = torch.softmax(model(inputs), dim=1)
        probability, pred = torch.max(probabilities, 1)
        print(f"{photo}: {class_names[pred.item()]} ({probability.item():.1%})")
    return {}


def draw(accuracies, model, dataloader, class_names, args):
    """Add the accuracies and six predictions of `model` to the figure, and save it."""
    ax = plt.subplot(2, 2, 2)
    for (name, values), style in zip(accuracies.items(), ("o-", "s--", "^:")):
        ax.plot(range(1, len(values) + 1), values, style, label=name)
    ax.set(title="Validation", xlabel="epoch", ylabel="accuracy")
    ax.locator_params(axis="x", integer=True)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    # A batch of validation images, the least confident predictions first
    inputs, labels = next(iter(dataloader))
    model.eval()
    with torch.no_grad():
        probabilities = torch.softmax(model(inputs.to(device)), dim=1).cpu()
    values, preds = torch.max(probabilities, 1)
    for position, i in enumerate(values.argsort()[:6].tolist()):
        plt.subplot(2, 6, 7 + position)
        predicted = f"{class_names[preds[i]]} ({values[i]:.0%})"
        imshow(inputs[i], f"{predicted}\ntrue: {class_names[labels[i]]}")
    caption = "The fine-tuned network's least confident predictions in a batch of validation images"
    plt.figtext(0.5, 0.42, caption, ha="center")
    plt.tight_layout()
    plt.savefig(args.output_dir / "08_transfer_learning.png")
    if args.show:
        plt.show()


# Data
def read_photo(path):
    """Return a photo as an upright RGB image: phones store the rotation separately."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:  # these need not name the file
        sys.exit(f"{path} cannot be read: {error}")


def check_classes(image_datasets):
    """Exit if the training and the validation set have different classes."""
    train, val = image_datasets["train"], image_datasets["val"]
    if train.classes != val.classes:
        sys.exit(f"{train.root} has the classes {train.classes}, {val.root} has {val.classes}")


def download(args):
    """Download photos and weights if they are not there; return "hymenoptera" or "digits"."""
    if args.dataset == "digits":
        return "digits"
    folder = args.data_dir / "hymenoptera_data"
    weights = models.ResNet18_Weights.DEFAULT
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not (folder.exists() and file.exists()):
        print("Downloading 94 MB of photos and weights, once. To skip: Ctrl-C, --dataset digits")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(15)  # seconds without an answer from the server
    try:
        if not folder.exists():
            download_photos(args.data_dir)
        weights.get_state_dict(check_hash=True, weights_only=True)  # runs no code, see lesson 10
        return "hymenoptera"
    except Exception as error:  # servers, proxies, and damaged files can raise almost anything
        problem = f"Photos or weights could not be downloaded or read ({error!r:.200})"
    finally:
        socket.setdefaulttimeout(timeout)
    if args.dataset == "hymenoptera":
        sys.exit(f"{problem}. Check the connection and {file}, or use --dataset digits.")
    print(f"*** {problem}. Using scikit-learn's digits ***")
    return "digits"


def download_photos(data_dir):
    """Download, check, and unpack the photos; their folder appears only when it is complete."""
    url = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
    sha256 = "fbc41b31d544714d18dd1230b1e2b455e1557766e13e67f9f5a7a23af7c02209"
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir) as temporary:
        file = f"{temporary}/photos.zip"
        torch.hub.download_url_to_file(url, file, hash_prefix=sha256)
        shutil.unpack_archive(file, temporary)
        Path(temporary, "hymenoptera_data").rename(data_dir / "hymenoptera_data")


def load_color_digits():
    """Return scikit-learn's digits as normalized images (1797, 3, 32, 32), and their names."""
    X, y = load_digits(return_X_y=True)
    X = torch.from_numpy(X / 16).float().view(-1, 1, 8, 8)
    X = nn.functional.interpolate(X, size=32).repeat(1, 3, 1, 1)
    return v2.functional.normalize(X, mean.tolist(), std.tolist()), torch.from_numpy(y)


def load_offline_data(seed):
    """Return the datasets and the class names of "even or odd?".

    There are 20 training images, two of each digit, chosen by `seed`, and 300 validation images.
    """
    X, y = load_color_digits()
    X, y = X[1000:], y[1000:]  # prepare_network_for_digits uses others
    X_train, X_val, y_train, y_val = train_test_split(
        X, y, train_size=20, test_size=300, stratify=y, random_state=seed
    )
    train_dataset = TensorDataset(X_train, y_train % 2)
    return {"train": train_dataset, "val": TensorDataset(X_val, y_val % 2)}, ["even", "odd"]


def prepare_network_for_digits():
    """Return a ResNet-18 that names the ten digits: offline, it stands in for ImageNet's."""
    print("\nPreparing a network that names digits, in place of ImageNet's weights")
    X, y = load_color_digits()  # the validation set also chooses the best epoch
    train_set, val_set = TensorDataset(X[:500], y[:500]), TensorDataset(X[500:1000], y[500:1000])
    dataloaders = {"train": DataLoader(train_set, 32, shuffle=True), "val": DataLoader(val_set, 32)}
    model, accuracies = train_from_scratch(dataloaders, 10, num_epochs=4, learning_rate=0.01)
    return model


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "hymenoptera", "digits")
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--dataset", choices=names, default="auto", help="auto: digits if offline")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="dataset folder")
    parser.add_argument("--predict", type=Path, nargs="+", metavar="PHOTO", help="classify photos")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 0 < args.lr <= 1000 or not 0 <= args.seed < 2**32:
        parser.error("--epochs must be at least 1, and 0 < --lr <= 1000, and 0 <= --seed < 2**32")
    return args


if __name__ == "__main__":
    main()
