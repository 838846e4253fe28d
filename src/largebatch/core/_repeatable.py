"""Can this model be measured at all? Finite weights, and a loss that two passes over the same samples agree on.

Dropout that is left on, random numbers drawn in evaluation, and buffers that a pass moves give a number like any other: it
is refused before it is computed.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from largebatch.core._seeds import seed_default

__all__ = ["require_finite_weights", "require_repeatable"]


def require_finite_weights(model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ValueError: names them.
    """
    bad = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    if bad:
        raise ValueError(
            f"model: expected finite weights, got NaN or infinity in {', '.join(bad)}: load a checkpoint from before "
            "the run diverged"
        )


@torch.no_grad()
def require_repeatable(model: nn.Module, losses: Callable[[], Tensor]) -> int:
    """Refuse a model that gives two answers, or that a pass changes; the default generator is left seeded.

    Args:
        losses: of each example, by a pass through the model.

    Returns:
        How many passes it took.

    Raises:
        ValueError: two passes that disagree, buffers that a pass moves, a loss that is not finite.
    """
    device = next(model.parameters()).device
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found: list[Tensor] = []
    for seed in (0, 1):
        seed_default(device, seed)
        found.append(losses().double())
    moved = [name for name, buffer in model.named_buffers() if not _same(buffer, buffers[name])]
    for name in moved:
        model.get_buffer(name).copy_(buffers[name])
    if moved:
        raise ValueError(
            f"model: expected an evaluation that changes nothing, but a pass moves the buffers {', '.join(moved)}: "
            "guard their update by `if self.training`"
        )
    if not all(bool(torch.isfinite(values).all()) for values in found):
        raise ValueError(
            "model: expected a finite loss at the weights to be measured, got NaN or infinity: "
            "load a checkpoint from before the run diverged"
        )
    difference = float((found[0] - found[1]).abs().max())
    if difference > 1e-5 * (1.0 + float(found[0].abs().max())):
        raise ValueError(
            f"model: expected the same loss from two passes over the same samples, they differ by {difference:.3g}: "
            "something draws random numbers in evaluation, such as F.dropout without training=self.training"
        )
    return len(found)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(
        a.is_floating_point() and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
    )
