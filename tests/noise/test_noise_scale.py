"""The noise scale: unbiased against exact Σ and G, whatever the parts; intervals; any loop; what it refuses."""

import math

import pytest
import torch
from torch import nn

import small_tasks
from largebatch.core import Partials, World
from largebatch.noise import NoiseScale, example_partials, noise_and_signal
from largebatch.tasks import LinearRegression, SoftmaxRegression
from largebatch.train import fit
from ranks import run_ranks

PROBLEMS = {"linear": LinearRegression.generate(samples=400), "softmax": SoftmaxRegression.generate(samples=400)}


def exact(problem, point):
    """(tr Σ, |G|²) in closed form."""
    return float(problem.noise_covariance(point).trace()), float(problem.gradient(point).square().sum())


def parameters(problem, seed=0):
    outputs, features = problem.outputs, problem.train[0].shape[1]
    return torch.randn(outputs * features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 3


def parts_of(gradients, sizes):
    """Partials of one batch whose per-example gradients are given, (B, p)."""
    means = [part.mean(0).square().sum() for part in gradients.split(sizes)]
    return Partials(torch.tensor(sizes).double(), torch.stack(means), gradients.mean(0).square().sum())


def drawn(problem, point, sizes, n, *, replacement=True):
    """(n, 2) estimates of (tr Σ, |G|²) from n batches."""
    gradients = problem.example_gradients(point)
    source = torch.Generator().manual_seed(1)
    rows = []
    for _ in range(n):
        size, batch = len(gradients), sum(sizes)
        chosen = (
            torch.randint(size, (batch,), generator=source)
            if replacement
            else torch.randperm(size, generator=source)[:batch]
        )
        partials = parts_of(gradients[chosen], sizes)
        rows.append(torch.stack(noise_and_signal(partials, train_size=None if replacement else size)))
    return torch.stack(rows)


def z_scores(rows, truth):
    return ((rows.mean(0) - torch.tensor(truth).double()) / (rows.std(0) / len(rows) ** 0.5)).tolist()


@pytest.mark.parametrize("sizes", [(8, 8), (7, 2, 5), (1,) * 12, (30, 2)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_both_estimates_are_unbiased_for_unequal_parts(name, sizes):
    problem = PROBLEMS[name]
    point = parameters(problem)
    for z in z_scores(drawn(problem, point, list(sizes), 3000), exact(problem, point)):
        assert abs(z) < 4


def test_without_replacement_the_training_sets_own_gradient_is_found():
    problem = LinearRegression.generate(samples=60)
    point = parameters(problem)
    trace, signal = exact(problem, point)
    corrected = trace * 60 / 59  # Σ with D − 1 below the line
    rows = drawn(problem, point, [15, 5, 20], 3000, replacement=False)
    for z in z_scores(rows, (corrected, signal)):
        assert abs(z) < 4
    # Uncorrected it is the population's, lower by tr Σ/D: that would be seen.
    assert abs(z_scores(rows, (trace, signal - corrected / 60))[1]) > 4


def looks(problem, point, n, sizes, seed):
    """A NoiseScale that has seen n batches at fixed weights."""
    gradients = problem.example_gradients(point)
    source = torch.Generator().manual_seed(seed)
    noise = NoiseScale(every=1)
    for i in range(n):
        chosen = torch.randint(len(gradients), (sum(sizes),), generator=source)
        noise.add(parts_of(gradients[chosen], sizes), i)
    return noise.estimate()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_interval_holds_the_exact_ratio(name):
    problem = PROBLEMS[name]
    point = parameters(problem)
    trace, signal = exact(problem, point)
    hits = 0
    for seed in range(60):
        found = looks(problem, point, 100, [24, 8], seed)
        hits += found.noise_scale.low <= trace / signal <= found.noise_scale.high
    assert abs(hits - 57) / math.sqrt(60 * 0.95 * 0.05) < 4


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[24, 8], [16, 16, 16, 16], [1] * 32])
@pytest.mark.parametrize("name", PROBLEMS)
def test_95_percent_intervals_cover_93_to_97_of_1000_runs(name, sizes):
    problem = PROBLEMS[name]
    point = parameters(problem)
    trace, signal = exact(problem, point)
    truths = (trace / signal, trace, signal)
    hits = torch.zeros(3)
    for seed in range(1000):
        found = looks(problem, point, 100, sizes, seed)
        estimates = (found.noise_scale, found.noise_trace, found.gradient_squared_norm)
        hits += torch.tensor([e.low <= t <= e.high for e, t in zip(estimates, truths, strict=True)])
    assert ((hits >= 930) & (hits <= 970)).all(), hits


def test_too_few_looks_and_a_gradient_lost_in_noise_give_no_number():
    problem = PROBLEMS["linear"]
    few = looks(problem, parameters(problem), 7, [8, 8], 0)
    assert not few.is_known
    assert few.noise_scale.note == "not enough data yet: 7 looks of at least 8; look more often, or train on"
    assert math.isnan(NoiseScale().estimate().noise_trace.value)
    minimum = torch.linalg.lstsq(problem.train[0], problem.train[1]).solution.flatten()
    signs = set()
    for seed in range(8):
        lost = looks(problem, minimum, 40, [8, 8], seed)
        assert not lost.is_known
        assert "is not told from 0 after 40 looks" in lost.noise_scale.note
        signs.add(lost.gradient_squared_norm.value > 0)
        advice = "would do, or larger" if lost.gradient_squared_norm.value > 0 else "compare larger batches"
        assert advice in lost.noise_scale.note
        assert lost.noise_trace.low > 0
    assert signs == {True, False}  # |G|² is 0: half of its unbiased estimates are below, and said so


def test_equal_small_and_large_batches_are_refused_with_the_smallest_change():
    one = Partials(torch.tensor([8.0]), torch.tensor([1.0]), torch.tensor(1.0))
    with pytest.raises(
        ValueError, match=r"got 1 of 8 samples: use a ghost_batch_size of at most 4, or two accumulation"
    ):
        noise_and_signal(one)
    with pytest.raises(ValueError, match="got 1 of 1 samples: use a batch of 2 or more"):
        noise_and_signal(Partials(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor(1.0)))
    with pytest.raises(ValueError, match="parts: expected at least 2 partial gradients of a batch, got 1"):
        NoiseScale(parts=1)


def test_a_bad_cadence_is_told():
    with pytest.raises(ValueError, match="every: expected 1 update or more between looks, got 0") as error:
        NoiseScale(every=0, overhead=1.5)
    assert "overhead: expected a share of the time between 0 and 1, got 1.5" in str(error.value)


def batches(n, size, seed=0):
    x, y = small_tasks.data(n * size, seed=seed)
    return list(zip(x.split(size), y.split(size), strict=True))


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)).double()


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def plain_loop(noise, sizes, *, clip=False, optimizer=torch.optim.SGD, steps=6):
    """Somebody's loop with accumulation over unequal micro-batches."""
    model = network()
    descent = optimizer(model.parameters(), lr=0.05)
    with noise.watch(model, descent):
        for x, y in batches(steps, sum(sizes)):
            descent.zero_grad()
            for x_part, y_part in zip(x.split(sizes), y.split(sizes), strict=True):
                (loss(model(x_part), y_part).sum() / len(x)).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            descent.step()
    return noise


