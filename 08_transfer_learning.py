"""08 · Transfer learning

A network that has learned to see needs few images to learn something new. A ResNet-18, pretrained
on the 1,000 classes of ImageNet, learns to tell ants from bees: first by fine-tuning all layers,
then as a fixed feature extractor, where only a new last layer is trained.

You will learn
    - to load pretrained weights, and to replace the last layer
    - to train with a training and a validation phase, and to keep the best weights
    - to freeze a network, and to compute the features of a frozen network only once
    - what pretraining gains over a randomly initialized network

Run
    python 08_transfer_learning.py
    python 08_transfer_learning.py --dataset digits --seed 1

Since the video
    - `weights=ResNet18_Weights.DEFAULT` replaces `pretrained=True`; the weights include their
      `transforms()` for validation.
    - The frozen network is in eval mode, so its batch norm statistics stay as they are. It sees the
      training images without random transforms, so it has to run only once, not every epoch.
    - Fine-tuning uses momentum, too, and 8 epochs instead of 25. For comparison, the same network
      is also trained from scratch.
    - Offline, the network first learns to read digits, then to tell even digits from odd ones.

Try it
    - `--epochs 25`, with `step_size=20` for training from scratch: does it catch up?
    - `--dataset digits` with `--seed 1`, 2, 3: new images, new initial weights. Which wins?
    - Your own photos: one folder for each class in `data/hymenoptera_data/train` and in `.../val`.
      (Ants and bees remain classes, unless you delete their folders.)

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=12983s (about 3:36:23)
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
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import datasets, models
from torchvision.transforms import v2
from torchvision.utils import make_grid

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB channels


def imshow(inp: Tensor, ax: plt.Axes, title: str) -> None:
    """Show a normalized image (3, H, W)."""
    inp = inp.permute(1, 2, 0) * torch.tensor(std) + torch.tensor(mean)  # (H, W, 3)
    ax.imshow(inp.clip(0, 1).numpy())
    ax.set_title(title, fontsize=10)
    ax.axis("off")


def train_model(model, criterion, optimizer, scheduler, dataloaders, num_epochs):
    """Train, and return the model with its best weights and the validation accuracy of each epoch.

    `dataloaders` has a loader for each phase, "train" and "val".
    """
    since = time.time()
    best_model_wts, best_acc = copy.deepcopy(model.state_dict()), 0.0
    val_accuracies = []
    for epoch in range(num_epochs):
        for phase in ["train", "val"]:
            model.train(phase == "train")  # model.train(False) is model.eval()
            running_loss, running_corrects, n_samples = 0.0, 0, 0
            for inputs, labels in dataloaders[phase]:
                inputs, labels = inputs.to(device), labels.to(device)
                # Gradients are needed in the training phase only
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    _, preds = torch.max(outputs, 1)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += (preds == labels).sum().item()
                n_samples += inputs.size(0)
            if phase == "train":
                scheduler.step()  # once per epoch, after the training phase
            epoch_loss, epoch_acc = running_loss / n_samples, running_corrects / n_samples
            result = f"loss {epoch_loss:.4f}, acc {epoch_acc:.4f}"
            print(f"Epoch {epoch + 1}/{num_epochs} {phase}: {result}", flush=True)
            if phase == "val":
                val_accuracies.append(epoch_acc)
                if epoch_acc > best_acc:
                    best_model_wts, best_acc = copy.deepcopy(model.state_dict()), epoch_acc
    seconds = (time.time() - since) / num_epochs
    print(f"Training complete, {seconds:.2f} s per epoch, best val acc: {best_acc:.4f}")
    model.load_state_dict(best_model_wts)
    return model, val_accuracies


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    num_epochs, batch_size, learning_rate = args.epochs, 4, args.lr

    # 0) Prepare data: random transforms for training, fixed ones for validation
    augment = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()]
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    weights = models.ResNet18_Weights.DEFAULT
    data_transforms = {"train": v2.Compose(augment + to_tensor), "val": weights.transforms()}
    folder = args.data_dir / "hymenoptera_data"
    dataset = "digits" if args.dataset == "digits" else "hymenoptera"
    if dataset == "hymenoptera":
        socket.setdefaulttimeout(15)  # seconds to wait for a server to answer
        try:
            if not folder.exists():
                download_photos(folder)
            weights.get_state_dict(progress=True, check_hash=True)  # any failure shows here
        except Exception as error:  # a damaged file can raise almost anything
            problem = f"Photos or weights cannot be downloaded ({' '.join(str(error).split())})"
            if args.dataset == "hymenoptera":
                sys.exit(f"{problem}. Check the connection, or use --dataset digits.")
            print(f"*** {problem}: using scikit-learn's digits ***")
            dataset = "digits"
    if dataset == "hymenoptera":
        try:
            image_datasets = load_photos(folder, data_transforms)
        except (OSError, ValueError) as error:
            sys.exit(f"{folder} cannot be used: {error}")
        class_names = image_datasets["train"].classes
    else:
        image_datasets, digit_datasets = load_offline_data(args.seed, args.limit)
        class_names = ["even", "odd"]
    for x, images in image_datasets.items():  # in random order; with --limit, only the first few
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed))
        image_datasets[x] = Subset(images, order[: args.limit].tolist())
    dataset_sizes = {x: len(image_datasets[x]) for x in ["train", "val"]}
    sizes = f"{dataset_sizes['train']} training and {dataset_sizes['val']} validation images"
    print(f"08 Transfer learning | device: {device} | data: {dataset}, {sizes} {class_names}")
    dataloaders = make_dataloaders(image_datasets, batch_size)

    # A look at a training batch
    figure, axes = plt.subplots(2, 4, figsize=(14, 7), layout="constrained")
    inputs, classes = next(iter(dataloaders["train"]))
    imshow(make_grid(inputs, nrow=2), axes[0, 0], f"Training: {[class_names[x] for x in classes]}")

    # 1) Finetuning the convnet
    if dataset == "hymenoptera":
        pretrained = models.resnet18(weights=weights)  # 1,000 classes of ImageNet
    else:
        pretrained = pretrain_on_digits(digit_datasets)
    model = copy.deepcopy(pretrained)  # `pretrained` is used again in 2)
    num_ftrs = model.fc.in_features  # 512
    model.fc = nn.Linear(num_ftrs, len(class_names))
    # channels_last: a memory layout in which convolutions are usually faster
    model = model.to(device, memory_format=torch.channels_last)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    # The learning rate is multiplied by 0.1 every 7 epochs
    step_lr_scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    print("Finetuning the convnet")
    model, finetuned = train_model(
        model, criterion, optimizer, step_lr_scheduler, dataloaders, num_epochs
    )

    # 2) ConvNet as fixed feature extractor
    model_conv = pretrained  # frozen: no gradients are computed for its parameters
    for param in model_conv.parameters():
        param.requires_grad = False
    # Parameters of new modules have requires_grad=True by default
    model_conv.fc = nn.Linear(num_ftrs, len(class_names))
    model_conv = model_conv.to(device)
    optimizer_conv = optim.SGD(model_conv.fc.parameters(), lr=learning_rate, momentum=0.9)
    exp_lr_scheduler = optim.lr_scheduler.StepLR(optimizer_conv, step_size=7, gamma=0.1)
    # Beyond the video: without random transforms, the frozen layers give the same features in every
    # epoch, so they run once, and only the new layer is trained, on these features.
    print("ConvNet as fixed feature extractor")
    start = time.time()
    train_features = extract_features(model_conv, image_datasets["plain"])
    val_features = extract_features(model_conv, image_datasets["val"])
    print(f"frozen layers: {time.time() - start:.1f} s, once")
    features = make_dataloaders({"train": train_features, "val": val_features}, batch_size)
    model_conv.fc, frozen = train_model(
        model_conv.fc, criterion, optimizer_conv, exp_lr_scheduler, features, num_epochs
    )

    # Beyond the video: the same network, randomly initialized, for comparison
    print("Training from scratch")
    untrained = models.resnet18(num_classes=len(class_names))
    untrained = untrained.to(device, memory_format=torch.channels_last)
    optimizer = optim.SGD(untrained.parameters(), lr=learning_rate, momentum=0.9)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    _, scratch = train_model(untrained, criterion, optimizer, scheduler, dataloaders, num_epochs)

    epochs = range(1, num_epochs + 1)
    axes[0, 1].plot(epochs, finetuned, "o-", label="fine-tuned")
    axes[0, 1].plot(epochs, frozen, "s--", label="frozen")
    axes[0, 1].plot(epochs, scratch, "^:", label="from scratch")
    axes[0, 1].set(title=f"Validation accuracy ({dataset})", xlabel="epoch", ylabel="accuracy")
    axes[0, 1].legend()
    for i, ax in enumerate(axes.flat[2:]):  # six validation images; train_model ends in eval mode
        image, label = image_datasets["val"][i * dataset_sizes["val"] // 6]
        with torch.no_grad():
            _, pred = torch.max(model(image.unsqueeze(0).to(device)), 1)
        imshow(image, ax, f"predicted {class_names[pred]}, true {class_names[label]}")
    figure.savefig(args.output_dir / "08_transfer_learning.png")
    if args.show:
        plt.show()
    plt.close(figure)

    # The best epoch was chosen on the validation images themselves, so these numbers are optimistic
    result = f"fine-tuned {max(finetuned):.1%}, frozen {max(frozen):.1%}"
    print(f"Best validation accuracy: {result}, from scratch {max(scratch):.1%} ({dataset})")
    print("Figure:", args.output_dir / "08_transfer_learning.png")
    metrics = {"accuracy_finetuned": max(finetuned), "accuracy_frozen": max(frozen)}
    return {**metrics, "accuracy_scratch": max(scratch), "dataset": dataset}


def make_dataloaders(datasets: dict[str, Dataset], batch_size: int) -> dict[str, DataLoader]:
    """Return a loader for each phase.

    A last training batch of one image is dropped: for digits, batch norm would get a single value.
    """
    drop_last = len(datasets["train"]) % batch_size == 1
    train_loader = DataLoader(datasets["train"], batch_size, shuffle=True, drop_last=drop_last)
    return {"train": train_loader, "val": DataLoader(datasets["val"], batch_size=32)}


def download_photos(folder: Path) -> None:
    """Download and unpack the photos; the folder appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        archive = Path(temporary, "hymenoptera_data.zip")
        url = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
        torch.hub.download_url_to_file(url, archive)
        shutil.unpack_archive(archive, temporary)
        Path(temporary, "hymenoptera_data").rename(folder)


