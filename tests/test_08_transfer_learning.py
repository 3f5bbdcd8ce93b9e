"""Lesson 08: frozen means frozen, the best weights stay, and no half dataset is ever used."""

import io
import threading
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.models import resnet18

SETTINGS = {"lr": 0.01, "batch_size": 5, "epochs": 2}


@pytest.fixture(scope="module")
def lesson08(lesson):
    return lesson("08_")


@pytest.fixture(scope="module")
def task(lesson08):
    """Give ten training and twenty validation images of the digits 5-9, and random weights."""
    torch.manual_seed(0)
    task = lesson08.draw_images(lesson08.load_digits_task(), 20)
    train = Subset(task.train, range(10))
    return task._replace(train=train, train_plain=train, pretrained=resnet18(num_classes=7))


@pytest.fixture(scope="module")
def weights_file(lesson08, tmp_path_factory):
    """Write weights as they lie in torch's hub cache, and return the file."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("torch_home") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / lesson08.WEIGHTS.url.rpartition("/")[2]
    torch.save(resnet18().state_dict(), path)
    return path


@pytest.fixture
def with_weights(weights_file, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(weights_file.parents[2]))


@pytest.fixture
def without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


def write_photos(data_dir, classes=("ants", "bees"), n=2):
    """Write n small photos of each class, for training and for validation, in their layout."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in classes:
            folder = data_dir / "hymenoptera_data" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return data_dir


@pytest.fixture
def archive(tmp_path):
    """Return hymenoptera_data.zip as bytes: files stored as they are, below one folder."""
    root = write_photos(tmp_path / "packed")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for path in sorted(root.rglob("*.jpg")):
            file.write(path, path.relative_to(root))
    return packed.getvalue()


def arguments(data_dir, tmp_path, *more):
    folders = ["--data-dir", str(data_dir), "--output-dir", str(tmp_path / "out")]
    return [*folders, "--epochs", "1", "--limit", "6", *more]


def one_line(stop):
    """Return the message of an exit with status 1."""
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


def backbone(model):
    """Return all weights and buffers but the head's."""
    return {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("fc.")}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_head_has_an_output_for_each_class(lesson08, task, n_classes):
    before = task.pretrained.state_dict()["fc.weight"].clone()
    model = lesson08.replace_head(task.pretrained, n_classes)
    assert model(torch.zeros(2, 3, 32, 32).to(lesson08.DEVICE)).shape == (2, n_classes)
    assert torch.equal(task.pretrained.state_dict()["fc.weight"], before)  # it was a copy


def test_running_averages_follow_within_six_steps(lesson08):
    """Else a network from random weights would be judged by averages of its first moments."""
    torch.manual_seed(0)
    model = lesson08.make_untrained(5)
    images = torch.rand(10, 3, 32, 32).to(lesson08.DEVICE)
    with torch.no_grad():
        for _ in range(6):
            model(images)
        expected = model.conv1(images).mean(dim=(0, 2, 3))
    torch.testing.assert_close(model.bn1.running_mean, expected, rtol=0.02, atol=1e-6)
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert len(norms) == 20 and len({layer.momentum for layer in norms}) == 1


def test_frozen_means_frozen(lesson08, task):
    before = backbone(task.pretrained)
    model, history = lesson08.train_head(task, **SETTINGS)
    after = backbone(model)
    assert before.keys() == after.keys() and any("running_var" in key for key in after)
    assert all(torch.equal(before[key], after[key].cpu()) for key in before)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 5 * 513
    outputs, targets = lesson08.predict(model, task.val)  # the head is back, and it has learned
    accuracy = (outputs.argmax(dim=1) == targets).float().mean().item()
    assert accuracy == pytest.approx(max(history))


def test_fine_tuning_changes_every_layer(lesson08, task):
    before = backbone(task.pretrained)
    model, history = lesson08.finetune(task, **SETTINGS)
    after = backbone(model)
    same = [key for key in before if torch.equal(before[key], after[key].cpu())]
    assert same == [] and len(history) == 2
    assert all(torch.equal(before[key], value) for key, value in backbone(task.pretrained).items())