def reference(sizes, optimizer=torch.optim.SGD, steps=6, clip=False):
    """The same numbers from per-example gradients, in a loop of its own. Rows (tr Σ, |G|²)."""
    model = network()
    descent = optimizer(model.parameters(), lr=0.05)
    rows = []
    for x, y in batches(steps, sum(sizes)):
        descent.zero_grad()
        gradients = []
        for i in range(len(x)):
            grads = torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]).sum(), list(model.parameters()))
            gradients.append(torch.cat([g.flatten() for g in grads]))
        gradients = torch.stack(gradients)
        if optimizer is torch.optim.Adam:
            state = [descent.state[p] for p in model.parameters()]
            if state[0]:
                p = [1 / ((s["exp_avg_sq"] / (1 - 0.999 ** float(s["step"]))).sqrt() + 1e-8) for s in state]
                scaled = gradients * torch.cat([q.flatten() for q in p]).sqrt()
                rows.append(torch.stack(noise_and_signal(parts_of(scaled, sizes))))
        else:
            rows.append(torch.stack(noise_and_signal(parts_of(gradients, sizes))))
        loss(model(x), y).mean().backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        descent.step()
    return torch.stack(rows)


def seen(noise):
    return torch.tensor([row[1:] for row in noise.path()], dtype=torch.float64)


