"""IDX files: the format of MNIST and Fashion-MNIST.

Format (LeCun, Cortes and Burges, "The MNIST database", section "The IDX file format"): two zero bytes, a type code
(0x08 = unsigned byte, the only one these sets use), the number of dimensions, one big-endian uint32 size per dimension,
then the values in C order and nothing else. Plain or gzipped; which one is read off the first two bytes.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


def read_images_and_labels(images: Path, labels: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A pair of IDX files that belong together.

    Returns:
        images (n, height, width) and labels (n,), uint8.

    Raises:
        ValueError: one of the files is malformed, their sizes differ, or a label is not below `classes`.
    """
    pixels, targets = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if len(pixels) != len(targets):
        raise ValueError(
            f"{images}: expected as many images as there are labels in {labels.name}, got {len(pixels)} images and "
            f"{len(targets)} labels: take both files from the same data set"
        )
    if len(targets) and targets.max() >= classes:
        raise ValueError(
            f"{labels}: expected labels 0 to {classes - 1}, got {targets.max()}: take the file of this data set"
        )
    return pixels, targets


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes.

    Args:
        dimensions: the number of axes expected, 3 for images and 1 for labels.

    Raises:
        ValueError: any disagreement between the header and what follows; names the file and the field.
        FileNotFoundError: no such file.
    """
    content = _decompressed(path)
    if len(content) < 4:
        raise _malformed(path, "header", "at least 4 bytes", f"{len(content)}")
    zeros, type_code, axes = struct.unpack(">HBB", content[:4])
    if zeros != 0:
        raise _malformed(path, "magic", "two zero bytes", f"0x{zeros:04x}")
    if type_code != _UNSIGNED_BYTE:
        raise _malformed(path, "type code", "0x08 (unsigned byte)", f"0x{type_code:02x}")
    if axes != dimensions:
        raise _malformed(path, "number of dimensions", f"{dimensions}", f"{axes}")
    start = 4 + 4 * axes
    if len(content) < start:
        raise _malformed(path, "dimension sizes", f"a header of {start} bytes", f"{len(content)} bytes in all")
    shape = struct.unpack(f">{axes}I", content[4:start])
    # Python's integers: three sizes of 2^32 - 1 would overflow numpy's product
    count = 1
    for size in shape:
        count *= size
    if len(content) - start != count:
        raise _malformed(
            path, "values", f"{count} bytes for the sizes {shape} in the header", f"{len(content) - start}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _decompressed(path: Path) -> bytes:
    """The file's bytes, un-gzipped to the end, so that gzip's own checksum and length are verified."""
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise _malformed(path, "gzip stream", "an intact one", str(error)) from error


def _malformed(path: Path, field: str, expected: str, got: str) -> ValueError:
    return ValueError(
        f"{path}: {field}: expected {expected}, got {got}: not an intact IDX file of this data set, fetch it again"
    )
