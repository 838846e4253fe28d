"""LARS and LAMB: each tensor's step is scaled to the size of the tensor, by one trust-ratio function.

LARS is Algorithm 1 of You, Gitman and Ginsburg 2017 (arXiv 1708.03888), LAMB is Algorithm 2 of You et al. 2020 (arXiv
1904.00962). Their letters: w, x weights; g gradient; m momentum; beta (LARS), lambda (LAMB) `weight_decay`; eta (LARS)
`trust_coefficient`; gamma (LARS), eta (LAMB) `lr`; v (LARS) "momentum_buffer"; m, v (LAMB) "exp_avg", "exp_avg_sq"; phi
`weight_norm_bounds`.

The published ports differ in silence from the papers and from one another. These two scale the step at weight decay 0
too (timm and torch_optimizer do not), and from the first step on (pytorch_optimizer 3.9.0 does not).
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

__all__ = ["LAMB", "LARS", "trust_ratio"]

CPU_CHUNK = 1 << 18
"""Elements of one list on a CPU. With all of a model in one, every temporary list is fresh memory, whose page faults take
most of a step (measured on 1.5M float32 parameters: one addition 3.0 ms, against 0.4 ms tensor by tensor)."""


def trust_ratio(
    weight_norms: Tensor, step_norms: Tensor, *, coefficient: float = 1.0, weight_decay: float = 0.0
) -> Tensor:
    """coefficient·‖w‖ / (‖s‖ + weight_decay·‖w‖) per tensor, and 1 where ‖w‖ or ‖s‖ is 0.

    LARS passes s = gradient with both options, LAMB s = its whole step with neither. The 1 is ours, as in most ports: by the
    formula a tensor that starts at 0 would stay there, and LARS would shrink one without gradient by its whole coefficient.

    Args:
        weight_norms: (t,) for t tensors.
        step_norms: (t,).

    Returns:
        (t,), computed without a host sync.
    """
    ratios = coefficient * weight_norms / (step_norms + weight_decay * weight_norms)
    return torch.where((weight_norms > 0) & (step_norms > 0), ratios, 1.0)


class _Layerwise(torch.optim.Optimizer, ABC):
    """What LARS and LAMB share: the walk over parameter groups. A group with `adapt=False` has trust ratio 1."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update with the gradients at hand; parameters without a gradient are left alone.

        Args:
            closure: recomputes the loss and its gradients; called once, with gradients enabled.

        Returns:
            What `closure` returned, else None.

        Raises:
            RuntimeError: a gradient is sparse or complex.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for params, gradients in self._with_gradient(group["params"]):
                self._update(params, gradients, group)
        return loss

    @abstractmethod
    def _update(self, params: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one device and dtype."""

    def _with_gradient(self, params: list[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The parameters that have a gradient, with it, in lists of one device and dtype as the kernels want them."""
        lists: dict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        elements = 0
        for p in params:
            if p.grad is None:
                continue
            if p.grad.is_sparse or p.grad.is_complex():
                raise RuntimeError(
                    f"{type(self).__name__} expected dense real gradients, got {p.grad.layout} {p.grad.dtype} for a "
                    f"parameter of shape {tuple(p.shape)}: use Embedding(sparse=False), or give that parameter to "
                    f"another optimizer"
                )
            chunk = elements // CPU_CHUNK if p.device.type == "cpu" else 0
            elements += p.numel()
            kind = lists[p.device, p.dtype, chunk]
            kind[0].append(p)
            kind[1].append(p.grad)
        yield from lists.values()

    def _averages(self, params: list[Tensor], name: str) -> list[Tensor]:
        """State tensors that start at 0, one beside each parameter."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [self.state[p][name] for p in params]


@final
class LARS(_Layerwise):
    """Momentum SGD whose step is scaled, tensor by tensor, to `trust_coefficient`·‖w‖ (arXiv 1708.03888, Algorithm 1).

    With d = r·(g + weight_decay·w) and r = trust_coefficient·‖w‖/(‖g‖ + weight_decay·‖w‖):

        "paper":  v ← momentum·v + lr·d;   w ← w - v         (the rate inside the buffer)
        "torch":  u ← momentum·u + d;      w ← w - lr·u      (outside, as in torch.optim.SGD and most ports)

    They agree at a constant rate and differ whenever it changes, as in warmup. `nesterov` adds torch.optim.SGD's
    look-ahead, which the paper does not have.

    Args:
        params: tensors, named tensors or parameter groups. Every tensor of a bare list is adapted; put norm and bias
            parameters into a group with `adapt=False` (and `weight_decay=0`), which has r = 1, or let
            `build_optimizer` do it.
        lr: gamma, a float or a 0-dim tensor.
        momentum: m; the paper's 0.9.
        weight_decay: beta.
        trust_coefficient: eta; the paper's 1e-3.

    Raises:
        ValueError: a setting is out of its range, or the convention is unknown.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        nesterov: bool = False,
        momentum_convention: Literal["paper", "torch"] = "paper",
    ) -> None:
        _refuse_negative("LARS", lr=lr, momentum=momentum, weight_decay=weight_decay)
        if trust_coefficient <= 0:
            raise ValueError(f"LARS expected trust_coefficient > 0, got {trust_coefficient}: the paper's is 1e-3")
        if momentum_convention not in ("paper", "torch"):
            raise ValueError(
                f'LARS expected momentum_convention "paper" or "torch", got {momentum_convention!r}: choose whether the '
                f"rate is inside the momentum buffer, as in the paper, or outside, as in torch.optim.SGD"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "nesterov": nesterov,
            "momentum_convention": momentum_convention,
            "adapt": True,
        }
        super().__init__(params, defaults)

    def _update(self, params: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        momentum, weight_decay = group["momentum"], group["weight_decay"]
        inner, outer = (group["lr"], 1.0) if group["momentum_convention"] == "paper" else (1.0, group["lr"])
        buffers = self._averages(params, "momentum_buffer")

        directions = torch._foreach_add(gradients, params, alpha=weight_decay)
        if group["adapt"]:
            ratios = trust_ratio(
                _norms(params), _norms(gradients), coefficient=group["trust_coefficient"], weight_decay=weight_decay
            )
            torch._foreach_mul_(directions, list(ratios))

        torch._foreach_mul_(buffers, momentum)
        _add_scaled(buffers, directions, inner)
        steps = buffers
        if group["nesterov"]:
            steps = torch._foreach_mul(buffers, momentum)
            _add_scaled(steps, directions, inner)
        _add_scaled(params, steps, -outer)


@final
class LAMB(_Layerwise):
    """Adam whose step is scaled, tensor by tensor, to the norm of the weights (arXiv 1904.00962, Algorithm 2).

    With Adam's bias-corrected m̂ and v̂, s = m̂/(√v̂ + eps) + weight_decay·w:   w ← w - lr·φ(‖w‖)/‖s‖·s

    Args:
        params: tensors, named tensors or parameter groups. Every tensor of a bare list is adapted; put norm and bias
            parameters into a group with `adapt=False` (and `weight_decay=0`), which takes Adam's step, or let
            `build_optimizer` do it.
        lr: eta, a float or a 0-dim tensor.
        betas: beta_1 and beta_2; the paper's 0.9 and 0.999.
        eps: epsilon; the paper's 1e-6.
        weight_decay: lambda, decoupled; the paper's is 0.01.
        weight_norm_bounds: (gamma_l, gamma_u) of φ(z) = min(max(z, gamma_l), gamma_u); None for φ(z) = z, which the
            paper's experiments and most readers mean. Some ports have (0, 10).

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        weight_norm_bounds: tuple[float, float] | None = None,
    ) -> None:
        _refuse_negative("LAMB", lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"LAMB expected betas in [0, 1), got {betas}: the paper's are (0.9, 0.999)")
        if weight_norm_bounds is not None and not 0 <= weight_norm_bounds[0] < weight_norm_bounds[1]:
            raise ValueError(
                f"LAMB expected weight_norm_bounds (low, high) with 0 <= low < high, got {weight_norm_bounds}: "
                f"give None for no bounds"
            )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "weight_norm_bounds": weight_norm_bounds,
            "adapt": True,
        }
        super().__init__(params, defaults)

    def _update(self, params: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        means, squares = self._averages(params, "exp_avg"), self._averages(params, "exp_avg_sq")
        for p in params:
            # A Python number, so that the bias corrections need no host sync.
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
        updates = [self.state[p]["step"] for p in params]

        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)

        # In place from here on: a second temporary list would cost another round of fresh memory.
        steps = torch._foreach_div(squares, [1 - beta2**t for t in updates])
        torch._foreach_sqrt_(steps)
        torch._foreach_add_(steps, group["eps"])
        torch._foreach_reciprocal_(steps)
        torch._foreach_mul_(steps, means)
        torch._foreach_div_(steps, [1 - beta1**t for t in updates])
        torch._foreach_add_(steps, params, alpha=group["weight_decay"])
        if group["adapt"]:
            low, high = group["weight_norm_bounds"] or (0.0, float("inf"))
            torch._foreach_mul_(steps, list(trust_ratio(_norms(params).clamp(low, high), _norms(steps))))
        _add_scaled(params, steps, -group["lr"])


def _add_scaled(targets: Sequence[Tensor], terms: Sequence[Tensor], scale: float | Tensor) -> None:
    """targets += scale·terms; a scale that is a tensor stays on its device."""
    if isinstance(scale, Tensor):
        terms, scale = torch._foreach_mul(list(terms), scale), 1.0
    torch._foreach_add_(list(targets), list(terms), alpha=scale)


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """(t,) Euclidean norms of t tensors of one dtype; half precision is summed in float32, where squares fit."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack(torch._foreach_norm(list(tensors), 2, dtype))


def _refuse_negative(optimizer: str, **settings: float | Tensor) -> None:
    for name, value in settings.items():
        if value < 0:
            raise ValueError(f"{optimizer} expected {name} >= 0, got {value}")
