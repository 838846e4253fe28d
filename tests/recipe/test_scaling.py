"""What moves with the batch: the published figures, and the laws that hold for any recipe."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.recipe import Change, Duration, Phase, Recipe, Schedule, Timeline, Warmup

NUMBERS = ("lr", "beta1", "beta2", "eps", "weight_decay", "momentum")
OPTIMIZERS = st.sampled_from(["sgd", "adam", "adamw", "lamb"])
LENGTHS = st.builds(Duration, st.floats(1, 1000), st.sampled_from(["ep", "steps", "samples"]))
WARMUPS = st.one_of(
    st.just(Warmup()),
    st.builds(
        Warmup,
        st.sampled_from(["constant", "gradual"]),
        st.builds(Duration, st.floats(0.01, 100), st.sampled_from(["ep", "steps", "samples", "dur"])),
        start_lr=st.floats(0, 1e-4),
    ),
)


def recipes(beta2):
    return st.builds(
        Recipe,
        st.integers(32, 1024),
        lr=st.floats(1e-3, 1),
        optimizer=OPTIMIZERS,
        beta2=beta2,
        duration=LENGTHS,
        schedule=st.sampled_from(["cosine", "step(3ep,60ep)", "step(10steps,20steps)"]),
        warmup=WARMUPS,
    )


RECIPES = recipes(st.floats(0, 0.9999))
UP = st.integers(1, 64)
BUDGETS = st.sampled_from(["epochs", "updates"])


def moved(recipe):
    return {change.field: (change.before, change.after) for change in recipe.changes}


def test_goyals_figures():
    large = Recipe(256, lr=0.1).at(8192)
    assert large.lr == 3.2
    assert large.weight_decay == 1e-4
    assert large.ghost_batch_size == 32
    assert large.warmup == Warmup("gradual", "5ep", start_lr=0.1, at_most="0.2dur")
    assert large.changes[1] == Change("lr", 0.1, 3.2, "lr × k", "Goyal et al. 2017, section 2.1")
    assert moved(large) == {
        "global_batch_size": (256, 8192),
        "lr": (0.1, 3.2),
        "warmup": ("none", "gradual(5ep,start_lr=0.1,at_most=0.2dur)"),
    }
    assert str(large.changes[1]) == "lr: 0.1 → 3.2 (lr × k; Goyal et al. 2017, section 2.1)"


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_adam_figures_of_the_design(optimizer):
    large = Recipe(256, lr=1e-3, optimizer=optimizer, beta2=0.999, eps=1e-8, weight_decay=0.01).at(8192)
    assert large.lr == pytest.approx(5.657e-3, rel=1e-4)
    assert large.beta2 == pytest.approx(0.9685, rel=1e-4)
    assert large.eps == pytest.approx(1.77e-9, rel=2e-3)
    assert large.beta1 == 0.9
    assert large.weight_decay == pytest.approx(0.01 * (math.sqrt(32) if optimizer == "adamw" else 1), rel=1e-12)


def test_adamws_decay_per_epoch_is_held_whatever_the_rule():
    base = Recipe(256, lr=1e-3, optimizer="adamw", weight_decay=0.01)
    for rule in ("auto", "linear", "sqrt"):
        large = base.at(2048, rule=rule)
        assert large.lr * large.weight_decay / 2048 == pytest.approx(base.lr * base.weight_decay / 256, rel=1e-12)
    assert base.at(2048, rule="linear").lr == pytest.approx(8e-3)
    assert base.at(2048, rule="linear").beta2 == pytest.approx(0.999**8)


def test_lamb_moves_the_rate_alone():
    assert set(moved(Recipe(256, lr=0.01, optimizer="lamb").at(1024))) == {"global_batch_size", "lr", "warmup"}
    assert Recipe(256, lr=0.01, optimizer="lamb").at(1024).lr == pytest.approx(0.02)


def test_lars_needs_a_declared_rule():
    lars = Recipe(3200, lr=11, optimizer="lars")
    with pytest.raises(ValueError, match=r"rule: expected a declared one for 'lars', got 'auto'; .*0\.30"):
        lars.at(32_000)
    assert lars.at(3200) == lars
    assert lars.at(32_000, rule="linear").lr == pytest.approx(110)
    assert lars.replace(rule="sqrt").at(12_800).lr == pytest.approx(22)
    assert "declared: rule='sqrt'" in str(lars.at(12_800, rule="sqrt").changes[1])


def test_rule_none_keeps_everything_but_the_batch():
    base = Recipe(256, lr=1e-3, optimizer="adamw", duration="1000steps", warmup="gradual(100steps)")
    large = base.at(1024, rule="none")
    assert large == base.replace(global_batch_size=1024, duration="250steps", warmup="gradual(25steps)")
    assert Recipe(256, lr=0.1).at(8192, rule="none") == Recipe(8192, lr=0.1)


@given(RECIPES, UP, UP, BUDGETS, st.sampled_from([None, "linear", "sqrt"]))
@settings(deadline=None)
def test_two_moves_up_are_one(recipe, first, second, budget, rule):
    a = recipe.global_batch_size * first
    b = a * second
    twice = recipe.at(a, budget=budget, rule=rule).at(b, budget=budget, rule=rule)
    once = recipe.at(b, budget=budget, rule=rule)
    for name in NUMBERS:
        assert getattr(twice, name) == pytest.approx(getattr(once, name), rel=1e-9)
    assert same_warmup(twice.warmup, once.warmup)
    assert [change.field for change in twice.changes] == [change.field for change in once.changes]
    assert [change.before for change in twice.changes] == [change.before for change in once.changes]
    assert twice.duration.value == pytest.approx(once.duration.value, rel=1e-9)


def same_warmup(a, b):
    return (a.kind, a.duration.unit, a.at_most) == (b.kind, b.duration.unit, b.at_most) and (
        a.duration.value,
        a.start_lr,
    ) == pytest.approx((b.duration.value, b.start_lr), rel=1e-9)


@given(recipes(st.floats(0.9, 0.9999)), st.integers(1, 100_000), BUDGETS)
@settings(deadline=None)
def test_moving_back_restores_the_numbers(recipe, more, budget):
    # A ghost that shrank with the batch stays; the batch only grows here. Below 0.9, β₂^k underflows at the largest k.
    there = recipe.at(recipe.global_batch_size + min(more, 100 * recipe.global_batch_size), budget=budget)
    back = there.at(recipe.global_batch_size, budget=budget)
    for name in (*NUMBERS, "global_batch_size", "ghost_batch_size"):
        assert getattr(back, name) == getattr(recipe, name)
    assert same_warmup(back.warmup, recipe.warmup)
    assert back.duration.value == pytest.approx(recipe.duration.value, rel=1e-9)
    assert not {"lr", "beta2", "eps", "weight_decay", "global_batch_size"} & set(moved(back))


@given(RECIPES, st.integers(1, 5000))
@settings(deadline=None)
def test_every_field_that_moved_is_listed_and_no_other(recipe, batch):
    large = recipe.at(batch)
    plain = {name: (value, large.to_json()[name]) for name, value in recipe.to_json().items() if name != "changes"}
    differing = {name: pair for name, pair in plain.items() if pair[0] != pair[1]}
    close = {name for name, pair in differing.items() if name in NUMBERS and pair[0] == pytest.approx(pair[1])}
    assert set(moved(large)) - close == set(differing) - close
    assert all(change.rule and change.source for change in large.changes)


def test_a_smaller_batch_brings_no_warmup_and_drops_a_pointless_one():
    assert Recipe(256, lr=0.1).at(64).warmup.kind == "none"
    assert Recipe(256, lr=0.1).at(8192).at(128).warmup.kind == "none"
    assert Recipe(256, lr=0.1, warmup="gradual(5ep)").at(64).warmup == Warmup("gradual", "5ep")


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        ("auto", Warmup("gradual", "5ep", start_lr=0.1, at_most="0.2dur")),
        ("keep", Warmup()),
        (None, Warmup()),
        ("none", Warmup()),
        ("constant(1ep,start_lr=0.1)", Warmup("constant", "1ep", start_lr=0.1)),
        (Warmup("gradual", "1ep"), Warmup("gradual", "1ep")),
    ],
)
def test_the_warmup_asked_for(warmup, expected):
    assert Recipe(256, lr=0.1).at(1024, warmup=warmup).warmup == expected


def test_an_own_warmup_keeps_its_start_and_its_samples():
    base = Recipe(256, lr=0.1, warmup="gradual(2000steps,start_lr=0.01,at_most=4000steps)")
    assert base.at(1024).warmup == Warmup("gradual", "500steps", start_lr=0.01, at_most="1000steps")
    shares = Recipe(256, lr=0.1, duration="10ep", warmup="gradual(0.1dur,at_most=0.5dur)")
    assert shares.at(1024).warmup == shares.warmup
    assert shares.at(1024, budget="updates").warmup == Warmup("gradual", "0.025dur", at_most="0.5dur")


@given(RECIPES, st.sampled_from([2, 4, 8]), BUDGETS)
@settings(deadline=None)
def test_budgets_keep_the_samples_or_the_updates(recipe, k, budget):
    # A data set that every batch divides, so that steps and samples are exactly proportional.
    train_size = recipe.global_batch_size * 64
    before = Timeline(recipe, train_size)
    after = Timeline(recipe.at(recipe.global_batch_size * k, budget=budget), train_size)
    factor = k if budget == "updates" else 1
    assert after.duration_samples == pytest.approx(before.duration_samples * factor, rel=1e-8)
    assert after.milestones_samples == pytest.approx([m * factor for m in before.milestones_samples], rel=1e-8)
    if recipe.warmup.kind != "none" and recipe.warmup.duration.unit != "dur":
        uncapped = after.resolve(after.recipe.warmup.duration)
        assert uncapped == pytest.approx(before.resolve(before.recipe.warmup.duration), rel=1e-8)


def test_hoffers_budget_stretches_the_schedule_but_not_the_warmup():
    base = Recipe(128, lr=0.1, duration="50ep", schedule="step(10ep,1000steps,0.9dur)")
    large = base.at(4096, budget="updates")
    assert large.duration == Duration(1600, "ep")
    assert large.schedule == Schedule("step", ("320ep", "1000steps", "0.9dur"))
    assert large.warmup.duration == Duration(5, "ep")
    assert moved(large)["duration"] == ("50ep", "1600ep")
    assert base.at(4096).schedule.milestones[1] == Duration(1000 / 32, "steps")


def test_a_short_run_caps_the_warmup():
    large = Recipe(16, lr=0.1, duration="10ep", ghost_batch_size=None).at(160)
    assert Timeline(large, 1600).warmup_samples == 2 * 1600
    assert Timeline(large.at(320, budget="updates"), 1600).warmup_samples == 4 * 1600


def test_a_ghost_larger_than_the_batch_becomes_the_batch():
    small = Recipe(256, lr=0.1).at(16)
    assert small.ghost_batch_size == 16
    assert moved(small)["ghost_batch_size"] == (32, 16)
    assert Recipe(256, lr=0.1).at(1).ghost_batch_size is None
    assert Recipe(256, lr=0.1, ghost_batch_size=None).at(1).ghost_batch_size is None


def test_later_phases_scale_by_the_same_factor_and_get_no_new_warmup():
    second = Recipe(512, lr=0.05, optimizer="adam", duration="100steps")
    large = Recipe(256, lr=0.1, then=Phase(second, "weights")).at(1024)
    assert large.then.carry == "weights"
    assert large.then.recipe == second.at(2048, warmup="keep")
    assert large.then.recipe.warmup.kind == "none"
    assert large.then.recipe.duration == Duration(25, "steps")
    assert moved(large)["then.recipe.lr"] == (0.05, 0.1)
    assert large.at(256).changes == ()
    assert large.at(256) == Recipe(256, lr=0.1, then=Phase(second, "weights"))


def test_wrong_arguments_are_told_together():
    with pytest.raises(
        ValueError, match=r"recipe\.at: 3 mistakes\n  batch: .*0\.5.*\n  budget: .*\n  rule: "
    ) as caught:
        Recipe(256, lr=0.1).at(0.5, budget="epoch", rule="sqr")
    assert "did you mean 'epochs'" in str(caught.value)
    assert "did you mean 'sqrt'" in str(caught.value)
    with pytest.raises(ValueError, match="batch: expected a whole number of at least 1, got 0"):
        Recipe(256, lr=0.1).at(0)
    with pytest.raises(ValueError, match="batch: expected a whole number of at least 1, got True"):
        Recipe(256, lr=0.1).at(True)
    with pytest.raises(ValueError, match="did you mean 'gradual'"):
        Recipe(256, lr=0.1).at(512, warmup="gradul(5ep)")
