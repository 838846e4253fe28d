"""Each culprit of aggregation is found in evidence that has it, and not in evidence that nearly has it."""

import gc
import weakref

import numpy as np
import pytest

from culprits.loop_evidence import run, scaled, update
from largebatch.culprits import MicroBatch
from largebatch.culprits import _factor as factor
from largebatch.culprits._aggregate import fit, fits
from largebatch.culprits._judge import findings

COUNTS = ((8, 3), (7, 5))
SHORT = ((4,), (6,))


def test_the_exact_mean_is_no_finding():
    assert findings(run(scaled(1), scaled(1, SHORT, 2))) == ()


@pytest.mark.parametrize(
    ("culprit", "full", "short", "size"),
    [  # with W = 3 workers and A = 2 micro-batches, of which the last window has 1
        (factor.summed_over_workers, 3, 3, 3),
        (factor.divided_by_workers_twice, 1 / 3, 1 / 3, 3),
        (factor.accumulation_not_divided, 2, 1, 3),
        (factor.accumulation_divided_twice, 1 / 2, 1, 3),
        (factor.short_last_window, 1, 1 / 2, 3),
        (factor.not_divided_by_count, 23 + 6, 10 + 3, 3),
        (factor.not_divided_by_count, (23 + 6) / 3, (10 + 3) / 3, 3),
    ],
)
def test_a_wrong_factor_has_a_name(culprit, full, short, size):
    three, last = (*COUNTS, (4, 2)), (*SHORT, (3,))
    found = culprit(run(scaled(full, three), scaled(short, last, 2), world_size=size))
    assert found is not None
    assert found.severity == "wrong"
    assert found.others == ()
    assert found.ratio == pytest.approx(full if full != 1 else short, rel=1e-6)
    assert culprit.__name__ == found.culprit
    nearly = run(scaled(full * 1.01, three), scaled(short * 1.01, last, 2), world_size=size)
    assert culprit(nearly) is None
    assert [f.culprit for f in findings(nearly)] == ["unknown_factor"]


def tokens(*, of_ranks, off=0):
    """Three updates whose gradients are divided by the tokens and `off` more for every sample, in all or on each rank."""
    made = []
    for number in (1, 2, 3):
        parts = [[(23 + number, 4), (9, 2)], [(31, 5), (12 * number, 3)]]  # (tokens, samples)
        if number == 3:  # equal on both ranks
            parts[1] = parts[0]
        labels = [sum(n + off * samples for n, samples in row) for row in parts]
        divisors = [len(parts) * total for total in labels] if of_ranks else [sum(labels)] * len(parts)
        counts = tuple(tuple(n for n, _ in row) for row in parts)
        micro_batches = tuple(MicroBatch(rank, n, m) for rank, row in enumerate(parts) for n, m in row)
        weights = [[1 / divisor for _ in row] for divisor, row in zip(divisors, parts, strict=True)]
        made.append(update(number, counts, weights=weights, micro_batches=micro_batches))
    return run(*made, unit="tokens")


def test_labels_that_have_no_loss():
    (found,) = findings(tokens(of_ranks=False, off=1))
    assert found.culprit == "labels_without_loss_counted"
    assert "divided by their number and one more for every sample" in found.evidence
    assert [f.culprit for f in findings(tokens(of_ranks=False, off=1.1))] == ["unknown_factor"]
    assert findings(tokens(of_ranks=False)) == ()
    near = (MicroBatch(0, 50, 4), MicroBatch(1, 51, 4))  # in half precision a weighting by ranks is not told apart
    rough = scaled(101 / 109, ((50,), (51,)), micro_batches=near, tolerance=3e-2)
    assert [f.culprit for f in findings(run(rough, unit="tokens"))] == ["labels_without_loss_counted"]
    (by_rank,) = findings(tokens(of_ranks=True, off=1))
    assert by_rank.culprit == "mean_of_means"
    assert (
        "plain mean over ranks, with labels that have no loss, of means over unequal counts of tokens"
        in by_rank.evidence
    )
    (plain,) = findings(tokens(of_ranks=True))
    assert "plain mean over ranks of means" in plain.evidence


def test_a_factor_of_one_update_is_told_with_its_number():
    found = factor.accumulation_not_divided(run(scaled(1, SHORT), scaled(2, number=2)))
    assert found.update == 2
    assert found.evidence == (
        "update 2: your gradient is 2 × the reference: the loss was not divided by the 2 accumulation steps"
    )


def test_two_causes_of_one_factor_are_both_named_and_a_second_run_tells_them_apart():
    first = run(scaled(2))
    (both,) = findings(first)
    assert (both.culprit, both.others) == ("summed_over_workers", ("accumulation_not_divided",))
    at_three = (*COUNTS, (1, 2))
    for ratio, name in ((3, "summed_over_workers"), (2, "accumulation_not_divided")):
        (found,) = findings(first, run(scaled(ratio, at_three), world_size=3))
        assert (found.culprit, found.others) == (name, ())


