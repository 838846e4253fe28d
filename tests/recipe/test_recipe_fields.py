"""Recipe: what its fields accept, how mistakes are told, and its JSON."""

import json
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.recipe import Change, Duration, Phase, Recipe, Schedule, Warmup

RECIPES = st.builds(
    Recipe,
    st.integers(2, 10**6),
    lr=st.floats(1e-9, 1e3),
    optimizer=st.sampled_from(["sgd", "adam", "adamw", "lars", "lamb"]),
    momentum=st.floats(0.1, 0.999),
    eps=st.floats(1e-12, 1),
    duration=st.builds(Duration, st.floats(1e-3, 1e9), st.sampled_from(["ep", "steps", "samples"])),
    schedule=st.sampled_from(["constant", "cosine", "step(1ep,5steps,factor=0.3)", "polynomial(0.7,final=0.01)"]),
    warmup=st.sampled_from(["none", "gradual(5ep)", "constant(0.3dur,at_most=7steps)"]),
    ghost_batch_size=st.sampled_from([None, 2]),
    clip_norm=st.none() | st.floats(1e-3, 1e3),
    augment=st.lists(st.sampled_from(["flip", "shift:2", "crop:4"]), max_size=3),
    nesterov=st.booleans(),
)


@given(RECIPES, st.none() | st.tuples(RECIPES, st.just("weights")))
@settings(deadline=None)
def test_json_reads_back_as_exactly_this_recipe(recipe, following):
    recipe = recipe.replace(then=None if following is None else Phase(*following))
    text = json.dumps(recipe.to_json(), allow_nan=False)
    assert Recipe.from_json(json.loads(text)) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe  # noqa: S301
    assert hash(recipe) == hash(Recipe.from_json(json.loads(text)))


def test_json_keeps_the_changes_unless_told_not_to():
    large = Recipe(256, lr=0.1, then=Phase(Recipe(64, lr=0.2))).at(8192)
    back = Recipe.from_json(json.loads(json.dumps(large.to_json())))
    assert back.changes == large.changes
    assert back.tuned_batch_size == 256
    assert "changes" not in json.dumps(large.to_json(with_changes=False))
    assert Recipe.from_json(large.to_json(with_changes=False)) == large


def test_texts_become_values_and_numbers_floats():
    recipe = Recipe(256, 1, duration="10ep", schedule="step(3ep)", warmup="gradual(1ep)", augment=["flip"], sam_rho=0)
    assert recipe.duration == Duration(10, "ep")
    assert recipe.schedule == Schedule("step", (Duration(3, "ep"),))
    assert recipe.warmup == Warmup("gradual", Duration(1, "ep"))
    assert recipe.augment == ("flip",)
    assert type(recipe.lr) is float
    assert Recipe(256, lr=0.1, warmup=None).warmup == Warmup()


def test_numpy_numbers_are_taken_for_what_they_are():
    np = pytest.importorskip("numpy")
    recipe = Recipe(np.int64(256), lr=np.float32(0.5))
    assert (type(recipe.global_batch_size), type(recipe.lr)) == (int, float)
    assert recipe == Recipe(256, lr=0.5)


def test_the_defaults_are_goyals():
    recipe = Recipe(256, lr=0.1)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.ghost_batch_size) == (0.9, True, 1e-4, 32)
    assert not recipe.decay_norm_and_bias
    assert recipe.tuned_batch_size == 256


def test_three_mistakes_are_told_at_once():
    with pytest.raises(ValueError, match="recipe: 3 mistakes") as caught:
        Recipe(16, lr=0, optimizer="sdg")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["lr", "optimizer", "ghost_batch_size"]
    assert "did you mean 'sgd'" in lines[2]


def test_an_error_survives_its_way_out_of_a_worker():
    with pytest.raises(ValueError, match="recipe: 2 mistakes") as caught:
        Recipe(256, lr=0, eps=0)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@given(st.sets(st.sampled_from(["lr", "optimizer", "momentum", "eps", "duration", "precision", "augment"]), min_size=1))
