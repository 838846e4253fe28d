"""The three routes on noisy quadratics, where the expected loss after every update is known exactly."""

import numpy as np
import pytest
import torch

from largebatch import core, probe, train, trials
from largebatch.noise import NoiseScale
from largebatch.recipe import Recipe
from largebatch.tasks import NoisyQuadratic
from oracles import noisy_descent

P = 60
SHARE = 0.1  # of McCandlish et al.'s best rate, the same at every batch: with all of it few updates are left to count
HALF = 0.5  # of the loss at the start is the target of the sweep


def problem(*, equal):
    """H ∝ I, or eigenvalues that differ tenfold, with noise where the curvature is."""
    curvature = torch.ones(P) if equal else torch.logspace(0, -1, P)
    noise = torch.ones(P) if equal else torch.linspace(2.0, 0.2, P)
    start = torch.full((P,), 32**-0.5 if equal else 0.2)
    return NoisyQuadratic(torch.diag(curvature).double(), torch.diag(noise).double(), start.double(), samples=20_000)


class Known:
    """A problem with its exact answers and the rule of its rates."""

    def __init__(self, *, equal):
        self.problem = problem(equal=equal)
        self.task = self.problem.task()
        start = self.problem.start
        self.loss = self.problem.loss(start)
        self.simple = self.problem.noise_scale(start)
        self.critical = self.problem.critical_batch_size(start)
        gradient = self.problem.gradient(start)
        self.best = float(gradient.square().sum() / (gradient @ self.problem.curvature @ gradient))
        self.batches = [int(self.critical * 2.0**k) for k in range(-2, 3)]
        self.matrices = [x.numpy() for x in (self.problem.curvature, self.problem.noise, start)]

    def rate(self, batch):
        """ε_opt(B) = ε_max/(1 + B_noise/B), times SHARE."""
        return SHARE * self.best / (1 + self.critical / batch)

    @property
    def recipe(self):
        batch = self.batches[0]
        return Recipe(
            batch, lr=self.rate(batch), momentum=0.0, nesterov=False, weight_decay=0.0, precision="fp64",
            ghost_batch_size=None, schedule="constant", duration=f"{2 * batch}samples",
        )  # fmt: skip

    def exact_sweep(self):
        """B_crit of the expected losses' way to the target."""
        needed = [
            noisy_descent.samples_to(HALF * self.loss, *self.matrices, batch=b, rate=self.rate(b)) for b in self.batches
        ]
        return noisy_descent.critical_batch(self.batches, needed)

    def exact_branches(self, samples):
        """B_crit of the expected losses' way to three quarters of what the largest batch comes to."""
        sizes, largest = self.batches[:-1], self.batches[-2]
        slowest = noisy_descent.expected_losses(
            *self.matrices, batch=largest, rate=self.rate(largest), updates=-(-samples // largest)
        )
        target = self.loss - 0.75 * (self.loss - slowest[-2:].mean())
        needed = [noisy_descent.samples_to(target, *self.matrices, batch=b, rate=self.rate(b)) for b in sizes]
        return noisy_descent.critical_batch(sizes, needed)


def noise_route(known):
    """At the start, from batches whose every example is a part."""
    model, noise = known.task.model(), NoiseScale(every=1)
    inputs, targets = known.task.train
    for chosen in torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).split(200)[:40]:
        noise.see_examples(model, known.task.loss, inputs[chosen], targets[chosen])
    return probe.by_noise_scale(noise.estimate())


def branch_route(known, tmp_path, seeds):
    train.fit(known.task, known.recipe, out=tmp_path / "trunk", progress=False)
    start = core.read_checkpoint(tmp_path / "trunk" / "checkpoints" / "0")
    samples = 8 * known.batches[-2]
    found = trials.branch_batches(
        known.task, known.recipe, start, batch_sizes=known.batches[:-1], samples=samples, seeds=range(seeds),
        rate=known.rate, examined=20_000,
    )  # fmt: skip
    assert found.start_loss == pytest.approx(known.loss, rel=1e-9)
    route = probe.by_branches(found.start_loss, found.paths(), cost_samples=found.cost_samples)
    return route, samples


def sweep_route(known, seeds):
    found = trials.sweep_batches(
        known.task, known.recipe, batch_sizes=known.batches, target=HALF * known.loss, longest=20_000, period=1,
        seeds=range(seeds), rate=known.rate, examined=20_000,
    )  # fmt: skip
    return probe.by_sweep(found.reached(), found.missed(), found.periods(), cost_samples=found.cost_samples)


def test_with_a_curvature_that_is_the_same_everywhere_all_routes_agree_with_the_exact_answer(tmp_path):
    known = Known(equal=True)
    assert known.simple == pytest.approx(known.critical) == pytest.approx(32)
    noise, sweep = noise_route(known), sweep_route(known, 4)
    branches, samples = branch_route(known, tmp_path, 6)
    assert noise.low <= known.simple <= noise.high
    assert branches.low <= known.exact_branches(samples) <= branches.high
    assert sweep.low <= known.exact_sweep() <= sweep.high
    found = probe.critical_batch_size([noise, branches, sweep])
    assert len(found.agreements) == 3
    assert all(pair.agree for pair in found.agreements)
    assert found.warnings == ()
    assert found.believed is sweep


