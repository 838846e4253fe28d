"""LARS, LAMB, SAM and proximal steps: the papers' algorithms step by step, and what every built optimiser must keep."""

import io
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from largebatch.core import world_from_environment
from largebatch.optimizers import LAMB, LARS, SAM, Proximal, _layerwise, build_optimizer
from largebatch.recipe import Recipe
from oracles import large_batch_optimizers as papers
from ranks import run_ranks

UPDATES = 20
RATES = {"constant": [0.3] * UPDATES, "warmup": [0.02 + 0.3 * t / UPDATES for t in range(UPDATES)]}
SHAPES = ((4, 3), (5,), (2, 3), (3,), ())
ZERO_WEIGHT, ZERO_GRADIENT = 2, 3  # positions in SHAPES


def start_weights():
    draws = np.random.default_rng(0)
    return [draws.normal(size=s) * (i != ZERO_WEIGHT) for i, s in enumerate(SHAPES)]


def problem_gradient(weights):
    """Of a curved bowl whose tensors are coupled; one tensor never has a gradient."""
    draws = np.random.default_rng(1)
    coupling = np.cos(sum(w.sum() for i, w in enumerate(weights) if i != ZERO_GRADIENT))
    gradients = []
    for i, w in enumerate(weights):
        scale, target = draws.uniform(0.5, 2, size=w.shape), draws.normal(size=w.shape)
        gradients.append((i != ZERO_GRADIENT) * (scale * np.sinh(w - target) + 0.1 * coupling))
    return gradients


def papers_path(update, rates):
    weights, path = start_weights(), []
    for rate in rates:
        weights = update(weights, rate)
        path.append(weights)
    return path


def rule_path(rule, rates):
    return papers_path(lambda weights, rate: rule(weights, problem_gradient(weights), rate), rates)


def our_path(make, rates):
    params = [nn.Parameter(torch.tensor(w)) for w in start_weights()]
    optimizer = make(params)

    def gradient(first=True):
        for p, g in zip(params, problem_gradient([p.detach().numpy() for p in params]), strict=True):
            p.grad = torch.tensor(g)

    path = []
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step(gradient)
        path.append([p.detach().numpy().copy() for p in params])
    return path


