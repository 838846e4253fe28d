"""Text as bytes: each target is the next byte, no byte is used twice, and the split leaks nothing."""

from pathlib import Path

import pytest
import torch

from largebatch.tasks._text import read_text


def test_blocks_do_not_overlap_and_targets_are_the_next_bytes(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(bytes(range(100)))
    (x, y), (test_x, test_y) = read_text(tmp_path / "input.txt", block_bytes=8, test_share=0.2)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x, torch.arange(72).reshape(9, 8))  # 80 bytes: the tenth block would lack its last target
    assert torch.equal(y, x + 1)
    assert torch.equal(test_x, torch.arange(80, 96).reshape(2, 8))
    assert torch.equal(test_y, test_x + 1)


def test_bytes_beyond_ascii_are_bytes(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes("é\r\n".encode() * 10)
    (x, _), _ = read_text(tmp_path / "input.txt", block_bytes=4, test_share=0.2)
    assert x[0].tolist() == [0xC3, 0xA9, 0x0D, 0x0A]


def test_a_text_shorter_than_a_block_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes(b"x" * 45)
    assert read_text(path, block_bytes=8, test_share=0.2)[1][0].shape == (1, 8)
    path.write_bytes(b"x" * 40)
    with pytest.raises(
        ValueError, match=r"input\.txt: expected at least 9 bytes in each part, got 40 in all.* 8 for test"
    ):
        read_text(path, block_bytes=8, test_share=0.2)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_text(tmp_path / "nowhere", block_bytes=8, test_share=0.2)