def test_with_unequal_eigenvalues_the_dearer_routes_do_and_the_noise_scales_ratio_is_told(tmp_path):
    known = Known(equal=False)
    ratio = known.simple / known.critical
    assert ratio > 1.3
    noise, sweep = noise_route(known), sweep_route(known, 4)
    branches, samples = branch_route(known, tmp_path, 6)
    assert noise.low <= known.simple <= noise.high
    assert branches.low <= known.exact_branches(samples) <= branches.high
    assert sweep.low <= known.exact_sweep() <= sweep.high
    told = probe.critical_batch_size([noise, branches, sweep]).agreements
    assert [(pair.first, pair.second) for pair in told] == [
        ("noise scale", "branches"), ("noise scale", "sweep"), ("branches", "sweep"),
    ]  # fmt: skip
    assert told[2].agree
    assert told[0].ratio == pytest.approx(ratio, rel=0.35)


def test_rates_are_tuned_to_the_best_of_the_grid():
    asked = []

    def cost(lr, least):
        asked.append((lr, least))
        return abs(np.log2(lr / 0.8)) if lr < 2 else float("inf")

    from largebatch.trials._rates import best_rate

    assert best_rate(cost, 0.1) == pytest.approx(0.8)
    assert asked[1][1] == pytest.approx(3.0)  # what the first took: no more is needed of the second
    assert best_rate(cost, 12.8) == pytest.approx(0.8)
    assert best_rate(lambda lr, least: float("inf"), 0.1) == 0.1


def test_an_interrupted_sweep_goes_on_and_another_one_is_refused(tmp_path, monkeypatch):
    known = Known(equal=True)
    options = {"batch_sizes": known.batches[:2], "longest": 4000, "period": 1, "seeds": (0, 1), "examined": 20_000}
    options |= {"target": HALF * known.loss, "out": tmp_path}
    whole = trials.sweep_batches(known.task, known.recipe, **options)
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text("\n".join(log[:-2]) + "\n")
    assert trials.sweep_batches(known.task, known.recipe, **options) == whole
    assert whole.cost_samples > sum(map(sum, whole.reached().values()))  # tuning is counted
    monkeypatch.setattr("largebatch.trials._sweep.descend", lambda *_, **__: pytest.fail("trained again"))
    assert trials.sweep_batches(known.task, known.recipe, **options) == whole
    with pytest.raises(
        ValueError, match="expected the folder of this sweep, got one of another task, recipe, target or"
    ):
        trials.sweep_batches(known.task, known.recipe, **(options | {"target": 0.1}))


def test_a_run_without_the_target_is_kept_as_such():
    known = Known(equal=True)
    found = trials.sweep_batches(
        known.task, known.recipe, batch_sizes=[8], target=1e-9, longest=64, period=16, seeds=(0,), rate=known.rate,
        examined=20_000,
    )  # fmt: skip
    assert found.reached() == {8: []}
    assert found.missed() == {8: [64.0]}
    assert found.periods() == {8: 16.0}


def test_bad_numbers_are_told_together(tmp_path):
    known = Known(equal=True)
    with pytest.raises(ValueError, match="sweep: 5 mistakes") as error:
        trials.sweep_batches(known.task, known.recipe, batch_sizes=[4, 2], target=-1.0, longest=0, period=0, seeds=())
    for line in (
        "batch_sizes: expected different sizes of 1 or more, in ascending order, got [4, 2]; for example 64 256 1024",
        "seeds: expected one or more, got none; three give an interval",
        "target: expected a training loss, from 0 on and finite, got -1.0; take one that a short run reaches",
        "longest: expected the samples after which a run is given up, above 0 and finite, got 0; for example three epochs",
        "period: expected the samples between two looks, above 0 and finite, got 0",
    ):
        assert line in str(error.value)
    train.fit(known.task, known.recipe, out=tmp_path, progress=False)
    start = core.read_checkpoint(tmp_path / "checkpoints" / "0")
    with pytest.raises(
        ValueError,
        match="batch_sizes: expected at most 2, an eighth of the 16 samples of a branch, got 32; give longer",
    ):
        trials.branch_batches(known.task, known.recipe, start, batch_sizes=[8, 32], samples=16)
    with pytest.raises(ValueError, match="branches: 2 mistakes") as error:
        trials.branch_batches(known.task, known.recipe, start, batch_sizes=[], samples=0, seeds=())
    assert "branches: expected batches and seeds, got 0 and 0; give some" in str(error.value)
    assert "samples: expected the samples of a branch, above 0 and finite, got 0" in str(error.value)


def test_a_branch_carries_the_optimisers_state(tmp_path):
    """Two halves are the whole: momentum goes on where the trunk stopped."""
    known = Known(equal=True)
    recipe = known.recipe.replace(momentum=0.9, duration="400samples")
    train.fit(known.task, recipe, out=tmp_path, checkpoint_every="200samples", progress=False)
    half = core.read_checkpoint(tmp_path / "checkpoints" / "200")
    state = half.training_state()["optimizer"]["state"]
    assert any(float(s["momentum_buffer"].abs().sum()) > 0 for s in state.values())
    rows = []

    class Last:
        name = "last"

        def wants(self, update):
            return core.Request(norms=True)

        def see(self, view):
            rows.append(view)

        def see_epoch(self, view):
            pass

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    branch = recipe.replace(duration="8samples")
    train.fit(known.task, branch, start=half, observers=[Last()], progress=False)
    velocity = next(iter(state.values()))["momentum_buffer"]
    w = half.model_state()["w"]
    # One step of momentum by hand, on the batch that update had.
    order = core.permutation(20_000, 0, 0)[:8]
    gradient = known.problem.curvature @ w + known.task.train[0][order].mean(0)
    moved = 0.9 * velocity + gradient
    step = branch.lr * moved
    assert float(rows[0].step_norm) == pytest.approx(float(step.norm()), rel=1e-9)
