"""How the command line says things: JSON and durations on stdout, mistakes on stderr."""

import json
import sys
from typing import Any

__all__ = ["duration", "fail", "print_json"]


def duration(seconds: float) -> str:
    """For reading."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def print_json(value: Any) -> None:
    """A result, on stdout."""
    from largebatch.results import encode

    print(json.dumps(encode(value), indent=2, allow_nan=False))


def fail(message: str) -> int:
    """A mistake in the input; returns the exit code."""
    sys.stderr.write(f"error: {message}\n")
    return 2
