"""How far a gradient may be off for reasons of precision: that of its passes, and that in which ranks talk.

DDP's communication hooks cast gradients to half precision before they are averaged, or approximate them
(docs.pytorch.org/docs/stable/ddp_comm_hooks.html).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from largebatch.replay import Pass, replaced, tensors_in

__all__ = ["Rounding"]

USUAL = 5e-4
HALF_PRECISION = 3e-2  # bfloat16 keeps 8 bits; a sum in another order differs by about that
CASTING = "compress"
APPROXIMATE = ("powersgd", "quantization", "localsgd")


@final
class Rounding:
    """Watches for communication hooks, and for autocast, while installed."""

    def __init__(self) -> None:
        self._hook = ""
        self._has_autocast = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, hooks are noted as they are registered, and autocast wherever it begins: often inside a pass."""
        with (
            replaced(DistributedDataParallel, "register_comm_hook", self._registered),
            replaced(torch.autocast, "__enter__", self._entered),
        ):
            yield

    @property
    def obstacle(self) -> str:
        """Why no gradient can be held against a reference; "" if one can."""
        if not any(name in self._hook.lower() for name in APPROXIMATE):
            return ""
        return (
            f"the communication hook {self._hook} approximates the gradients, so that they are no mean; check the loop "
            "without it"
        )

    def tolerance(self, window: Sequence[Pass], module: nn.Module) -> float:
        """Relative error of an update's gradient that rounding explains."""
        tensors = (*tensors_in([done.args for done in window]), *module.parameters())
        is_low = any(t.dtype in (torch.bfloat16, torch.float16) for t in tensors)
        is_low |= self._has_autocast or any(done.is_autocast for done in window) or CASTING in self._hook
        return HALF_PRECISION if is_low else USUAL

    def _entered(self, original: Any, context: Any) -> Any:
        self._has_autocast |= context._enabled
        return original(context)

    def _registered(self, original: Any, wrapped: Any, state: Any, hook: Any) -> Any:
        inner = getattr(hook, "__qualname__", type(hook).__name__)  # a wrapper's is "fp16_compress_wrapper.<locals>.…"
        self._hook = inner.partition(".")[0]
        return original(wrapped, state, hook)
