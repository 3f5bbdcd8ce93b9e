"""The promises that all lessons keep, held against every lesson there is."""

import ast
import contextlib
import inspect
import io
import math
import os
import random
import re
import sys

import benchmark
import matplotlib
import numpy as np
import pytest
import torch
from conftest import LESSONS, ROOT, folder_args, load_lesson, tiny_args

PNG = b"\x89PNG\r\n\x1a\n"
ALLOWED = {"torch", "torchvision", "numpy", "matplotlib", "sklearn", "PIL"}

# The metric in each lesson's result line, where it is not simply "accuracy".
HEADLINES = {
    "01": "loss",
    "04": "box_error",
    "05": "accuracy_logits",
    "06": "accuracy_relu",
    "08": "accuracy_finetuned",
}

each_lesson = pytest.mark.parametrize("name", LESSONS)


def run_tiny(name, folder, *more):
    """Run a lesson's main on tiny data and return its metrics."""
    lesson = load_lesson(name.removesuffix(".py"))
    return lesson.main([*tiny_args(lesson), *folder_args(lesson, folder), *more])


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """Run each lesson once; give its metrics, the lines it printed and its output folder."""
    runs = {}

    def run(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp("tiny") / "not" / "there yet"
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                metrics = run_tiny(name, folder, "--seed", "3")
            runs[name] = metrics, printed.getvalue().splitlines(), folder
        return runs[name]

    return run


def without_times(metrics):
    """Leave out what no seed can fix."""
    return {k: v for k, v in metrics.items() if "seconds" not in k and k != "log_dir"}


@each_lesson
def test_import_has_no_side_effect(name, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
    )
    backend, threads = matplotlib.get_backend(), torch.get_num_threads()
    before = sorted(ROOT.iterdir())
    source = (ROOT / name).read_text(encoding="utf-8")
    exec(compile(source, name, "exec"), {"__name__": "imported", "__file__": str(ROOT / name)})
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state
    assert (matplotlib.get_backend(), torch.get_num_threads()) == (backend, threads)
    assert sorted(ROOT.iterdir()) == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@each_lesson
def test_help_shows_every_default(name, capsys):
    lesson = load_lesson(name.removesuffix(".py"))
    with pytest.raises(SystemExit) as stop:
        lesson.parse_args(["--help"])
    assert stop.value.code == 0
    text = "".join(capsys.readouterr().out.split())  # argparse wraps lines where it likes
    for flag, default in vars(lesson.parse_args([])).items():
        assert f"--{flag.replace('_', '-')}" in text
        assert f"(default:{''.join(str(default).split())})" in text, flag


@each_lesson
def test_main_returns_flat_metrics_and_draws_where_told(name, tiny_run):
    metrics, lines, folder = tiny_run(name)
    title = load_lesson(name[:3]).__doc__.splitlines()[0]  # "07 · A network on CIFAR-10"
    head = title.replace(" · ", " ").partition(" on ")[0]  # the head names the dataset in use
    assert re.fullmatch(rf"{head} \| device: (cpu|cuda) \| data: .*\d+.*", lines[0])
    for key, value in metrics.items():
        assert isinstance(key, str)
        if key in ("dataset", "log_dir"):
            assert isinstance(value, str)
        else:
            assert isinstance(value, int | float) and math.isfinite(value), key
    figure = folder / name.replace(".py", ".png")
    assert figure.read_bytes().startswith(PNG)
    for path in folder.rglob("*"):
        assert path.suffix != ".part"
        if path.is_file() and path.parent == folder:
            assert str(path) in "\n".join(lines), f"{path} was written but not named"
    result = lines[lines.index(f"Figure: {figure}") - 1]
    assert re.match(benchmark.RESULT, result) and re.search(r"\(.+\)$", result)  # (the dataset)


@each_lesson
def test_benchmark_reads_what_main_returns(name, tiny_run):
    metrics, lines, _ = tiny_run(name)
    device, data = benchmark.read_head(lines[0])
    assert device in ("cpu", "cuda") and metrics.get("dataset", "") in data
    metric, value, unit = benchmark.read_result("\n".join(lines))
    key = HEADLINES.get(name[:2], "accuracy")
    exact = 100 * metrics[key] if unit == "%" else metrics[key]
    assert value == pytest.approx(exact, abs=0.051), metric


@each_lesson
def test_same_seed_same_metrics_and_no_window_without_a_screen(name, tiny_run, tmp_path):
    metrics = run_tiny(name, tmp_path, "--seed", "3", "--show")
    assert without_times(metrics) == without_times(tiny_run(name)[0])


@each_lesson
def test_runs_as_a_script_from_another_folder(name, script_runs):
    result, folder = script_runs[name].result()
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert (folder / "outputs" / name.replace(".py", ".png")).exists()
    assert set(path.name for path in folder.parent.iterdir()) == {"leçon one"}


BAD = [
    ("epochs", "0"),
    ("epochs", "-1"),
    ("epochs", "1.5"),
    ("batch_size", "0"),
    ("limit", "0"),
    ("limit", "-3"),
    ("limit", "many"),
    ("lr", "0"),
    ("lr", "-0.1"),
    ("lr", "nan"),
    ("lr", "inf"),
    ("seed", "-1"),
    ("seed", "4294967296"),
    ("num_workers", "-1"),
    ("dataset", "imagenet"),
    ("no_such_flag", "1"),
]


@each_lesson
def test_bad_arguments_exit_2(name, capsys, tmp_path):
    lesson = load_lesson(name.removesuffix(".py"))
    flags = vars(lesson.parse_args([]))
    tried = 0
    for flag, value in BAD:
        if flag not in flags and flag != "no_such_flag":
            continue
        with pytest.raises(SystemExit) as stop:
            lesson.main([f"--{flag.replace('_', '-')}={value}", *folder_args(lesson, tmp_path)])
        assert stop.value.code == 2, (flag, value)
        assert capsys.readouterr().err.startswith("usage: ")
        tried += 1
    assert tried >= 3
    assert list(tmp_path.iterdir()) == []


@each_lesson
@pytest.mark.parametrize("below", [False, True])
def test_output_folder_that_cannot_be_written_exits_1(name, below, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    folder = blocked / "outputs" if below else blocked
    with pytest.raises(SystemExit) as stop:
        run_tiny(name, folder)
    message = stop.value.code  # Python prints a string to stderr and exits with 1
    assert isinstance(message, str) and "\n" not in message
    assert str(folder) in message and "--output-dir" in message
    assert blocked.read_text(encoding="utf-8") == "in the way"


@each_lesson
def test_figure_is_written_whole_or_not_at_all(name, tmp_path):
    """A disk that fills up while the figure is written must not cost the figure before."""

    class FullDisk:
        def savefig(self, path, **settings):
            path.write_bytes(PNG)
            raise OSError(28, os.strerror(28))

    lesson = load_lesson(name.removesuffix(".py"))
    target = tmp_path / "figure.png"
    target.write_bytes(b"the figure before")
    with pytest.raises(SystemExit) as stop:
        lesson.save_figure(FullDisk(), target, show=False)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert target.read_bytes() == b"the figure before"


@each_lesson
def test_notebook_arguments_are_not_read(name, monkeypatch):
    """Neither as Jupyter starts a kernel, nor as VS Code does; %run in a notebook has its own."""
    lesson = load_lesson(name.removesuffix(".py"))
    monkeypatch.setitem(sys.modules, "ipykernel", pytest)
    for arguments in (["-f", "kernel-1.json", "--more"], ["--f=/home/me/kernel-v3.json"]):
        monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", *arguments])
        assert lesson.parse_args().show is True
    monkeypatch.setattr(sys, "argv", [name, "--seed", "5"])
    args = lesson.parse_args()
    assert args.show is False and args.seed == 5
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys, "argv", [name, "--output-dir", "a.json"])
    assert lesson.parse_args().output_dir.name == "a.json"


@each_lesson
def test_imports_only_what_it_may(name):
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            top = module.partition(".")[0]
            assert top in ALLOWED or top in sys.stdlib_module_names, module
            assert not (ROOT / f"{top}.py").exists() and top != "tests", module


@pytest.mark.parametrize("function", ["save_figure", "make_output_dir", "ask_host"])
def test_what_lessons_share_they_say_in_the_same_words(function):
    """Each lesson holds its own copy, so that it can be copied alone."""
    versions = {}
    for name in LESSONS:
        lesson = load_lesson(name[:3])
        if hasattr(lesson, function):
            versions[name] = inspect.getsource(getattr(lesson, function))
    if function == "make_output_dir":  # lesson 09 has two folders to choose
        ours = versions["09_tensorboard_mnist.py"]
        ours = ours.replace(', flag: str = "--output-dir"', "").replace("{flag}", "--output-dir")
        versions["09_tensorboard_mnist.py"] = ours
    assert len(versions) >= 3 and len(set(versions.values())) == 1, versions


def test_a_flag_means_the_same_in_every_lesson():
    """The same type and the same words in the help; only a default is a lesson's own."""
    versions = {}
    for name in LESSONS:
        source = inspect.getsource(load_lesson(name[:3]).parse_args)
        for flag, settings in re.findall(r'^ +add\("--([a-z-]+)", (.*)\)$', source, re.MULTILINE):
            settings = re.sub(r"default=[\d.]+, ", "", settings)
            settings = settings.replace(" of each part", "")  # lesson 01 has only one
            versions.setdefault(flag, set()).add(settings)
    assert len(versions.pop("dataset")) == 3  # each has a choice of its own
    assert len(versions) == 11 and all(len(found) == 1 for found in versions.values()), versions


@each_lesson
def test_ends_with_main_guard(name):
    source = (ROOT / name).read_text(encoding="utf-8")
    assert source.endswith('\n\nif __name__ == "__main__":\n    main()\n')
