"""What happens to rates, momenta, clipping and loss scales between two updates, and each tensor's first step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from largebatch.replay import replaced

__all__ = ["OptimizerLog", "first_steps", "has_trust_ratio", "when_differentiated", "will_skip"]


@final
class OptimizerLog:
    """Collects events; an update takes those since the update before."""

    def __init__(self) -> None:
        self.name = ""
        self._calls: dict[int, list[int]] = {}
        self._clips: list[dict[str, Any]] = []
        self._loss_scale = 1.0
        self._is_scaled = False
        self._buffers: dict[int, float] = {}
        self._decays: dict[int, float] = {}

    @contextmanager
    def installed(self, position: Callable[[], int]) -> Iterator[None]:
        """Inside, schedulers and loss scales are watched; `position` tells the micro-batches done."""

        def schedule(original: Any, scheduler: LRScheduler, *args: Any, **kwargs: Any) -> Any:
            self._calls.setdefault(id(scheduler), []).append(position())
            return original(scheduler, *args, **kwargs)

        with (
            replaced(LRScheduler, "step", schedule),
            replaced(torch.amp.GradScaler, "scale", self._scale),
            replaced(torch.amp.GradScaler, "unscale_", self._unscale),
        ):
            yield

    def clipped(self, position: int, norm: float, limit: float) -> None:
        """Gradients were clipped by norm."""
        self._clips.append({"position": position, "norm": norm, "limit": limit, "is_scaled": self._is_scaled})

    def events(self) -> dict[str, Any]:
        """Those since the last call."""
        calls = max(self._calls.values(), key=len, default=[])
        taken = {"scheduler_calls": calls, "clips": self._clips, "loss_scale": self._loss_scale,
                 "rates": [], "momenta": [], "buffer_drift": 1.0}  # fmt: skip
        self._calls, self._clips, self._loss_scale = {}, [], 1.0
        return taken

    def look(self, optimizer: Optimizer, step: dict[str, Any]) -> None:
        """Note an optimiser's settings before its step."""
        self.name = self.name or type(optimizer).__name__
        groups = optimizer.param_groups
        step["rates"] += [float(group.get("lr", float("nan"))) for group in groups]
        for group in groups:
            self._decays |= {id(p): float(group.get("weight_decay", 0.0)) for p in group["params"]}
        if isinstance(optimizer, torch.optim.SGD):
            step["momenta"] += [float(group["momentum"]) for group in groups]
            earlier = self._buffers.get(id(optimizer), 0.0)
            if earlier:
                step["buffer_drift"] = _buffer_norm(optimizer) / earlier

    def remember(self, optimizer: Optimizer) -> None:
        """Note what a step left behind."""
        if isinstance(optimizer, torch.optim.SGD):
            self._buffers[id(optimizer)] = _buffer_norm(optimizer)

    def parameters(self, module: nn.Module) -> list[dict[str, Any]]:
        """Every trainable parameter with its decay, NaN where no optimiser has it."""
        return [
            {"name": name, "dimensions": p.dim(), "decay": self._decays.get(id(p), float("nan"))}
            for name, p in module.named_parameters()
            if p.requires_grad
        ]

    def _scale(self, original: Any, scaler: Any, outputs: Any) -> Any:
        scaled = original(scaler, outputs)  # the first call makes the scale
        if scaler.is_enabled():
            self._loss_scale, self._is_scaled = float(scaler.get_scale()), True
        return scaled

    def _unscale(self, original: Any, scaler: Any, optimizer: Optimizer) -> Any:
        self._is_scaled = False
        return original(scaler, optimizer)


def _buffer_norm(optimizer: Optimizer) -> float:
    buffers = [
        state["momentum_buffer"] for state in optimizer.state.values() if state.get("momentum_buffer") is not None
    ]
    return float(torch.stack(torch._foreach_norm(buffers)).norm()) if buffers else 0.0


def will_skip(optimizer: Optimizer) -> bool:
    """Whether an optimiser that unscales by itself, as fused ones do, was told of infinite gradients."""
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def when_differentiated(args: tuple[Any, ...], kwargs: dict[str, Any], look: Callable[[], None]) -> Any:
    """Call `look` once the gradients of a step are there: now, or after its closure; SAM calls that twice, the first counts.

    Args:
        args, kwargs: of the step, with the optimizer as first.

    Returns:
        Other arguments for the step, or None.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        look()
        return None
    values: list[Any] = []

    def looking() -> Any:
        values.append(closure())
        if len(values) == 1:
            look()
        return values[-1]

    return ((args[0], looking, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": looking})


def has_trust_ratio(optimizer: Optimizer) -> bool:
    """Whether it calls itself a LARS or a LAMB."""
    name = type(optimizer).__name__.lower()
    return "lars" in name or "lamb" in name


def first_steps(optimizer: Optimizer, after: dict[str, Tensor], before: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The fields of FirstStep for every tensor that has a gradient."""
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = []
    for name, p in after.items():
        if p.grad is None or name not in before:
            continue
        w, g, group = before[name].double(), p.grad.double(), settings[id(p)]
        decay = float(group.get("weight_decay", 0.0))
        found.append({
            "name": name, "elements": p.numel(), "weight_norm": float(w.norm()), "gradient_norm": float(g.norm()),
            "decayed_norm": float((g + decay * w).norm()), "step_norm": float((p.detach().double() - w).norm()),
            "rate": float(group["lr"]), "decay": decay,
        })  # fmt: skip
    return found
