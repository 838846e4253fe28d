"""Positions: one permutation, whole ghosts, every sample once, for every world size and micro-batch."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from largebatch.core import cut, ghost_sizes, permutation, rank_share

ghosts = st.one_of(st.none(), st.integers(2, 40))


@given(st.integers(0, 500), ghosts)
def test_ghosts_cover_the_batch_and_none_has_a_single_sample(samples, ghost):
    sizes = ghost_sizes(samples, ghost)
    assert sum(sizes) == samples
    assert samples == 1 or 1 not in sizes
    if ghost is not None and samples > ghost:
        assert all(size == ghost for size in sizes[:-1])
        assert 2 <= sizes[-1] <= ghost + 1
        assert len(sizes) in (samples // ghost, samples // ghost + 1)


def test_ghost_sizes_by_hand():
    assert ghost_sizes(100, 32) == [32, 32, 32, 4]
    assert ghost_sizes(97, 32) == [32, 32, 33]
    assert ghost_sizes(33, 32) == [33]
    assert ghost_sizes(20, 32) == [20]
    assert ghost_sizes(100, None) == [100]
    assert ghost_sizes(0, 32) == []


@given(st.integers(0, 500), ghosts, st.integers(1, 9))
def test_ranks_take_contiguous_whole_ghosts_that_differ_by_at_most_one(samples, ghost, world_size):
    bounds = [rank_share(samples, ghost, rank, world_size) for rank in range(world_size)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == samples
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    units = [1] * samples if ghost is None else ghost_sizes(samples, ghost)
    edges = [sum(units[:i]) for i in range(len(units) + 1)]
    counts = [edges.index(stop) - edges.index(start) for start, stop in bounds]
    assert max(counts) - min(counts) <= 1


@given(st.integers(1, 500), ghosts, st.one_of(st.none(), st.integers(1, 600)), st.integers(1, 9))
def test_micro_batches_are_whole_ghosts_and_keep_to_the_limit(samples, ghost, limit, pieces):
    bounds = cut(samples, ghost, limit, pieces)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == samples
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    sizes = [stop - start for start, stop in bounds]
    units = [1] * samples if ghost is None else ghost_sizes(samples, ghost)
    edges = {sum(units[:i]) for i in range(len(units) + 1)}
    assert all(stop in edges for _, stop in bounds)
    if limit is not None:
        assert max(sizes) <= max(limit, *units)
    # A micro-batch finds its ghosts again from its size alone.
    if ghost is not None:
        assert [n for size in sizes for n in ghost_sizes(size, ghost)] == units


def test_a_rank_without_samples_has_one_empty_micro_batch():
    assert cut(0, 32, None) == [(0, 0)]


def test_an_epoch_is_one_permutation_and_the_next_is_another():
    first, again, second = permutation(1000, 3, 0), permutation(1000, 3, 0), permutation(1000, 3, 1)
    torch.testing.assert_close(first, again)
    assert first.sort().values.tolist() == list(range(1000))
    assert not torch.equal(first, second)
    assert not torch.equal(first, permutation(1000, 4, 0))