def load_photos(folder: Path, data_transforms: dict) -> dict[str, datasets.ImageFolder]:
    """Return the training and validation sets, and the training set without random transforms.

    Raises OSError or ValueError if a class is empty or in one set only, or a photo cannot be read.
    """
    train = datasets.ImageFolder(folder / "train", data_transforms["train"])
    plain = datasets.ImageFolder(folder / "train", data_transforms["val"])
    val = datasets.ImageFolder(folder / "val", data_transforms["val"])
    if train.classes != val.classes:
        raise ValueError(f"train has the classes {train.classes}, but val has {val.classes}")
    for path, _ in train.samples + val.samples:
        try:
            train.loader(path)
        except OSError as error:
            raise ValueError(f"{path} is not a readable image ({error})") from error
    return {"train": train, "val": val, "plain": plain}


# Beyond the video
@torch.no_grad()
def extract_features(model: nn.Module, dataset: Dataset) -> TensorDataset:
    """Return the outputs of all layers but the last, (N, 512), and the labels (N,)."""
    model.eval()  # batch norm uses its running averages, and leaves them as they are
    backbone = nn.Sequential(*list(model.children())[:-1], nn.Flatten())  # all layers but fc
    features, all_labels = [], []
    for inputs, labels in DataLoader(dataset, batch_size=32):
        features.append(backbone(inputs.to(device)).cpu())
        all_labels.append(labels)
    return TensorDataset(torch.cat(features), torch.cat(all_labels))


