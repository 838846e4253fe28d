"""Built-in tasks: each name goes through its real reader to a model that trains on what was read."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from torch import Tensor

from largebatch.core import data_size, weigh
from largebatch.tasks import _datasets as datasets
from largebatch.tasks import available, find, get
from largebatch.tasks._datasets import stratified_subset
from tasks.tiny_files import (
    cifar10_members,
    cifar100_members,
    idx_bytes,
    write_images,
    write_mnist,
    write_tar,
    write_timit,
)

NAMES = [
    "digits/mlp",
    "fashion-mnist/f1",
    "fashion-mnist/c1",
    "mnist/f1",
    "mnist/c1",
    "cifar10/c1",
    "cifar10/c2",
    "cifar100/c3",
    "cifar100/c4",
    "cifar10/resnet20",
    "timit/f2",
    "imagenet/resnet50",
    "text/gpt",
]
SIZES = {
    "digits": (1437, 360),
    "cifar10": (35, 10),
    "cifar100": (40, 3),
    "timit": (50, 20),
    "imagenet": (4, 4),
    "text": (9, 1),
}
FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data home, on a machine without a network."""

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network in this test")

    monkeypatch.setenv("LARGEBATCH_DATA", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", unreachable)
    return tmp_path


@pytest.fixture
def filled(home: Path) -> Path:
    """A data home with a tiny file of each kind."""
    for name in ("mnist", "fashion-mnist"):
        write_mnist(home / name)
    write_tar(home / "cifar10" / "cifar-10-binary.tar.gz", cifar10_members())
    write_tar(home / "cifar100" / "cifar-100-binary.tar.gz", cifar100_members())
    write_timit(home / "timit" / "timit.npz")
    write_images(home / "imagenet")
    (home / "text").mkdir()
    (home / "text" / "input.txt").write_bytes(b"to be or not to be, " * 65)
    return home


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("filled")
def test_every_built_in_task_gives_a_loss_per_example(name: str) -> None:
    task = get(name)
    assert task.name == name
    assert (data_size(task.train), data_size(task.test)) == SIZES.get(name.split("/", maxsplit=1)[0], (40, 20))
    if isinstance(task.train, tuple):
        inputs, targets = (tensor[:3] for tensor in task.train)
    else:
        pairs = [task.train[i] for i in range(3)]
        inputs, targets = torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])
    assert targets.dtype == torch.int64
    outputs = task.model()(inputs)
    values, _ = weigh(task.loss(outputs, targets), len(inputs))
    assert bool(values.isfinite().all())
    for metric in task.metrics.values():
        assert metric(outputs, targets).shape == (3,)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("filled")
def test_every_built_in_task_has_a_recipe_that_scales(name: str) -> None:
    task = get(name)
    assert task.recipe is not None
    assert task.recipe.at(8 * task.recipe.global_batch_size).global_batch_size == 8 * task.recipe.global_batch_size
    assert ("accuracy" in task.metrics) == (name != "text/gpt")


@pytest.mark.usefixtures("filled")
def test_imagenets_recipe_is_goyals() -> None:
    recipe = get("imagenet/resnet50").recipe
    assert recipe is not None
    assert (recipe.global_batch_size, recipe.lr, recipe.momentum, recipe.nesterov) == (256, 0.1, 0.9, True)
    assert (recipe.weight_decay, recipe.ghost_batch_size) == (1e-4, 32)
    assert (str(recipe.duration), str(recipe.schedule)) == ("90ep", "step(30ep,60ep,80ep)")


def test_the_table_lists_every_task_without_reading_any(home: Path) -> None:
    started = time.perf_counter()
    rows = available()
    assert time.perf_counter() - started < 0.1
    assert [row.name for row in rows] == NAMES
    absent = {row.name: row.where for row in rows if not row.present}
    assert absent["mnist/f1"] == (
        f"put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
        f"t10k-labels-idx1-ubyte.gz into {home}/mnist (LARGEBATCH_DATA sets the folder above it); "
        "or connect to the network: they are downloaded at first use"
    )
    assert absent["timit/f2"] == f"put timit.npz into {home}/timit (LARGEBATCH_DATA sets the folder above it)"
    digits = rows[0]
    assert (digits.present, digits.where) == (True, "bundled with scikit-learn")
    assert (digits.train_size, digits.test_size) == (1437, 360)


def test_the_table_tells_where_present_data_are(filled: Path) -> None:
    rows = {row.name: row for row in available()}
    assert all(row.present for row in rows.values())
    assert rows["cifar100/c4"].where == str(filled / "cifar100")


