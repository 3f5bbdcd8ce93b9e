"""Run the variants of the lessons that docs/answers.md quotes, and print how their output ends.

    python docs/variants.py           # all, about half an hour on two CPU cores
    python docs/variants.py 02 07     # only those of these lessons

A variant is a lesson with other flags, or with changes of its source. A change is a pair (old text,
new text); the old text must be in the lesson exactly once. If it is run with several seeds, the
result is printed as mean ± standard deviation.
"""

import shutil
import tempfile
from pathlib import Path

from update import LESSONS, average, data_flags, parse_args, read_result, run

LAST_LINES = 160  # of a variant's output are printed
# Lesson 07: is the ConvNet dead? The fraction of numbers above 0 after conv2, for all test images,
# and the largest gradient of each parameter
LOOK_INSIDE = """    images, labels = next(iter(DataLoader(test_loader.dataset, 450)))
    features = F.relu(model.conv2(model.pool(F.relu(model.conv1(images)))))
    print("alive:", (features > 0).float().mean().item())
    optimizer.zero_grad()
    criterion(model(images), labels).backward()
    for name, parameter in model.named_parameters():
        print(name, parameter.grad.abs().max().item())
    print_table("""
# Lesson 08: the accuracies of the last epoch instead of the best
LAST = [("{name: max(values)", "{name: values[-1]")]
SCRATCH_LR = "len(class_names), num_epochs, learning_rate)\n"

# Of each lesson: flags, changes, number of seeds
VARIANTS = {
    "01": [
        ("--lr 0.01", [], 1),
        ("--lr 0.01 --epochs 500", [], 1),
        ("--lr 0.9", [], 1),
        ("--lr 1", [], 1),
        ("", [("    y = y.view(y.shape[0], 1)", "    # y.view(y.shape[0], 1)")], 1),
    ],
    "02": [
        ("--lr 0.01 --epochs 1000", [], 1),
        (
            "",
            [
                ("    X_train = sc.fit_transform(X_train)", "    # sc.fit_transform(X_train)"),
                ("    X_test = sc.transform(X_test)", "    # sc.transform(X_test)"),
            ],
            1,
        ),
        (
            "",
            [
                ("sc.fit_transform(X_train)", "X_train / X.max()"),
                ("sc.transform(X_test)", "X_test / X.max()"),
            ],
            1,
        ),
        ("", [("careful = 0.9\n", "careful = 0.99\n")], 1),
    ],
    "03": [
        ("--num-workers 2", [], 1),
        ("--lr 5", [], 1),
        ("", [("batch_size=4, shuffle=True", "batch_size=4, shuffle=False")], 1),
    ],
    "04": [
        ("--seed 1", [], 1),
        (
            "",
            [
                (
                    "v2.ToDtype(torch.float32, scale=True),  # 0..255",
                    "v2.ToDtype(torch.float32),  # 0..255",
                )
            ],
            1,
        ),
        (
            "",
            [
                ("v2.Resize(256),  #", "v2.CenterCrop(224),  #"),
                ("v2.CenterCrop(224),  # as", "v2.Resize(256),  # as"),
            ],
            1,
        ),
    ],
    "05": [
        ("--epochs 2000", [], 5),
        (
            "",
            [("    x = torch.tensor([2.0, 1.0, 0.1])", "    x = torch.tensor([1.0, 1.0, 1.0])")],
            1,
        ),
        ("", [("model(X_test).view(-1) > 0", "model(X_test).view(-1) > 0.5")], 1),
    ],
    "06": [
        ("--epochs 3000", [], 5),
        ("", [("for i in range(9):", "for i in range(19):")], 1),
        ("", [("train(nn.ReLU(), data", "train(nn.Tanh(), data")], 5),
        ("--epochs 3000", [("train(nn.ReLU(), data", "train(nn.Tanh(), data")], 5),
    ],
    "07": [
        ("--dataset digits", [("nn.Linear(16 * 5 * 5, 120)", "nn.Linear(16 * 6 * 6, 120)")], 1),
        (
            "--dataset digits",
            [
                ("nn.Linear(16 * 5 * 5, 120)", "nn.Linear(16 * 6 * 6, 120)"),
                ("x.view(-1, 16 * 5 * 5)", "x.view(-1, 16 * 6 * 6)"),
            ],
            1,
        ),
        ("--dataset digits --lr 0.2", [("    print_table(", LOOK_INSIDE)], 1),
        ("--dataset digits --lr 0.2 --seed 1", [("    print_table(", LOOK_INSIDE)], 1),
        ("--dataset digits --lr 0.2 --seed 2", [("    print_table(", LOOK_INSIDE)], 1),
        ("", [("    print_table(", "    print(matrix)\n    print_table(")], 1),
    ],
    "08": [
        ("", LAST, 5),
        ("--epochs 25", [], 5),
        ("--epochs 25", LAST, 5),
        ("", [("                keep_frozen_batch_norm(model)", "                pass")], 5),
        ("", [(SCRATCH_LR, "len(class_names), num_epochs, 0.0003)\n")], 5),
        ("", [(SCRATCH_LR, "len(class_names), num_epochs, 0.003)\n")], 5),
        ("", [(SCRATCH_LR, "len(class_names), num_epochs, 0.01)\n")], 5),
    ],
    "09": [("--lr 0.03", [], 3), ("--epochs 20", [], 1), ("", [], 1)],
    "10": [
        (
            "",
            [
                (
                    '\n    model.load_state_dict(checkpoint["model_state"])',
                    "\n    model.load_state_dict(checkpoint)",
                )
            ],
            1,
        ),
        (
            "",
            [
                (
                    "    model = Model(n_input_features=6)\n    optimizer",
                    "    model = Model(n_input_features=5)\n    optimizer",
                )
            ],
            1,
        ),
        ("", [("torch.set_rng_state(", "id(")], 1),
        ("", [('"epoch": 90,', '"epoch": __import__("numpy").float64(90),')], 1),
    ],
}


def edit(source: str, changes: list[tuple[str, str]]) -> str:
    """Return the source of a lesson with each old text replaced by the new one."""
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{source.count(old)} times in the lesson, not once: {old!r}")
        source = source.replace(old, new)
    return source


def run_variant(number: str, flags: list[str], changes: list, n_seeds: int) -> None:
    """Run a variant with its seeds; print how the first output ends, and the average result."""
    outputs = []
    for seed in range(n_seeds):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copy(LESSONS[number], folder))
            copy.write_text(edit(copy.read_text("utf-8"), changes), "utf-8")
            # The last flag counts, so that a variant may name another seed or dataset
            outputs.append(run(copy, ["--seed", str(seed), *flags], Path(folder)))
    print("...", *outputs[0].splitlines()[-LAST_LINES:], sep="\n")
    if n_seeds > 1:
        print(f"\n{n_seeds} seeds:", average([read_result(output)[0] for output in outputs]))


def main() -> None:
    """Run the variants of the lessons that were asked for."""
    args = parse_args()
    for number in args.lessons:
        for flags, changes, n_seeds in VARIANTS.get(number, []):
            print(f"\n## python {LESSONS[number].name} {flags}".rstrip())
            for old, new in changes:
                print(f"{old!r} -> {new!r}")
            all_flags = [*data_flags(number, args.data_dir), *flags.split()]
            run_variant(number, all_flags, changes, n_seeds)


if __name__ == "__main__":
    main()
