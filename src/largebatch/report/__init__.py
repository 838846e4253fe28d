"""One self-contained HTML page from what the other verbs left on disk: the answer first, then the evidence."""

from largebatch.report._write import write

__all__ = ["write"]
