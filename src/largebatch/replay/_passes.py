"""One forward pass of a loop, and the conditions under which it was made, kept until its update is complete."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from largebatch.replay._notes import Notes, notes_of, with_notes
from largebatch.replay._random_states import RandomStates, kept_random_state, random_states, set_random_states
from largebatch.replay._reference import tensors_in
from largebatch.replay._samples import Origin, SampleLog

__all__ = ["Pass", "begin_pass"]

HASHED_BYTES = 1 << 16
DEVICES = ("cpu", "cuda")


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
        self.buffers: dict[str, Tensor] = {}
        self._notes: Notes = []
        self._random_states: RandomStates = []
        self._autocast = {d: torch.get_autocast_dtype(d) for d in DEVICES if torch.is_autocast_enabled(d)}

    def keep(self, module: nn.Module, weights: Tensor) -> None:
        """Copy what a replay needs and the loop, or the pass itself, may overwrite."""
        self.is_replayed = True
        self.weights = weights
        self.args, self.kwargs = tree_map_only(Tensor, _copy, (self.args, self.kwargs))
        self.buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        self._notes = notes_of(module)
        self._random_states = random_states(module)

    @contextmanager
    def conditions(self, module: nn.Module) -> Iterator[None]:
        """Inside, the module's notes, the random states and autocast are those of the pass; afterwards as before."""
        with ExitStack() as stack:
            stack.enter_context(kept_random_state(module))
            stack.enter_context(with_notes(self._notes))
            for device in DEVICES:
                was = self._autocast.get(device)
                if was is not None or torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, dtype=was, enabled=was is not None))
            set_random_states(self._random_states)
            yield

    def when_differentiated(self, output: Any, tell: "Callable[[Pass], None]") -> None:
        """Call `tell` when a backward pass comes through any part of the output."""
        for tensor in tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda _: self._differentiated(tell))

    def _differentiated(self, tell: "Callable[[Pass], None]") -> None:
        self.backward = torch._C._current_graph_task_id()
        tell(self)

    @property
    def is_autocast(self) -> bool:
        """Whether it ran in a lower precision than its parameters'."""
        return bool(self._autocast)

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


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _digest(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    tensor = next((t for t in tensors_in([*args, *kwargs.values()]) if t.numel()), None)
    if tensor is None:
        return ""
    flat = tensor.detach().reshape(-1)
    flat = flat[:: max(1, flat.numel() * flat.element_size() // HASHED_BYTES)].cpu().contiguous()
    return hashlib.blake2b(flat.view(torch.uint8).numpy().tobytes(), digest_size=8).hexdigest()
