"""The built-in data sets: where each comes from, and how its files become tensors on the scale the networks expect.

Pixels are resident float32. Keskar et al. 2017 train on values / 255 and nothing else (keskarnitish/large-batch-training,
plot_parametric_plot.py), and so do we for MNIST, Fashion-MNIST and CIFAR; the residual networks standardise in addition.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from largebatch.core import Data, generator
from largebatch.tasks._cifar import CIFAR10_LAYOUT, CIFAR100_LAYOUT, CifarLayout, read_cifar
from largebatch.tasks._features import read_features
from largebatch.tasks._idx import read_images_and_labels
from largebatch.tasks._images import image_folders
from largebatch.tasks._sources import Source
from largebatch.tasks._text import read_text

TEXT_BLOCK_BYTES = 128
_TEXT_TEST_SHARE = 0.1
_DIGITS_TEST = 360  # a fifth of 1,797
_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images / 255; red, green, blue
_CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Split:
    """What a data set holds.

    Args:
        shape: keyword arguments of the networks that take the shape of their data from the data.
    """

    train: Data
    test: Data
    shape: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """A data set by name.

    Args:
        title: how a table calls it.
        source: where its files come from; None for what a dependency bundles.
        read: reads them from the folder that holds them; an empty path where there is none.
        train_size, test_size: number of samples; None where the user's file decides.
    """

    title: str
    source: Source | None
    read: Callable[[Path], Split]
    train_size: int | None = None
    test_size: int | None = None

    def load(self) -> Split:
        """Reads it, after a download where that is needed and possible.

        Raises:
            FileNotFoundError: the files are nowhere to be had.
            ValueError: a file is damaged or not what it should be.
        """
        return self.read(Path() if self.source is None else self.source.locate())


def read_digits(folder: Path) -> Split:
    """scikit-learn's 1,797 digits of 8 x 8, values / 16, split 1,437 to 360 by class: always the same split."""
    rows = _digits_rows()  # (n, 65)
    inputs = torch.tensor(rows[:, :-1] / 16, dtype=torch.float32)  # (n, 64)
    targets = torch.tensor(rows[:, -1], dtype=torch.int64)  # (n,)
    test = stratified_subset(targets, _DIGITS_TEST)
    train = torch.ones(len(targets), dtype=torch.bool)
    train[test] = False
    return Split((inputs[train], targets[train]), (inputs[test], targets[test]))


def _digits_rows() -> NDArray[np.float64]:
    """64 pixels, then the label. From scikit-learn's own file, as to import it takes 1.5 s, in every process."""
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else Path()
    if file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])


