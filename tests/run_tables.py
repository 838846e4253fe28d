"""Runs and measurements as plain tables, made up: what the judges of hypotheses are given, with a cause that is known."""

from largebatch.diagnose._evidence import Evidence, Row, RunRecord
from largebatch.recipe import Recipe

SAMPLES = 1000  # of the training data
EPOCHS = 10
RECIPES = {"small": Recipe(50, lr=0.1, duration="10ep"), "large": Recipe(500, lr=0.1, duration="10ep")}


def run(side, seed, *, status="finished", errors=(0.10,), train_error=0.01, losses=(0.5, 0.1), distance=10.0, recipe=None,
        curvature=()):  # fmt: skip
    """One run. `errors`: held-out error at ends of epochs, the last of which is the test error; `losses`: train loss at
    ends of epochs; `distance`: ‖x − x₀‖ at the end, or a function of the number of updates."""
    recipe = RECIPES[side] if recipe is None else recipe
    per_epoch = SAMPLES // recipe.global_batch_size
    updates = EPOCHS * per_epoch
    at = distance if callable(distance) else lambda t: distance * t / updates
    steps = tuple(
        {"update": float(t - 1), "samples": float(t * recipe.global_batch_size), "lr": recipe.lr, "train_loss": 2.0 / t,
         "gradient_norm": 1.0, "distance": at(t), "path_length": 3 * at(t)}
        for t in range(1, updates + 1)
    )  # fmt: skip
    epochs = tuple(
        {"epoch": float(e), "samples": float(SAMPLES * (e + 1)), "updates": float(per_epoch * (e + 1)),
         "train_loss": losses[min(e, len(losses) - 1)],
         "held_out_accuracy": 1 - errors[min(e, len(errors) - 1)], "held_out_loss": errors[min(e, len(errors) - 1)]}
        for e in range(EPOCHS)
    )  # fmt: skip
    metrics = {"train_loss": losses[-1], "test_loss": errors[-1], "train_accuracy": 1 - train_error,
               "test_accuracy": 1 - errors[-1]}  # fmt: skip
    reason = "diverged at step 3: the loss is nan at step 4; try gradual warmup" if status == "diverged" else ""
    return RunRecord(
        f"runs/{side}-{seed}", "made/up", f"{side}{seed}", seed, status, reason, recipe.to_json(), updates,
        updates * recipe.global_batch_size, metrics, steps, epochs, tuple(curvature),
    )  # fmt: skip


def rows(side, name, values, mode="running", samples=SAMPLES):
    """One measurement of each seed."""
    return tuple(
        Row(name, f"runs/{side}-{seed}", f"{side}{seed}", value, 0.0, mode, samples, 1.0, 0.1)
        for seed, value in enumerate(values)
    )


def evidence(small, large, *measured):
    """Groups of runs, one for each seed, and what was measured of them."""
    return Evidence(
        tuple(run("small", seed, **options) for seed, options in enumerate(small)),
        tuple(run("large", seed, **options) for seed, options in enumerate(large)),
        tuple(row for part in measured for row in part),
    )
