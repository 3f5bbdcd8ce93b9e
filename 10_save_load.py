"""10 · Saving and loading models

A trained network is worth nothing if it cannot be kept. A small one is trained on digits, saved and
loaded in every usual way, interrupted and resumed without losing a bit, and moved between devices.
Then things go wrong on purpose: files that are missing, cut off, foreign or hostile.

You will learn
    - the three calls: `torch.save`, `torch.load` and `load_state_dict`
    - why a state dict is a better keepsake than the whole model, and what `eval()` is for
    - how to write a checkpoint that a crash cannot spoil, and go on from it bit for bit
    - why `torch.load` refuses most pickles, and what to do about it

Run
    python 10_save_load.py
    python 10_save_load.py --resume outputs/10_save_load_checkpoint.pt --epochs 20

Since the video
    - Since torch 2.6 `torch.load` reads weights only, unless told otherwise; the video's way to
      load a whole model ends in an UnpicklingError. See it here, and what it protects from.
    - The checkpoint holds the schedule and the random state too, so that resuming changes nothing.
    - A file is written beside the old one and moved into place: a crash never leaves half of one.

Try it
    - `--resume outputs/10_save_load_checkpoint.pt --epochs 40`: where does the curve go on?
    - Leave out `torch.set_rng_state` in `restore`: does the resumed run still end at the same loss?
    - Rename a layer of `Net`, in `__init__` and in `forward`, then `--resume` again: which keys are
      missing, which unexpected?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=15425s (about 4:17:05)
"""

import argparse
import os
import pickle
import sys
import tempfile
import textwrap
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = "10_save_load"
HERE = Path(globals().get("__file__", ".")).parent  # a notebook has no __file__
BATCH_SIZE = 32


# %% 0) Prepare data
def load_data(limit: int | None) -> list[Tensor]:
    """Return X_train (N, 64), y_train (N,), X_test, y_test of the 8x8 digits; pixels in 0..1."""
    X, y = load_digits(return_X_y=True)  # (N, 64), 0..16
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=0, stratify=y)
    X = torch.tensor(X / 16, dtype=torch.float32, device=DEVICE)
    y = torch.tensor(y, device=DEVICE)
    return [X[train[:limit]], y[train[:limit]], X[test[:limit]], y[test[:limit]]]


# %% 1) Model
class Net(nn.Module):
    """Digits (N, 64) -> logits (N, 10), with two layers that `eval()` changes."""

    def __init__(self, n_hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, n_hidden)
        self.norm = nn.BatchNorm1d(n_hidden)
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(n_hidden, 10)

    def forward(self, X: Tensor) -> Tensor:
        return self.output(self.dropout(torch.relu(self.norm(self.hidden(X)))))


