"""One pass of a loop, kept until its update is complete, and made again."""

import hashlib
import random
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from largebatch.check._random_states import kept_random_state, set_random_state
from largebatch.check._reference import ExampleLoss, Reference, summed_gradient, tensors_in
from largebatch.check._samples import Origin, SampleLog

__all__ = ["Pass", "begin_pass", "replay"]

HASHED_BYTES = 1 << 16
ROUNDING = 5e-4
LOW_PRECISION_ROUNDING = 3e-2  # bfloat16 keeps 8 bits; a sum in another order differs by about that


@final
class Pass:
    """What a pass was given, and under which conditions."""

    def __init__(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], samples: int, origin: Origin | None, doubt: str = ""
    ):
        self.args, self.kwargs = args, dict(kwargs)
        self.samples = samples
        self.origin = origin
        self.doubt = doubt
        self.is_replayed = False
        self.backward = -1  # torch's number of the backward pass that came through the output
        self.weights = torch.zeros(0)
        self.random_states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
        self.autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None

    def when_differentiated(self, output: Any, tell: "Callable[[Pass], None]") -> None:
        """Call `tell` when a backward pass comes through any part of the output."""
        for tensor in tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda _: self._differentiated(tell))

    def _differentiated(self, tell: "Callable[[Pass], None]") -> None:
        self.backward = torch._C._current_graph_task_id()
        tell(self)

    def tolerance(self, module: nn.Module) -> float:
        """Relative error of a gradient that rounding explains."""
        tensors = (*tensors_in(self.args), *module.parameters())
        low = self.autocast is not None or any(t.dtype in (torch.bfloat16, torch.float16) for t in tensors)
        return LOW_PRECISION_ROUNDING if low else ROUNDING

    def described(self) -> dict[str, Any]:
        """The fields of MicroBatch but the rank; the count is that of samples until the replay knows better."""
        return {
            "count": float(self.samples),
            "samples": self.samples,
            "indices": list(self.origin.indices) if self.origin else [],
            "content": _digest(self.args, self.kwargs),
            "noise": list(self.origin.batch.noise) if self.origin else [],
        }


def begin_pass(log: SampleLog, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pass:
    """Note a pass that is about to be made."""
    samples = next((len(t) for t in tensors_in([*args, *kwargs.values()]) if t.dim() > 0), 0)
    origin = log.trace(args, kwargs, samples)
    return Pass(args, kwargs, samples, origin, log.doubt)


def replay(reference: Reference, done: Pass) -> tuple[dict[str, Tensor], float] | str:
    """The gradient of the pass's summed loss, by parameter, and its count; or why they cannot be told."""
    targets = None
    if reference.needs_targets:
        targets = done.origin.targets if done.origin else _looked_up(reference, done)
        if isinstance(targets, str):
            return done.doubt or targets
    with (
        kept_random_state(),
        torch.autocast("cpu", dtype=done.autocast or torch.bfloat16, enabled=done.autocast is not None),
    ):
        given = reference, done.args, done.kwargs, targets, done.samples
        set_random_state(done.random_states)
        try:
            return summed_gradient(*given)
        except RuntimeError as error:
            if "use_reentrant=True" not in str(error):
                raise
        set_random_state(done.random_states)
        return summed_gradient(*given, reenters=True)


def _looked_up(reference: Reference, done: Pass) -> Any:
    """The targets of inputs that are rows of a data set in memory."""
    data = reference.data if isinstance(reference, ExampleLoss) else None
    inputs = next(tensors_in([*done.args, *done.kwargs.values()]), None)
    if data is None or inputs is None:
        return (
            "expected inputs that came through a torch DataLoader, or rows of a tuple of tensors (or TensorDataset) "
            "given to "
            "check.reference; read the data through a DataLoader, or give check.reference the tensors themselves"
        )
    known = {row.tobytes(): i for i, row in enumerate(data[0].detach().cpu().contiguous().numpy())}
    rows = [known.get(row.tobytes(), -1) for row in inputs.detach().cpu().contiguous().numpy()]
    if -1 in rows:
        return (
            f"{rows.count(-1)} of {len(rows)} inputs are no rows of the data given to check.reference: give it the "
            "tensors as "
            "the model sees them, or read them through a DataLoader"
        )
    targets = data[1]
    return targets[rows] if isinstance(targets, Tensor) else tuple(target[rows] for target in targets)


def _digest(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    tensor = next((t for t in tensors_in([*args, *kwargs.values()]) if t.numel()), None)
    if tensor is None:
        return ""
    flat = tensor.detach().reshape(-1)
    flat = flat[:: max(1, flat.numel() * flat.element_size() // HASHED_BYTES)].cpu().contiguous()
    return hashlib.blake2b(flat.view(torch.uint8).numpy().tobytes(), digest_size=8).hexdigest()
