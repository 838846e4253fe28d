"""JSON that keeps every float and replaces files whole.

Python writes NaN and infinity as words that are not JSON, and other readers choke on them or turn them into null. Here they
are the texts "NaN", "Infinity" and "-Infinity", valid JSON that reads back as the float; a text that is one of
these three is refused, so nothing reads back as something else.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed over the old one
(`os.replace` is atomic on POSIX); the folder is flushed too, so that the rename survives a power cut.
"""

import json
import math
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

__all__ = ["decode", "encode", "flush_folder", "json_text", "read_json", "replace_file", "write_json"]

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: object, place: str = "value") -> Any:
    """A value as plain JSON data: mappings, lists or tuples of numbers, texts, booleans and None.

    Numbers of numpy become Python's, tuples become lists, keys become texts.

    Raises:
        ValueError: for anything else, naming its place.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in _NOT_FINITE:
            raise ValueError(f"{place}: expected a text that does not read back as a number, got {value!r}; rename it")
        return value
    if isinstance(value, float | numbers.Real):  # float first: an abstract class takes ten times as long to ask
        return _number(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value).items()
        # A finite float, as most of a log is, needs no look and no name of its place.
        return {str(k): v if type(v) is float and math.isfinite(v) else encode(v, f"{place}.{k}") for k, v in items}
    if isinstance(value, list | tuple):
        return [encode(item, f"{place}[{i}]") for i, item in enumerate(cast(list[object], value))]
    raise ValueError(f"{place}: expected plain data for JSON, got a {type(value).__name__}; convert it first")


def decode(value: Any) -> Any:
    """The inverse of `encode` on plain JSON data; lists stay lists."""
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return {name: decode(item) for name, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [decode(item) for item in cast(list[Any], value)]
    return value


def json_text(value: object, indent: int | None = None) -> str:
    """`value` as JSON.

    Raises:
        ValueError: for what JSON cannot hold, naming its place.
    """
    return json.dumps(encode(value), indent=indent, allow_nan=False, ensure_ascii=False)


def write_json(path: Path, value: object) -> None:
    """Write `value` to a file, whole or not at all; folders above it are made.

    Raises:
        ValueError: for what JSON cannot hold; the file is then as it was.
    """
    replace_file(path, json_text(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON.
    """
    try:
        return decode(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}; delete the file, or restore it") from error


def replace_file(path: Path, text: str) -> None:
    """Give a file a new content atomically: a reader, or a crash, finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: its files are private to the user (mode 0600), and a run folder is there to be shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Put on the disk which files a folder holds: until then a crash may take a renamed file back."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(value: float | numbers.Real) -> int | float | str:
    if not isinstance(value, float) and isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else _name_of(float(value))


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
