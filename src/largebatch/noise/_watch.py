"""Looking on at somebody else's loop: the parts of an update are its backward passes, on every rank.

A hook on a parameter sees the gradient of one backward pass, before it is added up and before DDP reduces it. With losses
divided so that `p.grad` is at last the mean over the B samples of W ranks, part i of b_i samples contributes b_i/B of its
own mean gradient, times W where DDP averages; so its squared mean norm is that of the hook times (B/(W·b_i))².
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from largebatch.core import Partials, World
from largebatch.noise._precondition import preconditioner_roots, weighted_squared_norm

if TYPE_CHECKING:
    from largebatch.noise._scale import NoiseScale

__all__ = ["Watch"]


@final
class Watch:
    """The hooks of `NoiseScale.watch`. Between looks there is one, which counts samples."""

    def __init__(
        self,
        noise: "NoiseScale",
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        preconditioned: bool,
    ):
        self._noise, self._optimizer, self._world, self._preconditioned = noise, optimizer, world, preconditioned
        self._parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._always: list[Any] = [
            model.register_forward_pre_hook(self._count, with_kwargs=True),
            optimizer.register_step_pre_hook(self._look),
            optimizer.register_step_post_hook(self._begin),
        ]
        self._looking: list[Any] = []
        self._roots: list[Tensor] | None = None
        self._samples = 0  # of this rank, over the run
        self._begin()

    def close(self) -> None:
        """Take all hooks away."""
        for hook in self._always + self._looking:
            hook.remove()
        self._always, self._looking = [], []

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, *_: object) -> None:
        """A new update: look or not."""
        self._counts: list[int] = []
        self._norms: list[list[Tensor]] = []
        self._open = False  # whether the newest part still waits for its backward pass
        for hook in self._looking:
            hook.remove()
        self._looking = []
        self._whole: list[Tensor | None] = [None] * len(self._parameters)
        if not self._noise.is_due(several_ranks=self._world.size > 1):
            return
        self._roots = preconditioner_roots(self._optimizer, self._parameters) if self._preconditioned else None
        if self._preconditioned and self._roots is None:
            return  # Adam has no second moment before its first step
        for i, p in enumerate(self._parameters):
            self._looking.append(p.register_hook(self._partial(i)))
            self._looking.append(p.register_post_accumulate_grad_hook(self._sum(i)))

    def _count(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            return
        n = len(next(x for x in (*arguments, *named.values()) if isinstance(x, Tensor)))
        self._samples += n
        if self._open:  # several calls for one backward pass
            self._counts[-1] += n
        else:
            self._counts.append(n)
            self._norms.append([])
            self._open = True

    def _partial(self, index: int) -> Callable[[Tensor], None]:
        def see(gradient: Tensor) -> None:
            self._open = False
            self._norms[-1].append(self._squared_norm(index, gradient.detach()))

        return see

    def _sum(self, index: int) -> Callable[[Tensor], None]:
        def see(p: Tensor) -> None:
            if p.grad is not None:
                self._whole[index] = self._squared_norm(index, p.grad)

        return see

    def _squared_norm(self, index: int, gradient: Tensor) -> Tensor:
        return weighted_squared_norm([gradient], None if self._roots is None else [self._roots[index]])

    def _look(self, *_: object) -> None:
        """The gradients are complete, and the weights those they were taken at."""
        if not self._looking:
            return
        own = [(n, torch.stack(norms).sum()) for n, norms in zip(self._counts, self._norms, strict=True) if norms]
        counts = self._world.gather(torch.tensor([float(n) for n, _ in own], dtype=torch.float64))
        norms = self._world.gather(torch.stack([norm for _, norm in own]).cpu())
        if len(counts) < 2 and self._noise.looks:
            return  # a short last batch; where every batch is a single part, the first look says so
        if self._world.size > 1:  # only now are the gradients reduced
            present = [i for i, p in enumerate(self._parameters) if p.grad is not None]
            whole = [self._squared_norm(i, self._parameters[i].grad) for i in present]  # pyright: ignore
        else:  # as they were before somebody clipped them
            whole = [norm for norm in self._whole if norm is not None]
        scale = (counts.sum() / (self._world.size * counts)) ** 2
        partials = Partials(counts, norms * scale, torch.stack(whole).sum().cpu(), self._preconditioned)
        self._noise.add(partials, self._samples * self._world.size)