@settings(deadline=None)
def test_every_mistake_is_told_and_nothing_else(names):
    wrong = {
        "lr": -1,
        "optimizer": "x",
        "momentum": 1,
        "eps": 0,
        "duration": "5",
        "precision": "fp8",
        "augment": ["blur"],
    }
    fields = {"lr": 0.1} | {name: wrong[name] for name in names}
    with pytest.raises(ValueError, match="recipe: ") as caught:
        Recipe(256, **fields)
    assert {line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]} == names


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("global_batch_size", 0, "expected a whole number of at least 1, got 0"),
        ("global_batch_size", 256.0, "expected a whole number of at least 1, got 256.0"),
        ("global_batch_size", True, "expected a whole number of at least 1, got True"),
        ("lr", math.nan, "expected a finite rate above 0, got nan"),
        ("lr", math.inf, "expected a finite rate above 0, got inf"),
        ("lr", "0.1", "expected a finite rate above 0, got '0.1'"),
        ("lr", True, "expected a finite rate above 0, got True"),
        ("lr", 10**400, "expected a finite rate above 0, got 1000"),
        ("lr", None, "expected a finite rate above 0, got None"),
        ("optimizer", "adamW", "did you mean 'adamw'"),
        ("optimizer", "zzz", "expected one of sgd, adam, adamw, lars, lamb, got 'zzz'; choose one of them"),
        ("momentum", 1.0, "expected a number from 0 up to but not including 1, got 1.0"),
        ("nesterov", 1, "expected True or False, got 1"),
        ("beta2", -0.1, "expected a number from 0 up to"),
        ("weight_decay", -1e-4, "expected a finite number of at least 0, got -0.0001"),
        ("trust_coefficient", 0, "expected a finite number above 0, got 0"),
        ("duration", "0ep", "expected a length above 0 in ep, steps or samples, got '0ep'"),
        ("duration", "1dur", "expected a length above 0 in ep, steps or samples, got '1dur'"),
        ("duration", 5, "expected a duration such as 5ep.*got '5'"),
        ("schedule", "cosin", "did you mean 'cosine'"),
        ("schedule", 3, "expected constant, step.*got '3'"),
        ("warmup", "gradual(5ep,start_lr=-1)", "start_lr: expected a finite rate of at least 0"),
        ("warmup", 3, "expected none, gradual.*got '3'"),
        ("ghost_batch_size", 1, "expected a whole number of at least 2, got 1; batch norm needs two samples"),
        ("precision", "fp8", "expected one of fp32, bf16, fp64, got 'fp8'"),
        ("label_smoothing", 1, "expected a number from 0 up to"),
        ("clip_norm", 0, "expected None or a finite norm above 0, got 0"),
        ("augment", "flip", "expected a tuple of augmentations, got 'flip'"),
        ("augment", ("crop",), "expected flip, shift:N or crop:N with N pixels, got 'crop'"),
        ("augment", ("crop:0",), "got 'crop:0'"),
        ("sam_rho", -1, "expected a finite number of at least 0, got -1"),
        ("proximal_steps", 0, "expected a whole number of at least 1, got 0"),
        ("rule", "log", "expected one of auto, linear, sqrt, none, got 'log'"),
        ("momentum_convention", "tf", "expected one of torch, paper, got 'tf'"),
        ("then", Recipe(256, lr=0.1), "expected a Phase, got Recipe"),
        ("changes", ["lr"], "expected a Change, got 'lr'"),
    ],
)
def test_a_value_outside_its_limits_is_refused(field, value, message):
    fields = {"global_batch_size": 256, "lr": 0.1} | {field: value}
    with pytest.raises(ValueError, match=message) as caught:
        Recipe(**fields)
    assert f"\n  {field}" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"global_batch_size": 16},
            "ghost_batch_size: expected at most the global batch of 16, got 32; "
            "set ghost_batch_size to at most that or None",
        ),
        ({"momentum": 0}, "nesterov: expected a momentum above 0 with it, got momentum 0; set nesterov=False"),
        (
            {"momentum_convention": "paper"},
            "momentum_convention: expected 'torch' for 'sgd'.* got 'paper'; leave it out",
        ),
        ({"warmup": "gradual(5ep,start_lr=0.2)"}, "warmup.start_lr: expected at most the peak rate lr=0.1, got 0.2"),
        ({"sam_rho": 0.05, "proximal_strength": 1e-3}, "sam_rho: expected 0 together with proximal_strength=0.001"),
        (
            {"then": Phase(Recipe(256, lr=0.1, optimizer="adam"), "all")},
            "then.carry: expected 'weights' where the optimiser changes from 'sgd' to 'adam', got 'all'",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"global_batch_size": 256, "lr": 0.1, **fields})