def gap(path, other):
    """The largest difference over the whole path; weights are of size 1."""
    return max(float(np.abs(a - b).max()) for x, y in zip(path, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("convention", ["paper", "torch"])
def test_lars_is_the_papers_algorithm(convention, nesterov, weight_decay, rates):
    options = {"momentum": 0.9, "weight_decay": weight_decay, "trust_coefficient": 0.1, "nesterov": nesterov}
    expected = rule_path(papers.lars(**options, convention=convention), rates)
    found = our_path(lambda params: LARS(params, 0.1, **options, momentum_convention=convention), rates)
    assert gap(found, expected) < 1e-12
    assert gap(found[:1], [start_weights()]) > 1e-3


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("bounds", [None, (0.0, 0.5), (0.1, 0.5)])
def test_lamb_is_the_papers_algorithm(bounds, weight_decay, rates):
    options = {"eps": 1e-6, "weight_decay": weight_decay}
    low, high = bounds or (0.0, math.inf)
    expected = rule_path(papers.lamb(beta1=0.9, beta2=0.99, **options, phi=lambda z: min(max(z, low), high)), rates)
    found = our_path(lambda params: LAMB(params, 0.1, betas=(0.9, 0.99), **options, weight_norm_bounds=bounds), rates)
    assert gap(found, expected) < 1e-12
    assert gap(found[:1], [start_weights()]) > 1e-3


# LAMB jumps where its step changes sign, and there it magnifies rounding without limit: the large eps and the small rates
# of the next test keep the proximal pull, which on the tensor without gradient stands against decay alone, away from it.
EPS = 1e-2
BASES = {
    "sgd": (
        lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.1),
        lambda: papers.sgd(momentum=0.9, weight_decay=0.1),
    ),
    "adamw": (
        lambda params: torch.optim.AdamW(params, 0.1, eps=EPS, weight_decay=0.1),
        lambda: papers.adam(beta1=0.9, beta2=0.999, eps=EPS, weight_decay=0.1),
    ),
    "lars": (
        lambda params: LARS(params, 0.1, trust_coefficient=0.1),
        lambda: papers.lars(momentum=0.9, weight_decay=0.0, trust_coefficient=0.1),
    ),
    "lamb": (
        lambda params: LAMB(params, 0.1, eps=EPS, weight_decay=0.1),
        lambda: papers.lamb(beta1=0.9, beta2=0.999, eps=EPS, weight_decay=0.1),
    ),
}
WRAPPERS = {
    "plain": (lambda inner: inner, lambda rule: lambda w, gradient, rate: rule(w, gradient(w), rate)),
    "sam": (lambda inner: SAM(inner, 0.2), lambda rule: papers.sam(rule, 0.2)),
    "proximal": (lambda inner: Proximal(inner, 0.7, 3), lambda rule: papers.proximal(rule, 0.7, 3)),
}


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_sam_and_proximal_are_the_papers_algorithms(wrapper, base, rates):
    (ours, theirs), (wrap_ours, wrap_theirs) = BASES[base], WRAPPERS[wrapper]
    rates = [rate / 40 for rate in rates]
    update = wrap_theirs(theirs())
    expected = papers_path(lambda weights, rate: update(weights, problem_gradient, rate), rates)
    found = our_path(lambda params: wrap_ours(ours(params)), rates)
    assert gap(found, expected) < 1e-12
    if wrapper != "plain":
        assert gap(found, our_path(ours, rates)) > 1e-3


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_conventions_of_lars_part_only_when_the_rate_changes(weight_decay):
    def path(convention: Any, rates):
        options = {"weight_decay": weight_decay, "trust_coefficient": 0.1}
        return our_path(lambda params: LARS(params, 0.1, **options, momentum_convention=convention), rates)

    assert gap(path("paper", RATES["constant"]), path("torch", RATES["constant"])) < 1e-12
    assert gap(path("paper", RATES["warmup"]), path("torch", RATES["warmup"])) > 1e-2


def test_without_weight_decay_lars_still_scales_every_step():
    w = nn.Parameter(torch.full((8, 8), 2.0, dtype=torch.float64))
    optimizer = LARS([w], 1.0, momentum=0.0)
    w.grad = torch.full_like(w, 50.0)
    optimizer.step()
    assert (2.0 - w).norm().item() == pytest.approx(1e-3 * 16, rel=1e-12)  # eta·‖w‖, whatever the gradient's size


@pytest.mark.parametrize("name", ["lars", "lars nesterov", "lamb"])
def test_agrees_with_pytorch_optimizer_where_its_conventions_do(name):
    library = pytest.importorskip("pytorch_optimizer")
    # Its LARS leaves out vectors. Its LAMB has no bias correction, which without decay and eps cancels in the ratio, but
    # divides the rate by 1 - beta1^t unless told otherwise: in 4.1.0 the first step is 10 times the paper's.
    pairs = {
        "lars": (
            lambda p: LARS(p, 0.1, weight_decay=0.1, momentum_convention="torch"),
            lambda p: library.LARS(p, 0.1, weight_decay=0.1),
        ),
        "lars nesterov": (
            lambda p: LARS(p, 0.1, momentum_convention="torch", nesterov=True),
            lambda p: library.LARS(p, 0.1, nesterov=True),
        ),
        "lamb": (lambda p: LAMB(p, 0.1, eps=1e-15), lambda p: library.Lamb(p, 0.1, eps=1e-15, adam_debias=True)),
    }
    paths = []
    for make in pairs[name]:
        w = nn.Parameter(torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5))
        optimizer, path = make([w]), []
        for rate in RATES["warmup"]:
            optimizer.param_groups[0]["lr"] = rate
            w.grad = torch.sinh(w.detach() - 0.5)
            optimizer.step()
            path.append([w.detach().numpy().copy()])
        paths.append(path)
    assert gap(*paths) < 1e-10


