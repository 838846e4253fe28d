"""Activations: how many numbers a pass through a model makes for each example, counted while one is made."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from torch import Tensor, nn

__all__ = ["ActivationCount", "counting_activations"]


@final
class ActivationCount:
    """Entries of what the innermost layers gave, of all passes so far. What is computed between layers is not seen."""

    def __init__(self) -> None:
        self.entries = 0


@contextmanager
def counting_activations(model: nn.Module) -> Iterator[ActivationCount]:
    """Count them in the passes made inside."""
    count = ActivationCount()

    def add(module: nn.Module, inputs: object, outputs: object) -> None:
        count.entries += outputs.numel() if isinstance(outputs, Tensor) else 0

    innermost = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [module.register_forward_hook(add) for module in innermost]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
