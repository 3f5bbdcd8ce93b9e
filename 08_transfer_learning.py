"""08 · Transfer learning

A network that has learned to see need not learn it again for a new task: only its last layer must
be replaced. A ResNet-18 is taken over in the two ways of the video, and trained from random weights
for as many epochs, so that you see what the first training was worth.

You will learn
    - how to replace the last layer of a pretrained network
    - fine-tuning: all weights go on learning
    - the fixed feature extractor: only the new layer learns, so the rest has to run just once
    - how to read a folder of photos, one subfolder for each class

Run
    python 08_transfer_learning.py
    python 08_transfer_learning.py --dataset hymenoptera --data-dir my_photos

Since the video
    - `weights=ResNet18_Weights.DEFAULT` takes the place of `pretrained=True`, and brings the
      transforms that belong to it.
    - The frozen network stays in `eval()` mode. In the video its batch norm goes on changing.
    - Its features are computed once, not in every epoch: they are the same every time.
    - A network from random weights stands beside both.

Try it
    - `--dataset digits --epochs 20`: how much nearer does the network from random weights come?
    - `--dataset digits --lr 0.001`: which order do the three have now, and how far apart?
    - Your own photos, in `my_photos/hymenoptera_data/train/NAME/` and `val/NAME/`: any NAMEs.

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=12983s (about 3:36:23)
"""

import argparse
import copy
import functools
import pickle
import queue
import socket
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.utils import download_url
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms import v2

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "08_transfer_learning"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__
URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
WEIGHTS = ResNet18_Weights.DEFAULT
MEAN, STD = WEIGHTS.transforms().mean, WEIGHTS.transforms().std  # of the photos it learned from


# %% 0) Prepare data
class Task(NamedTuple):
    """A pretrained network, and few images of new classes: to train on and to validate with."""

    name: str
    pretrained: nn.Module | None  # None: to be trained on the digits 0-4 first
    classes: list[str]
    train: Dataset  # with random transforms
    train_plain: Dataset  # the same images without
    val: Dataset


def open_photo(path: str) -> Image.Image:
    """Return the photo in red, green and blue."""
    try:
        return Image.open(path).convert("RGB")
    except OSError as error:
        sys.exit(f"Cannot read {path}: {error}. Mend or remove it.")


def load_photos(data_dir: Path, pretrained: nn.Module) -> Task:
    """Return the folders of photos as a task. Raises OSError or ValueError where they are unfit."""
    random_view = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(224, scale=(0.4, 1)),  # at least 0.4 of the photo's area
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    root = data_dir / "hymenoptera_data"
    train = ImageFolder(root / "train", random_view, loader=open_photo)
    train_plain = ImageFolder(root / "train", WEIGHTS.transforms(), loader=open_photo)
    val = ImageFolder(root / "val", WEIGHTS.transforms(), loader=open_photo)
    if train.classes != val.classes:
        raise ValueError(f"train has the folders {train.classes}, val has {val.classes}")
    return Task("hymenoptera", pretrained, train.classes, train, train_plain, val)


def load_digits_as_images() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's 8x8 digits as small RGB images (N, 3, 32, 32), and which they are."""
    X, y = load_digits(return_X_y=True)  # (N, 64), 0..16
    X = torch.tensor(X / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    X = F.interpolate(X, size=32, mode="bilinear").repeat(1, 3, 1, 1)
    return v2.functional.normalize(X, MEAN, STD), torch.tensor(y)


def load_digits_task() -> Task:
    """Return the digits 5-9 as a task: two examples of each to train on, all others to validate."""
    X, y = load_digits_as_images()
    is_example = torch.zeros(len(y), dtype=torch.bool)
    for digit in range(5, 10):
        is_example[(y == digit).nonzero()[:2]] = True
    is_rest = (y >= 5) & ~is_example
    train = TensorDataset(X[is_example], y[is_example] - 5)
    val = TensorDataset(X[is_rest], y[is_rest] - 5)
    return Task("digits", None, list("56789"), train, train, val)


def draw_images(task: Task, n: int) -> Task:
    """Return the task with n images of each part, drawn from all classes."""
    parts = {}
    for name in ("train", "train_plain", "val"):
        part = getattr(task, name)
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        parts[name] = Subset(part, order[:n].tolist())
    return task._replace(**parts)


def load_task(dataset: str, data_dir: Path) -> tuple[Task, str]:
    """Return the task, and what to tell the user where it is not what was hoped for."""
    if dataset == "digits":
        return load_digits_task(), ""
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # a download that stalls ends
    try:
        if not (data_dir / "hymenoptera_data").exists():
            fetch_photos(data_dir)
        pretrained = fetch_weights()
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())  # on one line
        problem = f"The photos or the weights cannot be had ({reason})"
        if dataset == "hymenoptera":
            cache = Path(torch.hub.get_dir(), "checkpoints")
            sys.exit(
                f"{problem}. Unpack {URL} in {data_dir} and put {WEIGHTS.url} into {cache}, "
                "or use --dataset digits."
            )
        return load_digits_task(), f"{problem}: going on with scikit-learn's 8x8 digits"
    finally:
        socket.setdefaulttimeout(timeout_before)
    try:
        return load_photos(data_dir, pretrained), ""
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())  # on one line
        folder = data_dir / "hymenoptera_data"
        sys.exit(f"Cannot use {folder}: {reason}. Mend it, or use --dataset digits.")


