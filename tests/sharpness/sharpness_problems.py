"""Risks whose sharpness is known, or known not to change."""

import torch
from torch import nn

from largebatch.core import Risk, cross_entropy


class Bowl(nn.Module):
    """Σ h_i w_i²/2 + s'w + c for each row s of the inputs; its output is the loss."""

    def __init__(self, curvatures, point, constant=0.0):
        super().__init__()
        self.register_buffer("curvatures", torch.as_tensor(curvatures, dtype=torch.float64))
        self.w = nn.Parameter(torch.as_tensor(point, dtype=torch.float64).clone())
        self.constant = constant

    def forward(self, slopes):
        return (self.curvatures * self.w**2).sum() / 2 + slopes @ self.w + self.constant


def output_is_loss(outputs, targets):
    return outputs


def bowl(curvatures, point=None, slope=None, *, samples=10, batch_size=4, constant=0.0):
    """A bowl with slope `slope` + Hx at `point`, over samples whose own slopes differ from the mean."""
    n = len(curvatures)
    point = torch.zeros(n) if point is None else point
    rows = torch.randn(samples, n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows -= rows.mean(0)
    if slope is None and not torch.as_tensor(point).any():
        rows *= 0  # the gradient at the minimum then vanishes exactly
    rows += 0 if slope is None else torch.as_tensor(slope, dtype=torch.float64)
    model = Bowl(curvatures, point, constant)
    return Risk(model, output_is_loss, (rows, torch.zeros(samples)), batch_size=batch_size)


def classes_data(samples=10, features=6, classes=4, seed=1):
    source = torch.Generator().manual_seed(seed)
    return (
        torch.randn(samples, features, generator=source, dtype=torch.float64),
        torch.randint(classes, (samples,), generator=source),
    )


def relu_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)).double()


def batch_norm_network(seed=0):
    """With dropout, and running statistics that are those of other data."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 4)).double()
    for _ in range(5):
        model(1 + 2 * torch.randn(20, 6, dtype=torch.float64))
    return model


def rescale(model, a):
    """Dinh et al. 2017: the first layer times a, the weights of the second divided by a; a ReLU passes a > 0 through."""
    with torch.no_grad():
        model[0].weight *= a
        model[0].bias *= a
        model[2].weight /= a


def risk(model=None, **options):
    return Risk(
        relu_network() if model is None else model, cross_entropy, classes_data(), **({"batch_size": 4} | options)
    )
