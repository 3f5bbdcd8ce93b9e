"""10 · Saving and loading models

There are three calls: `torch.save(object, FILE)`, `torch.load(FILE)`, and
`model.load_state_dict(state_dict)`. The lazy way saves the whole model; the recommended way saves
its state dict, which holds its parameters and buffers (such as the running averages of batch norm)
by name. A checkpoint also saves the state of the training.

You will learn
    - how to save and load a whole model, a state dict, and a checkpoint, also across devices
    - why `torch.load` refuses whole models by default, and how that can stop a hostile file
    - what a checkpoint needs so that training resumes as if it had never stopped
    - what `model.eval()` changes

Run (add --show to open the figure in a window)
    python 10_save_load.py
    python 10_save_load.py --epochs 20 --resume outputs/10_save_load_training.pth

Use it later: in a new file, with class Model and its imports
    model = Model(n_input_features=6)
    model.load_state_dict(torch.load("outputs/10_save_load_state_dict.pth"))
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(5, 6)))

Changes from the video
    - `torch.load(FILE)` of a whole model needs `weights_only=False` since PyTorch 2.6 (see below).
    - The whole model and the state dict have a file each (video: model.pth for both). The three
      device transfers run if there is a GPU.

Try it (answers: docs/answers.md)
    - In "Checkpoint", load `checkpoint` instead of `checkpoint["model_state"]`; then undo that, and
      make the new `Model(n_input_features=5)`. What do the two errors say?
    - Remove the line with `torch.set_rng_state`. How large is the difference now, and why?
    - Save `{"accuracy": np.float64(0.9)}` and load it. What does the error say? What helps?

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
    """Run the lesson with these flags, or the command line's; return metrics for the tests."""
    args = parse_args(argv)
    if args.resume:
        return resume(args)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    print(f"10 Saving and loading models | device: {device} | data: digits, 1797 images")

    model = Model(n_input_features=6)

    # Save all (the lazy way). The file stores the name of class Model, not its code, so it cannot
    # be loaded after the class has been moved or renamed.
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
    # "state" is empty, as no step has been made. Later, it holds momentum, or Adam's averages.
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

    # Save on GPU or CPU. torch.load puts tensors on the device that they were saved from (an error
    # if that was a GPU and there is none), or on map_location. load_state_dict then copies them to
    # wherever the model is. "cuda" is the current GPU, "cuda:0" the first one, "cuda:1" the second.
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
        model.to("cuda")  # moves the model; its inputs must be there, too

        # 3) Save on CPU, load on GPU
        model.to("cpu")
        torch.save(model.state_dict(), FILE)
        model = Model(n_input_features=6)
        model.load_state_dict(torch.load(FILE, map_location="cuda:0"))
        model.to("cuda")

    # Beyond the video: all three ways bring back the same model, bit for bit
    whole_model = torch.load(args.output_dir / "10_save_load_model.pth", weights_only=False)
    whole_model_error = largest_difference(whole_model, model)
    state_dict_error = largest_difference(loaded_model, model)
    print(f"Checkpoint of epoch {epoch} and whole model: difference {whole_model_error}")
    print(f"Checkpoint of epoch {epoch} and state dict: difference {state_dict_error}")

    # Beyond the video: why torch.load refuses whole models today. torch.save writes a zip archive
    # with a pickle in it, Python's format for objects. A pickle names functions and classes to be
    # called when it is loaded, so a hostile file can run any code. By default, torch.load accepts
    # only names on a list: those of tensors, Python's numbers and containers, and a few more.
    # (Before PyTorch 2.10, this protection had a hole, CVE-2026-24747.)
    load_both_ways(whole_model, args)
    hostile_blocked = load_both_ways(Hostile(), args)

    # Beyond the video: training that is saved between two epochs, loaded into new objects, and
    # resumed ends where uninterrupted training ends, bit for bit. This holds on the CPU of the same
    # machine, with the same PyTorch version and number of threads.
    TRAINING_FILE = args.output_dir / "10_save_load_training.pth"
    uninterrupted, resumed = train_twice(args, TRAINING_FILE)
    resume_error = largest_difference(uninterrupted.model, resumed.model)
    print(f"Uninterrupted and resumed training: difference {resume_error}")

    # Beyond the video: what eval() changes (in class Model, nothing). In train mode, dropout sets
    # random values to 0 and scales up the others, and batch norm brings values to zero mean and
    # unit standard deviation over the batch: an image's result depends on the others (here, one
    # image alone is an error), most of all in small batches. In eval mode, dropout does nothing,
    # and batch norm uses running averages from training. (no_grad() is what turns gradients off.)
    batch_sizes = (2, 4, 8, 16, 450)
    with_eval = [test(resumed.model, n, train_mode=False) for n in batch_sizes]
    without_eval = [test(resumed.model, n, train_mode=True) for n in batch_sizes]
    for n, acc, acc_without in zip(batch_sizes, with_eval, without_eval):
        print(f"Test images in batches of {n}: {acc:.1%} with eval(), {acc_without:.1%} without")

    draw(uninterrupted, resumed, batch_sizes, with_eval, without_eval, args)
    print("Checkpoint for --resume:", TRAINING_FILE)
    print(f"Test accuracy: {with_eval[-1]:.1%} (digits)")
    print("Figure:", args.output_dir / "10_save_load.png")
    return {
        "whole_model_error": whole_model_error,
        "state_dict_error": state_dict_error,
        "hostile_blocked": float(hostile_blocked),
        "resume_error": resume_error,
        "eval_difference": with_eval[0] - without_eval[0],
        "accuracy": with_eval[-1],
    }


