"""What an all-reduce costs, against the algorithms carried out message by message."""

import math

import numpy as np
import pytest

from largebatch import plan
from oracles import all_reduce

ORACLES = {
    "ring": all_reduce.ring,
    "halving-doubling": all_reduce.halving_doubling,
    "recursive-doubling": all_reduce.recursive_doubling,
    "tree": all_reduce.tree,
}


@pytest.mark.parametrize("algorithm", ORACLES)
@pytest.mark.parametrize("workers", [2, 3, 4, 5, 6, 7, 8, 12, 16, 17])
def test_the_counts_are_those_of_the_algorithm_carried_out(algorithm, workers):
    counted = [float(x) for x in plan.all_reduce_counts(workers, algorithm)]
    assert counted == pytest.approx(ORACLES[algorithm](workers), rel=1e-14)


@pytest.mark.parametrize("algorithm", plan.ALGORITHMS)
def test_one_worker_sends_nothing(algorithm):
    assert [float(x) for x in plan.all_reduce_counts(1, algorithm)] == [0, 0, 0]


@pytest.mark.parametrize("algorithm", plan.ALGORITHMS)
def test_many_numbers_of_workers_at_once_are_each_alone(algorithm):
    workers = np.arange(1, 70)
    together = np.array(plan.all_reduce_counts(workers, algorithm)).T
    alone = [[float(x) for x in plan.all_reduce_counts(w, algorithm)] for w in workers.tolist()]
    np.testing.assert_array_equal(together, alone)


def test_powers_of_two_are_found_exactly_up_to_two_to_the_forty():
    exponents = np.arange(1, 41)
    messages, _, _ = plan.all_reduce_counts(2.0**exponents, "halving-doubling")
    np.testing.assert_array_equal(messages, 2 * exponents)
    messages, _, _ = plan.all_reduce_counts(2.0**exponents + 1, "halving-doubling")
    np.testing.assert_array_equal(messages, 2 * exponents + 2)


def test_the_time_is_latency_bandwidth_and_adding():
    link = plan.Link(1e9, 1e-4, 4e9)
    expected = 6 * 1e-4 + 1e8 * 1.5 / 1e9 + 1e8 * 0.75 / 4e9  # ring of 4: 6 messages, 3/2 sent, 3/4 added
    assert float(plan.Network(link).seconds(4, 1e8)) == pytest.approx(expected)


def test_the_bandwidth_of_goyal_et_al_is_derived_as_in_the_paper():
    # Section 4: about 200 MB in 125 ms are 12.8 Gbit/s; a buffer of 100 MB over many servers sends twice its size.
    link = plan.Link(12.8e9 / 8)
    assert float(plan.Network(link, "halving-doubling").seconds(1024, 100e6)) == pytest.approx(0.125, rel=2e-3)


def test_short_buffers_want_few_messages_and_long_ones_few_bytes():
    link = plan.Link(1e9, 5e-5)
    times = {name: plan.Network(link, name).seconds(64, np.array([1e3, 1e9])) for name in plan.ALGORITHMS}
    assert times["recursive-doubling"][0] < times["halving-doubling"][0] < times["ring"][0]
    assert times["halving-doubling"][1] < times["pipelined-tree"][1] < times["recursive-doubling"][1]


def test_servers_are_filled_one_by_one_and_reduce_before_and_broadcast_after():
    slow, fast = plan.Link(1e9, 1e-3), plan.Link(1e10, 1e-5)
    network = plan.Network(slow, "ring", 8, fast)
    inside = 14 * 1e-5 + 2 * 1e8 / 1e10
    assert float(network.seconds(1, 1e8)) == 0
    assert float(network.seconds(8, 1e8)) == pytest.approx(inside)
    for workers in (9, 16):  # two servers either way
        assert float(network.seconds(workers, 1e8)) == pytest.approx(inside + float(plan.Network(slow).seconds(2, 1e8)))


def test_a_network_comes_back_from_json():
    network = plan.Network(plan.Link(1e9, 1e-4), "tree", 8, plan.Link(1e10))
    assert plan.Network.from_json(network.to_json()) == network


def test_a_bad_link_is_told_whole():
    with pytest.raises(ValueError, match="link: 3 mistakes") as error:
        plan.Link(0.0, -1.0, math.nan)
    text = str(error.value)
    assert "bytes_per_second: expected a bandwidth, above 0, got 0.0; 10 Gbit/s are 1.25e9" in text
    assert "latency_seconds: expected a latency, from 0 on and finite, got -1.0" in text
    assert "add_bytes_per_second: expected a rate of adding, above 0, got nan; or leave it out" in text


def test_a_bad_network_is_told_whole():
    with pytest.raises(ValueError, match="network: 2 mistakes") as error:
        plan.Network(plan.Link(1e9), "star", 0)
    assert "algorithm: expected one of ring, halving-doubling" in str(error.value)
    assert "workers_per_server: expected 1 or more, got 0; 1 is a flat network" in str(error.value)
    with pytest.raises(
        ValueError, match="server_link: expected the link within a server of 8 workers, got none; give it"
    ):
        plan.Network(plan.Link(1e9), "ring", 8)


def test_counts_of_a_bad_request_are_refused():
    with pytest.raises(ValueError, match="all-reduce: 2 mistakes") as error:
        plan.all_reduce_counts([0, 4], "star")
    assert "got 'star'; take one of these" in str(error.value)
    assert "workers: expected 1 or more, got 0; one worker is the smallest plan" in str(error.value)
