"""Checkpoints: written to a temporary folder, synchronised, renamed, and verified by checksum before they are used.

`checkpoints/<samples>/` holds `model.safetensors`, `training.pt` (tensors, numbers, strings, lists and dictionaries:
loadable with `weights_only=True`) and `checksums.json` (SHA-256 of both). A kill at any moment leaves either the whole
folder or none; a truncated or flipped file is found by its checksum, and the one before it is used.
"""

import hashlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from largebatch.results import flush_folder

__all__ = [
    "Checkpoint",
    "discard_checkpoints",
    "latest_checkpoint",
    "prune_checkpoints",
    "read_checkpoint",
    "write_checkpoint",
]

MODEL, TRAINING, CHECKSUMS = "model.safetensors", "training.pt", "checksums.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, in bytes, so that it can be sent to ranks that do not share the disk."""

    samples: int
    model_bytes: bytes
    training_bytes: bytes

    def model_state(self) -> dict[str, Tensor]:
        """The model's state_dict, on the CPU."""
        return safetensors.torch.load(self.model_bytes)

    def training_state(self) -> dict[str, Any]:
        """Optimiser, position, observers."""
        return torch.load(io.BytesIO(self.training_bytes), map_location="cpu", weights_only=True)


def write_checkpoint(
    folder: Path, samples: int, model_state: dict[str, Tensor], training_state: dict[str, Any]
) -> Path:
    """Write `folder/<samples>` so that it is there whole or not at all; returns its path."""
    final = folder / str(samples)
    temporary = folder / f".{samples}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    buffer = io.BytesIO()
    torch.save(training_state, buffer)
    contents = {MODEL: safetensors.torch.save(_separate(model_state)), TRAINING: buffer.getvalue()}
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[CHECKSUMS] = json.dumps(checksums, indent=2).encode()
    for name, content in contents.items():
        _write_synchronised(temporary / name, content)
    flush_folder(temporary)
    if final.exists():  # left by a run that was resumed from an earlier checkpoint
        shutil.rmtree(final)
    temporary.rename(final)
    flush_folder(folder)
    return final


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        ValueError: a file is missing, truncated or changed; the message says which.
    """
    try:
        checksums = json.loads((path / CHECKSUMS).read_bytes())
        contents = {name: (path / name).read_bytes() for name in (MODEL, TRAINING)}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: the checkpoint is incomplete: {error}") from error
    for name, content in contents.items():
        found = hashlib.sha256(content).hexdigest()
        expected = checksums.get(name) if isinstance(checksums, dict) else None
        if found != expected:
            raise ValueError(f"{path / name}: expected SHA-256 {expected}, got {found}: the file was damaged")
    return Checkpoint(int(path.name), contents[MODEL], contents[TRAINING])


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and why each newer one was passed over."""
    damaged: list[str] = []
    for path in sorted(_paths(folder), key=lambda path: -int(path.name)):
        try:
            return read_checkpoint(path), damaged
        except ValueError as error:
            damaged.append(str(error))
    return None, damaged


def prune_checkpoints(folder: Path, keep_last: int, also: set[int]) -> None:
    """Delete all but the start, the last `keep_last` and those at the sample counts `also` (the best)."""
    paths = sorted(_paths(folder), key=lambda path: int(path.name))
    for path in paths[:-keep_last]:
        if int(path.name) not in also | {0}:
            shutil.rmtree(path)


def discard_checkpoints(folder: Path, after: int) -> None:
    """Delete those of more than `after` samples: damaged ones that were passed over would count among the last kept."""
    for path in _paths(folder):
        if int(path.name) > after:
            shutil.rmtree(path)


def _paths(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []


def _separate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two sharing memory (tied weights), as safetensors requires."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in state.items():
        here = tensor.detach().cpu().contiguous()
        address = here.untyped_storage().data_ptr()
        separate[name] = here.clone() if address in seen else here
        seen.add(address)
    return separate


def _write_synchronised(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
