"""10 · Saving and loading models

Three calls and two approaches. The calls: `torch.save(object, FILE)`, `torch.load(FILE)`, and
`model.load_state_dict(state_dict)`. The lazy approach saves the whole model; the recommended one
saves its state dict: its parameters and buffers by name. A checkpoint saves training state.

You will learn
    - to save and load a whole model, a state dict, and a checkpoint, also across devices
    - why `torch.load` refuses whole models by default, and how that stops a hostile file
    - what `model.eval()` changes
    - what a checkpoint needs so that training can go on as if it had never stopped

Run
    python 10_save_load.py
    python 10_save_load.py --epochs 20 --resume outputs/10_save_load_checkpoint.pt

Since the video
    - Since PyTorch 2.6, `torch.load` has `weights_only=True` by default: it loads tensors and plain
      containers, but not arbitrary objects, because a pickle can run code when it is loaded.
    - A second checkpoint also stores the scheduler and the state of the random number generators.

Try it
    - Add `momentum=0.9`, `answer.sum().backward()`, and `optimizer.step()`. What is its state?
    - Remove the line with `torch.set_rng_state`. By how much do the parameters differ now?
    - Remove `.eval()` from `training.model.eval()(X_test)`. How does the accuracy change, and why?

Video
    https://www.youtube.com/watch?v=c36lUUr864M&t=15425s (about 4:17:05)
"""