# %% 2) Loss and optimizer, 3) Training loop
class Training:
    """What training changes: with the random state, all that a checkpoint must hold."""

    def __init__(self, lr: float) -> None:
        self.epoch = 0
        self.losses: list[float] = []
        self.model = Net().to(DEVICE)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.scheduler = StepLR(self.optimizer, step_size=4, gamma=0.5)

    def run(self, X: Tensor, y: Tensor, until: int) -> None:
        """Train until so many epochs are done in all."""
        criterion = nn.CrossEntropyLoss()
        while self.epoch < until:
            self.model.train()
            total = 0.0
            n_batches = max(1, len(X) // BATCH_SIZE)  # of equal size: batch norm needs two samples
            for batch in torch.randperm(len(X)).tensor_split(n_batches):
                loss = criterion(self.model(X[batch]), y[batch])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += loss.item() * len(batch)
            self.scheduler.step()
            self.losses.append(total / len(X))
            self.epoch += 1


@torch.inference_mode()
def predict(model: nn.Module, X: Tensor) -> Tensor:
    """Return the logits (N, 10), in the mode in which a network is used."""
    model.eval()
    return model(X)


# %% 4) Checkpoints
def write(obj: Any, path: Path) -> None:
    """Save beside the file and move into place: a crash leaves the old file or the new one."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the old one's place
        part.replace(path)
    except (OSError, RuntimeError) as error:  # to torch.save, a full disk is a RuntimeError
        part.unlink(missing_ok=True)
        reason = textwrap.shorten(str(error), 150)
        sys.exit(f"Cannot write {path}: {reason}. Choose another --output-dir.")


def save_checkpoint(training: Training, path: Path) -> None:
    """Write all that is needed to go on as if nothing had happened."""
    checkpoint = {
        "epoch": training.epoch,
        "losses": training.losses,
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scheduler": training.scheduler.state_dict(),
        "rng_cpu": torch.get_rng_state(),  # the order of the batches and dropout depend on it
        "rng_cuda": torch.cuda.get_rng_state_all(),  # an empty list without CUDA
    }
    write(checkpoint, path)


def restore(path: Path) -> Training:
    """Return the training that a checkpoint holds.

    Raises what `torch.load` and `load_state_dict` raise, and ValueError for another kind of file.
    """
    checkpoint = torch.load(path, map_location="cpu")  # load_state_dict copies to the device
    if not isinstance(checkpoint, dict) or "rng_cpu" not in checkpoint:
        raise ValueError("it can be read, but is no checkpoint of this lesson")
    training = Training(lr=0.1)  # whatever it is: the optimizer's state brings its own
    training.epoch = checkpoint["epoch"]
    training.losses = checkpoint["losses"]
    training.model.load_state_dict(checkpoint["model"])
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    training.scheduler.load_state_dict(checkpoint["scheduler"])
    torch.set_rng_state(checkpoint["rng_cpu"])  # last: making the objects drew random numbers
    torch.cuda.set_rng_state_all(checkpoint["rng_cuda"][: torch.cuda.device_count()])
    return training


def difference(one: Training, other: Training) -> float:
    """Return the largest difference between the weights and losses of two trainings."""
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    of_weights = max((a.double() - b.double()).abs().max().item() for a, b in pairs)
    of_losses = max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))
    return max(of_weights, of_losses)


# %% 5) The three calls, and two ways to save a model
def show_save_and_load(folder: Path) -> None:
    """Save and load a tensor and a dict."""
    for name, value in (
        ("tensor", torch.arange(3.0)),
        ("dict", {"weights": torch.eye(2), "epoch": 5}),
    ):
        torch.save(value, folder / f"{name}.pt")
        loaded = torch.load(folder / f"{name}.pt")
        print(f"    {name:7} saved and loaded: {' '.join(str(loaded).split())}")


def show_two_ways(model: nn.Module, X: Tensor, whole: Path, state_dict: Path) -> dict[str, float]:
    """Save the model whole and as a state dict, load both, and compare what they predict."""
    logits = predict(model, X)

    write(model, whole)  # the lazy way: a pickle of the object, bound to this file and its classes
    try:
        torch.load(whole)
    except pickle.UnpicklingError as error:
        first = str(error).partition(".")[0]
        print(f'    whole model: torch.load refuses it ("{first}"), since a pickle can')
        print("        run any code.", end=" ")
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(whole)
    print("To load it, you have to trust", end=" ")
    print(", ".join(sorted(name.rpartition(".")[2] for name in needed)))
    with torch.serialization.safe_globals([Net, nn.Linear, nn.BatchNorm1d, nn.Dropout]):
        whole_loaded = torch.load(whole)
    # torch.load(whole, weights_only=False) would trust everything: for your own files only.

    write(model.state_dict(), state_dict)  # the recommended way: names and tensors, nothing else
    loaded = Net().to(DEVICE)
    loaded.load_state_dict(torch.load(state_dict, map_location=DEVICE))

    loaded.train()  # a new network is in training mode: dropout drops, batch norm uses the batch
    with torch.inference_mode():
        eval_difference = (loaded(X) - logits).abs().max().item()
    loaded.load_state_dict(torch.load(state_dict, map_location=DEVICE))  # undo what batch norm saw
    metrics = {
        "whole_model_error": (predict(whole_loaded, X) - logits).abs().max().item(),
        "state_dict_error": (predict(loaded, X) - logits).abs().max().item(),
        "eval_difference": eval_difference,
    }
    print(f"    whole model: the logits differ by {metrics['whole_model_error']:g}")
    print(f"    state dict:  the logits differ by {metrics['state_dict_error']:g}")
    print(f"    and without eval(), by up to {eval_difference:.2f}")
    return metrics


# %% 6) Devices
def show_devices(model: nn.Module, X: Tensor, folder: Path) -> int:
    """Save on one device and load on another; return how many of the four pairs were there."""
    n_checked = 0
    for saved_on, loaded_on in product(("cuda", "cpu"), repeat=2):
        print(f"    saved on {saved_on:4}, loaded on {loaded_on:4}: ", end="")
        if "cuda" in (saved_on, loaded_on) and not torch.cuda.is_available():
            print(f'skipped, no CUDA here; torch.load(path, map_location="{loaded_on}")')
            continue
        path = folder / "device.pt"
        write(model.to(saved_on).state_dict(), path)
        loaded = Net().to(loaded_on)
        loaded.load_state_dict(torch.load(path, map_location=loaded_on))
        here = predict(model, X.to(saved_on)).cpu()
        there = predict(loaded, X.to(loaded_on)).cpu()  # inputs go where the model is
        print(f"the logits differ by {(here - there).abs().max().item():.1e}")
        n_checked += 1
    model.to(DEVICE)
    return n_checked


# %% 7) What goes wrong
class Hostile:
    """An object whose pickle makes a folder when it is loaded. It could as well delete yours."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        # A pickle can say: call this function with these arguments.
        return os.mkdir, (str(self.marker),)


def show_hostile_file(folder: Path) -> bool:
    """Load a file that would run code; return whether it was refused before it could."""
    path, marker = folder / "hostile.pt", folder / "marker"
    write(Hostile(marker), path)
    try:
        torch.load(path)
    except pickle.UnpicklingError:
        print("    a hostile file: UnpicklingError, and", end=" ")
    print("its code was run!" if marker.exists() else "its code was not run")
    return not marker.exists()


def show_faults(checkpoint: Path, folder: Path) -> None:
    """Restore from files that are missing, damaged or something else, and print what is raised."""
    whole = checkpoint.read_bytes()
    (folder / "half a file").write_bytes(whole[: len(whole) // 2])
    (folder / "a text file").write_text("no checkpoint", encoding="utf-8")
    write({"epoch": 3}, folder / "another dict")
    for name in ("no file", "half a file", "a text file", "another dict"):
        try:
            restore(folder / name)
        except (OSError, RuntimeError, pickle.UnpicklingError, ValueError) as error:
            reason = str(error).replace(str(folder / name), name)
            print(f"    {name}: {type(error).__name__}: {textwrap.shorten(reason, 66)}")
    print("        (The messages can mislead. Half a file and a text file have the same fault:")
    print("        neither is a whole archive as torch.save writes it.)")
    state_dict = Net(n_hidden=32).state_dict()
    state_dict["another.weight"] = state_dict.pop(next(iter(state_dict)))  # the first layer's
    try:
        Net().load_state_dict(state_dict)
    except RuntimeError as error:
        print("    another network's state dict: RuntimeError:")
        for line in str(error).splitlines()[1:4]:
            print(
                textwrap.fill(line.strip(), 92, initial_indent=8 * " ", subsequent_indent=12 * " ")
            )


# %% 8) Plot
def plot(
    uninterrupted: Training, resumed: Training, at_epoch: int, came_with: int, error: float
) -> plt.Figure:
    """Draw the loss curves of both runs, and where they went on from a checkpoint."""
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    epochs = range(1, len(resumed.losses) + 1)
    ax.plot(epochs, uninterrupted.losses, "C0-", lw=6, alpha=0.5, label="uninterrupted")
    ax.plot(epochs, resumed.losses, "C1--o", ms=4, label="saved and resumed")
    ax.axvline(at_epoch + 0.5, color="0.3", ls=":", label="saved, loaded into new objects")
    if came_with:
        ax.axvline(came_with + 0.5, color="C2", ls="-.", label="went on from --resume")
    title = f"Both runs end with a difference of {error:g} (8x8 digits)"
    ax.set(title=title, xlabel="epoch", ylabel="training loss")
    ax.set_ylim(bottom=0)
    ax.locator_params(axis="x", integer=True)
    ax.legend()
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
        description="Save and load a model: whole, as a state dict, and as a checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=10, metavar="N", help="passes over the data")
    add("--lr", type=float, default=0.01, metavar="X", help="learning rate")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers")
    add("--limit", type=int, metavar="N", help="use only N samples of each part")
    add("--resume", type=Path, metavar="FILE", help="checkpoint to go on from, with its own --lr")
    add("--output-dir", type=Path, default=HERE / "outputs", metavar="DIR", help="for the results")
    add("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or (args.limit is not None and args.limit < 2):
        parser.error("--epochs must be at least 1, and --limit at least 2 (for batch norm)")
    if not 0 < args.lr < float("inf") or not 0 <= args.seed < 2**32:
        parser.error("--lr must be finite and above 0, and --seed from 0 to 2**32 - 1")
    return args


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    make_output_dir(args.output_dir)
    torch.manual_seed(args.seed)

    training = Training(args.lr)
    if args.resume:
        try:
            training = restore(args.resume)
        except Exception as error:  # a damaged file can make the reader raise almost anything
            reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 500)}"
            problem = "it is missing, damaged, or of another network"
            sys.exit(f"Cannot resume from {args.resume}: {problem} ({reason}).")
        if training.epoch >= args.epochs:
            sys.exit(f"{args.resume} has {training.epoch} epochs already: --epochs must be larger.")

    X_train, y_train, X_test, y_test = load_data(args.limit)
    n_train, n_test = len(X_train), len(X_test)
    sizes = f"8x8 digits, {n_train} training and {n_test} test images"
    print(f"10 Saving and loading models | device: {DEVICE} | data: {sizes}")

    whole, state_dict, checkpoint = (
        args.output_dir / f"{LESSON}_{name}.pt" for name in ("whole", "state_dict", "checkpoint")
    )
    came_with = training.epoch
    if args.resume:
        print(f"Going on from epoch {came_with} of {args.resume}")
    middle = (came_with + args.epochs) // 2
    with tempfile.TemporaryDirectory(dir=args.output_dir) as name:
        training.run(X_train, y_train, until=middle)
        save_checkpoint(training, Path(name, "middle.pt"))
        training.run(X_train, y_train, until=args.epochs)
        save_checkpoint(training, checkpoint)
        resumed = restore(Path(name, "middle.pt"))
        resumed.run(X_train, y_train, until=args.epochs)
    resume_error = difference(training, resumed)
    print(f"\nTrained to epoch {args.epochs}, and again from a checkpoint of epoch {middle}:")
    for label, run in (("uninterrupted", training), ("resumed", resumed)):
        print(f"    {label:13} loss {run.losses[-1]:.8f}")
    print(f"    weights and losses differ by {resume_error:g}")

    with tempfile.TemporaryDirectory(dir=args.output_dir) as name:
        folder = Path(name)
        print("\nThe three calls, and two ways to save a model")
        show_save_and_load(folder)
        metrics = show_two_ways(training.model, X_test, whole, state_dict)
        print("\nDevices")
        n_devices = show_devices(training.model, X_test, folder)
        print("\nWhat goes wrong")
        blocked = show_hostile_file(folder)
        show_faults(checkpoint, folder)

    accuracy = (predict(training.model, X_test).argmax(dim=1) == y_test).float().mean().item()
    figure_path = args.output_dir / f"{LESSON}.png"
    figure = plot(training, resumed, middle, came_with, resume_error)
    save_figure(figure, figure_path, args.show)
    print(f"\nTest accuracy: {accuracy:.1%} (8x8 digits)")
    print(f"Figure: {figure_path}")
    metrics |= {
        "resume_error": resume_error,
        "malicious_blocked": float(blocked),
        "accuracy": accuracy,
        "devices_checked": n_devices,
        "n_train": n_train,
        "n_test": n_test,
    }
    for path, name in ((whole, "whole"), (state_dict, "state_dict"), (checkpoint, "checkpoint")):
        metrics[f"bytes_{name}"] = path.stat().st_size
        print(f"{name:10} {path.stat().st_size:7,} bytes: {path}")
    return metrics


if __name__ == "__main__":
    main()
