"""The command line."""

from largebatch.cli._main import main

__all__ = ["main"]
