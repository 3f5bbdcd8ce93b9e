"""10 · Saving and loading models

There are three calls: `torch.save(object, FILE)`, `torch.load(FILE)`, and
`model.load_state_dict(state_dict)`. The lazy way saves the whole model; the recommended way saves
its state dict, which holds its parameters and buffers (such as the running averages of batch norm)
by name. A checkpoint also saves the state of the training.

You will learn
    - how to save and load a whole model, a state dict, and a checkpoint, also across devices
    - why `torch.load` refuses whole models by default, and which files it protects you from
    - what a checkpoint needs so that training resumes as if it had never stopped
    - what `model.eval()` changes

Run (add --show to open the figure in a window)
    python 10_save_load.py
    python 10_save_load.py --epochs 20 --resume outputs/10_save_load_training.pth

Use it later: in a new file, with class Model and its imports (the saved model is untrained)
    model = Model(n_input_features=6)
    model.load_state_dict(torch.load("outputs/10_save_load_state_dict.pth"))
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(5, 6)))

Changes from the video
    - `torch.load(FILE)` of a whole model needs `weights_only=False` since PyTorch 2.6 (see below).
    - The whole model and the state dict have a file each (video: model.pth for both). The three
      device transfers run if there is a GPU.

Try it (answers: docs/answers.md, error messages: docs/errors.md)
    - In "Checkpoint", pass `checkpoint` to `model.load_state_dict`. Undo this, then create the new
      model with `Model(n_input_features=5)`. What do the two errors say?
    - Remove the line with `torch.set_rng_state`. Which lines of the output change, and why?
    - At the end of `main`, before `return`: `torch.save({"accuracy": np.float64(0.9)}, FILE)` (with
      `import numpy as np`), then `torch.load(FILE)`. What does the error say? What helps?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=15425s (about 4:17:05), course script:
    17_save_load.py
"""

import argparse
import copy
import os
import pickle
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Model(nn.Module):
    """Features (N, n_input_features) -> probabilities (N, 1)."""

    def __init__(self, n_input_features):
        super().__init__()
        self.linear = nn.Linear(n_input_features, 1)

    def forward(self, x):
        y_pred = torch.sigmoid(self.linear(x))
        return y_pred


