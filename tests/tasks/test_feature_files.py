"""`.npz` features: every mistake of a file is reported, and all of them together."""

from pathlib import Path

import numpy as np
import pytest
import torch

from largebatch.tasks._features import read_features
from tasks.tiny_files import write_timit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "timit.npz"


def test_features_become_float32_and_labels_int64(file: Path) -> None:
    write_timit(file)
    (train_x, train_y), (test_x, test_y) = read_features(file)
    assert (train_x.shape, test_x.shape) == ((50, 6), (20, 6))
    assert {train_x.dtype, test_x.dtype} == {torch.float32}
    assert {train_y.dtype, test_y.dtype} == {torch.int64}
    assert torch.equal(train_y, torch.arange(50) % 5)


def test_all_missing_arrays_are_listed(file: Path) -> None:
    write_timit(file, train_y=None, test_x=None)
    with pytest.raises(ValueError, match=r"timit\.npz: expected .*; got: train_y is missing; test_x is missing$"):
        read_features(file)


def test_all_mistakes_are_listed_together(file: Path) -> None:
    infinite = np.full((20, 4), np.inf)
    write_timit(file, train_x=np.zeros((49, 6), dtype=np.int64), train_y=np.arange(50) - 3, test_x=infinite)
    with pytest.raises(ValueError, match="timit") as caught:
        read_features(file)
    assert str(caught.value).split("got: ")[1].split("; ") == [
        "train_x is int64 (49, 6)",
        "train_y has a negative label, -3",
        "train_x has 49 rows and train_y 50",
        "test_x has NaN or infinite values",
        "train_x has (6,) features and test_x (4,)",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_y": np.zeros(50)}, r"train_y is float64 \(50,\)"),
        ({"test_y": np.zeros((20, 1), dtype=int)}, r"test_y is int64 \(20, 1\)"),
        ({"train_x": np.float64(3)}, r"train_x is float64 \(\)"),
        ({"train_x": np.zeros((0, 6)), "train_y": np.zeros(0, dtype=int)}, "train_x has 0 rows and train_y 0"),
        ({"test_y": np.array([{}] * 20)}, r"test_y cannot be read \(Object arrays cannot be loaded"),
    ],
)
def test_a_mistake_names_its_array(file: Path, changes: dict[str, np.ndarray], message: str) -> None:
    write_timit(file, **changes)
    with pytest.raises(ValueError, match=message):
        read_features(file)


def test_other_files_are_refused(file: Path) -> None:
    for content in (b"", b"no archive", b"PK\x03\x04 and no more"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"timit\.npz: expected an \.npz file written by numpy\.savez, got: "):
            read_features(file)
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match=r"got a single \.npy array"):
        read_features(file)
    write_timit(file)
    content = bytearray(file.read_bytes())
    content[200] ^= 1  # within train_x, so the zip's checksum disagrees
    file.write_bytes(content)
    with pytest.raises(ValueError, match="train_x cannot be read"):
        read_features(file)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        read_features(file.with_name("elsewhere.npz"))