@pytest.mark.parametrize("clip", [False, True])
def test_a_loop_with_unequal_accumulation_is_watched_exactly(clip):
    sizes = [16, 5, 11]
    noise = plain_loop(NoiseScale(every=1), sizes, clip=clip)
    torch.testing.assert_close(seen(noise), reference(sizes, clip=clip), rtol=1e-9, atol=1e-12)


def test_as_adam_sees_gradients():
    sizes = [16, 16]
    noise = plain_loop(NoiseScale(every=1, preconditioned=True), sizes, optimizer=torch.optim.Adam)
    assert noise.looks == 5  # Adam has no second moment before its first step
    torch.testing.assert_close(seen(noise), reference(sizes, torch.optim.Adam), rtol=1e-9, atol=1e-12)
    assert noise.estimate().preconditioned


def test_a_single_backward_pass_is_refused_at_the_step():
    with pytest.raises(ValueError, match="use a ghost_batch_size of at most 16, or two accumulation steps"):
        plain_loop(NoiseScale(every=1), [32])


def test_a_short_last_batch_of_one_part_is_passed_over():
    model, noise = network(), NoiseScale(every=1)
    descent = torch.optim.SGD(model.parameters(), lr=0.1)
    with noise.watch(model, descent):
        for x, y in [*batches(2, 32), *batches(1, 16)]:
            descent.zero_grad()
            for a, b in zip(x.split(16), y.split(16), strict=True):
                (loss(model(a), b).sum() / len(x)).backward()
            descent.step()
    assert noise.looks == 2


def test_watching_changes_nothing_and_leaves_no_hooks():
    model, twin = network(), network()
    for net, watched in ((model, True), (twin, False)):
        descent = torch.optim.SGD(net.parameters(), lr=0.1)
        watch = NoiseScale(every=1).watch(net, descent) if watched else None
        for x, y in batches(3, 32):
            descent.zero_grad()
            for a, b in zip(x.split(16), y.split(16), strict=True):
                (loss(net(a), b).sum() / 32).backward()
            descent.step()
        if watch is not None:
            watch.close()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a._backward_hooks
    assert not model._forward_pre_hooks


def ddp_loop(sizes_by_rank, local):
    """Unequal ranks; `local`: gradients are reduced by hand as DDP does, by averaging."""
    import torch.distributed as dist

    from largebatch.core import world_from_environment

    with world_from_environment(torch.device("cpu")) as world:
        model = network()
        descent = torch.optim.SGD(model.parameters(), lr=0.05)
        noise = NoiseScale(every=1)
        ddp = nn.parallel.DistributedDataParallel(model) if not local else model
        sizes = sizes_by_rank[world.rank]
        everyone = sum(map(sum, sizes_by_rank))
        with noise.watch(ddp, descent, world=World(world.rank, world.size)):
            for x, y in batches(4, everyone):
                start = sum(sum(s) for s in sizes_by_rank[: world.rank])
                x_own, y_own = x[start : start + sum(sizes)], y[start : start + sum(sizes)]
                descent.zero_grad()
                for a, b in zip(x_own.split(sizes), y_own.split(sizes), strict=True):
                    (loss(ddp(a), b).sum() * world.size / everyone).backward()
                if local:
                    for p in model.parameters():
                        dist.all_reduce(p.grad)
                        p.grad /= world.size
                descent.step()
        return noise.path()