def test_cached_features_are_the_full_network_s_and_cost_one_pass(lesson08, task, monkeypatch):
    given, images_seen = {}, 0

    def record(head, train_set, val_set, *settings, **label):
        given.update(head=head, train=train_set.tensors, val=val_set.tensors)
        return train(head, train_set, val_set, *settings, **label)

    def count(module, inputs):
        nonlocal images_seen
        images_seen += len(inputs[0])

    train = lesson08.train
    monkeypatch.setattr(lesson08, "train", record)
    hook = task.pretrained.conv1.register_forward_pre_hook(count)  # copied with the network
    model, _ = lesson08.train_head(task, **SETTINGS | {"epochs": 5})
    hook.remove()
    assert images_seen == len(task.train) + len(task.val)

    model.eval()
    for part, dataset in (("train", task.train_plain), ("val", task.val)):
        features, targets = given[part]
        images = torch.stack([image for image, _ in dataset]).to(lesson08.DEVICE)
        assert targets.tolist() == [int(target) for _, target in dataset]
        with torch.no_grad():
            logits = model(images)  # the network as a whole
            of_features = given["head"](features.to(lesson08.DEVICE))
        torch.testing.assert_close(of_features, logits)


def test_best_weights_are_kept_and_the_schedule_steps_once_an_epoch(lesson08, task, monkeypatch):
    """Validation accuracy is made up, so that the second epoch of four is the best."""
    rates, weights = [], []

    class WatchedSGD(torch.optim.SGD):
        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    def made_up(model, dataset):
        weights.append(model.weight.detach().clone())
        n_right = [1, 3, 2, 2][len(weights) - 1]
        return torch.eye(4), torch.where(torch.arange(4) < n_right, torch.arange(4), 9)

    monkeypatch.setattr(torch.optim, "SGD", WatchedSGD)
    monkeypatch.setattr(lesson08, "predict", made_up)
    dataset = TensorDataset(torch.rand(6, 3), torch.arange(6) % 4)
    model = torch.nn.Linear(3, 4).to(lesson08.DEVICE)
    history = lesson08.train(model, dataset, dataset, 0.1, 3, 4, "test")
    assert history == pytest.approx([0.25, 0.75, 0.5, 0.5])
    assert torch.equal(model.weight, weights[1]) and not torch.equal(weights[1], weights[3])
    assert rates == pytest.approx(4 * [0.1] + 4 * [0.01])  # two steps an epoch, tenfold less


@pytest.mark.parametrize("n", [1, 3, 7])
def test_any_number_of_images_trains(lesson08, n):
    """A batch of four leaves a short one over, or there are too few for even one."""
    dataset = TensorDataset(torch.rand(n, 3), torch.arange(n) % 2)
    model = torch.nn.Linear(3, 2).to(lesson08.DEVICE)
    before = model.weight.detach().clone()
    assert len(lesson08.train(model, dataset, dataset, 0.1, 4, 1, "test")) == 1
    assert not torch.equal(model.weight, before)


def test_predict_is_in_eval_mode_and_in_order(lesson08, task):
    model = resnet18(num_classes=5).to(lesson08.DEVICE).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    outputs, targets = lesson08.predict(model, task.val)
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert outputs.shape == (20, 5) and targets.tolist() == [int(y) for _, y in task.val]


def test_digits_task_holds_two_of_each_and_no_digit_twice(lesson08):
    task = lesson08.load_digits_task()
    images, targets = task.train.tensors
    assert targets.bincount().tolist() == 5 * [2] and images.shape == (10, 3, 32, 32)
    X, y = lesson08.load_digits_as_images()
    assert len(task.val) == (y >= 5).sum() - 10
    found = {image.numpy().tobytes() for image in images}
    assert not found & {image.numpy().tobytes() for image, _ in task.val}


