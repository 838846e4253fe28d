"""IDX files: what is intact is read, and nothing else ever is."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from largebatch.tasks._idx import read_idx, read_images_and_labels
from tasks.tiny_files import idx_bytes

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "some-idx-file"


def _array(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return (np.arange(math.prod(shape)) * 37 % 256).astype(np.uint8).reshape(shape)


@given(shape=shapes, gzipped=st.booleans())
def test_an_intact_file_is_read_plain_or_gzipped(file: Path, shape: tuple[int, ...], gzipped: bool) -> None:
    content = idx_bytes(_array(shape))
    file.write_bytes(gzip.compress(content) if gzipped else content)
    np.testing.assert_array_equal(read_idx(file, len(shape)), _array(shape))


@given(shape=shapes, data=st.data())
def test_no_flipped_bit_in_the_header_passes(file: Path, shape: tuple[int, ...], data: st.DataObject) -> None:
    content = bytearray(idx_bytes(_array(shape)))
    bit = data.draw(st.integers(0, 8 * (4 + 4 * len(shape)) - 1))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"some-idx-file: [a-z ]+: expected .*, got .*: not an intact IDX file"):
        read_idx(file, len(shape))


@given(shape=shapes, data=st.data())
def test_no_truncated_or_extended_file_passes(file: Path, shape: tuple[int, ...], data: st.DataObject) -> None:
    content = idx_bytes(_array(shape))
    size = data.draw(st.integers(0, len(content) - 1))
    for damaged in (content[:size], content + bytes(size + 1), gzip.compress(content)[: size + 5]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="not an intact IDX file"):
            read_idx(file, len(shape))


@given(shape=shapes, data=st.data())
def test_a_flipped_bit_in_a_gzip_file_never_changes_what_is_read(
    file: Path, shape: tuple[int, ...], data: st.DataObject
) -> None:
    content = bytearray(gzip.compress(idx_bytes(_array(shape)), mtime=0))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    try:
        array = read_idx(file, len(shape))
    except ValueError:
        return
    np.testing.assert_array_equal(array, _array(shape))  # gzip's time stamp and system byte carry no data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08", "header: expected at least 4 bytes, got 3"),
        (b"\0\1\x08\1" + bytes(4), "magic: expected two zero bytes, got 0x0001"),
        (b"\0\0\x0d\1" + bytes(4), r"type code: expected 0x08 \(unsigned byte\), got 0x0d"),
        (b"\0\0\x08\3" + bytes(12), "number of dimensions: expected 1, got 3"),
        (b"\0\0\x08\1\0\0", "dimension sizes: expected a header of 8 bytes, got 6 bytes in all"),
        (b"\0\0\x08\1\0\0\0\2\7", r"values: expected 2 bytes for the sizes \(2,\) in the header, got 1"),
        (b"\x1f\x8b" + bytes(20), "gzip stream: expected an intact one, got"),
    ],
)
def test_each_mistake_names_its_field(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"some-idx-file: {message}"):
        read_idx(file, dimensions=1)


def test_sizes_whose_product_overflows_are_refused(file: Path) -> None:
    file.write_bytes(b"\0\0\x08\3" + b"\xff" * 12)
    with pytest.raises(ValueError, match=f"expected {(2**32 - 1) ** 3} bytes"):
        read_idx(file, dimensions=3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere", dimensions=1)


def test_images_and_labels_must_belong_together(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx_bytes(_array((3, 2, 2))))
    labels.write_bytes(idx_bytes(np.array([1, 2], dtype=np.uint8)))
    with pytest.raises(ValueError, match="as many images as there are labels in labels, got 3 images and 2 labels"):
        read_images_and_labels(images, labels, classes=10)
    labels.write_bytes(idx_bytes(np.array([1, 2, 10], dtype=np.uint8)))
    with pytest.raises(ValueError, match="labels: expected labels 0 to 9, got 10"):
        read_images_and_labels(images, labels, classes=10)