@pytest.mark.parametrize("make", [LARS, LAMB])
def test_how_tensors_are_cut_into_lists_does_not_matter(make, monkeypatch):
    whole = our_path(lambda params: make(params, 0.1, weight_decay=0.1), RATES["warmup"])
    monkeypatch.setattr(_layerwise, "CPU_CHUNK", 4)
    assert gap(our_path(lambda params: make(params, 0.1, weight_decay=0.1), RATES["warmup"]), whole) == 0


@pytest.mark.parametrize("make", [LARS, LAMB])
def test_tensors_of_several_dtypes_do_not_touch_one_another(make):
    def stepped(*dtypes):
        params = [nn.Parameter(torch.linspace(0.1, 1, 7, dtype=dtype)) for dtype in dtypes]
        optimizer = make(params, 0.1, weight_decay=0.1)
        for p in params:
            p.grad = p.detach().square() - 0.3
        optimizer.step()
        return params

    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    for found, dtype in zip(stepped(*dtypes), dtypes, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, stepped(dtype)[0])


@pytest.mark.parametrize("make", [LARS, LAMB])
def test_a_rate_may_be_a_tensor(make):
    paths = []
    for lr in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        params = [nn.Parameter(torch.tensor(w)) for w in start_weights()]
        optimizer = make(params, lr)
        for _ in range(3):
            for p, g in zip(params, problem_gradient([p.detach().numpy() for p in params]), strict=True):
                p.grad = torch.tensor(g)
            optimizer.step()
        paths.append([[p.detach().numpy() for p in params]])
    assert gap(*paths) < 1e-15


def test_norms_of_half_precision_do_not_overflow():
    w = nn.Parameter(torch.full((70000,), 300.0, dtype=torch.float16))  # ‖w‖ = 79,373 > 65,504
    w.grad = w.detach().clone()
    LARS([w], 1.0, trust_coefficient=0.5).step()
    assert w.tolist() == [150.0] * 70000


def at_8(**fields):
    return Recipe(8, ghost_batch_size=None, **fields)


def build(model: Any, recipe: Recipe) -> Any:
    """Untyped: torch's annotation of `step` has no closure that returns a tensor."""
    return build_optimizer(model, recipe)


# What every optimiser a recipe can name must keep. One row each.
RECIPES = {
    "sgd": at_8(lr=0.05, weight_decay=0.1),
    "adam": at_8(lr=0.02, optimizer="adam", weight_decay=0.1),
    "adamw": at_8(lr=0.02, optimizer="adamw", weight_decay=0.1),
    "lars": at_8(lr=0.5, optimizer="lars", weight_decay=0.1, trust_coefficient=0.1),
    "lars paper": at_8(lr=0.5, optimizer="lars", weight_decay=0.1, momentum_convention="paper"),
    "lamb": at_8(lr=0.02, optimizer="lamb", weight_decay=0.1),
    "sam sgd": at_8(lr=0.05, weight_decay=0.1, sam_rho=0.05),
    "sam lamb": at_8(lr=0.02, optimizer="lamb", weight_decay=0.1, sam_rho=0.05),
    "proximal sgd": at_8(lr=0.05, weight_decay=0.1, proximal_strength=0.5),
    "proximal adam": at_8(lr=0.02, optimizer="adam", weight_decay=0.1, proximal_strength=0.5, proximal_steps=2),
}
every_optimizer = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.first = nn.Linear(6, 8, bias=False)
        self.batch_norm = nn.BatchNorm1d(8)
        self.layer_norm = nn.LayerNorm([2, 4])
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        y = self.batch_norm(self.first(self.embedding(x)))
        return self.last(self.layer_norm(y.view(-1, 2, 4)).tanh().flatten(1))