import argparse
import os
import pickle
import sys
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
            epoch = Training(args.lr).load(args.resume)
        except Exception as error:  # a damaged file can raise almost anything
            sys.exit(f"Cannot resume from {args.resume}: {error!r:.300}")
        if epoch >= args.epochs:
            sys.exit(f"{args.resume} is already at epoch {epoch}: --epochs must be larger.")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    print(f"10 Saving and loading models | device: {device} | data: digits, 1797 images")

    model = Model(n_input_features=6)
    x = torch.randn(5, 6)  # to compare the models' outputs
    answer = model(x)

    # Save all (the lazy way): a pickle, tied to this script and its classes
    print(list(model.parameters()))
    FILE = args.output_dir / "10_save_load_model.pth"
    torch.save(model, FILE)
    # weights_only=False runs any code that the file contains: fine for a file that we have just
    # written, unsafe for files from others.
    loaded_model = torch.load(FILE, weights_only=False)
    loaded_model.eval()
    print(list(loaded_model.parameters()))
    whole_model_error = (loaded_model(x) - answer).abs().max().item()

    # Save only the state dict (the recommended way)
    torch.save(model.state_dict(), FILE)
    print(model.state_dict())
    loaded_model = Model(n_input_features=6)
    loaded_model.load_state_dict(torch.load(FILE))
    loaded_model.eval()
    print(loaded_model.state_dict())
    state_dict_error = (loaded_model(x) - answer).abs().max().item()

    # Checkpoint: epoch, model, and optimizer, to resume training
    learning_rate = 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    checkpoint = {
        "epoch": 90,
        "model_state": model.state_dict(),
        "optim_state": optimizer.state_dict(),
    }
    print(optimizer.state_dict())
    torch.save(checkpoint, FILE)
    model = Model(n_input_features=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    checkpoint = torch.load(FILE)
    model.load_state_dict(checkpoint["model_state"])
    optimizer.load_state_dict(checkpoint["optim_state"])
    epoch = checkpoint["epoch"]
    model.eval()  # to predict; model.train() to go on training
    print(epoch, optimizer.state_dict())  # the learning rate is 0.01 again

    # Devices
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
        print("on the GPU:", model(x.to("cuda")))  # the inputs must be there, too
    else:
        print("CUDA is not available: skipped GPU to CPU, GPU to GPU, and CPU to GPU")
    # Save on any device, load on the CPU
    torch.save(model.state_dict(), FILE)
    model = Model(n_input_features=6)
    model.load_state_dict(torch.load(FILE, map_location="cpu"))
    print("on the CPU:", model(x))

    # Beyond the video: a pickle can run code when it is loaded. This hostile file would only create
    # a folder, but torch.load refuses it.
    folder = args.output_dir / "made by a hostile file"
    torch.save(Hostile(folder), FILE)
    try:
        torch.load(FILE)
    except pickle.UnpicklingError:
        print("The hostile file was refused. Did it make a folder?", folder.exists())
    # For the same reason, it refuses whole models, unless we name the classes that we trust
    torch.save(model, FILE)
    try:
        torch.load(FILE)
    except pickle.UnpicklingError as error:
        print("The whole model was refused:", str(error).partition(".")[0])
    with torch.serialization.safe_globals([Model, nn.Linear]):
        print("With safe_globals:", torch.load(FILE))

    # Beyond the video: a state dict fits only its own architecture
    try:
        Model(n_input_features=7).load_state_dict(model.state_dict())
    except RuntimeError as error:
        print("Wrong architecture:", error)

    # Beyond the video: a reliable checkpoint. Training that is saved halfway, loaded into new
    # objects, and resumed ends where uninterrupted training ends, bit for bit (on the CPU of the
    # same machine, with the same number of threads).
    X, y = load_digits(return_X_y=True)
    X, y = torch.from_numpy(X / 16).float(), torch.from_numpy(y)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    dataset = TensorDataset(X_train[: args.limit], y_train[: args.limit])
    X_test, y_test = X_test[: args.limit].to(device), y_test[: args.limit].to(device)
    FILE = args.output_dir / "10_save_load_checkpoint.pt"
    torch.manual_seed(args.seed)
    training = Training(args.lr)
    if args.resume:
        training.load(args.resume)
    halfway = (len(training.losses) + args.epochs) // 2
    training.train(dataset, halfway)
    training.save(FILE)
    training.train(dataset, args.epochs)
    resumed = Training(args.lr)
    resumed.load(FILE)
    resumed.train(dataset, args.epochs)
    resumed.save(FILE)
    pairs = zip(training.model.parameters(), resumed.model.parameters())
    resume_error = max((a - b).abs().max().item() for a, b in pairs)
    print(f"Uninterrupted or resumed: the parameters differ by {resume_error:g}")

    # Beyond the video: eval() turns dropout off and makes batch norm use its running averages
    with torch.no_grad():
        outputs = training.model.eval()(X_test)
        eval_difference = (training.model.train()(X_test) - outputs).abs().max().item()
    accuracy = (outputs.argmax(dim=1) == y_test).float().mean().item()
    print(f"Without eval(), the logits differ by up to {eval_difference:.2f}")

    epochs = range(1, args.epochs + 1)
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    ax.plot(epochs, training.losses, linewidth=6, alpha=0.5, label="uninterrupted")
    ax.plot(epochs[halfway:], resumed.losses[halfway:], "o--", markersize=4, label="resumed")
    ax.axvline(halfway + 0.5, color="gray", linestyle=":", label="saved and loaded here")
    ax.set(title="Interrupted or not", xlabel="epoch", ylabel="loss of the last training batch")
    ax.legend()
    figure.savefig(args.output_dir / "10_save_load.png")
    if args.show:
        plt.show()
    plt.close(figure)

    print(f"Test accuracy: {accuracy:.1%} (digits)")
    print("Figure:", args.output_dir / "10_save_load.png")
    print("Model and checkpoint:", args.output_dir / "10_save_load_model.pth", FILE)
    errors = {"whole_model_error": whole_model_error, "state_dict_error": state_dict_error}
    metrics = {"eval_difference": eval_difference, "hostile_blocked": float(not folder.exists())}
    return {**errors, **metrics, "resume_error": resume_error, "accuracy": accuracy}


# Beyond the video
class Hostile(str):
    """A path whose pickle creates a folder when it is loaded. It could just as well delete one."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self),)  # what to call, and with which arguments


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
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.scheduler.step()
            self.losses.append(loss.item())  # of the last batch

    def save(self, path: Path) -> None:
        """Save a checkpoint atomically.

        It is written to a temporary file, which then replaces `path`: if the process is killed,
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
        checkpoint = torch.load(path, map_location="cpu")  # RNG states must be on it
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
    parser.add_argument("--resume", type=Path, help="checkpoint to resume from")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="output folder")
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.limit < 32 or not 0 < args.lr < float("inf"):
        parser.error("--epochs must be at least 1, --limit 32, and --lr finite and above 0")
    return args


if __name__ == "__main__":
    main()