# Beyond the video
def largest_difference(model_a, model_b):
    """Return the largest absolute difference between their parameters and buffers."""
    a, b = model_a.state_dict(), model_b.state_dict()
    return max((a[name].cpu() - b[name].cpu()).abs().max().item() for name in a)


class Hostile:
    """An object whose file has a call of `print` in its place. It could be any function."""

    def __reduce__(self):  # pickle saves what this returns: a function, and its arguments
        return print, ("    This line was printed by a file. It could also have deleted yours.",)


def load_both_ways(thing, args):
    """Save an object, load it with and without protection; return whether it was refused."""
    file = args.output_dir / "10_save_load_trial.pth"
    torch.save(thing, file)
    try:
        torch.load(file)
        refused = False
    except pickle.UnpicklingError:
        refused = True
    print(f"torch.load refuses the file of a {type(thing).__name__}: {refused}")
    print("With weights_only=False, the file is loaded:")
    print("   ", torch.load(file, weights_only=False))  # None is what print returns
    file.unlink()
    return refused


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

    def save(self, file):
        """Save a checkpoint atomically.

        It is written to a temporary file, which then replaces `file`. If the process dies halfway,
        the old checkpoint is still there.
        """
        checkpoint = {
            "losses": self.losses,  # their number is the epoch
            "model_state": self.model.state_dict(),
            "optim_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(),
            # Where PyTorch's random number generators stand in their sequences: shuffling and
            # dropout draw from them. (Python's `random` and NumPy have generators of their own.)
            "rng_state": torch.get_rng_state(),
            "cuda_rng_state": torch.cuda.get_rng_state_all(),  # an empty list without CUDA
        }
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")  # one for each process
        torch.save(checkpoint, temporary)
        temporary.replace(file)

    def load(self, file):
        """Restore a checkpoint. A damaged file can raise almost any exception."""
        checkpoint = torch.load(file, map_location="cpu")  # RNG states must be on the CPU
        self.model.load_state_dict(checkpoint["model_state"])
        self.optimizer.load_state_dict(checkpoint["optim_state"])
        self.scheduler.load_state_dict(checkpoint["scheduler_state"])
        self.losses = checkpoint["losses"]
        torch.set_rng_state(checkpoint["rng_state"])
        n_gpus = torch.cuda.device_count()  # there may be fewer than where it was saved
        torch.cuda.set_rng_state_all(checkpoint["cuda_rng_state"][:n_gpus])


