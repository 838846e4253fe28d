"""Cells of a grid that takes long: kept in one file, so that a killed measurement goes on where it stood.

The file is one npz, replaced whole after each cell: a reader, or a kill, finds the old one or the new one.

    table     (nx, ny, data sets, columns) float64: NaN where the loss is NaN, and where nothing was computed yet
    computed  (nx, ny) bool: which of the two it is
    identity  JSON {ingredient: digest}: what the numbers belong to
"""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from largebatch.core import World

__all__ = ["Cells"]


@final
class Cells:
    """A table of cells, in memory, and in a file where one is named.

    Args:
        shape: (nx, ny, data sets, columns).
        identity: digest by ingredient; a file with another one holds other numbers.
        path: of the file; None keeps none. The first rank of `world` reads and writes it.
        device: on which the ranks communicate.

    Raises:
        ValueError: the file is no such file, or holds numbers of other ingredients, which are named.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        identity: dict[str, str],
        path: Path | None,
        *,
        world: World,
        device: torch.device,
    ):
        self.table: NDArray[np.float64] = np.full(shape, np.nan)
        self.computed: NDArray[np.bool_] = np.zeros(shape[:2], dtype=bool)
        self._identity = identity
        self._path = path
        self._world = world
        if path is not None:
            self._read(path, device)

    def put(self, cell: tuple[int, int], rows: NDArray[np.float64]) -> None:
        """Keep the (data sets, columns) of one cell."""
        self.table[cell] = rows
        self.computed[cell] = True
        if self._path is not None and self._world.is_first:
            self._write(self._path)

    def _read(self, path: Path, device: torch.device) -> None:
        content = path.read_bytes() if self._world.is_first and path.exists() else b""
        content = self._world.broadcast_bytes(content, device)
        if not content:
            return
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                identity = json.loads(str(file["identity"]))
                table, computed = file["table"], file["computed"]
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: expected the cells of a plane, got {error}; name another file, or delete this one"
            ) from error
        other = [name for name, digest in self._identity.items() if identity.get(name) != digest]
        if other:
            raise ValueError(
                f"{path}: holds the cells of another plane, with other {', '.join(other)}; name another file, or "
                "delete this one"
            )
        self.table, self.computed = table, computed

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, table=self.table, computed=self.computed, identity=json.dumps(self._identity))
        temporary.replace(path)
