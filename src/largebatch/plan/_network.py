"""How long an all-reduce takes: latency a for every message, b for every byte sent, g for every byte added up.

    time = messages·a + sent·n·b + added·n·g        n bytes, p workers; counts along the longest path

| algorithm          | messages       | sent         | added        | source |
| ring               | 2(p−1)         | 2(p−1)/p     | (p−1)/p      | Patarasuk and Yuan 2009, J. Par. Distr. Comp. 69:117 |
| halving-doubling   | 2·lg p         | 2(p−1)/p     | (p−1)/p      | Thakur, Rabenseifner and Gropp 2005, IJHPCA 19:49 |
|   p no power of 2  | 2·lg q + 2     | 2(q−1)/q + 2 | (q−1)/q + 1  | the same, q = 2^⌊lg p⌋; MPICH's allreduce.c |
| recursive-doubling | lg p           | lg p         | lg p         | the same |
|   p no power of 2  | lg q + 2       | lg q + 2     | lg q + 1     | the same fold |
| tree               | 2·⌈lg p⌉       | 2·⌈lg p⌉     | ⌈lg p⌉       | binomial reduce, then broadcast; the same |
| pipelined-tree     | 2·⌈lg p⌉       | 2            | 1            | our model of cut-up messages; not a measured library |

(MPICH's comment writes p where q is exact: after the p − q surplus workers have folded into their neighbours only q go on.)

Hierarchical, Goyal et al. 2017 (arXiv 1706.02677), section 4: reduce within each server, all-reduce between servers,
broadcast within. The paper gives no formula for the first and last; our model is a pipelined chain through the w
workers of a server: (w−1)·a + n·b each, and n·g for the reduce.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from largebatch.plan._arrays import Floats
from largebatch.results import Result, from_zero, positive, refuse

__all__ = ["ALGORITHMS", "Link", "Network", "all_reduce_counts"]

Counts = tuple[Floats, Floats, Floats]
"""Messages, bytes sent and bytes added per byte of the buffer, along the longest path."""


@final
@dataclass(frozen=True)
class Link(Result):
    """What joins two workers.

    Args:
        bytes_per_second: 1/b, in one direction.
        latency_seconds: a, of one message.
        add_bytes_per_second: 1/g, at which received bytes are added up; infinite where that is free.

    Raises:
        ValueError: with every number that is out of range.
    """

    bytes_per_second: float
    latency_seconds: float = 0.0
    add_bytes_per_second: float = math.inf

    def __post_init__(self) -> None:
        gigabit = "10 Gbit/s are 1.25e9; a link without bandwidth ends the plan at one worker"
        mistakes = positive("bytes_per_second", self.bytes_per_second, "a bandwidth", gigabit, infinite=True)
        mistakes += from_zero(
            "latency_seconds", self.latency_seconds, "a latency", "Ethernet has about 5e-5, or give 0"
        )
        add = "or leave it out where adding is free"
        mistakes += positive("add_bytes_per_second", self.add_bytes_per_second, "a rate of adding", add, infinite=True)
        refuse("link", mistakes)

    def seconds(self, counts: Counts, n_bytes: ArrayLike) -> Floats:
        """The time of `counts` on a buffer of `n_bytes`; broadcast."""
        messages, sent, added = counts
        n = np.asarray(n_bytes, np.float64)
        return messages * self.latency_seconds + n * (sent / self.bytes_per_second + added / self.add_bytes_per_second)


def all_reduce_counts(workers: ArrayLike, algorithm: str) -> Counts:
    """What an all-reduce sends and adds, shaped like `workers`.

    Args:
        workers: p ≥ 1; one worker sends nothing.
        algorithm: one of `ALGORITHMS`.

    Raises:
        ValueError: another algorithm, or fewer workers than 1.
    """
    p = np.asarray(workers, np.float64)
    mistakes: list[str] = []
    if algorithm not in ALGORITHMS:
        mistakes.append(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {algorithm!r}; take one of these")
    if np.any(p < 1):
        mistakes.append(f"workers: expected 1 or more, got {p.min():g}; one worker is the smallest plan")
    refuse("all-reduce", mistakes)
    messages, sent, added = ALGORITHMS[algorithm](p)
    return messages, sent, added


@final
@dataclass(frozen=True)
class Network(Result):
    """How the gradients of all workers are added up.

    Args:
        link: between workers; between servers, where a server holds several.
        algorithm: one of `ALGORITHMS`, between the ends of `link`.
        workers_per_server: 1, or the workers that `server_link` joins; they are filled server by server.
        server_link: within a server; needed where it holds several workers.

    Raises:
        ValueError: with every mistake.
    """

    link: Link
    algorithm: str = "ring"
    workers_per_server: int = 1
    server_link: Link | None = None

    def __post_init__(self) -> None:
        mistakes: list[str] = []
        if self.algorithm not in ALGORITHMS:
            mistakes.append(
                f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}; take one of these"
            )
        if self.workers_per_server < 1:
            mistakes.append(
                f"workers_per_server: expected 1 or more, got {self.workers_per_server}; 1 is a flat network"
            )
        if self.workers_per_server > 1 and self.server_link is None:
            mistakes.append(
                f"server_link: expected the link within a server of {self.workers_per_server} workers, got none; give it, "
                "or workers_per_server=1"
            )
        refuse("network", mistakes)

    def seconds(self, workers: ArrayLike, n_bytes: ArrayLike) -> Floats:
        """The time of an all-reduce of `n_bytes` over `workers`; broadcast."""
        p = np.asarray(workers, np.float64)
        servers = np.ceil(p / self.workers_per_server)
        between = self.link.seconds(all_reduce_counts(servers, self.algorithm), n_bytes)
        if self.server_link is None:
            return between
        inside = np.minimum(p, self.workers_per_server)
        several = (inside > 1) * 1.0
        chain = (2 * (inside - 1), 2 * several, several)  # reduce and broadcast
        return between + self.server_link.seconds(chain, n_bytes)


def _ring(p: Floats) -> Counts:
    share = 1 - 1 / p
    return 2 * (p - 1), 2 * share, share


def _fold(p: Floats) -> tuple[Floats, Floats, Floats]:
    """lg q and q, the largest power of 2 up to p, and whether surplus workers fold into their neighbours first."""
    lg = np.frexp(p)[1] - 1.0
    q = np.exp2(lg)
    return lg, q, (p > q) * 1.0


def _halving_doubling(p: Floats) -> Counts:
    lg, q, folds = _fold(p)
    added = 1 - 1 / q + folds
    return 2 * (lg + folds), 2 * added, added


def _recursive_doubling(p: Floats) -> Counts:
    lg, _, folds = _fold(p)
    return lg + 2 * folds, lg + 2 * folds, lg + folds


def _depth(p: Floats) -> Floats:
    lg, _, folds = _fold(p)
    return lg + folds


def _tree(p: Floats) -> Counts:
    depth = _depth(p)
    return 2 * depth, 2 * depth, depth


def _pipelined_tree(p: Floats) -> Counts:
    several = (p > 1) * 1.0
    return 2 * _depth(p), 2 * several, several


ALGORITHMS: dict[str, Callable[[Floats], Counts]] = {
    "ring": _ring,
    "halving-doubling": _halving_doubling,
    "recursive-doubling": _recursive_doubling,
    "tree": _tree,
    "pipelined-tree": _pipelined_tree,
}
"""Names of the all-reduce algorithms, and what each sends and adds."""
