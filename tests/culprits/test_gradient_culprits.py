"""Ranks on their own, micro-batches lost, decay inside the loss, clipping at the wrong place: found, and near misses not."""

import numpy as np

from culprits.loop_evidence import DIMENSIONS, run, scaled, steps, update
from largebatch.culprits import Clip, Step, judge
from largebatch.culprits._judge import findings


def names(*arguments, **fields):
    return [f.culprit for f in findings(run(*arguments, **fields))]


def test_gradients_that_are_not_averaged():
    whole = update()
    alone = np.stack([whole.sums[:2].sum(0) / 11, whole.sums[2:].sum(0) / 12])
    assert names(update(applied=alone, is_averaged=False)) == ["gradients_not_averaged"]
    assert names(update(applied=np.tile(whole.reference, (2, 1)))) == []


def test_gradients_that_differ_for_no_known_reason():
    whole = update()
    other = np.stack([whole.reference + 1, whole.reference])
    assert names(update(applied=other, is_averaged=False)) == ["unexplained_gradient"]
    assert names(update(applied=other[::-1], is_averaged=False)) == []  # rank 0 is right


def test_the_gradient_of_the_update_before():
    before = np.random.default_rng(7).normal(size=DIMENSIONS)
    kept = update(number=2, previous=before, extra=before)
    assert names(kept) == ["zero_grad_forgotten"]
    assert names(update(number=2, previous=before)) == []
    (small,) = findings(run(update(number=2, previous=before, extra=before / 256)))  # it was unscaled a second time
    assert small.culprit == "zero_grad_forgotten"
    assert "plus 0.00391 × the gradient of the update before" in small.evidence


def test_a_micro_batch_that_is_not_in_the_gradient():
    lost = update(weights=[[0, 1 / 23], [0, 1 / 23]])
    (found,) = findings(run(lost))
    assert found.culprit == "micro_batches_lost"
    assert "2 of 4 micro-batches are not in your gradient (number 1 of worker 0, 1 of worker 1)" in found.evidence
    (found,) = findings(
        run(update(weights=[[0.02, 1 / 23], [0.02, 1 / 23]]))
    )  # none is lost, and there is no name for it
    assert found.culprit == "unexplained_gradient"
    assert "it weighs its 4 micro-batches 0.46, 1, 0.46, 1 times as much as it should" in found.evidence


def test_decay_in_the_loss_is_scaled_with_it():
    w = np.zeros((2, DIMENSIONS))
    w[0], w[1, :3] = np.random.default_rng(3).normal(size=DIMENSIONS), 1.0
    inside = update(parameters=w, extra=0.01 * w.sum(0))
    assert names(inside) == []  # an L2 term that nobody scales is the same as decay
    four = update(parameters=w, weights=[[4 / 23] * 2] * 2, extra=0.04 * w.sum(0))
    assert names(four) == ["decay_scaled_with_loss"]
    matrices_only = update(parameters=w, weights=[[4 / 23] * 2] * 2, extra=0.04 * w[0])
    assert names(matrices_only) == ["decay_scaled_with_loss"]


def test_decay_in_the_loss_once_per_micro_batch():
    w = np.zeros((2, DIMENSIONS))
    w[0] = np.random.default_rng(3).normal(size=DIMENSIONS)
    first = update(parameters=w, extra=0.02 * w[0])
    last = update(2, ((4,), (6,)), parameters=w, extra=0.01 * w[0])
    assert names(first, last) == ["decay_scaled_with_loss"]
    assert names(first, update(2, ((4,), (6,)), parameters=w, extra=0.02 * w[0])) == []


def test_weights_that_moved_between_pass_and_step_have_no_reference():
    moved = update(extra=1.0, is_moved=True)
    found = judge(run(moved))
    assert [f.culprit for f in found.findings] == ["weights_moved"]
    assert found.passed
    assert names(moved, scaled(1, number=2)) == []


def test_passes_that_a_loss_joins_have_no_reference_unless_it_is_their_mean():
    (found,) = findings(run(update(extra=1.0, is_joint=True)))
    assert (found.culprit, found.severity) == ("passes_in_one_backward", "unusual")
    assert names(update(is_joint=True)) == []


def clips(*clips_of_ranks, **fields):
    return tuple(Step(rank, clips=tuple(clips), **fields) for rank, clips in enumerate(clips_of_ranks))


