"""Writes tiny files in the real formats, byte by byte from the specifications, sharing no code with the readers."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CIFAR10_TRAIN = [f"data_batch_{i}.bin" for i in (1, 2, 3, 4, 5)]


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.tobytes()


def write_mnist(folder: Path, *, train: int = 40, test: int = 20, gzipped: bool = True) -> None:
    """The four files of a small MNIST: image i is filled with the value i, its label is i modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", train), ("t10k", test)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, 28, 28)).copy()
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            name = f"{part}-{kind}-ubyte{'.gz' if gzipped else ''}"
            (folder / name).write_bytes(gzip.compress(content) if gzipped else content)


def cifar_records(labels: list[int], *, coarse: bool = False) -> bytes:
    """One record per label; red is the label, green 100, blue 200, and the first pixel of each plane is 255."""
    records: list[bytes] = []
    for label in labels:
        planes = b"".join(b"\xff" + bytes([value]) * 1023 for value in (label, 100, 200))
        records.append((bytes([label // 5]) if coarse else b"") + bytes([label]) + planes)
    return b"".join(records)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def cifar10_members() -> dict[str, bytes]:
    """Seven training records in each of five files: labels 0, 1, 2, ... run through them in order; ten test records."""
    files = {
        name: cifar_records([(7 * position + i) % 10 for i in range(7)]) for position, name in enumerate(CIFAR10_TRAIN)
    }
    files["test_batch.bin"] = cifar_records(list(range(10)))
    return {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}


def cifar100_members() -> dict[str, bytes]:
    return {
        "cifar-100-binary/train.bin": cifar_records(list(range(40, 80)), coarse=True),
        "cifar-100-binary/test.bin": cifar_records([99, 0, 7], coarse=True),
    }


def write_images(root: Path, *, classes: tuple[str, ...] = ("n01", "n02"), per_class: int = 2) -> None:
    """JPEG folders in ImageNet's layout, with sides on both sides of the crop and one grey image."""
    from PIL import Image

    for split in ("train", "val"):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(per_class):
                mode, colour = ("L", 60) if i else ("RGB", (200, 60 * number, 30))
                image = Image.new(mode, (300 + 40 * i, 200), colour)
                image.save(root / split / name / f"{name}_{i}.JPEG")


def write_timit(path: Path, **changes: NDArray[np.generic] | None) -> None:
    """Features of width 6 in 5 classes; `changes` replace arrays, None leaves one out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[np.generic] | None] = {
        "train_x": rng.normal(size=(50, 6)),
        "train_y": np.arange(50) % 5,
        "test_x": rng.normal(size=(20, 6)).astype(np.float32),
        "test_y": (np.arange(20) % 5).astype(np.int32),
    }
    arrays |= changes
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: array for name, array in arrays.items() if array is not None}
    np.savez(path, **kept)  # pyright: ignore[reportArgumentType]
