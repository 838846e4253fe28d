"""CIFAR-10 and CIFAR-100 from their *binary* archives: fixed-size records, so nothing is unpickled.

Format (Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version"): CIFAR-10 has records of 1 label byte
and 3,072 pixel bytes, red then green then blue, each 32 rows of 32; CIFAR-100 has a coarse and a fine label byte before
the pixels, and the fine one is the target. The archive's members are read by their exact names and never extracted; an
archive unpacked by hand does as well.
"""

import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PIXEL_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class CifarLayout:
    """Which files make up one of the two sets, and how their records look."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int  # the last of them is the target
    classes: int


CIFAR10_LAYOUT = CifarLayout(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    label_bytes=1,
    classes=10,
)
CIFAR100_LAYOUT = CifarLayout(
    archive="cifar-100-binary.tar.gz",
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    label_bytes=2,
    classes=100,
)

Images = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def read_cifar(folder: Path, layout: CifarLayout) -> tuple[Images, Images]:
    """The training and the test set.

    Args:
        folder: holds the archive, or the folder that unpacking it makes.

    Returns:
        (images (n, 3, 32, 32), labels (n,)) for train and for test, uint8.

    Raises:
        ValueError: the archive is damaged, a file is missing in it, a size is not a whole number of records, or a
            label is out of range; names the file.
    """
    names = (*layout.train, *layout.test)
    if (folder / layout.folder).is_dir():
        contents = _unpacked(folder / layout.folder, names)
    else:
        contents = _members(folder / layout.archive, layout.folder, names)
    return _join(contents, layout.train, layout), _join(contents, layout.test, layout)


def _unpacked(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: expected {', '.join(names)}; missing: {', '.join(missing)}: unpack it again")
    return {name: (folder / name).read_bytes() for name in names}


def _members(archive: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """The wanted members, in one pass: looking each one up by name would decompress the archive six times."""
    wanted = {f"{folder}/{name}": name for name in names}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isreg() and member.name in wanted else None
                if stream is not None:
                    contents[wanted[member.name]] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive}: expected an intact .tar.gz, got: {error}: fetch it again") from error
    missing = [name for name in wanted if wanted[name] not in contents]
    if missing:
        raise ValueError(
            f"{archive}: expected the members {', '.join(wanted)}; missing: {', '.join(missing)}: "
            "take the binary version of the data set"
        )
    return contents


def _join(contents: dict[str, bytes], names: Sequence[str], layout: CifarLayout) -> Images:
    """The records of several files, in the order of the names."""
    record_bytes = layout.label_bytes + _PIXEL_BYTES
    for name in names:
        if not contents[name] or len(contents[name]) % record_bytes:
            raise ValueError(
                f"{layout.folder}/{name}: expected a whole number of records of {record_bytes} bytes, got "
                f"{len(contents[name])} bytes: fetch the archive again"
            )
    joined = b"".join(contents[name] for name in names)
    records = np.frombuffer(joined, dtype=np.uint8).reshape(-1, record_bytes)
    labels = records[:, layout.label_bytes - 1]
    if labels.max() >= layout.classes:
        raise ValueError(
            f"{layout.folder}: expected labels 0 to {layout.classes - 1}, got {labels.max()} in {', '.join(names)}: "
            "take the archive of this data set"
        )
    return records[:, layout.label_bytes :].reshape(-1, 3, 32, 32), labels