def test_clipping_per_micro_batch():
    every = [Clip(1, 3.0, 1.0), Clip(2, 2.0, 1.0)]
    assert names(update(steps=clips(every, every), extra=1.0)) == ["clipped_per_micro_batch"]
    idle = [Clip(1, 0.5, 1.0), Clip(2, 2.0, 1.0)]  # changes nothing where it is too early
    assert names(update(steps=clips(idle, idle))) == []


def test_clipping_before_averaging():
    early = clips([Clip(2, 3.0, 1.0)], [Clip(2, 4.0, 1.0)])
    assert names(update(steps=early, extra=1.0)) == ["clipped_before_averaging"]
    never = update(steps=early, extra=1.0, is_averaged=False)  # not averaged afterwards either
    assert "clipped_before_averaging" not in names(never)
    assert names(update(steps=clips([Clip(2, 3.0, 1.0)], [Clip(2, 3.0, 1.0)]))) == []
    assert names(update(steps=clips([Clip(2, 0.3, 1.0)], [Clip(2, 0.4, 1.0)]))) == []  # no effect


def test_clipping_while_scaled():
    scaled_clip, plain_clip = [Clip(2, 3000.0, 1.0, is_scaled=True)], [Clip(2, 3.0, 1.0)]
    found = findings(run(update(steps=clips(scaled_clip, scaled_clip, loss_scale=1024.0), extra=1.0)))
    assert [f.culprit for f in found] == ["clipped_while_scaled"]
    assert "after unscaling the limit is 0.000977" in found[0].evidence
    assert names(update(steps=clips(plain_clip, plain_clip, loss_scale=1024.0))) == []


def test_schedulers_that_step_too_often():
    def found(*calls, ranks=2):
        return [f.culprit for f in findings(steps(*({"scheduler_calls": c} for c in calls), ranks=ranks))]

    assert found((), (0, 0), (0, 0)) == ["scheduler_steps_per_worker"]
    assert found((), (0, 0), (0, 0), ranks=3) == []  # twice, but not once per worker
    assert found((1, 2), (0, 1), (0, 1)) == ["scheduler_steps_per_micro_batch"]
    assert found((0, 0), (0,), (0,)) == []  # before the first update: constructors step


def test_momentum_correction_of_sgd():
    def found(**second):
        first = {"rates": (0.1,), "momenta": (0.9,)}
        return [f.culprit for f in findings(steps(first, {"rates": (0.2,), "momenta": (0.9,)} | second))]

    assert found(buffer_drift=2.0) == ["momentum_corrected_in_sgd"]
    assert found(momenta=(1.8,)) == ["momentum_corrected_in_sgd"]
    assert found() == []
    assert found(rates=(0.1,), buffer_drift=1.0) == []


def test_momentum_correction_of_buffers_in_half_precision():
    def found(drift, change):
        first, second = (
            scaled(1, number=n, tolerance=3e-2, steps=(Step(0, rates=(rate,), momenta=(0.9,), buffer_drift=d),))
            for n, rate, d in ((1, 0.1, 1.0), (2, 0.1 * change, drift))
        )
        return [f.culprit for f in findings(run(first, second))]

    assert found(1.503, 1.5) == ["momentum_corrected_in_sgd"]
    assert found(1.0, 1.006) == []  # the rate moves by less than a buffer's rounding, and the buffer not at all
    assert found(1.53, 1.5) == []


def test_momentum_that_is_cycled_against_the_rate_is_no_correction():
    cycle = [(0.04, 0.95), (0.1, 0.85), (0.0997, 0.8505), (0.0994, 0.851), (0.05, 0.9), (0.01, 0.94)]
    ones = steps(*({"rates": (rate,), "momenta": (m,)} for rate, m in cycle))
    assert findings(ones) == ()
    by_chance = steps(
        *({"rates": (rate,), "momenta": (m,)} for rate, m in [*cycle, (0.009, 0.94 * 0.9), (0.008, 0.95)])
    )
    assert findings(by_chance) == ()


def test_warmup_as_a_staircase():
    def found(first, second):
        updates = [scaled(1, number=n, epoch=1, steps=(Step(0, rates=(r,)),) * 2) for n, r in enumerate(first, 1)]
        updates += [scaled(1, number=9, epoch=2, steps=(Step(0, rates=(second,)),) * 2)]
        return names(*updates)

    assert found([0.1] * 5, 0.2) == ["warmup_is_a_staircase"]
    assert found([0.1, 0.11, 0.12, 0.13, 0.14], 0.2) == []
    assert found([0.1] * 5, 0.05) == []  # a decay at the end of an epoch
