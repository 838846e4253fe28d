"""CIFAR's binary archives: records in file order, planes as red, green, blue, and nothing damaged gets through."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from largebatch.tasks._cifar import CIFAR10_LAYOUT, CIFAR100_LAYOUT, read_cifar
from tasks.tiny_files import cifar10_members, cifar100_members, cifar_records, write_tar

ARCHIVE = "cifar-10-binary.tar.gz"


def test_cifar10_is_read_from_the_archive_in_the_order_of_its_files(tmp_path: Path) -> None:
    # the real archive does not hold its batches in order either
    members = dict(reversed(cifar10_members().items())) | {"cifar-10-batches-bin/readme.html": b"<html>"}
    write_tar(tmp_path / ARCHIVE, members)
    (images, labels), (test_images, test_labels) = read_cifar(tmp_path, CIFAR10_LAYOUT)
    np.testing.assert_array_equal(labels, np.arange(35) % 10)
    np.testing.assert_array_equal(test_labels, np.arange(10))
    assert images.shape == (35, 3, 32, 32)
    assert test_images.shape == (10, 3, 32, 32)
    np.testing.assert_array_equal(images[:, 0, 31, 31], labels)
    np.testing.assert_array_equal(images[4, :, 0, 1], [4, 100, 200])
    np.testing.assert_array_equal(images[:, :, 0, 0], 255)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    write_tar(tmp_path / "cifar-100-binary.tar.gz", cifar100_members())
    (images, labels), (_, test_labels) = read_cifar(tmp_path, CIFAR100_LAYOUT)
    np.testing.assert_array_equal(labels, np.arange(40, 80))
    np.testing.assert_array_equal(test_labels, [99, 0, 7])
    np.testing.assert_array_equal(images[0, :, 5, 5], [40, 100, 200])


def test_an_archive_unpacked_by_hand_does_as_well(tmp_path: Path) -> None:
    write_tar(tmp_path / ARCHIVE, cifar10_members())
    (images, labels), _ = read_cifar(tmp_path, CIFAR10_LAYOUT)
    with tarfile.open(tmp_path / ARCHIVE) as tar:
        tar.extractall(tmp_path, filter="data")
    (tmp_path / ARCHIVE).unlink()
    (unpacked_images, unpacked_labels), _ = read_cifar(tmp_path, CIFAR10_LAYOUT)
    np.testing.assert_array_equal(unpacked_images, images)
    np.testing.assert_array_equal(unpacked_labels, labels)
    (tmp_path / "cifar-10-batches-bin/test_batch.bin").unlink()
    with pytest.raises(ValueError, match=r"cifar-10-batches-bin: .*; missing: test_batch.bin: unpack it again"):
        read_cifar(tmp_path, CIFAR10_LAYOUT)


def test_members_are_found_by_their_exact_names_only(tmp_path: Path) -> None:
    members = cifar10_members()
    members["../cifar-10-batches-bin/test_batch.bin"] = members.pop("cifar-10-batches-bin/test_batch.bin")
    write_tar(tmp_path / ARCHIVE, members)
    with pytest.raises(ValueError, match=r"missing: cifar-10-batches-bin/test_batch.bin: take the binary version"):
        read_cifar(tmp_path, CIFAR10_LAYOUT)


def test_a_member_that_is_no_file_is_no_member(tmp_path: Path) -> None:
    members = cifar10_members()
    del members["cifar-10-batches-bin/test_batch.bin"]
    write_tar(tmp_path / "part.tar.gz", members)
    with tarfile.open(tmp_path / "part.tar.gz") as source, tarfile.open(tmp_path / ARCHIVE, "w:gz") as target:
        for member in source:
            target.addfile(member, source.extractfile(member))
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        target.addfile(link)
    with pytest.raises(ValueError, match=r"missing: cifar-10-batches-bin/test_batch.bin"):
        read_cifar(tmp_path, CIFAR10_LAYOUT)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"not a tar" + b, lambda b: b[:40] + b"x" * 60]
)
def test_a_damaged_archive_is_named(tmp_path: Path, damage: object) -> None:
    write_tar(tmp_path / ARCHIVE, cifar10_members())
    (tmp_path / ARCHIVE).write_bytes(damage((tmp_path / ARCHIVE).read_bytes()))  # pyright: ignore
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: expected an intact \.tar\.gz, got: .*: fetch it again"):
        read_cifar(tmp_path, CIFAR10_LAYOUT)


@pytest.mark.parametrize("content", [cifar_records([3, 4])[:-1], b"", cifar_records([3], coarse=True)])
def test_a_file_that_is_no_whole_number_of_records_is_refused(tmp_path: Path, content: bytes) -> None:
    write_tar(tmp_path / ARCHIVE, cifar10_members() | {"cifar-10-batches-bin/data_batch_3.bin": content})
    with pytest.raises(ValueError, match=rf"data_batch_3.bin: .* records of 3073 bytes, got {len(content)} bytes"):
        read_cifar(tmp_path, CIFAR10_LAYOUT)


def test_a_label_out_of_range_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / ARCHIVE, cifar10_members() | {"cifar-10-batches-bin/test_batch.bin": cifar_records([3, 10])})
    with pytest.raises(ValueError, match=r"cifar-10-batches-bin: expected labels 0 to 9, got 10 in test_batch\.bin"):
        read_cifar(tmp_path, CIFAR10_LAYOUT)
