"""torch's ways to clip gradients, watched: what was there before is what the reference is held against."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor

from largebatch.replay import replaced

__all__ = ["ClippingWatch"]


@final
class ClippingWatch:
    """Keeps the gradient before the first clipping at each position.

    Args:
        position: micro-batches of this update that are done.
        gradient: the present one, flat; None where it cannot be told.
        tell: hears of every clipping: position, norm (or largest entry), limit.
    """

    def __init__(
        self,
        position: Callable[[], int],
        gradient: Callable[[], Tensor | None],
        tell: Callable[[int, float, float], None],
    ):
        self._position, self._gradient, self._tell = position, gradient, tell
        self._raw: tuple[int, Tensor] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, clipping is watched."""
        with ExitStack() as stack:
            for owner in (torch.nn.utils, torch.nn.utils.clip_grad):
                stack.enter_context(replaced(owner, "clip_grad_norm_", self._by_norm))
                stack.enter_context(replaced(owner, "clip_grad_value_", self._by_value))
            stack.enter_context(replaced(torch.nn.utils, "clip_grads_with_norm_", self._with_norm))
            yield

    def take(self, position: int) -> Tensor | None:
        """The gradient before clipping at this position, if there was any; it is forgotten then."""
        raw, self._raw = self._raw, None
        return raw[1] if raw is not None and raw[0] == position else None

    def _keep(self, parameters: Any) -> list[Tensor]:
        """Keep the gradient; the parameters, which may come as a generator, as a list."""
        position = self._position()
        gradient = self._gradient() if position and (self._raw is None or self._raw[0] < position) else None
        if gradient is not None:
            self._raw = position, gradient
        return [parameters] if isinstance(parameters, Tensor) else list(parameters)

    def _by_norm(self, original: Any, parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        tensors = self._keep(parameters)
        norm = original(tensors, max_norm, *args, **kwargs)
        self._tell(self._position(), float(norm), float(max_norm))
        return norm

    def _by_value(self, original: Any, parameters: Any, clip_value: float, *args: Any, **kwargs: Any) -> Any:
        tensors = self._keep(parameters)
        largest = max((float(p.grad.abs().max()) for p in tensors if p.grad is not None and p.numel()), default=0.0)
        self._tell(self._position(), largest, float(clip_value))
        return original(tensors, clip_value, *args, **kwargs)

    def _with_norm(
        self, original: Any, parameters: Any, max_norm: float, total_norm: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        tensors = self._keep(parameters)
        self._tell(self._position(), float(total_norm), float(max_norm))
        return original(tensors, max_norm, total_norm, *args, **kwargs)