def train_twice(args, file):
    """Train once without interruption, and once stopped halfway and resumed from `file`.

    Return both trainings; `file` is a checkpoint of the finished one.
    """
    torch.manual_seed(args.seed)
    uninterrupted = Training(args.lr)
    uninterrupted.train_until(args.epochs)

    torch.manual_seed(args.seed)
    stopped = Training(args.lr)
    stopped.train_until(args.epochs // 2)
    stopped.save(file)

    resumed = Training(args.lr)  # as a new process would
    resumed.load(file)
    resumed.train_until(args.epochs)
    resumed.save(file)
    return uninterrupted, resumed


def resume(args):
    """Resume the training in the file of --resume, save it there, and return its accuracy."""
    training = Training(args.lr)
    try:
        training.load(args.resume)
    except Exception as error:  # PyTorch's message goes on to suggest weights_only=False: cut it
        sys.exit(f"Cannot resume from {args.resume}: {repr(error).partition('. ')[0]:.200}")
    epoch = len(training.losses)
    if epoch >= args.epochs:
        sys.exit(f"{args.resume} is already at epoch {epoch}: pass a larger --epochs.")
    training.train_until(args.epochs)
    training.save(args.resume)
    accuracy = test(training.model, 450, train_mode=False)
    print(f"Resumed after epoch {epoch}, test accuracy after epoch {args.epochs}: {accuracy:.1%}")
    return {"accuracy": accuracy}


def test(model, batch_size, train_mode):
    """Return the accuracy (0 to 1) on 450 test images."""
    model = copy.deepcopy(model)  # train mode would change its running averages
    model.train(train_mode)  # train(False) is eval()
    _, X_test, _, y_test = load_data()
    n_correct = 0
    with torch.no_grad():
        for images, labels in zip(X_test.split(batch_size), y_test.split(batch_size)):
            _, predicted = torch.max(model(images.to(device)), 1)
            n_correct += (predicted.cpu() == labels).sum().item()
    return n_correct / len(y_test)


def load_data():
    """Return 1347 images to train on and 450 to test on, (N, 64), and their digits (N,)."""
    X, y = load_digits(return_X_y=True)
    X, y = torch.from_numpy(X / 16).float(), torch.from_numpy(y)
    return train_test_split(X, y, random_state=0)


def draw(uninterrupted, resumed, batch_sizes, with_eval, without_eval, args):
    """Draw the losses of both trainings, and the accuracies by batch size; save the figure."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    epochs, halfway = range(1, args.epochs + 1), args.epochs // 2
    left.plot(epochs, uninterrupted.losses, linewidth=4, alpha=0.5, label="uninterrupted")
    left.plot(epochs[halfway:], resumed.losses[halfway:], "o--", label="resumed")
    left.axvline(halfway, color="gray", linestyle=":", label="saved and loaded here")
    left.set(title="Resuming from a checkpoint", xlabel="epoch", ylabel="training loss")
    left.set_yscale("log")
    left.legend()
    right.plot(batch_sizes, with_eval, "o-", label="with eval()")
    right.plot(batch_sizes, without_eval, "s--", label="without eval()")
    right.set(title="Test accuracy", xlabel="batch size", ylabel="accuracy", xscale="log")
    right.set_xticks(batch_sizes, labels=batch_sizes)
    right.legend()
    figure.savefig(args.output_dir / "10_save_load.png")
    if args.show:
        plt.show()


def parse_args(argv):
    """Parse `argv`, or the command line if it is None."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.description = __doc__.splitlines()[0]
    parser.add_argument("--epochs", type=int, default=10, help="passes over the data")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--resume", type=Path, help="resume this training (without --lr)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