WEIGHTS = ["embedding.weight", "first.weight", "last.weight"]
NORMS_AND_BIASES = [
    "batch_norm.weight",
    "batch_norm.bias",
    "layer_norm.weight",
    "layer_norm.bias",
    "last.bias",
]


def network(dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().to(dtype)


def loss_gradient(model, optimizer, update=0):
    """What a loop gives to `step`; the data depend on the update alone."""
    draws = torch.Generator().manual_seed(update)
    x = torch.randint(5, (8,), generator=draws)

    def gradient(first=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), x % 3)
        loss.backward()
        return loss.detach()

    return gradient


def train(model, optimizer, updates):
    return [optimizer.step(loss_gradient(model, optimizer, update)).item() for update in updates]


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model, before):
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept(recipe, dtype):
    model = network(dtype)
    optimizer = build(model, recipe)
    train(model, optimizer, range(3))
    assert all(p.dtype == dtype and p.isfinite().all() for p in model.parameters())
    states = optimizer.state_dict()["state"].values()
    assert {t.dtype for row in states for name, t in row.items() if name != "step"} == {dtype}


@every_optimizer
def test_resume_from_a_saved_state_is_bit_exact(recipe):
    whole = network()
    optimizer = build(whole, recipe)
    train(whole, optimizer, range(4))
    file = io.BytesIO()
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(whole, optimizer, range(4, 9))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = network()
    resumed.load_state_dict(saved["model"])
    again = build(resumed, recipe)
    again.load_state_dict(saved["optimizer"])
    train(resumed, again, range(4, 9))
    assert moved(resumed, snapshot(whole)) == set()


@every_optimizer
def test_only_weights_decay(recipe):
    model = network()
    optimizer = build(model, recipe)
    before = snapshot(model)

    def nothing(first=True):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)

    optimizer.step(nothing)
    assert moved(model, before) == set(WEIGHTS)
    assert all(p.norm() < before[name].norm() for name, p in model.named_parameters() if name in WEIGHTS)


@every_optimizer
def test_groups_have_names_in_the_models_order(recipe):
    pairs = [(name, p) for name, p in network().named_parameters() if "layer_norm" not in name]
    for given in (network(), pairs):
        weights, others = build(given, recipe).param_groups
        assert weights["param_names"] == WEIGHTS
        assert [n for n in NORMS_AND_BIASES if n in others["param_names"]] == others["param_names"]
        assert (weights["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
        assert weights["lr"] == others["lr"] == recipe.lr


@every_optimizer
def test_a_group_can_be_added(recipe):
    model, extra = network(), nn.Parameter(torch.ones(2, 2))
    optimizer = build(model, recipe)
    train(model, optimizer, range(2))
    optimizer.add_param_group({"params": [("extra", extra)]})
    gradient = loss_gradient(model, optimizer)

    def with_extra(first=True):
        gradient(first)
        extra.grad = torch.ones(2, 2)

    optimizer.step(with_extra)
    assert (extra < 1).all()


@every_optimizer
def test_parameters_without_gradient_stay(recipe):
    model = network()
    optimizer = build(model, recipe)
    before = snapshot(model)
    gradient = loss_gradient(model, optimizer)

    def without_first(first=True):
        gradient(first)
        model.first.weight.grad = None

    for _ in range(2):
        optimizer.step(without_first)
    assert moved(model, before) == {*WEIGHTS, *NORMS_AND_BIASES} - {"first.weight"}


@every_optimizer
def test_each_group_has_its_own_rate(recipe):
    model = network()
    optimizer = build(model, recipe)
    before = snapshot(model)
    optimizer.param_groups[1]["lr"] = 0.0
    train(model, optimizer, range(3))
    assert moved(model, before) == set(WEIGHTS)


@every_optimizer
def test_training_lowers_the_loss(recipe):
    model = network()
    losses = train(model, build(model, recipe), range(100))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@every_optimizer
def test_frozen_parameters_are_left_out(recipe):
    model = network()
    model.embedding.requires_grad_(False)
    assert build(model, recipe).param_groups[0]["param_names"] == WEIGHTS[1:]
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="expected parameters that need a gradient, got none: unfreeze"):
        build(model, recipe)


@every_optimizer
def test_an_empty_group_is_left_out(recipe):
    assert len(build(nn.Linear(2, 2, bias=False), recipe).param_groups) == 1


def test_norm_and_bias_decay_if_the_recipe_says_so():
    groups = build(network(), RECIPES["lamb"].replace(decay_norm_and_bias=True)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1]
    assert [group["adapt"] for group in groups] == [True, False]


def test_a_recipe_reaches_the_optimizer():
    options = {"momentum": 0.8, "beta1": 0.7, "beta2": 0.98, "eps": 1e-5, "trust_coefficient": 0.01}
    expected = {
        "sgd": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "fused": True}),
        "adam": (torch.optim.Adam, {"betas": (0.7, 0.98), "eps": 1e-5, "fused": True}),
        "adamw": (torch.optim.AdamW, {"betas": (0.7, 0.98), "eps": 1e-5, "fused": True}),
        "lars": (LARS, {"momentum": 0.8, "trust_coefficient": 0.01, "nesterov": False, "momentum_convention": "torch"}),
        "lamb": (LAMB, {"betas": (0.7, 0.98), "eps": 1e-5, "weight_norm_bounds": None}),
    }
    for name, (kind, settings) in expected.items():
        optimizer = build(network(), at_8(lr=0.1, optimizer=name, **options))
        assert type(optimizer) is kind
        assert settings.items() <= optimizer.param_groups[0].items()
    sam = build(network(), at_8(lr=0.1, sam_rho=0.3))
    assert isinstance(sam, SAM)
    assert sam.rho == 0.3
    proximal = build(network(), at_8(lr=0.1, proximal_strength=0.2, proximal_steps=5))
    assert isinstance(proximal, Proximal)
    assert (proximal.strength, proximal.steps) == (0.2, 5)


