"""Warnings outside the evidence, and silence inside it."""

import pytest

from largebatch.recipe import Phase, Recipe


def test_nothing_is_said_inside_the_evidence():
    assert Recipe(256, lr=0.1).at(8192).warnings(1_281_167) == ()
    assert Recipe(256, lr=1e-3, optimizer="adam").at(1024).warnings(60_000, critical_batch_size=2000) == ()


def test_few_updates_per_epoch():
    (warning,) = Recipe(256, lr=0.1).at(8192).warnings(60_000)
    assert warning.startswith("8 updates per epoch is outside the evidence")
    assert "a batch of at most 3000" in warning
    assert Recipe(3000, lr=0.1).warnings(60_000) == ()
    assert len(Recipe(3158, lr=0.1).warnings(60_000)) == 1
    assert "take more epochs" in Recipe(2, lr=0.1, ghost_batch_size=None).warnings(10)[0]


@pytest.mark.parametrize(("batch", "warns"), [(256 * 5, False), (256 * 6, True)])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_beyond_its_rule(batch, warns, optimizer):
    # k(1 − β₁) = 0.5 at k = 5.
    warnings = Recipe(256, lr=1e-3, optimizer=optimizer).at(batch).warnings(10**6)
    assert bool(warnings) == warns
    if warns:
        assert "k(1 − beta1) = 0.6 for k = 6" in warnings[0]
        assert "at most 1280" in warnings[0]


def test_the_factor_is_that_since_the_tuned_batch():
    stepwise = Recipe(256, lr=1e-3, optimizer="adam").at(1024).at(4096)
    assert "for k = 16" in stepwise.warnings(10**6)[0]
    assert Recipe(4096, lr=1e-3, optimizer="adam").warnings(10**6) == ()
    assert Recipe(256, lr=1e-3, optimizer="lamb").at(4096).warnings(10**6) == ()


def test_above_the_measured_critical_batch():
    (warning,) = Recipe(2048, lr=0.1).warnings(10**6, critical_batch_size=900.4)
    assert warning.startswith("the batch of 2048 is above the measured critical batch of 900.4")
    assert Recipe(900, lr=0.1).warnings(10**6, critical_batch_size=900) == ()


def test_later_phases_warn_too():
    recipe = Recipe(256, lr=0.1, then=Phase(Recipe(8192, lr=0.1)))
    (warning,) = recipe.warnings(60_000)
    assert warning.startswith("then: 8 updates per epoch")


def test_a_train_size_that_is_none_is_refused():
    with pytest.raises(
        ValueError, match="expected a whole number of at least 1, got 0; give the number of training samples"
    ):
        Recipe(256, lr=0.1).warnings(0)