def test_fields_that_go_together_are_accepted():
    Recipe(256, lr=0.1, momentum=0, nesterov=False)
    Recipe(256, lr=0.1, momentum=0, optimizer="adam")
    Recipe(256, lr=0.1, optimizer="lars", momentum_convention="paper")
    assert Recipe(256, lr=0.1, then=Phase(Recipe(512, lr=0.1), "all")).then.recipe.global_batch_size == 512
    assert Recipe(1, lr=0.1, ghost_batch_size=None).ghost_batch_size is None


def test_a_wrong_phase_is_refused():
    with pytest.raises(
        ValueError, match=r"phase: 2 mistakes\n  recipe: expected a Recipe.*\n  carry: .*did you mean 'all'"
    ):
        Phase("recipe", "al")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"global_batch_size": 1, "lr": 0.1, "momentun": 0.9}, "momentun: no such field; did you mean 'momentum'"),
        ({"lr": 0.1}, "global_batch_size: expected a value, got none"),
        ([1], r"expected fields with values, got \[1\]"),
        (
            {"global_batch_size": 256, "lr": 0.1, "then": {"carry": "all"}},
            "then: 1 mistake\n  recipe: expected the recipe",
        ),
        (
            {"global_batch_size": 256, "lr": 0.1, "then": {"recipee": 1}},
            "recipee: no such field; did you mean 'recipe'",
        ),
        ({"global_batch_size": 256, "lr": 0.1, "then": 3}, "then: 1 mistake\n  expected fields with values, got 3"),
        (
            {"global_batch_size": 256, "lr": 0.1, "changes": [{"x": 1}]},
            "changes: expected a list of field, before, after",
        ),
        ({"global_batch_size": 256, "lr": 0.1, "changes": 1}, "changes: expected a list of field, before, after"),
    ],
)
def test_a_wrong_json_recipe_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(data)


def test_replace_sets_fields_and_the_changes_say_so():
    large = Recipe(256, lr=0.1).at(8192)
    mine = large.replace(lr=2.0, duration="10ep")
    assert (mine.lr, mine.duration) == (2.0, Duration(10, "ep"))
    assert {c.field: c for c in mine.changes}["lr"] == Change("lr", 0.1, 2.0, "set by hand", "the user")
    assert mine.changes[0] == large.changes[0]
    with pytest.raises(ValueError, match=r"recipe: 2 mistakes\n  lrr: no such field; did you mean 'lr'\?\n  zzz"):
        large.replace(lrr=1, zzz=2)


def test_validate_for_tells_the_mistakes_of_every_phase():
    recipe = Recipe(256, lr=0.1, then=Phase(Recipe(2048, lr=0.1)))
    recipe.validate_for(2048)
    with pytest.raises(
        ValueError, match=r"recipe: 1 mistake\n  then\.recipe\.global_batch_size: expected at most the 1000"
    ):
        recipe.validate_for(1000)
    with pytest.raises(ValueError, match="recipe: 2 mistakes\n  global_batch_size: expected at most the 100 samples"):
        recipe.validate_for(100)
