"""Whatever must train in order to measure."""

from largebatch.study._demo import DemoResult, DemoRow, demo

__all__ = ["DemoResult", "DemoRow", "demo"]