# %% 1) Model
def make_untrained(n_classes: int) -> nn.Module:
    """Return a ResNet-18 with random weights.

    In eval() mode, batch norm uses running averages. Few images mean few steps, so the averages
    must move fast: after six steps at the usual momentum of 0.1 they would still be half what they
    were at the start, and the accuracy would tell of that rather than of the weights.
    """
    quick_norm = functools.partial(nn.BatchNorm2d, momentum=0.5)
    return resnet18(num_classes=n_classes, norm_layer=quick_norm).to(DEVICE)


def replace_head(pretrained: nn.Module, n_classes: int) -> nn.Module:
    """Return a copy of the network whose last layer is new, with an output for each class."""
    model = copy.deepcopy(pretrained)
    model.fc = nn.Linear(model.fc.in_features, n_classes)  # (N, 512) -> (N, n_classes)
    return model.to(DEVICE)


# %% 2) Loss, optimizer and schedule, 3) Training loop
def train(
    model: nn.Module,
    train_set: Dataset,
    val_set: Dataset,
    lr: float,
    batch_size: int,
    epochs: int,
    label: str,
) -> list[float]:
    """Train, return the validation accuracy by epoch, and leave the best weights in the model."""
    # A short last batch is left out: batch norm goes wild on the statistics of two or three images.
    drop_last = len(train_set) >= batch_size
    loader = DataLoader(train_set, batch_size, shuffle=True, drop_last=drop_last)
    criterion = nn.CrossEntropyLoss()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9)
    # A tenth of the learning rate for the last third.
    scheduler = StepLR(optimizer, step_size=max(1, 2 * epochs // 3), gamma=0.1)
    history, best = [], None
    last_print = start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        model.train()
        loss_sum = 0.0
        for step, (images, targets) in enumerate(loader, start=1):
            loss = criterion(model(images.to(DEVICE)), targets.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            if time.perf_counter() - last_print > 8:
                last_print = time.perf_counter()
                print(f"    step {step} of {len(loader)}:", end=" ")
                print(f"training loss {loss_sum / step:.4f}", flush=True)
        scheduler.step()  # once an epoch, after the optimizer's steps
        outputs, targets = predict(model, val_set)
        history.append((outputs.argmax(dim=1) == targets).float().mean().item())
        if history[-1] == max(history):  # the best until now
            best = copy.deepcopy(model.state_dict())
        last_print = time.perf_counter()
        print(f"{label:10} epoch {epoch:2d} of {epochs}:", end=" ")
        print(f"training loss {loss_sum / step:.4f}, validation accuracy", end=" ")
        print(f"{history[-1]:.1%}, {last_print - start:.1f} s", flush=True)
    model.load_state_dict(best)
    return history


@torch.no_grad()  # a head is trained on what this returns: inference_mode might forbid that
def predict(model: nn.Module, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return the model's output for each image in eval mode, (N, ...), and the classes (N,)."""
    model.eval()
    batches = [(model(images.to(DEVICE)).cpu(), y) for images, y in DataLoader(dataset, 32)]
    outputs, targets = zip(*batches, strict=True)
    return torch.cat(outputs), torch.cat(targets)


# %% 4) The three ways
def make_eight_views(X: Tensor, y: Tensor) -> TensorDataset:
    """Return the images (N, 3, H, W) of five digits in eight views: (8 N, 3, H, W), 40 classes.

    They are turned by 0, 90, 180 and 270 degrees, mirrored or not. Each digit in each view is a
    class of its own: five classes alone would teach a network little.
    """
    views = [torch.rot90(images, k, dims=(2, 3)) for images in (X, X.flip(3)) for k in range(4)]
    return TensorDataset(torch.cat(views), torch.cat([y + 5 * i for i in range(8)]))


def pretrain_on_digits(limit: int | None) -> nn.Module:
    """Return a ResNet-18 trained on the digits 0-4, in place of one trained on ImageNet."""
    X, y = load_digits_as_images()
    X, y = X[y < 5][:350][:limit], y[y < 5][:350][:limit]
    n_val = max(1, len(X) // 10)
    val_set = make_eight_views(X[:n_val], y[:n_val])
    train_set = make_eight_views(X[n_val:], y[n_val:])
    print("Without ImageNet's weights, the network first learns the digits 0-4, from")
    print(f"{len(X) - n_val} images turned and mirrored in eight ways: 40 classes. (Some look the")
    print("same: a 0 and a 0 upside down.) Then it learns 5-9, of which there are few images.\n")
    model = make_untrained(40)
    train(model, train_set, val_set, lr=0.03, batch_size=64, epochs=2, label="digits 0-4")
    return model


def finetune(task: Task, lr: float, batch_size: int, epochs: int) -> tuple[nn.Module, list[float]]:
    """All weights of the pretrained network go on learning."""
    model = replace_head(task.pretrained, len(task.classes))
    return model, train(model, task.train, task.val, lr, batch_size, epochs, label="fine-tuned")


def train_head(
    task: Task, lr: float, batch_size: int, epochs: int
) -> tuple[nn.Module, list[float]]:
    """Everything but the new last layer is frozen, so its features need computing only once.

    That is why there are no random views of the photos here: each image is seen as it is.
    """
    model = replace_head(task.pretrained, len(task.classes))
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    head, model.fc = model.fc, nn.Identity()  # without its head, the network returns features
    start = time.perf_counter()
    features = TensorDataset(*predict(model, task.train_plain))  # (N, 512) and (N,)
    val_features = TensorDataset(*predict(model, task.val))
    once = time.perf_counter() - start
    history = train(head, features, val_features, lr, batch_size, epochs, label="frozen")
    each = (time.perf_counter() - start - once) / len(history)
    print(f"frozen     the network ran once, {once:.1f} s; the head takes {each:.3f} s an epoch")
    model.fc = head
    return model, history


def train_from_scratch(
    task: Task, lr: float, batch_size: int, epochs: int
) -> tuple[nn.Module, list[float]]:
    """The same network from random weights: it knows nothing but these few images."""
    model = make_untrained(len(task.classes))
    return model, train(model, task.train, task.val, lr, batch_size, epochs, label="scratch")


# %% 5) Plot
def plot(task: Task, histories: dict[str, list[float]], model: nn.Module) -> plt.Figure:
    """Draw the accuracy by epoch of each way, and what a model says of six validation images."""
    figure = plt.figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    ax = left.subplots()
    for (label, history), style in zip(histories.items(), ("C0-o", "C1--s", "C2:^"), strict=True):
        ax.plot(range(1, len(history) + 1), history, style, label=label)
    ax.set(title=f"Validation accuracy ({task.name})", xlabel="epoch", ylabel="accuracy")
    ax.locator_params(axis="x", integer=True)
    ax.legend()

    some = Subset(task.val, np.linspace(0, len(task.val) - 1, 6).astype(int).tolist())
    predicted = predict(model, some)[0].argmax(dim=1)
    mean, std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)
    for ax, (image, target), guess in zip(right.subplots(2, 3).flat, some, predicted, strict=True):
        ax.imshow((image * std + mean).clamp(0, 1).permute(1, 2, 0).numpy())
        name, true = task.classes[guess], task.classes[int(target)]
        ax.set_title(name if name == true else f"{name}? (is {true})", fontsize=10)
        ax.axis("off")
    right.suptitle("What the fine-tuned network says")
    return figure


def save_figure(figure: plt.Figure, path: Path, show: bool) -> None:
    """Write the figure whole or not at all: to a temporary file that is then moved into place."""
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png", dpi=100)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        sys.exit(f"Cannot write {path}: {error.strerror}. Choose another --output-dir.")
    if show and plt.get_backend().lower() != "agg":  # Agg: there is no screen to show it on
        plt.show()
    plt.close(figure)


# %% Download
def ask_host(url: str, seconds: float = 10) -> None:
    """Raise OSError unless the host answers in time: looking up its name alone can take minutes."""
    answers = queue.Queue()
    request = urllib.request.Request(url, method="HEAD")

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=seconds).close())
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()  # a daemon does not keep Python from ending
    try:
        error = answers.get(timeout=seconds)
    except queue.Empty:
        error = TimeoutError(f"no answer within {seconds:g} seconds")
    if error:
        raise error


def fetch_photos(data_dir: Path) -> None:
    """Download and unpack beside the place, then move there in one step: never half of it."""
    ask_host(URL)
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir) as folder:
        download_url(URL, folder)
        with zipfile.ZipFile(Path(folder, "hymenoptera_data.zip")) as archive:
            archive.extractall(folder)  # checks each file's sum
        Path(folder, "hymenoptera_data").rename(data_dir / "hymenoptera_data")


def fetch_weights() -> nn.Module:
    """Return a ResNet-18 trained on ImageNet, from torch's cache where it is there."""
    if not Path(torch.hub.get_dir(), "checkpoints", Path(WEIGHTS.url).name).exists():
        ask_host(WEIGHTS.url)
    return resnet18(weights=WEIGHTS)


# %% Run the lesson
def make_output_dir(path: Path) -> None:
    """Create the folder and try to write to it, so that a mistake shows before the work starts."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        sys.exit(f"Cannot write to {path}: {error.strerror}. Choose another --output-dir.")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, or the command line where it is None; a bad value ends with exit status 2."""
    in_notebook = "ipykernel" in sys.modules and any(word.endswith(".json") for word in sys.argv)
    if argv is None and in_notebook:
        argv = ["--show"]  # the command line is Jupyter's, and names its kernel.json
    parser = argparse.ArgumentParser(
        description="Transfer learning with ResNet-18, both ways, beside training from scratch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=6, metavar="N", help="passes over the data")
    add("--batch-size", type=int, default=16, metavar="N", help="samples in a batch")
    add("--lr", type=float, default=0.01, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples of each part")
    names = ("auto", "hymenoptera", "digits")
    add("--dataset", choices=names, default="auto", help="auto: digits if photos cannot be had")
    add("--data-dir", type=Path, default=HERE / "data", metavar="DIR", help="for the dataset")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.batch_size < 2 or (args.limit is not None and args.limit < 2):
        parser.error("--epochs must be at least 1, --batch-size and --limit at least 2")
    if not 0 < args.lr < float("inf") or not 0 <= args.seed < 2**32:
        parser.error("--lr must be finite and above 0, and --seed from 0 to 2**32 - 1")
    return args


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    make_output_dir(args.output_dir)
    torch.manual_seed(args.seed)

    task, notice = load_task(args.dataset, args.data_dir)
    if args.limit:
        task = draw_images(task, args.limit)
    n_train, n_val = len(task.train), len(task.val)
    sizes = f"{task.name}, {n_train} training and {n_val} validation images"
    print(f"08 Transfer learning | device: {DEVICE} | data: {sizes}\n")
    if notice:
        print(f"*** {notice} ***\n")
    if task.pretrained is None:
        task = task._replace(pretrained=pretrain_on_digits(args.limit))

    models, histories, metrics, rows = {}, {}, {}, []
    for way, train_it in (
        ("fine-tuned", finetune),
        ("frozen", train_head),
        ("scratch", train_from_scratch),
    ):
        torch.manual_seed(args.seed)
        start = time.perf_counter()
        models[way], histories[way] = train_it(task, args.lr, args.batch_size, args.epochs)
        seconds, accuracy = time.perf_counter() - start, max(histories[way])
        parameters = list(models[way].parameters())
        n_all = sum(p.numel() for p in parameters)
        n_trained = sum(p.numel() for p in parameters if p.requires_grad)
        trained = f"{n_trained:,} of {n_all:,}"
        rows.append(f"{way:10} {trained:>24} {accuracy:15.1%} {seconds:9.1f}")
        key = way.replace("-", "")
        metrics[f"accuracy_{key}"] = accuracy
        metrics[f"seconds_{key}"] = seconds
        metrics[f"trained_{key}"] = n_trained

    print("\nway              trained parameters   best accuracy   seconds")
    print("\n".join(rows))
    print("Each way's best epoch was picked by the same images that its accuracy is measured on,")
    print("which flatters it. For a number to rely on, keep a test part that decides nothing.")
    print("Another seed, learning rate or number of epochs changes the gaps: try a few of them.")

    figure_path = args.output_dir / f"{LESSON}.png"
    save_figure(plot(task, histories, models["fine-tuned"]), figure_path, args.show)
    print(f"\nBest validation accuracy: {metrics['accuracy_finetuned']:.1%} fine-tuned,", end=" ")
    print(f"{metrics['accuracy_frozen']:.1%} frozen,", end=" ")
    print(f"{metrics['accuracy_scratch']:.1%} from scratch ({task.name})")
    print(f"Figure: {figure_path}")
    return {**metrics, "dataset": task.name, "n_train": n_train, "n_val": n_val}


if __name__ == "__main__":
    main()