def test_missing_data_are_one_message(home: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"the mnist data are not on this machine: .*\(ConnectionError: no network"
    ):
        get("mnist/f1")
    with pytest.raises(FileNotFoundError, match=r"expected train, val; tried .*/imagenet; put train, val into"):
        get("imagenet/resnet50")


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(
        ValueError, match=r"unknown task 'fashion/f1', did you mean 'fashion-mnist/f1'\?: expected one of"
    ):
        get("fashion/f1")
    with pytest.raises(ValueError, match=r"unknown task 'x': expected one of .* path/to/file\.py:name"):
        find("x")


def test_find_knows_the_built_in_names() -> None:
    assert find("digits/mlp").name == "digits/mlp"


def test_mnist_may_be_unzipped(home: Path) -> None:
    write_mnist(home / "mnist", gzipped=False)
    inputs, targets = _train("mnist/f1")
    assert inputs.shape == (40, 1, 28, 28)
    assert targets.tolist() == [i % 10 for i in range(40)]


@pytest.mark.usefixtures("filled")
def test_pixels_are_divided_by_255() -> None:
    inputs, _ = _train("mnist/c1")
    torch.testing.assert_close(inputs[:, 0, 3, 3], torch.arange(40) / 255)
    torch.testing.assert_close(_train("cifar10/c1")[0][4, :, 1, 1], torch.tensor([4, 100, 200]) / 255)


@pytest.mark.usefixtures("filled")
def test_resnet20_sees_standardised_pixels() -> None:
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    expected = (torch.tensor([4, 100, 200]) / 255 - mean) / std
    torch.testing.assert_close(_train("cifar10/resnet20")[0][4, :, 1, 1], expected)


def test_images_of_another_size_are_refused(home: Path) -> None:
    write_mnist(home / "mnist")
    (home / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(idx_bytes(np.zeros((40, 14, 14), dtype=np.uint8)))
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte\.gz: expected images of 28 x 28 pixels, got \(14, 14\)"
    ):
        get("mnist/f1")


def test_digits_are_split_by_class_without_overlap_or_loss() -> None:
    split = datasets.DIGITS.load()
    assert isinstance(split.train, tuple)
    assert isinstance(split.test, tuple)
    counts, test_counts = torch.bincount(torch.cat([split.train[1], split.test[1]])), torch.bincount(split.test[1])
    assert int(counts.sum()) == 1797
    assert bool(((test_counts - counts * 360 / 1797).abs() < 1).all())
    from sklearn.datasets import load_digits

    pixels = torch.tensor(load_digits(return_X_y=True)[0], dtype=torch.float32) / 16
    together = torch.cat([split.train[0], split.test[0]])
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, pixels.tolist()))


def test_digits_are_the_same_where_their_file_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    from_file = datasets.read_digits(Path())
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    from_package = datasets.read_digits(Path())
    for split in ("train", "test"):
        for one, other in zip(getattr(from_file, split), getattr(from_package, split), strict=True):
            assert torch.equal(one, other)


def test_reading_digits_imports_no_scikit_learn() -> None:
    code = "import sys; from largebatch import tasks; tasks.get('digits/mlp').train; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_digits_split_never_changes() -> None:
    # published figures depend on it: a change of torch's generator or of ours must be seen
    labels = torch.tensor([i % 10 for i in range(1797)])
    assert stratified_subset(labels, 360)[:6].tolist() == [2, 8, 9, 10, 17, 19]


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
@pytest.mark.usefixtures("home")
def test_the_real_fashion_mnist_is_read_from_the_debian_package() -> None:
    started = time.perf_counter()
    task = get("fashion-mnist/f1")
    seconds = time.perf_counter() - started
    assert seconds < 4, f"{seconds:.1f} s"  # 0.6 s on two idle cores
    assert isinstance(task.train, tuple)
    assert isinstance(task.test, tuple)
    assert torch.bincount(task.train[1]).tolist() == [6000] * 10
    assert torch.bincount(task.test[1]).tolist() == [1000] * 10
    assert task.train[0].shape == (60_000, 1, 28, 28)
    assert (float(task.train[0].min()), float(task.train[0].max())) == (0, 1)
    # published mean and standard deviation of the training pixels
    assert float(task.train[0].mean()) == pytest.approx(0.2860, abs=1e-4)
    assert float(task.train[0].std()) == pytest.approx(0.3530, abs=1e-4)


def _train(name: str) -> tuple[Tensor, Tensor]:
    data = get(name).train
    assert isinstance(data, tuple)
    return data