# Offline data
def load_offline_data(seed: int, limit: int) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """Return the datasets of two tasks: "even or odd?", and "which digit?" to pretrain on.

    "Even or odd?" has 20 training images, two of each digit, chosen by `seed`; the network is not
    pretrained on any of its images.
    """
    X, y = load_digits(return_X_y=True)
    X, y = torch.from_numpy(X / 16).float().view(-1, 1, 8, 8), torch.from_numpy(y)
    X = nn.functional.interpolate(X, size=32, mode="bilinear").repeat(1, 3, 1, 1)
    X = v2.functional.normalize(X, mean, std)  # (1797, 3, 32, 32)
    X_train, X_val, y_train, y_val = train_test_split(
        X[1000:], y[1000:], train_size=20, stratify=y[1000:], random_state=seed
    )
    train, val = TensorDataset(X_train, y_train % 2), TensorDataset(X_val, y_val % 2)
    pretrain = TensorDataset(X[:900][:limit], y[:900][:limit])
    pretrain_val = TensorDataset(X[900:1000][:limit], y[900:1000][:limit])
    return {"train": train, "val": val, "plain": train}, {"train": pretrain, "val": pretrain_val}


def pretrain_on_digits(datasets: dict[str, Dataset]) -> nn.Module:
    """Return a ResNet-18 that has learned to name the ten digits."""
    print("Pretraining on the ten digits")
    model = models.resnet18(num_classes=10).to(device, memory_format=torch.channels_last)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    loaders = make_dataloaders(datasets, batch_size=32)
    model, _ = train_model(model, nn.CrossEntropyLoss(), optimizer, scheduler, loaders, 4)
    return model


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "hymenoptera", "digits")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the data")
    parser.add_argument("--lr", type=float, default=0.001, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--limit", type=int, default=10**6, help="at most LIMIT samples per set")
    parser.add_argument("--dataset", choices=names, default="auto", help="auto: digits if offline")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="dataset folder")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.limit < 2 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, --limit 2, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
