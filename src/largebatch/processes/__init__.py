"""Processes of this machine that compute for another one and end with it."""

from largebatch.processes._pool import Pool, local_pool, stop_together, warm_up

__all__ = ["Pool", "local_pool", "stop_together", "warm_up"]
