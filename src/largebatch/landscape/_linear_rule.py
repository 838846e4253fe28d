"""The linear rule's own assumption, measured: do k small steps go where one k-fold step goes?

Goyal et al. 2017 (arXiv 1706.02677), section 2.1. From the weights w_t, on k minibatches B_j of n samples,

    k steps of rate η    w_{t+k}  = w_t − η·(1/n)·Σ_{j<k} Σ_{x∈B_j} ∇l(x, w_{t+j})          (3)
    one step of rate η̂   ŵ_{t+1} = w_t − η̂·(1/kn)·Σ_{j<k} Σ_{x∈B_j} ∇l(x, w_t)             (4)

"If we could assume ∇l(x, w_t) ≈ ∇l(x, w_{t+j}) for j < k, then setting η̂ = kη would yield ŵ_{t+1} ≈ w_{t+k}." The
measure is ‖w_{t+k} − ŵ_{t+1}‖ ÷ ‖w_{t+k} − w_t‖: 0 where the assumption holds, as on a linear loss; at 1 the large step is
off by as much as the small ones moved. The paper names two conditions under which it fails: early in training, and at a k
too large; so measure it at several checkpoints and for several k.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from largebatch.core import Data, Loader, Loss, Measured, Risk, World, flatten, generator, progress, stopwatch
from largebatch.results import Estimate, mean_interval

__all__ = ["LinearRule", "linear_rule"]

Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LinearRule(Measured):
    """How far one k-fold step lands from k small ones, relative to how far these go.

    Args:
        ratio: mean over draws of samples of difference ÷ movement, with its t-interval.
        ratios: difference ÷ movement of each draw.
        differences: ‖x_small − x_large‖ of each draw.
        movements: ‖x_small − x_0‖ of each draw.
        k: number of small steps.
        batch_size: of a small step, n.
        lr: of a small step, η; the large step has kη.
        momentum, weight_decay: of both.
        batch_norm: as for every measurement; "batch" are those of each small batch, in the large step too.
        seed: of the draws.
    """

    ratio: Estimate
    ratios: tuple[float, ...]
    differences: tuple[float, ...]
    movements: tuple[float, ...]
    k: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    seed: int


def linear_rule(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    batch_size: int,
    k: int,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    repeats: int = 5,
    seed: int = 0,
    batch_norm: Literal["batch", "running"] = "batch",
    dtype: torch.dtype | None = None,
    world: World | None = None,
) -> LinearRule:
    """Measure the linear rule's assumption at the model's present weights, which it leaves as they are.

    Each draw takes kn samples without replacement, anew for each draw. The model is in evaluation mode, so that dropout
    does not blur the comparison, except for its batch norms: by default they take the statistics of each batch of n (or of
    the ghosts the model is built of), and do so in the large step too. That is Goyal et al.'s section 2.3: the loss stays
    the same function, and nothing but the motion of the weights differs.

    Args:
        loss: one value per example, or (values, weights).
        data: from which the batches are drawn; at least k·batch_size samples.
        batch_size: n, of one small step.
        k: number of small steps, and how many times larger the large one is.
        lr: η, of one small step.
        momentum: 0 as in the derivation. Else both begin with the velocity g/(1 − momentum) that the gradient g of all kn
            samples at x_0 would have built up, so that a constant gradient still gives 0.
        weight_decay: added to the gradient, times the present weights; 0 as in the derivation.
        repeats: draws; 2 or more give an interval.
        batch_norm: "batch", as in training, or "running", the model's own statistics throughout.
        dtype: measure a copy of the model in it, such as torch.float64.
        world: ranks share the draws out among them; all must call alike.

    Raises:
        ValueError: options out of range, too few samples for k batches, a model that gives two answers.
    """
    risk = Risk(model, loss, data, batch_norm=batch_norm, batch_size=max(batch_size, 1), dtype=dtype, world=world)
    _refuse(risk, batch_size=batch_size, k=k, lr=lr, momentum=momentum, weight_decay=weight_decay, repeats=repeats)
    loader = Loader(data, risk.device, dtype=risk.dtype)
    found = torch.zeros(repeats, 2, dtype=torch.float64, device=risk.device)  # difference, movement
    mine = range(risk.world.rank, repeats, risk.world.size)
    with stopwatch(risk) as watch, progress(f"{len(mine)} draws of {k} small steps", len(mine), "draws") as bar:
        for draw in mine:
            order = torch.randperm(risk.samples, generator=generator(seed, "linear-rule", draw))
            chosen = order[: k * batch_size].split(batch_size)
            batches = list(loader.batches(chosen, epoch=draw))
            small, large = _compare(risk, batches, lr, momentum, weight_decay)
            found[draw, 0] = torch.linalg.vector_norm((small - large).double())
            found[draw, 1] = torch.linalg.vector_norm(small.double())
            risk.passes += 2 * k * batch_size / risk.samples
            bar.update()
    differences, movements = risk.world.sum(found).T.tolist()
    ratios = tuple(d / m if m != 0 else math.nan for d, m in zip(differences, movements, strict=True))
    return LinearRule(
        ratio=_mean(ratios), ratios=ratios, differences=tuple(differences), movements=tuple(movements), k=k,
        batch_size=batch_size, lr=lr, momentum=momentum, weight_decay=weight_decay, seed=seed,
        **watch.conditions(), note="both begin with the velocity of a constant gradient" if momentum else "",
    )  # fmt: skip


def _compare(risk: Risk, batches: Batches, lr: float, momentum: float, weight_decay: float) -> tuple[Tensor, Tensor]:
    """Displacements (P,) of k steps of rate `lr` and of one step of rate k·`lr`, from the model's weights."""
    start = risk.point()
    with risk.measuring(), torch.enable_grad(), risk.displaced() as move:
        slope = _gradient(risk, batches) + weight_decay * start
        velocity = slope / (1.0 - momentum)
        large = -len(batches) * lr * velocity  # momentum·velocity + slope is the velocity again
        velocity = velocity if momentum else torch.zeros_like(start)
        small = torch.zeros_like(start)
        for batch in batches:
            move(small)
            velocity = momentum * velocity + _gradient(risk, [batch]) + weight_decay * (start + small)
            small = small - lr * velocity
    return small, large


