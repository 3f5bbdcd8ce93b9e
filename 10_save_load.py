"""10 · Saving and loading models

This lesson covers three calls and two approaches. The calls are `torch.save(object, FILE)`,
`torch.load(FILE)`, and `model.load_state_dict(state_dict)`. The lazy approach saves the whole
model; the recommended one saves its state dict, which holds its parameters and buffers (such as the
running averages of batch norm) by name. A checkpoint also saves the state of the training.

You will learn
    - how to save and load a whole model, a state dict, and a checkpoint, also across devices
    - why `torch.load` refuses whole models by default, and how that stops a hostile file
    - what `model.eval()` changes
    - what a checkpoint needs so that training can resume as if it had never stopped

Run
    python 10_save_load.py
    python 10_save_load.py --epochs 20 --resume outputs/10_save_load_training.pth

Changes from the video
    - The video's `torch.load(FILE)` of a whole model fails today. Since PyTorch 2.6,
      `weights_only=True` is the default. It loads only tensors, numbers, strings, plain containers,
      and classes that are listed with `safe_globals`.
    - A third file holds a checkpoint that also stores the scheduler, the losses, and the state of
      the random number generators.
    - The three device transfers run only if there is a GPU. The checkpoint's path has a name of its
      own, `CHECKPOINT_FILE`.

Try it (answers: docs/answers.md)
    - Give the second SGD in "Checkpoint" `momentum=0.9`. What is the momentum after loading?
    - Remove the line with `torch.set_rng_state`. By how much do the parameters differ now?
    - Remove the line `training.model.eval()`. How does the accuracy change, and why?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=15425s (about 4:17:05), course script:
    17_save_load.py
"""

