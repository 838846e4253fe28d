"""The only file that imports torch.distributed: sums over ranks, and the gradient of a global batch.

Goyal et al. 2017 (arXiv 1706.02677), section 3.1: gradients are summed over all workers and normalised once by the size
kn of the global batch. Buckets are fixed for the whole run, unlike those of DDP's reducer, which are rebuilt after
the first step: the order of additions, and so every bit, is the same at each step and after a resume.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from largebatch.core._params import flatten

__all__ = ["GradientSum", "World", "current_world", "sum_over_ranks", "world_from_environment"]

BUCKET_BYTES = 4 << 20  # small enough that reduction overlaps backward, large enough to amortise the latency


@final
class World:
    """The ranks that train together. A world of one does no communication."""

    def __init__(self, rank: int = 0, size: int = 1, statistics_group: Any = None):
        self.rank = rank
        self.size = size
        self.statistics_group = statistics_group
        """Group of its own for synchronised batch norm, whose reductions interleave with those of the gradients."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place; returns its argument."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, vector: Tensor) -> Tensor:
        """Concatenate the ranks' vectors of unequal length, in the order of ranks, on every rank."""
        if self.size == 1:
            return vector
        lengths = torch.zeros(self.size, dtype=torch.int64, device=vector.device)
        lengths[self.rank] = len(vector)
        self.sum(lengths)
        padded = vector.new_zeros(self.size, int(lengths.max()))
        padded[self.rank, : len(vector)] = vector
        self.sum(padded)
        return torch.cat([row[:n] for row, n in zip(padded, lengths.tolist(), strict=True)])

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's values for everybody, in place; returns its argument."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def broadcast_bytes(self, content: bytes, device: torch.device) -> bytes:
        """Rank 0's bytes for everybody: a checkpoint reaches machines that do not share its disk. No pickle."""
        if self.size == 1:
            return content
        length = self.broadcast(torch.tensor([len(content)], device=device))
        if not int(length):
            return b""
        buffer = torch.zeros(int(length), dtype=torch.uint8, device=device)
        if self.is_first:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        return bytes(self.broadcast(buffer).cpu().numpy())


def current_world() -> World:
    """The ranks of the process group that somebody has joined; a world of one where nobody has."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()


@contextmanager
def world_from_environment(device: torch.device) -> Iterator[World]:
    """The world that torchrun or `--workers` describes in the environment; joins and leaves its process group.

    A process group that the caller made is used and left alone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized():
        yield World()
        return
    ours = not dist.is_initialized()
    if ours:
        init_method = os.environ.get("LARGEBATCH_RENDEZVOUS", "env://")
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=init_method,
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=timedelta(minutes=30),
        )
    try:
        group = dist.new_group()
        yield World(dist.get_rank(), dist.get_world_size(), group)
    finally:
        if ours:
            dist.destroy_process_group()


class _SumOverRanks(torch.autograd.Function):
    """y = Σ_r x_r on every rank. As every rank's loss depends on y, dL/dx_r = Σ_r dL_r/dy: again a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        y = x.clone()
        dist.all_reduce(y, group=group)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _SumOverRanks.apply(grad_outputs[0].contiguous(), ctx.group), None  # pyright: ignore


def sum_over_ranks(x: Tensor, group: Any) -> Tensor:
    """Differentiable sum over the ranks of a group."""
    return _SumOverRanks.apply(x, group)  # pyright: ignore[reportReturnType]


@final
class GradientSum:
    """Sum gradients over the ranks in fixed buckets, overlapped with the last backward pass of an update.

    Use: accumulate with `arm()` called before the last micro-batch, then `finish(extras)`. The extras (counts, losses,
    batch-norm statistics, the wish to stop) travel in the last bucket, so an update costs no further reduction. A
    parameter that no rank used keeps `grad=None`, as it would on one rank.
    """

    def __init__(self, parameters: Sequence[Tensor], world: World):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.world = world
        self._buckets: list[_Bucket] = []
        self._hooks: list[Any] = []
        self._armed = False
        self._launched = 0
        if world.size > 1:
            self._buckets = [_Bucket(group) for group in _fixed_groups(self.parameters)]
            for bucket in self._buckets:
                for parameter in bucket.parameters:
                    hook = self._hook(bucket)
                    self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))

    @property
    def has_started(self) -> bool:
        """Whether a part of this update has left for the other ranks: from there the update cannot be redone."""
        return self._launched > 0

    def arm(self) -> None:
        """The next backward pass is the last of this update: reduce each bucket as soon as it is complete."""
        self._armed = True
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def disarm(self) -> None:
        """Undo `arm`, after a backward pass that failed before anything was sent."""
        self._armed = False

    def finish(self, extras: Tensor) -> Tensor:
        """Complete the sums of `p.grad` in place and return `extras` (m,) summed over the ranks."""
        self._armed = False
        if self.world.size == 1:
            return extras
        while self._launched < len(self._buckets) - 1:
            self._launch()
        self._buckets[-1].launch(extras)
        results = [bucket.complete() for bucket in self._buckets]
        self._launched = 0
        return results[-1]

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _launch(self) -> None:
        self._buckets[self._launched].launch()
        self._launched += 1

    def _hook(self, bucket: "_Bucket") -> Any:
        def count(_: Tensor) -> None:
            if not self._armed:
                return
            bucket.missing -= 1
            # In the order of the buckets, whichever is complete first: all ranks must reduce in the same order. The
            # last one waits for the extras.
            while self._launched < len(self._buckets) - 1 and self._buckets[self._launched].missing == 0:
                self._launch()

        return count


def _fixed_groups(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Backward order (reverse of definition), up to BUCKET_BYTES each, one dtype each."""
    groups: list[list[Tensor]] = []
    filled = 0
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        if not groups or filled + size > BUCKET_BYTES or groups[-1][0].dtype != parameter.dtype:
            groups.append([])
            filled = 0
        groups[-1].append(parameter)
        filled += size
    return groups


@final
class _Bucket:
    """One flat buffer: the gradients, then a flag for each that says whether this rank has it, then the extras."""

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        self.missing = len(parameters)
        self._numel = sum(p.numel() for p in parameters)
        self._flat = torch.empty(0)
        self._work: Any = None

    def launch(self, extras: Tensor | None = None) -> None:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flags = [0.0 if p.grad is None else 1.0 for p in self.parameters]
        first = self.parameters[0]
        tail = torch.tensor(flags, dtype=first.dtype, device=first.device)
        parts = [*grads, tail] if extras is None else [*grads, tail, extras.to(first.dtype)]
        self._flat = flatten(parts)
        self._work = dist.all_reduce(self._flat, async_op=True)

    def complete(self) -> Tensor:
        self._work.wait()
        summed, flags, extras = torch.split(
            self._flat, [self._numel, len(self.parameters), len(self._flat) - self._numel - len(self.parameters)]
        )
        offset = 0
        for parameter, used in zip(self.parameters, flags.tolist(), strict=True):
            view = summed[offset : offset + parameter.numel()].view(parameter.shape)
            # In the parameter's own memory format: torch's fused optimisers silently mix up the entries of two formats.
            same = view if parameter.is_contiguous() else torch.empty_like(parameter).copy_(view)
            parameter.grad = same if used else None
            offset += parameter.numel()
        return extras
