"""Dinh et al. 2017 (arXiv 1703.04933): one function, as sharp as you like.

A ReLU lets a positive factor through, so a layer times a and the next divided by a make the same network. Metric 2.1
(Keskar et al. 2017) changes with a; sharpness in units of the weights, ASAM's and adaptive ℓ∞, does not.
"""

import torch
from torch import nn

from largebatch.core import Risk, cross_entropy
from largebatch.diagnose import sharpness_all

KINDS = ("metric_2_1_ascent", "sam", "asam", "adaptive_linf")
FACTORS = (1.0, 4.0, 16.0)


def trained_network(inputs: torch.Tensor, targets: torch.Tensor) -> nn.Sequential:
    """A ReLU network after 60 steps of gradient descent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).mean().backward()
        optimizer.step()
    return model


def main() -> None:
    """Print one row per kind, one column per factor."""
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(128, 10, generator=source, dtype=torch.float64)
    targets = (inputs[:, :3] + torch.randn(128, 3, generator=source, dtype=torch.float64)).argmax(1)
    model = trained_network(inputs, targets)
    columns: list[list[float]] = []
    now = 1.0
    for factor in FACTORS:
        with torch.no_grad():
            model[0].weight *= factor / now
            model[0].bias *= factor / now
            model[2].weight /= factor / now
        now = factor
        columns.append([found.value for found in sharpness_all(Risk(model, cross_entropy, (inputs, targets)), KINDS)])
    print("kind               " + "".join(f"{f'a = {factor:g}':>12}" for factor in FACTORS))
    for kind, *values in zip(KINDS, *columns, strict=True):
        print(f"{kind:19}" + "".join(f"{value:12.6g}" for value in values))


if __name__ == "__main__":
    main()
