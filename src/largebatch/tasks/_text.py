"""Text as bytes: a file becomes blocks of bytes and, as targets, the same blocks one byte further on.

The vocabulary is the 256 byte values, so there is no tokenizer to choose or to download. Train and test are the first
and the last part of the file, contiguous, so that no test block continues into a training block.
"""

from pathlib import Path

import torch
from torch import Tensor


def read_text(path: Path, block_bytes: int, test_share: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The training and the test blocks of a text file. Blocks do not overlap; an incomplete last one is left out.

    Returns:
        (inputs (n, block_bytes), next bytes (n, block_bytes)) for train and for test, int64.

    Raises:
        ValueError: one of the two parts is shorter than a block.
        FileNotFoundError: no such file.
    """
    content = path.read_bytes()
    train_bytes = len(content) - round(test_share * len(content))
    shortest = min(train_bytes, len(content) - train_bytes)
    if shortest < block_bytes + 1:
        raise ValueError(
            f"{path}: expected at least {block_bytes + 1} bytes in each part, got {len(content)} in all, which gives "
            f"{train_bytes} for training and {len(content) - train_bytes} for test: use a longer text"
        )
    stream = torch.frombuffer(bytearray(content), dtype=torch.uint8).long()  # (bytes,)
    return _blocks(stream[:train_bytes], block_bytes), _blocks(stream[train_bytes:], block_bytes)


def _blocks(stream: Tensor, block_bytes: int) -> tuple[Tensor, Tensor]:
    n = (len(stream) - 1) // block_bytes
    inputs = stream[: n * block_bytes].reshape(n, block_bytes)
    targets = stream[1 : n * block_bytes + 1].reshape(n, block_bytes)
    return inputs, targets