def test_a_second_run_that_takes_another_path_does_not_hide_the_first():
    (found,) = findings(run(scaled(3, (*COUNTS, (1, 2))), world_size=3), run(scaled(1, ((8, 3),)), world_size=1))
    assert found.culprit == "summed_over_workers"


def test_a_short_window_tells_them_apart_as_well():
    (found,) = findings(run(scaled(2), scaled(2, SHORT, 2)))
    assert (found.culprit, found.others) == ("summed_over_workers", ())


def test_two_mistakes_at_once_are_two_findings():
    found = findings(run(scaled(6, (*COUNTS, (2, 2))), scaled(3, (*SHORT, (1,)), 2), world_size=3))
    assert {f.culprit for f in found} == {"summed_over_workers", "accumulation_not_divided"}
    assert all("together with" in f.evidence for f in found)


def test_a_loss_scale_that_is_not_removed():
    from largebatch.culprits import Step

    left = [scaled(1024, steps=(Step(0, loss_scale=1024.0), Step(1, loss_scale=1024.0)))]
    removed = [scaled(1, steps=left[0].steps)]
    assert findings(run(*left))[0].culprit == "loss_scale_not_removed"
    assert findings(run(*removed)) == ()


def means(counts):
    """The weight of each sample under a plain mean of means."""
    parts = sum(len(row) for row in counts)
    return [[1 / (parts * n) for n in row] for row in counts]


@pytest.mark.parametrize(
    ("counts", "weights", "over"),
    [
        (COUNTS, means(COUNTS), "micro-batches"),
        (COUNTS, [[1 / 22, 1 / 22], [1 / 24, 1 / 24]], "ranks"),
        (COUNTS, [[1 / 30, 1 / 16], [1 / 30, 1 / 16]], "steps"),
    ],
)
def test_a_mean_of_means_is_told_by_what_is_averaged_plainly(counts, weights, over):
    found = factor.mean_of_means(run(update(counts=counts, weights=weights)))
    assert f"the plain mean over {over} of means" in found.evidence
    assert "(8, 3, 7, 5)" in found.evidence
    assert found.ratio == pytest.approx(1)


def test_a_mean_of_means_over_equal_counts_is_the_exact_mean():
    counts = ((4, 4), (4, 4))
    assert findings(run(update(counts=counts, weights=means(counts)))) == ()


def test_a_mean_of_means_with_a_factor_has_both():
    tripled = [[3 * w for w in row] for row in means(COUNTS)]
    names = {f.culprit for f in findings(run(update(weights=tripled)))}
    assert names == {"mean_of_means", "unknown_factor"}


def test_gradients_clipped_by_hand_are_no_unknown_factor():
    updates = []
    for number in (1, 2, 3):
        whole = scaled(1, number=number)
        limit = 0.5 / np.linalg.norm(whole.applied[0])
        updates.append(scaled(limit, number=number))
    assert findings(run(*updates)) == ()
    updates[1] = scaled(0.9 * limit, number=2)
    assert [f.culprit for f in findings(run(*updates))] == ["unknown_factor"]


def test_one_update_that_was_shortened_may_have_been_clipped_by_hand():
    (found,) = findings(run(scaled(1), scaled(0.7, number=2), scaled(1, number=3)))
    assert (found.culprit, found.severity) == ("unknown_factor", "unusual")
    (found,) = findings(run(scaled(1), scaled(1.3, number=2), scaled(1, number=3)))
    assert (found.culprit, found.severity) == ("unknown_factor", "wrong")


def test_a_factor_that_varies_is_told_of_weighted_means():
    varying, constant = (findings(run(scaled(1.3), scaled(s, number=2))) for s in (1.4, 1.3))
    assert "divides by the sum of the weights" in varying[0].fix
    assert "divides by the sum of the weights" not in constant[0].fix


def test_what_was_judged_is_not_kept_alive():
    judged = run(scaled(1.3))
    update = weakref.ref(judged.updates[0])
    assert fits(judged)
    del judged
    gc.collect()
    assert update() is None


def test_rounding_is_no_finding_and_a_thousandth_is():
    rng = np.random.default_rng(1)
    exact = scaled(1)
    direction = rng.normal(size=exact.applied.shape[1])
    unit = direction / np.linalg.norm(direction) * np.linalg.norm(exact.applied[0])
    for off, count in ((1e-5, 0), (1e-3, 1)):
        moved = scaled(1, applied=exact.applied + off * unit)
        assert len(findings(run(moved))) == count
        assert fit(moved, 2).deviation == pytest.approx(off, rel=1e-3)


def test_updates_without_a_replay_are_not_judged():
    bare = scaled(3)
    object.__setattr__(bare, "sums", np.zeros((0, 0)))
    assert fits(run(bare)) == []
    assert findings(run(bare)) == ()
