"""Processes of this machine that compute for another one and end with it."""

from largebatch.processes._pool import Pool, local_pool, warm_up

__all__ = ["Pool", "local_pool", "warm_up"]
