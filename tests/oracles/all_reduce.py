"""All-reduce algorithms carried out message by message on numbers, counting along the longest path.

Every algorithm is a sequence of rounds; in a round each worker sends at most one message, and all wait for the largest.
Works in exact integers: a buffer is p·q blocks of 1, so that every algorithm cuts it evenly. Shares no code with the
package.
"""

import numpy as np


class Cluster:
    """Buffers of p workers, and what was sent and added, in parts of a buffer."""

    def __init__(self, p):
        self.p = p
        self.q = 2 ** (p.bit_length() - 1)
        self.size = p * self.q
        self.x = np.random.default_rng(p).integers(0, 100, (p, self.size))
        self.want = self.x.sum(axis=0)
        self.messages = self.sent = self.added = 0

    def round(self, moves, add):
        """moves: (from, to, slice) at once; the largest counts."""
        copies = [(to, part, self.x[source, part].copy()) for source, to, part in moves]
        for to, part, values in copies:
            self.x[to, part] = self.x[to, part] + values if add else values
        largest = max(len(values) for _, _, values in copies)
        self.messages += 1
        self.sent += largest
        self.added += largest if add else 0

    def result(self):
        assert (self.x == self.want).all(), "not every worker has the sum"
        return self.messages, self.sent / self.size, self.added / self.size


def ring(p):
    c = Cluster(p)
    block = c.size // p
    part = [slice(i * block, (i + 1) * block) for i in range(p)]
    for add in (True, False):
        for k in range(p - 1):
            shift = 0 if add else 1
            c.round([(i, (i + 1) % p, part[(i - k + shift) % p]) for i in range(p)], add)
    return c.result()


def _folded(c):
    """Surplus workers give their buffer to a neighbour; the q that go on."""
    surplus = c.p - c.q
    if surplus:
        c.round([(2 * i, 2 * i + 1, slice(None)) for i in range(surplus)], True)
    return [2 * i + 1 for i in range(surplus)] + list(range(2 * surplus, c.p))


def _unfolded(c):
    surplus = c.p - c.q
    if surplus:
        c.round([(2 * i + 1, 2 * i, slice(None)) for i in range(surplus)], False)
    return c.result()


def halving_doubling(p):
    c = Cluster(p)
    rank = _folded(c)
    low, high = [0] * c.q, [c.size] * c.q
    trail = []
    distance = c.q // 2
    while distance:
        moves = []
        trail.append((distance, list(low), list(high)))
        for i in range(c.q):
            middle = (low[i] + high[i]) // 2
            keeps_low = not i & distance
            moves.append((rank[i], rank[i ^ distance], slice(middle, high[i]) if keeps_low else slice(low[i], middle)))
            low[i], high[i] = (low[i], middle) if keeps_low else (middle, high[i])
        c.round(moves, True)
        distance //= 2
    for distance, was_low, was_high in reversed(trail):
        c.round([(rank[i], rank[i ^ distance], slice(low[i], high[i])) for i in range(c.q)], False)
        low, high = was_low, was_high
    return _unfolded(c)


def recursive_doubling(p):
    c = Cluster(p)
    rank = _folded(c)
    distance = 1
    while distance < c.q:
        c.round([(rank[i], rank[i ^ distance], slice(None)) for i in range(c.q)], True)
        distance *= 2
    return _unfolded(c)


def tree(p):
    c = Cluster(p)
    distances = [1 << k for k in range((p - 1).bit_length())]
    for d in distances:
        c.round([(i, i - d, slice(None)) for i in range(p) if i % (2 * d) == d], True)
    for d in reversed(distances):
        c.round([(i - d, i, slice(None)) for i in range(p) if i % (2 * d) == d], False)
    return c.result()