def main(argv=None):
    """Run the lesson with the flags in `argv` (default: the command line's); return metrics."""
    args = parse_args(argv)
    if args.resume:
        return resume(args)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    print(f"10 Saving and loading models | device: {device} | data: digits, 1797 images")

    model = Model(n_input_features=6)

    # Save all (the lazy way). The file stores the name of class Model, not its code. If the class
    # is missing or renamed where the file is loaded, the error is "Can't get attribute 'Model' on
    # <module '__main__' ...>".
    for param in model.parameters():
        print(param)
    FILE = args.output_dir / "10_save_load_model.pth"
    torch.save(model, FILE)

    loaded_model = torch.load(FILE, weights_only=False)  # for files that you trust
    loaded_model.eval()
    for param in loaded_model.parameters():
        print(param)

    # Save only the state dict (the recommended way)
    FILE = args.output_dir / "10_save_load_state_dict.pth"
    torch.save(model.state_dict(), FILE)

    print(model.state_dict())
    loaded_model = Model(n_input_features=6)  # created again, with the same arguments
    loaded_model.load_state_dict(torch.load(FILE))  # takes the loaded dictionary, not the path
    loaded_model.eval()
    print(loaded_model.state_dict())

    # Checkpoint: epoch, model, and optimizer, to resume training
    learning_rate = 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    checkpoint = {
        "epoch": 90,  # an example: nothing was trained here
        "model_state": model.state_dict(),
        "optim_state": optimizer.state_dict(),
    }
    # "state" stays empty with plain SGD. With momentum, or with Adam, it holds sums or averages of
    # gradients after the first step.
    print(optimizer.state_dict())
    CHECKPOINT_FILE = args.output_dir / "10_save_load_checkpoint.pth"
    torch.save(checkpoint, CHECKPOINT_FILE)

    model = Model(n_input_features=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    print("New optimizer, learning rate:", optimizer.param_groups[0]["lr"])

    checkpoint = torch.load(CHECKPOINT_FILE)
    model.load_state_dict(checkpoint["model_state"])
    optimizer.load_state_dict(checkpoint["optim_state"])
    epoch = checkpoint["epoch"]
    print("Loaded optimizer, learning rate:", optimizer.param_groups[0]["lr"])

    model.eval()  # to predict; model.train() to go on training

    # Save on GPU or CPU. torch.load puts tensors on the device that they were saved from, or on
    # `map_location` if it is given. Without it, a file from a GPU raises an error on a machine
    # without one. load_state_dict then copies the values to wherever the model is. "cuda" is the
    # current GPU, "cuda:0" the first one, "cuda:1" the second.
    print("Transfers between devices run if there is a GPU:", torch.cuda.is_available())
    if torch.cuda.is_available():
        # 1) Save on GPU, load on CPU
        model.to("cuda")
        torch.save(model.state_dict(), FILE)
        model = Model(n_input_features=6)
        model.load_state_dict(torch.load(FILE, map_location="cpu"))

        # 2) Save on GPU, load on GPU
        model.to("cuda")
        torch.save(model.state_dict(), FILE)
        model = Model(n_input_features=6)
        model.load_state_dict(torch.load(FILE))
        model.to("cuda")  # loading did not move the model; its inputs must be there, too

        # 3) Save on CPU, load on GPU (map_location is optional here)
        model.to("cpu")
        torch.save(model.state_dict(), FILE)
        model = Model(n_input_features=6)
        model.load_state_dict(torch.load(FILE, map_location="cuda:0"))
        model.to("cuda")

    # Beyond the video: all three approaches bring back equal models
    FILE = args.output_dir / "10_save_load_model.pth"
    whole_model = torch.load(FILE, weights_only=False)
    print("Checkpoint and whole model, largest difference:", largest_difference(model, whole_model))
    print("Checkpoint and state dict, largest difference:", largest_difference(model, loaded_model))

    # Beyond the video: why torch.load refuses whole models today. torch.save writes a zip archive
    # with a pickle in it, Python's format for objects. A pickle names functions and classes to be
    # called when it is loaded, so a hostile file can run any code. By default, torch.load accepts
    # only names on a list: tensors, Python's numbers and containers, and a few more. (To add yours:
    # torch.serialization.add_safe_globals([Model, nn.Linear]).) Still, load only what you trust.
    HOSTILE_FILE = args.output_dir / "10_save_load_hostile.pth"
    torch.save(Hostile(), HOSTILE_FILE)
    try:
        torch.load(HOSTILE_FILE)
    except pickle.UnpicklingError:  # the same error as for a whole model
        print("torch.load refuses a hostile file")
    torch.load(HOSTILE_FILE, weights_only=False)  # runs its code, which prints a line
    HOSTILE_FILE.unlink()

    # Beyond the video: what a checkpoint needs. Training that is saved after half of the epochs,
    # loaded into new objects, and resumed ends where uninterrupted training ends, bit for bit (on
    # the CPU of one machine, with the same PyTorch version and number of threads). If one part is
    # left out, it may end elsewhere. Without optim_state, Adam's averages and the halved learning
    # rate are lost: the next loss is higher. Without scheduler_state, epochs count from 0: the rate
    # is halved after epoch 9, not 8. Without rng_state, losses are higher or lower by chance.
    TRAINING_FILE = args.output_dir / "10_save_load_training.pth"
    torch.manual_seed(args.seed)
    training = Training(args.lr)
    training.train_until(args.epochs // 2)
    training.save(TRAINING_FILE)
    training.train_until(args.epochs)  # uninterrupted
    losses = {}
    for left_out in (None, "optim_state", "scheduler_state", "rng_state"):
        resumed = resume_without(left_out, TRAINING_FILE, args)
        difference = largest_difference(training.model, resumed.model)
        losses[left_out] = resumed.losses[args.epochs // 2 :]
        loss = losses[left_out][0]
        print(f"Left out: {left_out}, next loss {loss:.4f}, difference in the end {difference:.3g}")

    # Beyond the video: what eval() changes (in class Model, nothing). In train mode, dropout sets
    # random values to 0, and batch norm normalizes by mean and variance of the batch: the result
    # for an image depends on the rest of its batch, most of all in small ones (BatchNorm1d refuses
    # one image). In eval mode, dropout does nothing, and batch norm uses averages of training
    # batches. (A difference of one point may be chance: that is 4 or 5 of 450 images.)
    batch_sizes = (2, 4, 8, 16, 450)
    accuracies = {  # of the model, by batch size, with some of its layers in train mode
        "with eval()": test(training.model, batch_sizes),
        "without eval()": test(training.model, batch_sizes, (nn.BatchNorm1d, nn.Dropout)),
        "batch norm in train mode": test(training.model, batch_sizes, (nn.BatchNorm1d,)),
        "dropout in train mode": test(training.model, batch_sizes, (nn.Dropout,)),
    }
    print("Test accuracy in batches of", *batch_sizes)
    for name, values in accuracies.items():
        print(f"{name:25}", *[f"{value:6.1%}" for value in values])
    accuracy = accuracies["with eval()"][-1]

    draw(training.losses, losses, batch_sizes, accuracies, args)
    print("Checkpoint for --resume:", TRAINING_FILE)
    print(f"Test accuracy: {accuracy:.1%} (digits)")
    print("Figure:", args.output_dir / "10_save_load.png")
    return {"accuracy": accuracy}


# Beyond the video
def largest_difference(model_a, model_b):
    """Return the largest absolute difference between their parameters and buffers."""
    a, b = model_a.state_dict(), model_b.state_dict()
    return max((a[name].cpu() - b[name].cpu()).abs().max().item() for name in a)


class Hostile:
    """An object that pickle saves as a call to `print`. It could be any function."""

    def __reduce__(self):  # pickle saves what this returns: a function, and its arguments
        return print, ("    This line was printed by a file. It could also have deleted yours.",)


class Training:
    """A network for digits, and all that is needed to resume its training."""

    def __init__(self, lr):
        hidden = [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2)]
        self.model = nn.Sequential(*hidden, nn.Linear(64, 10)).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.scheduler = StepLR(self.optimizer, step_size=4, gamma=0.5)  # halves the learning rate
        self.losses = []  # the mean loss of each epoch

    def train_until(self, num_epochs):
        """Train until `num_epochs` epochs are complete."""
        X_train, _, y_train, _ = load_data()
        dataset = TensorDataset(X_train, y_train)
        train_loader = DataLoader(dataset, batch_size=32, shuffle=True, drop_last=True)
        self.model.train()
        while len(self.losses) < num_epochs:
            running_loss = 0.0
            for images, labels in train_loader:
                outputs = self.model(images.to(device))
                loss = nn.functional.cross_entropy(outputs, labels.to(device))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                running_loss += loss.item()
            self.scheduler.step()
            self.losses.append(running_loss / len(train_loader))

    def state_dict(self):
        """Return all that is needed to resume the training."""
        return {
            "losses": self.losses,  # their number is the epoch
            "model_state": self.model.state_dict(),
            "optim_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(),
            # Where PyTorch's random number generators (CPU and GPUs) stand: shuffling and dropout
            # draw from them. (Python's `random` and NumPy have generators of their own.)
            "rng_state": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load_state_dict(self, checkpoint):
        """Restore what state_dict returned. The model must be on its device before this."""
        self.model.load_state_dict(checkpoint["model_state"])
        self.optimizer.load_state_dict(checkpoint["optim_state"])  # goes to the model's device
        self.scheduler.load_state_dict(checkpoint["scheduler_state"])
        self.losses = list(checkpoint["losses"])
        rng_state, *cuda_rng_states = checkpoint["rng_state"]
        torch.set_rng_state(rng_state)
        # There may be fewer GPUs than where it was saved
        torch.cuda.set_rng_state_all(cuda_rng_states[: torch.cuda.device_count()])

    def save(self, file):
        """Save a checkpoint atomically: if this is interrupted, the old file is still there."""
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")  # one for each process
        torch.save(self.state_dict(), temporary)
        temporary.replace(file)


def resume_without(left_out, file, args):
    """Resume from `file`, but with `left_out` (unless None) as in a new Training; return that."""
    torch.manual_seed(args.seed + 1)  # other numbers, as in a new process
    training = Training(args.lr)
    checkpoint = torch.load(file, map_location="cpu")  # where rng_state must be
    if left_out:
        checkpoint[left_out] = training.state_dict()[left_out]
    training.load_state_dict(checkpoint)
    training.train_until(args.epochs)
    return training


def resume(args):
    """Resume the training in the file of --resume, save it there, and return its accuracy."""
    training = Training(args.lr)
    try:
        training.load_state_dict(torch.load(args.resume, map_location="cpu"))
    except Exception as error:  # PyTorch's message goes on to suggest weights_only=False: cut it
        problem = repr(error).partition(". ")[0]  # its first sentence
        sys.exit(f"Cannot resume from {args.resume}: {problem:.200}")
    epoch = len(training.losses)
    if epoch >= args.epochs:
        sys.exit(f"{args.resume} is already at epoch {epoch}: pass a larger --epochs.")
    training.train_until(args.epochs)
    training.save(args.resume)
    (accuracy,) = test(training.model, [450])
    print(f"Resumed after epoch {epoch}, test accuracy after epoch {args.epochs}: {accuracy:.1%}")
    return {"accuracy": accuracy}


def test(model, batch_sizes, in_train_mode=()):
    """Return the test accuracy (0 to 1) for each batch size, with some modules in train mode."""
    _, X_test, _, y_test = load_data()
    accuracies = []
    for n in batch_sizes:
        copied = copy.deepcopy(model)  # as train mode changes the running averages
        for layer in copied:
            layer.train(isinstance(layer, in_train_mode))  # train(False) is eval()
        with torch.no_grad():
            outputs = torch.cat([copied(images.to(device)) for images in X_test.split(n)])
        accuracies.append((outputs.argmax(dim=1).cpu() == y_test).float().mean().item())
    return accuracies


def load_data():
    """Return 1347 images to train on and 450 to test on, (N, 64), and their digits (N,)."""
    X, y = load_digits(return_X_y=True)
    X, y = torch.from_numpy(X / 16).float(), torch.from_numpy(y)
    return train_test_split(X, y, random_state=0)


def draw(losses, resumed_losses, batch_sizes, accuracies, args):
    """Draw the losses of the trainings, and the accuracies by batch size; save the figure."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    epochs, halfway = range(1, args.epochs + 1), args.epochs // 2
    left.plot(epochs, losses, linewidth=4, alpha=0.5, label="uninterrupted")
    left.plot(epochs[halfway:], resumed_losses[None], "o--", label="resumed")
    left.plot(epochs[halfway:], resumed_losses["optim_state"], "s:", label="without optim_state")
    left.axvline(halfway, color="gray", linestyle=":", label="saved and loaded here")
    left.set(title="Resuming from a checkpoint", xlabel="epoch", ylabel="training loss")
    left.set(yscale="log")
    left.legend()
    for (name, values), style in zip(accuracies.items(), ("o-", "s--", "^:", "v-.")):
        right.plot(batch_sizes, values, style, label=name)
    right.set(title="Test accuracy", xlabel="batch size", ylabel="accuracy", xscale="log")
    right.set_xticks(batch_sizes, labels=batch_sizes)
    right.legend()
    figure.savefig(args.output_dir / "10_save_load.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="passes over the data")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--resume", type=Path, help="resume this training (ignores --lr)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 0 < args.lr <= 1000 or not 0 <= args.seed < 2**32:
        parser.error("--epochs must be at least 1, and 0 < --lr <= 1000, and 0 <= --seed < 2**32")
    return args


if __name__ == "__main__":
    main()