def test_eight_views_are_eight_classes_of_each_digit(lesson08):
    X, y = torch.rand(3, 3, 4, 4), torch.tensor([0, 4, 4])
    images, targets = lesson08.make_eight_views(X, y).tensors
    assert images.shape == (24, 3, 4, 4)
    assert sorted(targets.tolist()) == sorted(
        5 * i + digit for i in range(8) for digit in (0, 4, 4)
    )
    assert torch.equal(images[:3], X) and targets[:3].tolist() == [0, 4, 4]
    assert len({image.numpy().tobytes() for image in images}) == 24  # no view twice


def test_transfer_helps_on_the_digits(lesson08):
    torch.manual_seed(0)
    task = lesson08.load_digits_task()
    val = Subset(task.val, range(0, 886, 6))
    task = task._replace(val=val, pretrained=lesson08.pretrain_on_digits(150))
    settings = {"lr": 0.01, "batch_size": 16, "epochs": 4}
    _, scratch = lesson08.train_from_scratch(task, **settings)
    for way in (lesson08.finetune, lesson08.train_head):
        assert max(way(task, **settings)[1]) > max(scratch) + 0.1


def test_own_photos_with_cached_weights_and_no_network(
    lesson08, with_weights, weights_file, fake_web, tmp_path, capsys
):
    """Three classes, a text file beside the photos: class names come from the folders."""
    data_dir = write_photos(tmp_path / "data", ("cats", "dogs", "owls"))
    readme = data_dir / "hymenoptera_data" / "train" / "cats" / "notes.txt"
    readme.write_text("no photo", encoding="utf-8")
    task, notice = lesson08.load_task("hymenoptera", data_dir)
    assert notice == "" and task.classes == ["cats", "dogs", "owls"] and len(task.train) == 6
    stored = torch.load(weights_file)
    assert all(torch.equal(stored[k], v) for k, v in task.pretrained.state_dict().items())

    metrics = lesson08.main(arguments(data_dir, tmp_path))
    assert (metrics["dataset"], metrics["n_train"], metrics["n_val"]) == ("hymenoptera", 6, 6)
    assert metrics["trained_frozen"] == 3 * 513
    assert metrics["trained_finetuned"] == metrics["trained_scratch"] == 11_176_512 + 3 * 513
    for way in ("finetuned", "frozen", "scratch"):
        assert 0 <= metrics[f"accuracy_{way}"] <= 1 and metrics[f"seconds_{way}"] > 0
    assert "1,539 of 11,178,051" in capsys.readouterr().out


def test_training_photos_vary_and_validation_photos_do_not(lesson08, tmp_path):
    task = lesson08.load_photos(write_photos(tmp_path / "data"), None)
    plain, val = task.train_plain[0][0], task.val[0][0]
    assert plain.shape == val.shape == task.train[0][0].shape == (3, 224, 224)
    assert torch.equal(plain, task.train_plain[0][0]) and torch.equal(val, task.val[0][0])
    assert not torch.equal(task.train[0][0], task.train[0][0])
    photo = lesson08.open_photo(task.train_plain.samples[0][0])
    assert torch.equal(plain, lesson08.WEIGHTS.transforms()(photo))
    means = [part[0][0].mean().item() for part in (task.train, task.train_plain)]
    assert means[0] == pytest.approx(means[1], abs=0.2)  # scaled and normalized alike


def test_downloads_and_unpacks_in_one_step(lesson08, with_weights, fake_web, archive, tmp_path):
    fake_web[lesson08.URL] = archive
    data_dir = tmp_path / "data"
    task, notice = lesson08.load_task("auto", data_dir)
    assert (task.name, notice) == ("hymenoptera", "") and len(task.train) == len(task.val) == 4
    assert [path.name for path in data_dir.iterdir()] == ["hymenoptera_data"]
    fake_web.clear()  # the second time nothing is fetched
    assert len(lesson08.load_task("auto", data_dir)[0].train) == 4


