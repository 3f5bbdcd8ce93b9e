"""08 · Transfer learning

A pretrained network needs few images to learn a new task. A ResNet-18 that was trained on the 1,000
classes of ImageNet learns to tell ants from bees: first by fine-tuning all layers, then as a fixed
feature extractor, of which only a new last layer is trained.

You will learn
    - how to load pretrained weights, and how to replace the last layer
    - how to train with a training and a validation phase, and to keep the best weights
    - how to freeze layers, and why batch norm needs care when they are frozen
    - what pretraining gains over random initialization, and how to classify a photo of your own

Run
    python 08_transfer_learning.py
    python 08_transfer_learning.py --dataset digits --seed 1
    python 08_transfer_learning.py --predict photo.jpg

Changes from the video
    - `weights=ResNet18_Weights.DEFAULT` replaces `pretrained=True`, which is deprecated. The
      transforms use ImageNet's mean and std (video: 0.5 and 0.25), as the weights expect them.
    - `train_model` also returns the validation accuracy of each epoch, and takes `dataloaders`,
      which is a global variable in the video.
    - Batch norm in frozen layers stays in eval mode: in train mode, its averages would drift.
    - Fine-tuning also uses momentum. There are 8 epochs instead of 25, and a randomly initialized
      network for comparison. Offline, the task is to tell even from odd digits.

Try it (answers: docs/answers.md)
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
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import datasets, models
from torchvision.transforms import v2
from torchvision.utils import make_grid

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyper-parameters (the flags change the first and the last)
num_epochs = 8
batch_size = 4
learning_rate = 0.001

mean = (0.485, 0.456, 0.406)  # of the red, green, and blue values of ImageNet's photos
std = (0.229, 0.224, 0.225)
to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
data_transforms = {
    "train": v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *to_tensor]),
    # The same as ResNet18_Weights.DEFAULT.transforms()
    "val": v2.Compose([v2.Resize(256), v2.CenterCrop(224), *to_tensor]),
}


def imshow(inp: Tensor, ax: plt.Axes, title: str) -> None:
    """Show a normalized image (3, H, W)."""
    inp = inp.permute(1, 2, 0) * torch.tensor(std) + torch.tensor(mean)  # (H, W, 3)
    ax.imshow(inp.clip(0, 1).numpy())
    ax.set_title(title, fontsize=10)
    ax.axis("off")


def train_model(model, criterion, optimizer, scheduler, dataloaders, num_epochs):
    """Train, and return the model with its best weights and the validation accuracy of each epoch.

    `dataloaders` has a loader for each phase, "train" and "val", of images (N, 3, H, W) and classes
    (N,). The scheduler steps once per epoch. Accuracies are fractions.
    """
    n_trained = sum(param.numel() for param in model.parameters() if param.requires_grad)
    print(f"{n_trained:,} parameters are trained")
    since = time.time()
    best_model_wts = copy.deepcopy(model.state_dict())
    best_acc = 0.0
    val_accuracies = []
    for epoch in range(num_epochs):
        for phase in ["train", "val"]:
            if phase == "train":
                model.train()
                # Frozen means frozen: in train mode, batch norm would update its running averages
                for module in model.modules():
                    if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                        module.eval()
            else:
                model.eval()
            running_loss = 0.0
            running_corrects = 0
            n_samples = 0
            for inputs, labels in dataloaders[phase]:
                inputs = inputs.to(device)
                labels = labels.to(device)
                # Gradients are needed in the training phase only
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    # max returns the largest value of each row and its index, which is the class
                    _, preds = torch.max(outputs, 1)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)  # loss is the mean over the batch
                running_corrects += (preds == labels).sum().item()
                n_samples += inputs.size(0)
            if phase == "train":
                scheduler.step()  # once per epoch
            epoch_loss = running_loss / n_samples
            epoch_acc = running_corrects / n_samples
            result = f"Loss: {epoch_loss:.4f} Acc: {epoch_acc:.4f}"
            print(f"Epoch {epoch + 1}/{num_epochs} {phase} {result}", flush=True)
            if phase == "val":
                val_accuracies.append(epoch_acc)
                if epoch_acc > best_acc:
                    best_acc = epoch_acc
                    best_model_wts = copy.deepcopy(model.state_dict())
    print(f"Training complete in {time.time() - since:.0f} s, best val Acc: {best_acc:.4f}")
    model.load_state_dict(best_model_wts)
    return model, val_accuracies


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Run the lesson and return its metrics; with `--predict`, an empty dict."""
    args = parse_args(argv)
    FILE = args.output_dir / "08_transfer_learning.pth"
    if args.predict:
        try:
            predict(args.predict, FILE)
        except ValueError as error:
            sys.exit(str(error))
        return {}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    num_epochs, learning_rate = args.epochs, args.lr

    # 0) Prepare data: data_transforms, above
    folder = args.data_dir / "hymenoptera_data"
    data_name = "digits" if args.dataset == "digits" else "hymenoptera"
    if data_name == "hymenoptera":
        socket.setdefaulttimeout(15)  # seconds to wait for a server to answer
        try:
            if not folder.exists():
                download_photos(folder)
            pretrained = models.resnet18(weights=models.ResNet18_Weights.DEFAULT)
        except Exception as error:  # a damaged file can raise almost anything
            problem = f"Photos or weights could not be downloaded or read ({repr(error)[:200]})"
            problem += f"; if the weights in {torch.hub.get_dir()} are damaged, delete their file"
            if args.dataset == "hymenoptera":
                sys.exit(f"{problem}. Check the connection, or use --dataset digits.")
            print(f"*** {problem}. Using scikit-learn's digits ***")
            data_name = "digits"
    print(f"08 Transfer learning | device: {device} | data: {data_name}")
    if data_name == "digits":
        image_datasets, class_names, pretrained = load_offline_data(args.seed, args.limit)
    else:
        try:
            image_datasets = load_photos(folder)
        except ValueError as error:  # unusable photos are an error: digits do not replace them
            sys.exit(f"{folder} cannot be used: {error}")
        class_names = image_datasets["train"].classes
    for x in ["train", "val"]:  # shuffled, as --limit would keep photos of one class only
        order = torch.randperm(len(image_datasets[x]))[: args.limit]
        image_datasets[x] = Subset(image_datasets[x], order.tolist())
    dataset_sizes = {x: len(image_datasets[x]) for x in ["train", "val"]}
    sizes = f"{dataset_sizes['train']} training and {dataset_sizes['val']} validation images"
    print(f"{sizes} of the classes {', '.join(class_names)}")
    # A last batch of one image is dropped: batch norm cannot be computed from a single value per
    # channel, which is what the last layers leave of a digit of 32x32 pixels.
    drop = dataset_sizes["train"] % batch_size == 1
    train_loader = DataLoader(image_datasets["train"], batch_size, shuffle=True, drop_last=drop)
    dataloaders = {"train": train_loader, "val": DataLoader(image_datasets["val"], batch_size=32)}

    # A look at a training batch
    # The top row: a training batch, and the curves. The bottom row: six images, "0" to "5".
    mosaic = [["batch", "batch", "batch", "curve", "curve", "curve"], list("012345")]
    figure, axes = plt.subplot_mosaic(mosaic, height_ratios=[2, 1], layout="constrained")
    figure.set_size_inches(12, 6)
    inputs, classes = next(iter(dataloaders["train"]))
    imshow(make_grid(inputs, nrow=2), axes["batch"], ", ".join(class_names[x] for x in classes))

    # 1) Finetuning the convnet
    print("Finetuning the convnet")
    model = copy.deepcopy(pretrained)  # pretrained is used again in 2)
    num_ftrs = model.fc.in_features  # 512
    model.fc = nn.Linear(num_ftrs, len(class_names))
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    # The learning rate is multiplied by 0.1 every 7 epochs: of 8 epochs, only the last is affected
    step_lr_scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    model, finetuned = train_model(
        model, criterion, optimizer, step_lr_scheduler, dataloaders, num_epochs
    )

    # 2) ConvNet as fixed feature extractor
    print("ConvNet as fixed feature extractor")
    model_conv = copy.deepcopy(pretrained)
    for param in model_conv.parameters():
        param.requires_grad = False  # backward() computes no gradient for it
    # Parameters of new modules have requires_grad=True by default
    model_conv.fc = nn.Linear(num_ftrs, len(class_names))
    model_conv = model_conv.to(device)
    optimizer_conv = optim.SGD(model_conv.fc.parameters(), lr=learning_rate, momentum=0.9)
    exp_lr_scheduler = lr_scheduler.StepLR(optimizer_conv, step_size=7, gamma=0.1)
    model_conv, frozen = train_model(
        model_conv, criterion, optimizer_conv, exp_lr_scheduler, dataloaders, num_epochs
    )

    # Beyond the video: the same network, randomly initialized
    print("Randomly initialized network")
    untrained = models.resnet18(num_classes=len(class_names)).to(device)
    optimizer = optim.SGD(untrained.parameters(), lr=learning_rate, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    _, scratch = train_model(untrained, criterion, optimizer, scheduler, dataloaders, num_epochs)

    # Beyond the video: save the fine-tuned network, with what --predict needs
    saved = {"model_state": model.state_dict(), "class_names": class_names, "dataset": data_name}
    torch.save(saved, FILE)

    # The three training runs, and six validation images
    epochs = range(1, num_epochs + 1)
    axes["curve"].plot(epochs, finetuned, "o-", label="fine-tuned")
    axes["curve"].plot(epochs, frozen, "s--", label="frozen")
    axes["curve"].plot(epochs, scratch, "^:", label="randomly initialized")
    axes["curve"].set(title=f"Validation ({data_name})", xlabel="epoch", ylabel="accuracy")
    axes["curve"].locator_params(axis="x", integer=True)
    axes["curve"].legend()
    images, labels = next(iter(dataloaders["val"]))  # model is in eval mode since its last phase
    with torch.no_grad():
        _, preds = torch.max(model(images.to(device)), 1)
    for i, image in enumerate(images[:6]):
        title = f"predicted: {class_names[preds[i]]}\ntrue: {class_names[labels[i]]}"
        imshow(image, axes[str(i)], title)
    figure.savefig(args.output_dir / "08_transfer_learning.png")
    if args.show:
        plt.show()

    # The accuracies hold for this number of epochs and this learning rate. Both tasks are close to
    # the pretraining task: ants and bees are classes of ImageNet, and the name of a digit tells if
    # it is even. The best epoch is chosen on the validation images, so accuracies are optimistic.
    result = f"fine-tuned {max(finetuned):.1%}, frozen {max(frozen):.1%}"
    print(f"Validation accuracy: {result}, randomly initialized {max(scratch):.1%} ({data_name})")
    print("Figure:", args.output_dir / "08_transfer_learning.png")
    print("Model:", FILE, "(see --predict)" if data_name == "hymenoptera" else "")
    metrics = {"accuracy_finetuned": max(finetuned), "accuracy_frozen": max(frozen)}
    return metrics | {"accuracy_scratch": max(scratch), "dataset": data_name}


# Photos
def download_photos(folder: Path) -> None:
    """Download and unpack the photos; the folder appears only when it is complete."""
    print("Downloading photos and weights (94 MB, once). To do without, press Ctrl-C and use")
    print(f"    python {Path(__file__).name} --dataset digits", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        archive = Path(temporary, "hymenoptera_data.zip")
        url = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
        torch.hub.download_url_to_file(url, archive)
        shutil.unpack_archive(archive, temporary)
        Path(temporary, "hymenoptera_data").rename(folder)


def load_photos(folder: Path) -> dict[str, datasets.ImageFolder]:
    """Return the training and the validation set.

    Raises ValueError if a class is empty or in one set only, or if a photo cannot be read.
    """
    try:
        train = datasets.ImageFolder(folder / "train", data_transforms["train"], loader=read_photo)
        val = datasets.ImageFolder(folder / "val", data_transforms["val"], loader=read_photo)
    except OSError as error:  # no such folder, no class, or a class without photos
        raise ValueError(str(error)) from error
    if train.classes != val.classes:
        raise ValueError(f"train has the classes {train.classes}, but val has {val.classes}")
    for path, _ in train.samples + val.samples:
        read_photo(path)
    return {"train": train, "val": val}


def read_photo(path: str | Path) -> Image.Image:
    """Return a photo as an upright RGB image. Raises ValueError if it cannot be read."""
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except Exception as error:  # a damaged file can raise almost anything
        raise ValueError(f"{path} is not a readable image ({repr(error)[:200]})") from error


# Beyond the video
def predict(photos: list[Path], file: Path) -> None:
    """Print the class of each photo, and its probability, by the network saved in `file`.

    Raises ValueError if the file is missing, is damaged, or knows digits only, or if a photo cannot
    be read.
    """
    try:
        saved = torch.load(file, map_location="cpu")
    except Exception as error:  # a damaged file can raise almost anything
        problem = f"{file} cannot be loaded ({repr(error)[:200]})"
        raise ValueError(f"{problem}: run the lesson without --predict first.") from error
    class_names = saved["class_names"]
    if saved["dataset"] == "digits":
        raise ValueError(f"{file} was trained on digits: run --dataset hymenoptera first.")
    model = models.resnet18(num_classes=len(class_names))
    model.load_state_dict(saved["model_state"])
    model.eval()
    for photo in photos:
        image = data_transforms["val"](read_photo(photo))
        with torch.no_grad():
            probabilities = torch.softmax(model(image.unsqueeze(0)), dim=1)
        probability, pred = torch.max(probabilities, 1)
        print(f"{photo}: {class_names[pred.item()]} ({probability.item():.1%})")


# Offline data
def load_offline_data(seed: int, limit: int) -> tuple[dict, list[str], nn.Module]:
    """Return the datasets and class names of "even or odd?", and a network pretrained on digits.

    "Even or odd?" has 20 training images, two of each digit, chosen by `seed`. The network, a
    ResNet-18, has learned to name the ten digits; it has seen none of these images.
    """
    X, y = load_digits(return_X_y=True)
    X, y = torch.from_numpy(X / 16).float().view(-1, 1, 8, 8), torch.from_numpy(y)
    X = nn.functional.interpolate(X, size=32).repeat(1, 3, 1, 1)
    X = v2.functional.normalize(X, mean, std)  # (1797, 3, 32, 32)

    print("Pretraining on the ten digits")
    model = models.resnet18(num_classes=10).to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    pretrain = TensorDataset(X[:900][:limit], y[:900][:limit])
    train_loader = DataLoader(pretrain, min(32, limit), shuffle=True, drop_last=True)
    val_loader = DataLoader(TensorDataset(X[900:1000][:limit], y[900:1000][:limit]), 100)
    dataloaders = {"train": train_loader, "val": val_loader}
    model, _ = train_model(model, nn.CrossEntropyLoss(), optimizer, scheduler, dataloaders, 4)

    X, y = X[1000:], y[1000:]
    parts = train_test_split(X, y, train_size=20, stratify=y, random_state=seed)
    X_train, X_val, y_train, y_val = parts
    train_dataset = TensorDataset(X_train, y_train % 2)
    return {"train": train_dataset, "val": TensorDataset(X_val, y_val % 2)}, ["even", "odd"], model


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = ("auto", "hymenoptera", "digits")
    parser.add_argument("--epochs", type=int, default=num_epochs, help="passes over the data")
    parser.add_argument("--lr", type=float, default=learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--limit", type=int, default=10**6, help="at most LIMIT samples per set")
    parser.add_argument("--dataset", choices=names, default="auto", help="auto: digits if offline")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="dataset folder")
    parser.add_argument("--predict", type=Path, nargs="+", metavar="PHOTO", help="classify photos")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.limit < 2 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, --limit 2, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
