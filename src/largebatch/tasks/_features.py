"""Features and labels in one `.npz` file: the layout in which a licensed set such as TIMIT is brought along.

Arrays: `train_x` (n, features) floating point, `train_y` (n,) integers from 0, `test_x`, `test_y` likewise. Keskar et
al. 2017 (arXiv 1609.04836) train F2 on 360 features per frame of TIMIT. Read with `allow_pickle=False`.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NAMES = ("train_x", "train_y", "test_x", "test_y")
_LAYOUT = "train_x and test_x (n, features) float, train_y and test_y (n,) integer"


def read_features(path: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The training and the test set.

    Returns:
        (features (n, d) float32, labels (n,) int64) for train and for test.

    Raises:
        ValueError: not an `.npz` file, or arrays that are missing or do not fit together; lists every mistake.
        FileNotFoundError: no such file.
    """
    arrays, mistakes = _arrays(path)
    if not mistakes:
        mistakes = [
            *_mistakes_of_split("train", arrays),
            *_mistakes_of_split("test", arrays),
            *_disagreements(arrays["train_x"], arrays["test_x"]),
        ]
    if mistakes:
        raise ValueError(f"{path}: expected {_LAYOUT}; got: {'; '.join(mistakes)}")
    tensors = {
        name: torch.from_numpy(arrays[name].astype(np.float32 if name[-1] == "x" else np.int64)) for name in _NAMES
    }
    return (tensors["train_x"], tensors["train_y"]), (tensors["test_x"], tensors["test_y"])


def _arrays(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays that could be read, and what went wrong with the others."""
    arrays: dict[str, NDArray[Any]] = {}
    mistakes: list[str] = []
    with path.open("rb") as file:
        archive = _opened(path, file)
        for name in _NAMES:
            try:
                arrays[name] = archive[name]
            except KeyError:
                mistakes.append(f"{name} is missing")
            except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                mistakes.append(f"{name} cannot be read ({error})")
    return arrays, mistakes


def _opened(path: Path, file: BinaryIO) -> Mapping[str, NDArray[Any]]:
    try:
        archive = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected an .npz file written by numpy.savez, got: {error}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: expected an .npz file written by numpy.savez, got a single .npy array")
    return archive


def _mistakes_of_split(split: str, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
    mistakes: list[str] = []
    if x.ndim != 2 or x.dtype.kind != "f":
        mistakes.append(f"{split}_x is {x.dtype} {x.shape}")
    elif not np.isfinite(x).all():
        mistakes.append(f"{split}_x has NaN or infinite values")
    if y.ndim != 1 or y.dtype.kind not in "iu":
        mistakes.append(f"{split}_y is {y.dtype} {y.shape}")
    elif len(y) and y.min() < 0:
        mistakes.append(f"{split}_y has a negative label, {y.min()}")
    if x.shape[:1] != y.shape[:1] or not x.size:
        mistakes.append(f"{split}_x has {len(np.atleast_1d(x))} rows and {split}_y {len(np.atleast_1d(y))}")
    return mistakes


def _disagreements(train: NDArray[Any], test: NDArray[Any]) -> list[str]:
    if train.shape[1:] == test.shape[1:]:
        return []
    return [f"train_x has {train.shape[1:]} features and test_x {test.shape[1:]}"]