def _gradient(risk: Risk, batches: Batches) -> Tensor:
    """(P,) of the mean loss over the batches together, each with batch-norm statistics of its own."""
    summed = flatten([torch.zeros_like(p) for p in risk.parameters])
    count = torch.zeros((), device=risk.device, dtype=risk.dtype)
    for inputs, targets in batches:
        value, weight = risk.loss_sum(inputs, targets)
        summed += flatten(torch.autograd.grad(value, risk.parameters, materialize_grads=True))
        count = count + weight
    return summed / count


def _mean(ratios: Sequence[float]) -> Estimate:
    if all(map(math.isfinite, ratios)):
        return mean_interval(ratios)
    bad = sum(not math.isfinite(ratio) for ratio in ratios)
    nan = math.nan
    note = f"{bad} of {len(ratios)} draws moved nowhere or left the finite numbers: no mean; see `movements`"
    return Estimate(nan, nan, nan, nan, len(ratios), note=note)


def _refuse(
    risk: Risk, *, batch_size: int, k: int, lr: float, momentum: float, weight_decay: float, repeats: int
) -> None:
    mistakes = [
        f"{name}: expected {wanted}, got {value:g}"
        for name, value, wanted, is_good in (
            ("batch_size", batch_size, "at least 1 sample", batch_size >= 1),
            ("k", k, "at least 1 small step", k >= 1),
            ("lr", lr, "a positive number", 0 < lr < math.inf),
            ("momentum", momentum, "at least 0 and less than 1", 0 <= momentum < 1),
            ("weight_decay", weight_decay, "0 or a positive number", 0 <= weight_decay < math.inf),
            ("repeats", repeats, "at least 1 draw", repeats >= 1),
        )
        if not is_good
    ]
    if risk.batch_norm not in get_args(Literal["batch", "running"]):
        mistakes.append(f"batch_norm: expected batch or running, got {risk.batch_norm!r}")
    if k * batch_size > risk.samples:
        mistakes.append(
            f"data: expected {k} batches of {batch_size} samples, {k * batch_size} in all, got {risk.samples}; take a "
            "smaller k or batch_size, or more data"
        )
    if mistakes:
        raise ValueError("\n  ".join(mistakes))
