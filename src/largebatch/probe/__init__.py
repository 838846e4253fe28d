"""How large a batch still pays: judged from noise scales, branches and sweeps that others measured."""

from largebatch.probe._critical import Agreement, CriticalBatch, critical_batch_size
from largebatch.probe._routes import Route, by_branches, by_noise_scale, by_sweep, largest_recovered

__all__ = [
    "Agreement",
    "CriticalBatch",
    "Route",
    "by_branches",
    "by_noise_scale",
    "by_sweep",
    "critical_batch_size",
    "largest_recovered",
]
