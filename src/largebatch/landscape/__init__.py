"""The loss along lines, curves and planes through given weights, and how far one large step is k small ones."""

from largebatch.landscape._linear_rule import LinearRule, linear_rule
from largebatch.landscape._path import Path, path
from largebatch.landscape._plane import Plane, plane

__all__ = [
    "LinearRule",
    "Path",
    "Plane",
    "linear_rule",
    "path",
    "plane",
]