@pytest.mark.parametrize(
    "fault", ["offline", "cut off", "damaged", "no weights", "half weights", "other weights"]
)
def test_without_photos_or_weights_it_says_so_and_takes_the_digits(
    lesson08, without_weights, weights_file, fake_web, archive, fault, tmp_path
):
    data_dir, checkpoints = tmp_path / "data", tmp_path / "torch_home" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    pages = {
        "offline": {},
        "cut off": {lesson08.URL: archive[: len(archive) // 2]},
        "damaged": {lesson08.URL: archive.replace(b"\xff\xda", b"\xff\xdb", 1)},
        "no weights": {lesson08.URL: archive},
        "half weights": {lesson08.URL: archive},
        "other weights": {lesson08.URL: archive},
    }
    fake_web.update(pages[fault])
    if fault == "half weights":
        (checkpoints / weights_file.name).write_bytes(weights_file.read_bytes()[:5000])
    if fault == "other weights":  # an error page, saved under the name of the weights
        (checkpoints / weights_file.name).write_text("<html>not found</html>", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        lesson08.main(arguments(data_dir, tmp_path, "--dataset", "hymenoptera"))
    message = one_line(stop)
    for name in (str(data_dir), lesson08.URL, str(checkpoints), lesson08.WEIGHTS.url):
        assert name in message
    assert list((tmp_path / "out").iterdir()) == []
    left = [path.name for path in data_dir.iterdir()] if data_dir.exists() else []
    assert left == (["hymenoptera_data"] if "weights" in fault else [])

    task, notice = lesson08.load_task("auto", data_dir)
    assert task.name == "digits" and "digits" in notice and "\n" not in notice


def test_offline_the_whole_lesson_runs_on_the_digits(
    lesson08, without_weights, fake_web, tmp_path, capsys
):
    metrics = lesson08.main(arguments(tmp_path / "data", tmp_path))
    assert metrics["dataset"] == "digits"
    loud = [line for line in capsys.readouterr().out.splitlines() if line.startswith("***")]
    assert len(loud) == 1 and "digits" in loud[0]


def test_an_interrupted_unpacking_leaves_nothing(
    lesson08, fake_web, archive, tmp_path, monkeypatch
):
    def interrupted(self, path):
        self.extract(self.namelist()[0], path)
        raise KeyboardInterrupt

    fake_web[lesson08.URL] = archive
    monkeypatch.setattr(zipfile.ZipFile, "extractall", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lesson08.fetch_photos(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def empty_class(root):
    for path in (root / "train" / "bees").iterdir():
        path.unlink()


def other_class(root):
    (root / "val" / "bees").rename(root / "val" / "wasps")


def no_val(root):
    (root / "val").rename(root / "validation")


def not_a_photo(root):
    (root / "train" / "bees" / "0.jpg").write_text("no photo", encoding="utf-8")


def half_a_photo(root):
    photo = root / "val" / "ants" / "1.jpg"
    photo.write_bytes(photo.read_bytes()[:600])


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (empty_class, "bees"),
        (other_class, "wasps"),
        (no_val, "val"),
        (not_a_photo, "0.jpg"),
        (half_a_photo, "1.jpg"),
    ],
)
@pytest.mark.parametrize("dataset", ["auto", "hymenoptera"])
def test_photos_that_cannot_be_used_are_named(
    lesson08, with_weights, fake_web, tmp_path, fault, told, dataset
):
    """A folder is there, so the user means it: never the digits in its place."""
    data_dir = write_photos(tmp_path / "data")
    root = data_dir / "hymenoptera_data"
    fault(root)
    before = sorted(root.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        lesson08.main(arguments(data_dir, tmp_path, "--dataset", dataset))
    message = one_line(stop)
    assert str(root) in message and told in message
    assert sorted(root.rglob("*")) == before
    assert list((tmp_path / "out").iterdir()) == []


def test_a_host_that_never_answers_is_given_up(lesson08, monkeypatch):
    never = threading.Event()

    def urlopen(*args, **kwargs):
        never.wait(30)
        raise OSError("too late")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(OSError, match="no answer"):
        lesson08.ask_host("https://example.org", seconds=0.2)
    never.set()
    assert lesson08.ask_host.__defaults__[0] <= 15