def stratified_subset(targets: Tensor, size: int) -> Tensor:
    """`size` positions, in rising order, drawn so that every class keeps its share to within one sample.

    Each sample stands at (its random rank within its class + 1/2) / size of the class; the lowest are taken.
    """
    order = torch.randperm(len(targets), generator=generator(0, "digits split"))
    place = torch.empty(len(targets), dtype=torch.float64)
    for label in targets.unique():
        members = order[targets[order] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return place.argsort(stable=True)[:size].sort().values


def read_mnist(folder: Path) -> Split:
    """The four IDX files of MNIST or of Fashion-MNIST; images (n, 1, 28, 28) in [0, 1]."""
    train_x, train_y, test_x, test_y = (_plain_or_gzipped(folder / name) for name in _MNIST_FILES)
    return Split(_small_images(train_x, train_y), _small_images(test_x, test_y))


def read_cifar10(folder: Path) -> Split:
    """Images (n, 3, 32, 32) in [0, 1]."""
    return _cifar(folder, CIFAR10_LAYOUT)


def read_cifar100(folder: Path) -> Split:
    """Images (n, 3, 32, 32) in [0, 1], and the fine labels."""
    return _cifar(folder, CIFAR100_LAYOUT)


def read_standardised_cifar10(folder: Path) -> Split:
    """Images (n, 3, 32, 32), each channel with mean 0 and standard deviation 1 over the training set."""
    (train_x, train_y), (test_x, test_y) = (_pixels(*part) for part in read_cifar(folder, CIFAR10_LAYOUT))
    mean, std = (torch.tensor(values)[:, None, None] for values in (_CIFAR10_MEAN, _CIFAR10_STD))
    return Split((train_x.sub_(mean).div_(std), train_y), (test_x.sub_(mean).div_(std), test_y))


def read_timit(folder: Path) -> Split:
    """Features (n, d) float32 and labels from `timit.npz`."""
    train, test = read_features(folder / "timit.npz")
    classes = 1 + int(max(train[1].max(), test[1].max()))
    return Split(train, test, {"features": train[0].shape[1], "classes": classes})


def read_imagenet(folder: Path) -> Split:
    """Image folders; images (3, 224, 224) are decoded when they are wanted."""
    train, val = image_folders(folder)
    return Split(train, val, {"classes": len(train.classes)})


def read_own_text(folder: Path) -> Split:
    """Blocks of bytes (n, 128) int64 from `input.txt`."""
    train, test = read_text(folder / "input.txt", TEXT_BLOCK_BYTES, _TEXT_TEST_SHARE)
    return Split(train, test)


def _small_images(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    pixels, targets = read_images_and_labels(images, labels, classes=10)
    if pixels.shape[1:] != (28, 28):
        raise ValueError(f"{images}: expected images of 28 x 28 pixels, got {pixels.shape[1:]}: fetch it again")
    return _pixels(pixels[:, None], targets)


def _plain_or_gzipped(gzipped: Path) -> Path:
    return gzipped if gzipped.exists() else gzipped.with_suffix("")


def _cifar(folder: Path, layout: CifarLayout) -> Split:
    train, test = read_cifar(folder, layout)
    return Split(_pixels(*train), _pixels(*test))


def _pixels(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Images as float32 in [0, 1], labels as int64."""
    return torch.from_numpy(images.astype(np.float32)).div_(255), torch.from_numpy(labels.astype(np.int64))


_MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_UNPACKED_MNIST_FILES = tuple(name.removesuffix(".gz") for name in _MNIST_FILES)
_CIFAR10_SOURCE = Source(
    name="cifar10",
    files={CIFAR10_LAYOUT.archive: "c32a1d4ab5d03f1284b67883e8d87530"},
    url="https://www.cs.toronto.edu/~kriz/",
    unpacked=(CIFAR10_LAYOUT.folder,),
)

DIGITS = DataSet("digits (scikit-learn)", None, read_digits, 1_797 - _DIGITS_TEST, _DIGITS_TEST)
MNIST = DataSet(
    "MNIST",
    Source(
        name="mnist",
        files={
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        unpacked=_UNPACKED_MNIST_FILES,
    ),
    read_mnist,
    60_000,
    10_000,
)
FASHION_MNIST = DataSet(
    "Fashion-MNIST",
    Source(
        name="fashion-mnist",
        files={
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        package="dataset-fashion-mnist",
        package_folder=Path("/usr/share/datasets/fashion-mnist"),  # `dpkg -L dataset-fashion-mnist`
        unpacked=_UNPACKED_MNIST_FILES,
    ),
    read_mnist,
    60_000,
    10_000,
)
CIFAR10 = DataSet("CIFAR-10", _CIFAR10_SOURCE, read_cifar10, 50_000, 10_000)
STANDARDISED_CIFAR10 = DataSet("CIFAR-10, standardised", _CIFAR10_SOURCE, read_standardised_cifar10, 50_000, 10_000)
CIFAR100 = DataSet(
    "CIFAR-100",
    Source(
        name="cifar100",
        files={CIFAR100_LAYOUT.archive: "03b5dce01913d631647c71ecec9e9cb8"},
        url="https://www.cs.toronto.edu/~kriz/",
        unpacked=(CIFAR100_LAYOUT.folder,),
    ),
    read_cifar100,
    50_000,
    10_000,
)
TIMIT = DataSet("TIMIT features, your own", Source("timit", {"timit.npz": None}), read_timit)
IMAGENET = DataSet("ImageNet folders, your own", Source("imagenet", {"train": None, "val": None}), read_imagenet)
TEXT = DataSet("a text file, your own", Source("text", {"input.txt": None}), read_own_text)