@pytest.mark.parametrize(("sizes", "local"), [([[20], [12]], False), ([[8, 12], [7, 5]], True)])
def test_unequal_ranks_are_parts_like_any_other(sizes, local):
    truth = reference([n for rank in sizes for n in rank], steps=4)
    for path in run_ranks(ddp_loop, 2, sizes, local):
        found = torch.tensor([row[1:] for row in path], dtype=torch.float64)
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)


def test_per_example_gradients_are_parts_of_one():
    model = network()
    ((x, y),) = batches(1, 40)
    found = noise_and_signal(example_partials(model, loss, x, y))
    torch.testing.assert_close(torch.stack(found), reference([1] * 40, steps=1)[0], rtol=1e-9, atol=1e-12)
    noise = NoiseScale(every=2)
    for a, b in batches(6, 10):
        noise.see_examples(model, loss, a, b)
    assert noise.looks == 3
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="expected one value per example, got values with weights"):
        example_partials(model, lambda outputs, targets: (outputs, torch.ones_like(outputs)), x, y)


def test_it_watches_fit_and_survives_its_checkpoint():
    noise = NoiseScale(every=2, parts=4)
    fit(small_tasks.task(), small_tasks.recipe(duration="5ep"), observers=[noise], progress=False)
    assert noise.looks == 10
    found = noise.estimate()
    assert found.noise_trace.value > 0
    assert (found.first_samples, found.last_samples) == (64.0, 1004.0)
    twin = NoiseScale()
    twin.load_state_dict(noise.state_dict())
    assert twin.estimate() == found
    assert twin.path() == noise.path()


def test_it_sees_adam_in_fit():
    noise = NoiseScale(every=1, preconditioned=True)
    recipe = small_tasks.recipe(duration="2ep", optimizer="adam", lr=1e-3)
    fit(small_tasks.task(), recipe, observers=[noise, NoiseScale(every=2)], progress=False)
    assert noise.looks == 7  # not the first update
    assert noise.estimate().preconditioned


def test_the_last_part_of_a_run_is_its_own_estimate():
    noise = NoiseScale(every=1)
    for i in range(64):
        level = 1.0 if i < 32 else 3.0
        wiggle = 0.1 * (i % 3)
        noise.add(
            Partials(torch.tensor([1.0, 1.0]), torch.full((2,), 2 * level + wiggle), torch.tensor(level + wiggle)), i
        )
    late = noise.estimate(last=0.5)
    assert (late.first_samples, late.looks) == (32.5, 32)
    assert late.noise_trace.value == pytest.approx(6.0)
    assert noise.estimate().noise_trace.value == pytest.approx(4.0)


def test_the_number_of_blocks_stays_and_their_means_are_the_rows():
    noise = NoiseScale(every=1)
    for i in range(1000):
        noise.add(Partials(torch.tensor([1.0, 1.0]), torch.full((2,), 2.0 + i % 7), torch.tensor(1.0)), i)
    path = noise.path()
    assert 16 <= len(path) <= 32
    assert path[0][0] == pytest.approx(sum(range(32)) / 32)


def test_the_cadence_is_found_from_what_looks_cost(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("largebatch.noise._cadence.time.perf_counter", lambda: now[0])
    noise = NoiseScale(overhead=0.005)
    looked = []
    for update in range(1000):
        wanted = noise.wants(update) is not None
        looked.append(wanted)
        now[0] += 1.4 if wanted else 1.0
    assert noise.every == 80  # 0.4 updates a look, one in 0.4/0.005
    assert sum(looked) == 5 + 12
    several = NoiseScale()
    monkeypatch.setenv("WORLD_SIZE", "2")
    several.wants(0)
    assert several.every == 100