def test_plain_parameters_take_the_plain_step():
    """LARS without adaptation is torch's SGD, LAMB without it AdamW."""
    pairs = [
        (LARS, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}, {"momentum_convention": "torch"}),
        (LAMB, torch.optim.AdamW, {"eps": 1e-6, "weight_decay": 0.1}, {}),
    ]
    for ours, torchs, options, only_ours in pairs:
        path = our_path(
            lambda p, make=ours, o={**options, **only_ours}: make([{"params": p, "adapt": False}], 0.1, **o),
            RATES["warmup"],
        )
        assert gap(path, our_path(lambda p, make=torchs, o=options: make(p, 0.1, **o), RATES["warmup"])) < 1e-12


def test_sam_and_proximal_say_which_pass_it_is():
    for recipe, expected in {
        RECIPES["sam sgd"]: [True, False],
        RECIPES["proximal sgd"]: [True, False, False],
        RECIPES["sgd"]: [True],
    }.items():
        model = network()
        optimizer, firsts = build(model, recipe), []
        gradient = loss_gradient(model, optimizer)

        def noted(first=True, firsts=firsts, gradient=gradient):
            firsts.append(first)
            return gradient(first)

        with torch.no_grad():
            expected_loss = nn.functional.cross_entropy(model(torch.arange(3)), torch.arange(3))
        assert optimizer.step(noted).shape == expected_loss.shape
        assert firsts == expected


def test_sam_leaves_no_rounding_in_the_weights():
    model = network()
    optimizer = build(model, RECIPES["sam sgd"])
    before, there = snapshot(model), []
    gradient = loss_gradient(model, optimizer)

    def seen(first=True):
        there.append(moved(model, before))
        return gradient(first)

    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step(seen)
    assert there == [set(), {*WEIGHTS, *NORMS_AND_BIASES}]
    assert moved(model, before) == set()


