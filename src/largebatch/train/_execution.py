"""Execution: how to compute, never what. No field of it may change a result beyond rounding, and none enters a digest."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from largebatch.recipe import Recipe

__all__ = ["Execution", "autocast_of", "dtype_of", "of_this_rank", "prepare_model"]


@dataclass(frozen=True)
class Execution:
    """How to compute.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; None takes the GPU of this rank where there is one.
        micro_batch_size: samples in one forward pass of a rank, rounded to whole ghosts; None: the rank's whole share,
            halved for as long as the device runs out of memory.
        loader_workers: processes that read a data set from disk; resident tensors need none.
        channels_last: memory format of convolutional networks; faster with bf16, often slower without.
        compile: torch.compile the model. A short last batch compiles once more.
    """

    device: str | None = None
    micro_batch_size: int | None = None
    loader_workers: int = 0
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size: expected at least 1 sample, got {self.micro_batch_size}")
        if self.loader_workers < 0:
            raise ValueError(f"loader_workers: expected 0 or more processes, got {self.loader_workers}")

    def resolve_device(self) -> torch.device:
        """The torch device of this rank.

        Raises:
            ValueError: a device that torch does not know or this machine does not have.
        """
        if self.device is None:
            if not torch.cuda.is_available():
                return torch.device("cpu")
            return of_this_rank(torch.device("cuda"), os.environ)
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device: cannot use {self.device!r}: {reason}; use cpu, cuda or cuda:N") from error
        return of_this_rank(device, os.environ)


def of_this_rank(device: torch.device, environment: Mapping[str, str]) -> torch.device:
    """A GPU for each rank of a machine where "cuda" names none."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(environment.get("LOCAL_RANK", "0")))


def dtype_of(recipe: Recipe) -> torch.dtype:
    """The dtype of parameters: float64 for fp64; bf16 keeps float32 master weights."""
    return torch.float64 if recipe.precision == "fp64" else torch.float32


def autocast_of(recipe: Recipe, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """A factory of contexts for forward passes in the recipe's precision."""
    if recipe.precision == "bf16":
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def prepare_model(model: nn.Module, recipe: Recipe, execution: Execution, device: torch.device) -> nn.Module:
    """Move a model to its device, dtype and memory format, in place."""
    model.to(device, dtype_of(recipe))
    if execution.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model
