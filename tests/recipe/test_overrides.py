"""Fields set from texts, as `--set` gives them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.recipe import Duration, Phase, Recipe, Schedule, Warmup

BASE = Recipe(256, lr=0.1)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["lr=0.2"], BASE.replace(lr=0.2)),
        (["recipe.lr=2e-1"], BASE.replace(lr=0.2)),
        ([" lr = 0.2 "], BASE.replace(lr=0.2)),
        (["lr=1", "lr=2"], BASE.replace(lr=2.0)),
        (["global_batch_size=512"], BASE.replace(global_batch_size=512)),
        (["ghost_batch_size=none", "clip_norm=5"], BASE.replace(ghost_batch_size=None, clip_norm=5.0)),
        (["nesterov=false", "momentum=0"], BASE.replace(nesterov=False, momentum=0.0)),
        (["rule=none", "optimizer=adamw"], BASE.replace(rule="none", optimizer="adamw")),
        (["duration=10ep", "precision=bf16"], BASE.replace(duration=Duration(10, "ep"), precision="bf16")),
        (["augment=flip, crop:4"], BASE.replace(augment=("flip", "crop:4"))),
        (["augment=none"], BASE),
        (["schedule=step(30ep,60ep)"], BASE.replace(schedule=Schedule("step", ("30ep", "60ep")))),
        (
            ["schedule.kind=step", "schedule.milestones=30ep,60ep"],
            BASE.replace(schedule=Schedule("step", ("30ep", "60ep"))),
        ),
        (["warmup=gradual(5ep,start_lr=0.05)", "warmup.start_lr=0"], BASE.replace(warmup=Warmup("gradual", "5ep"))),
        (["warmup.start_lr=0", "warmup=gradual(5ep)"], BASE.replace(warmup=Warmup("gradual", "5ep"))),
        (["warmup.kind=gradual", "warmup.duration=2ep"], BASE.replace(warmup=Warmup("gradual", "2ep"))),
        (["warmup=none"], BASE),
        ([], BASE),
    ],
)
def test_texts_set_fields(texts, expected):
    assert BASE.override(texts) == expected


def test_a_later_phase_is_set_by_its_path():
    recipe = BASE.replace(then=Phase(Recipe(512, lr=0.2)))
    changed = recipe.override(["then.recipe.lr=0.4", "then.carry=all", "then.recipe.warmup=gradual(1ep)"])
    assert changed.then == Phase(Recipe(512, lr=0.4, warmup="gradual(1ep)"), "all")
    assert recipe.override(["then=none"]).then is None


def test_a_set_field_is_told_in_the_changes():
    large = BASE.at(8192).override(["lr=1.6", "warmup.start_lr=0"])
    assert [c.after for c in large.changes] == [8192, 1.6, "gradual(5ep,at_most=0.2dur)"]
    assert [c.rule for c in large.changes[1:]] == ["set by hand", "set by hand"]


@given(st.floats(1e-6, 1e6), st.integers(32, 10**6), st.floats(0, 0.999))
@settings(deadline=None)
def test_numbers_keep_every_digit(lr, batch, beta1):
    changed = BASE.override([f"lr={lr!r}", f"global_batch_size={batch}", f"beta1={beta1!r}"])
    assert (changed.lr, changed.global_batch_size, changed.beta1) == (lr, batch, beta1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "'lr': expected name=value, got no =; write lr=0.1"),
        ("lr=", "'lr=': expected name=value, got no value"),
        ("lrr=1", "lrr: no such field; did you mean 'lr'"),
        ("lr=abc", "lr: expected a finite rate above 0, got 'abc'"),
        ("lr=nan", "lr: expected a finite rate above 0, got nan"),
        ("global_batch_size=256.5", "global_batch_size: expected a whole number of at least 1, got 256.5"),
        ("nesterov=1", "nesterov: expected True or False, got 1"),
        ("changes=none", "changes: no such field"),
        ("duration=5", "duration: expected a duration such as 5ep"),
        ("schedule=cosin", "schedule: expected constant, .* did you mean 'cosine'"),
        ("schedule.powr=2", "schedule.powr: no such field; did you mean 'power'"),
        ("schedule.power=2", r"schedule\.power: expected nothing, because 'cosine' does not use it"),
        ("warmup=gradual(0ep)", r"warmup\.duration: expected more than 0"),
        ("warmup.kind=gradual", r"warmup\.duration: expected more than 0"),
        ("lr.x=1", "lr: expected a value with x, got 0.1; set lr itself first"),
        ("then.recipe.lr=1", "then: expected a value with recipe.lr, got None; set then itself first"),
        ("then=phase", "then: expected a Phase, got 'phase'"),
    ],
)
def test_a_wrong_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        BASE.override([text])


def test_all_mistakes_are_told_together():
    recipe = BASE.replace(then=Phase(Recipe(512, lr=0.2)))
    with pytest.raises(ValueError, match="--set: 6 mistakes") as caught:
        recipe.override(["lrr=1", "momentum=2", "x", "warmup.start=1", "then.recipe.lr=-1", "then.carry=some"])
    for name in ("lrr:", "momentum:", "'x':", "warmup.start:", "then.recipe.lr:", "then.carry:"):
        assert f"\n  {name}" in str(caught.value)