def test_sam_stays_where_there_is_no_direction():
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM(torch.optim.SGD([w], 0.1))

    def flat(first=True):
        assert w.tolist() == [1.0, 1.0, 1.0]
        w.grad = torch.zeros(3)

    optimizer.step(flat)
    assert w.tolist() == [1.0, 1.0, 1.0]


def sharded_path(make, is_sharded) -> list[Any]:
    """The weights after five updates of a network whose tensors are cut over the ranks (FSDP2), or are whole."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    if is_sharded:
        fully_shard(model)
    optimizer = make(model.parameters())
    for update in range(5):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(update), dtype=torch.float64)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    parameters: list[Any] = list(model.parameters())
    return [p.full_tensor() if is_sharded else p.detach() for p in parameters]


def lars_for_shards(params):
    return LARS(params, 0.1, weight_decay=1e-3, trust_coefficient=0.1)


def lamb_for_shards(params):
    return LAMB(params, 0.01, weight_decay=0.01)


def sharded_on_a_rank(make):
    with world_from_environment(torch.device("cpu")):
        return sharded_path(make, is_sharded=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lars_for_shards, lamb_for_shards])
def test_trust_ratios_of_sharded_tensors_use_the_norm_of_the_whole(make):
    expected = sharded_path(make, is_sharded=False)
    for weights in run_ranks(sharded_on_a_rank, 2, make):
        for found, wanted in zip(weights, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: LARS(p, -0.1), r"LARS expected lr >= 0, got -0\.1"),
        (lambda p: LARS(p, 0.1, momentum=-1.0), r"LARS expected momentum >= 0, got -1\.0"),
        (lambda p: LARS(p, 0.1, weight_decay=-1.0), "LARS expected weight_decay >= 0"),
        (lambda p: LARS(p, 0.1, trust_coefficient=0.0), "LARS expected trust_coefficient > 0, got 0.0: the paper's"),
        (
            lambda p: LARS(p, 0.1, momentum_convention=cast(Any, "keras")),
            "expected momentum_convention .* got 'keras': choose",
        ),
        (lambda p: LAMB(p, 0.1, eps=-1.0), "LAMB expected eps >= 0"),
        (lambda p: LAMB(p, 0.1, betas=(0.9, 1.0)), r"LAMB expected betas in \[0, 1\), got \(0\.9, 1\.0\)"),
        (lambda p: LAMB(p, 0.1, weight_norm_bounds=(2.0, 1.0)), r"0 <= low < high, got \(2\.0, 1\.0\): give None"),
        (lambda p: SAM(torch.optim.SGD(p, 0.1), 0.0), r"SAM expected rho > 0, got 0\.0: use the inner"),
        (lambda p: Proximal(torch.optim.SGD(p, 0.1), 0.0), r"Proximal expected strength > 0, got 0\.0: use the inner"),
        (lambda p: Proximal(torch.optim.SGD(p, 0.1), 0.1, 0), "Proximal expected steps >= 1, got 0: the paper"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.ones(2))])


@pytest.mark.parametrize("make", [LARS, LAMB])
def test_sparse_and_complex_gradients_are_refused(make):
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=rf"{make.__name__} expected dense real gradients, got torch.sparse_coo"):
        make(embedding.parameters(), 0.1).step()
    w = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    w.grad = torch.ones_like(w)
    with pytest.raises(RuntimeError, match=r"got torch.strided torch.complex64 for a parameter of shape \(2,\)"):
        make([w], 0.1).step()


@pytest.mark.parametrize("make", [SAM, Proximal])
def test_a_gradient_that_does_nothing_is_refused(make):
    optimizer = make(torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1))
    with pytest.raises(
        RuntimeError, match=rf"{make.__name__} expected .* fills p.grad, got no gradient: call backward"
    ):
        optimizer.step(lambda first=True: None)


def test_bare_parameters_are_refused():
    with pytest.raises(
        TypeError, match=r"build_optimizer expected .* got Parameter: pass model or model.named_parameters\(\)"
    ):
        build(network().parameters(), RECIPES["sgd"])
