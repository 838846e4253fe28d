"""Optimisers that need the gradient of one batch more than once per update: SAM, and Keskar's conservative steps.

Each wraps a torch optimiser and is driven as torch drives closures: `optimizer.step(gradient)`. A loop that always calls
`step(gradient)` drives plain torch optimisers, LARS and LAMB by the same line.
"""

from abc import ABC, abstractmethod
from typing import Any, Protocol, final

import torch
from torch import Tensor

__all__ = ["SAM", "Gradient", "MultiPass", "Proximal"]


class Gradient(Protocol):
    """Puts the gradient of the whole global batch, summed over ranks and clipped, into `p.grad` at the present weights.

    It replaces what was there. `first` is False for every call of an update but the first: then batch-norm statistics
    and counters stay. What it returns (a loss) comes back from `step`.
    """

    def __call__(self, first: bool = True) -> Any: ...


class MultiPass(ABC):
    """A torch optimiser, `inner`, with several gradients per update. All state is the inner one's: schedule that."""

    inner: torch.optim.Optimizer

    @abstractmethod
    def step(self, gradient: Gradient) -> Any:
        """Make one update.

        Returns:
            What the first call of `gradient` returned.

        Raises:
            RuntimeError: `gradient` left no gradient.
        """

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimiser's."""
        return self.inner.param_groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Hand a group to the inner optimiser."""
        self.inner.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimiser's: nothing is carried from one update to the next beside it."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave."""
        self.inner.load_state_dict(state_dict)

    def _parameters(self) -> list[Tensor]:
        """Those that have a gradient now."""
        params = [p for group in self.inner.param_groups for p in group["params"] if p.grad is not None]
        if not params:
            raise RuntimeError(
                f"{type(self).__name__} expected step(gradient) with a gradient() that fills p.grad, got no gradient: "
                f"call backward() in it"
            )
        return params


@final
class SAM(MultiPass):
    """Sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412, equation 2 with p = 2).

    ε = rho·g/‖g‖ with g the gradient at w, over all parameters together; then `inner` steps from w with the gradient at
    w + ε. Weight decay is no part of g, as in the paper's equation 1. g is the gradient of the global batch, so the result
    does not depend on the number of ranks; the paper's m-sharpness, an ε per accelerator, is another method.

    Args:
        inner: makes the step.
        rho: the radius, the paper's ρ; its default is 0.05.

    Raises:
        ValueError: rho is not above 0.
    """

    def __init__(self, inner: torch.optim.Optimizer, rho: float = 0.05) -> None:
        if rho <= 0:
            raise ValueError(f"SAM expected rho > 0, got {rho}: use the inner optimizer alone for no perturbation")
        self.inner = inner
        self.rho = rho

    def step(self, gradient: Gradient) -> Any:
        """Call `gradient()`, climb, call `gradient(first=False)`, climb down, step."""
        loss = gradient()
        params = self._parameters()
        with torch.no_grad():
            gradients = [p.grad for p in params if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            origin = [p.clone() for p in params]
            # At ‖g‖ = 0 there is no direction to climb, and w stays.
            length = torch.where(norm > 0, self.rho / norm, 0.0)
            torch._foreach_add_(params, torch._foreach_mul(gradients, length))
        gradient(first=False)
        with torch.no_grad():
            # Copied back: subtracting ε again would leave a rounding error in the weights at every update.
            torch._foreach_copy_(params, origin)
        self.inner.step()
        return loss


@final
class Proximal(MultiPass):
    """Keskar et al.'s conservative step (2017, arXiv 1609.04836, appendix E).

    x_{k+1} = argmin_x (1/|B|) Σ_{i∈B} f_i(x) + (strength/2)·‖x - x_k‖², solved inexactly: `inner` makes `steps` steps on the
    same batch with the gradient g(x) + strength·(x - x_k), and keeps its own state (momentum, moments) throughout. So an
    update moves about `steps` times as far as one of `inner`, and decoupled weight decay acts `steps` times.

    How the paper solved it is known to us only at second hand: 3 iterations of Adam, strength 1e-3.

    Args:
        inner: makes the steps.
        strength: the paper's λ.
        steps: of `inner` per update, with a gradient each.

    Raises:
        ValueError: strength is not above 0, or steps below 1.
    """

    def __init__(self, inner: torch.optim.Optimizer, strength: float = 1e-3, steps: int = 3) -> None:
        if strength <= 0:
            raise ValueError(f"Proximal expected strength > 0, got {strength}: use the inner optimizer alone for none")
        if steps < 1:
            raise ValueError(f"Proximal expected steps >= 1, got {steps}: the paper is said to have used 3")
        self.inner = inner
        self.strength = strength
        self.steps = steps

    def step(self, gradient: Gradient) -> Any:
        """Call `gradient()`, then `gradient(first=False)` `steps` - 1 times; step after each."""
        loss = gradient()
        params = self._parameters()
        origin = [p.detach().clone() for p in params]  # x_k
        self.inner.step()
        for _ in range(self.steps - 1):
            gradient(first=False)
            with torch.no_grad():
                for p, start in zip(params, origin, strict=True):
                    if p.grad is not None:
                        p.grad.add_(p - start, alpha=self.strength)
            self.inner.step()
        return loss