import argparse
import os
import pickle
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Model(nn.Module):
    """Features (N, n_input_features) -> probabilities (N, 1)."""

    def __init__(self, n_input_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_input_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(x))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the lesson and return its metrics."""
    args = parse_args(argv)
    if args.resume:  # load it once first: a bad file stops the lesson before anything is written
        try:
            resume_epoch = Training(args.lr).load(args.resume)
        except Exception as error:  # a damaged file can raise almost anything
            sys.exit(f"Cannot resume from {args.resume}: {repr(error)[:300]}")
        if resume_epoch >= args.epochs:
            sys.exit(f"{args.resume} is already at epoch {resume_epoch}; pass a larger --epochs.")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    print(f"10 Saving and loading models | device: {device} | data: digits, 1797 images")

    model = Model(n_input_features=6)
    x = torch.randn(5, 6)  # five samples, to compare what two models answer

    # Save all (the lazy way). The file has the name of class Model, but not its code, so it cannot
    # be loaded after the class has been moved or renamed.
    for param in model.parameters():
        print(param)
    FILE = args.output_dir / "10_save_load_model.pth"
    torch.save(model, FILE)
    try:
        torch.load(FILE)  # the video's line
    except pickle.UnpicklingError as error:
        print("torch.load(FILE) fails today:", str(error).partition(".")[0])
    # torch.save writes a pickle, Python's format for saving objects, which can run any code when it
    # is loaded. weights_only=False permits that: use it for your own files only.
    loaded_model = torch.load(FILE, weights_only=False)
    loaded_model.eval()  # before you predict: it switches dropout and batch norm (see the end)
    for param in loaded_model.parameters():
        print(param)
    whole_model_error = (loaded_model(x) - model(x)).abs().max().item()
    print(f"Whole model: the outputs differ by {whole_model_error:g}")

    # Save only the state dict (the recommended way)
    torch.save(model.state_dict(), FILE)
    print(model.state_dict())
    loaded_model = Model(n_input_features=6)  # created again, with the same arguments
    loaded_model.load_state_dict(torch.load(FILE))  # takes the loaded dictionary, not the path
    loaded_model.eval()
    print(loaded_model.state_dict())
    state_dict_error = (loaded_model(x) - model(x)).abs().max().item()
    print(f"State dict: the outputs differ by {state_dict_error:g}")

    # Checkpoint: epoch, model, and optimizer, to resume training
    learning_rate = 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    checkpoint = {
        "epoch": 90,
        "model_state": model.state_dict(),
        "optim_state": optimizer.state_dict(),
    }
    print(optimizer.state_dict())  # "state" is empty: SGD without momentum has none
    CHECKPOINT_FILE = args.output_dir / "10_save_load_checkpoint.pth"
    torch.save(checkpoint, CHECKPOINT_FILE)
    model = Model(n_input_features=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0)  # the checkpoint brings the right one
    checkpoint = torch.load(CHECKPOINT_FILE)
    model.load_state_dict(checkpoint["model_state"])
    optimizer.load_state_dict(checkpoint["optim_state"])
    epoch = checkpoint["epoch"]
    model.eval()  # to predict; model.train() to resume training
    print(optimizer.state_dict())  # the learning rate is 0.01 again
    checkpoint_error = (model(x) - loaded_model(x)).abs().max().item()
    print(f"Checkpoint of epoch {epoch}: the outputs differ by {checkpoint_error:g}")

    # Devices. "cuda:0" is the first GPU, "cuda:1" the second; "cuda" is the current one.
    if torch.cuda.is_available():
        # Save on the GPU, load on the CPU
        torch.save(model.to("cuda").state_dict(), FILE)
        model = Model(n_input_features=6)
        model.load_state_dict(torch.load(FILE, map_location="cpu"))
        # Save on the GPU, load on the GPU
        torch.save(model.to("cuda").state_dict(), FILE)
        model = Model(n_input_features=6)
        model.load_state_dict(torch.load(FILE))
        model.to("cuda")
        # Save on the CPU, load on the GPU
        torch.save(model.to("cpu").state_dict(), FILE)
        model = Model(n_input_features=6)
        model.load_state_dict(torch.load(FILE, map_location="cuda:0"))
        model.to("cuda")  # load_state_dict copied the values to a model on the CPU
        print("On the GPU:", model(x.to("cuda")))  # the inputs must be there, too
    else:
        print("CUDA is not available: skipped GPU to CPU, GPU to GPU, and CPU to GPU")

    # Beyond the video: a hostile file. This one creates a folder; it could delete one instead.
    # weights_only=True loads only types on a list. That blocks attacks like this one, but is no
    # guarantee: load files only from people that you trust.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "created by a hostile file")
        hostile_file = Path(temporary, "hostile.pth")
        torch.save(Hostile(folder), hostile_file)
        try:
            torch.load(hostile_file)
        except pickle.UnpicklingError:
            print("The hostile file was refused. Folder created:", folder.exists())
        hostile_blocked = not folder.exists()
        torch.load(hostile_file, weights_only=False)
        print("With weights_only=False, the same file was loaded. Folder created:", folder.exists())
        # A whole model can be loaded with weights_only=True if you name the classes that you trust
        trusted_file = Path(temporary, "model.pth")
        torch.save(model, trusted_file)
        with torch.serialization.safe_globals([Model, nn.Linear]):
            print("With safe_globals, torch.load reads a whole model:", torch.load(trusted_file))

    # Beyond the video: a reliable checkpoint. Training that is saved halfway, loaded into new
    # objects, and resumed ends where uninterrupted training ends, bit for bit. This holds on the
    # CPU of the same machine, with the same PyTorch version and number of threads, if the
    # checkpoint is saved at the end of an epoch.
    X, y = load_digits(return_X_y=True)
    X, y = torch.from_numpy(X / 16).float(), torch.from_numpy(y)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    dataset = TensorDataset(X_train[: args.limit], y_train[: args.limit])
    TRAINING_FILE = args.output_dir / "10_save_load_training.pth"
    torch.manual_seed(args.seed)
    training = Training(args.lr)
    if args.resume:
        training.load(args.resume)
    halfway = (len(training.losses) + args.epochs) // 2
    training.train(dataset, halfway)
    training.save(TRAINING_FILE)
    training.train(dataset, args.epochs)
    resumed = Training(args.lr)
    resumed.load(TRAINING_FILE)
    resumed.train(dataset, args.epochs)
    resumed.save(TRAINING_FILE)  # the finished training, for --resume
    pairs = zip(training.model.parameters(), resumed.model.parameters())
    resume_error = max((a - b).abs().max().item() for a, b in pairs)
    print(f"Uninterrupted vs. resumed: maximum parameter difference {resume_error:g}")

    # Beyond the video: what eval() changes. In train mode, dropout sets random values to 0, and
    # batch norm uses the mean and standard deviation of the batch; in eval mode, dropout does
    # nothing, and batch norm uses running averages from training.
    X_test = X_test[: args.limit].to(device)
    with torch.no_grad():
        training.model.eval()
        outputs = training.model(X_test)
        training.model.train()  # for this comparison only: it also moves the running averages
        eval_difference = (training.model(X_test) - outputs).abs().max().item()
    _, predicted = torch.max(outputs.cpu(), 1)
    accuracy = (predicted == y_test[: args.limit]).float().mean().item()
    print(f"Without eval(), the outputs differ by up to {eval_difference:.2f}")

    epochs = range(1, args.epochs + 1)
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    ax.plot(epochs, training.losses, linewidth=6, alpha=0.5, label="uninterrupted")
    ax.plot(epochs[halfway:], resumed.losses[halfway:], "o--", markersize=4, label="resumed")
    ax.axvline(halfway + 0.5, color="gray", linestyle=":", label="saved and loaded here")
    ax.set(title="Resuming from a checkpoint", xlabel="epoch", ylabel="loss of the last batch")
    ax.locator_params(axis="x", integer=True)
    ax.legend()
    figure.savefig(args.output_dir / "10_save_load.png")
    if args.show:
        plt.show()

    # A plain torch.load reads all three files
    print("State dict:", FILE)
    print("Checkpoint:", CHECKPOINT_FILE)
    print("Checkpoint for --resume:", TRAINING_FILE)
    print(f"Test accuracy: {accuracy:.1%} (digits)")
    print("Figure:", args.output_dir / "10_save_load.png")
    return {
        "whole_model_error": whole_model_error,
        "state_dict_error": state_dict_error,
        "hostile_blocked": float(hostile_blocked),
        "resume_error": resume_error,
        "eval_difference": eval_difference,
        "accuracy": accuracy,
    }


# Beyond the video
class Hostile:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        """Tell pickle what to call, and with which arguments, to load this object."""
        return os.mkdir, (str(self.folder),)


class Training:
    """A model with its optimizer, scheduler, and losses."""

    def __init__(self, lr: float) -> None:
        hidden = [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2)]
        self.model = nn.Sequential(*hidden, nn.Linear(64, 10)).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.scheduler = StepLR(self.optimizer, step_size=4, gamma=0.5)
        self.losses: list[float] = []  # one for each epoch

    def train(self, dataset: TensorDataset, num_epochs: int) -> None:
        """Continue training until `num_epochs` epochs are complete."""
        train_loader = DataLoader(dataset, batch_size=32, shuffle=True, drop_last=True)
        self.model.train()
        while len(self.losses) < num_epochs:
            for images, labels in train_loader:
                outputs = self.model(images.to(device))
                loss = nn.functional.cross_entropy(outputs, labels.to(device))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            self.scheduler.step()
            self.losses.append(loss.item())  # of the last batch

    def save(self, path: Path) -> None:
        """Save a checkpoint atomically.

        It is written to a temporary file, which then replaces `path`. If the process is killed,
        `path` is the old file or the new one, never a partial file.
        """
        checkpoint = {
            "epoch": len(self.losses),
            "losses": self.losses,
            "model_state": self.model.state_dict(),
            "optim_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(),
            "rng_state": torch.get_rng_state(),  # shuffling and dropout draw from it
            "cuda_rng_state": torch.cuda.get_rng_state_all(),  # an empty list without CUDA
        }
        temporary = path.with_name(path.name + ".tmp")
        torch.save(checkpoint, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> int:
        """Restore a checkpoint and return its epoch. A damaged file can raise any exception."""
        checkpoint = torch.load(path, map_location="cpu")  # RNG states must be on the CPU
        self.model.load_state_dict(checkpoint["model_state"])
        self.optimizer.load_state_dict(checkpoint["optim_state"])
        self.scheduler.load_state_dict(checkpoint["scheduler_state"])
        self.losses = checkpoint["losses"]
        torch.set_rng_state(checkpoint["rng_state"])
        torch.cuda.set_rng_state_all(checkpoint["cuda_rng_state"][: torch.cuda.device_count()])
        return checkpoint["epoch"]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="passes over the data")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--limit", type=int, default=10**6, help="at most LIMIT samples per set")
    parser.add_argument("--resume", type=Path, help="checkpoint to resume from (keeps its --lr)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.limit < 32 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, --limit 32, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
