"""The long campaign: random correct loops are never called wrong, and planted mistakes are found wherever they matter."""

import json
import os
import random
from pathlib import Path

import pytest
from gallery_ranks import evidence
from test_gallery import FOLLOWS, PLANTED

from largebatch.culprits._aggregate import fits
from largebatch.culprits._judge import findings

CORRECT = 200
PER_BUG = 12
MATTERS = 1e-3

OWN = {"--sampler": "own", "--equal": 0, "--transform": 0}
SGD = {"--optimizer": "sgd", "--momentum": 0.9, "--schedule": "warmup"}
WHOLE = {"--precision": "float32"}
NEEDS = {  # options without which a mistake is none, whatever else is drawn
    "mean_of_means": OWN | {"--ragged": 1},
    "decay_scaled_with_loss": {"--decay-in-loss": 0.05, "--spectral": 0},
    "clipped_per_micro_batch": {"--clip": 0.01, "--accumulation": 3, "--amp": 0},
    "clipped_before_averaging": {"--clip": 0.01},
    "clipped_while_scaled": {"--clip": 0.01, "--amp": 1, "--framework": "ddp"} | WHOLE,
    "loss_scale_not_removed": {"--amp": 1, "--clip": 0.0, "--framework": "ddp"} | WHOLE,
    "labels_without_loss_counted": {"--tokens": 1},
    "workers_read_same_data": OWN | {"--ragged": 0},
    "duplicates_from_padding": OWN | {"--samples": 61, "--batch": 24, "--ragged": 0},
    "samples_never_seen": {"--sampler": "distributed", "--batch": 24},
    "same_order_every_epoch": {"--sampler": "distributed"},
    "augmentation_same_on_workers": {"--augment": 1, "--transform": 0, "--sampler": "distributed"},
    "scheduler_steps_per_micro_batch": {"--schedule": "warmup", "--accumulation": 3},
    "scheduler_steps_per_worker": {"--schedule": "warmup"},
    "momentum_corrected_in_sgd": SGD,
    "short_last_window": OWN | {"--samples": 84, "--batch": 24, "--accumulation": 4, "--ragged": 0},
}
GRADIENT = {
    "mean_of_means", "summed_over_workers", "divided_by_workers_twice", "accumulation_not_divided",
    "accumulation_divided_twice", "short_last_window", "not_divided_by_count", "labels_without_loss_counted",
    "unknown_factor", "zero_grad_forgotten", "micro_batches_lost", "unexplained_gradient", "decay_scaled_with_loss",
    "gradients_not_averaged",
}  # fmt: skip
"""Mistakes that change an update by an amount the reference can tell: they count where that is more than MATTERS."""


def configuration(rng):
    """A correct loop: whatever is drawn, it computes the gradient it should."""
    drawn = {
        "--seed": rng.randrange(10**6),
        "--framework": rng.choice(["ddp", "ddp", "accelerate"]),
        "--samples": rng.randrange(70, 120),
        "--sampler": rng.choice(
            [
                "own",
                "own",
                "own",
                "distributed",
                "distributed",
                "resident",
                "replacement",
                "weighted",
                "part",
                "buckets",
            ]
        ),
        "--batch": rng.choice([24, 30, 36]),
        "--accumulation": rng.randrange(1, 5),
        "--equal": int(rng.random() < 0.5),
        "--ragged": int(rng.random() < 0.7),
        "--tokens": int(rng.random() < 0.3),
        "--dropout": rng.choice([0.0, 0.2, 0.5]),
        "--batch-norm": int(rng.random() < 0.5),
        "--recurrent": int(rng.random() < 0.3),
        "--spectral": int(rng.random() < 0.15),
        "--checkpoint": rng.choice(["", "", "plain", "reentrant"]),
        "--precision": rng.choice(["float32", "float32", "float32", "float64", "bfloat16", "autocast"]),
        "--clip": rng.choice([0.0, 0.0, 0.05, 5.0]),
        "--clip-kind": rng.choice(["norm", "norm", "value"]),
        "--amp": int(rng.random() < 0.2),
        "--optimizer": rng.choice(["sgd", "sgd", "nesterov", "adam", "adamw", "rmsprop"]),
        "--momentum": rng.choice([0.0, 0.9, 0.9]),
        "--groups": int(rng.random() < 0.3),
        "--schedule": rng.choice(
            ["", "", "warmup", "cosine", "step", "onecycle", "restarts", "sequential", "exponential", "plateau"]
        ),
        "--augment": int(rng.random() < 0.3),
        "--transform": int(rng.random() < 0.3),
        "--evaluate": rng.choice(["", "plain", "careless"]),
    }
    return possible(drawn)


def possible(drawn):
    """The same, without what does not go together."""
    options = dict(drawn)
    if options["--sampler"] in ("own", "resident") or options["--tokens"]:
        options["--equal"] = 0  # their micro-batches have unequal counts
    if options["--sampler"] == "resident":
        options |= {"--augment": 0, "--transform": 0}
    if not options["--equal"] and options["--accumulation"] > 1:
        options["--transform"] = 0  # a whole window is read before it is transformed: not to be traced, so not judged
    if options["--precision"] not in ("float32", "float64"):
        options |= {"--recurrent": 0, "--spectral": 0}
    if options["--precision"] != "float32" or options["--framework"] == "accelerate":
        options["--amp"] = 0
    if not options["--tokens"]:
        options["--recurrent"] = 0
    if options.get("--decay-in-loss") and options["--checkpoint"]:
        options["--checkpoint"] = "plain"  # DDP refuses parameters that are used outside a reentrant one as well
    return options


def words(options, bug=""):
    return ("ddp.py", "--bug", bug, *(str(word) for pair in options.items() for word in pair))


def wrong(run, other=None):
    return {f.culprit for f in findings(run, other) if f.severity == "wrong"}


def matters(run):
    """Whether an update is off by more than MATTERS and by more than rounding, which is coarse in half precision."""
    return any(fit.deviation > max(MATTERS, update.tolerance) for update, fit in fits(run))


@pytest.mark.slow
def test_no_correct_loop_is_called_wrong():
    rng = random.Random(0)
    false, unjudged = [], []
    for size, many in ((1, 60), (2, 80), (3, 60)):
        drawn = [configuration(rng) for _ in range(many)]
        for options, run in zip(drawn, evidence([words(options) for options in drawn], size, gradients=4), strict=True):
            if isinstance(run, str) or wrong(run):
                false.append((size, options, run if isinstance(run, str) else wrong(run)))
            elif sum(update.is_judged for update in run.updates) < 2:
                unjudged.append((size, options))
    assert false == []
    assert unjudged == []


@pytest.mark.slow
def test_planted_mistakes_are_found_by_name_wherever_they_matter():
    rng = random.Random(1)
    plans = [(bug, possible(configuration(rng) | NEEDS.get(bug, {}))) for bug in PLANTED for _ in range(PER_BUG)]
    loops = [words(options, bug) for bug, options in plans]
    two, three = evidence(loops, 2, gradients=4), evidence(loops, 3, gradients=4)
    counts = {bug: [0, 0, 0] for bug in PLANTED}  # mattered, found, something else called wrong
    for (bug, _), run, other in zip(plans, two, three, strict=True):
        assert not isinstance(run, str), run
        if bug in GRADIENT and not matters(run):
            continue
        named = wrong(run, other if not isinstance(other, str) else None)
        counts[bug][0] += 1
        counts[bug][1] += bug in named
        counts[bug][2] += bool(named - {bug} - FOLLOWS.get(bug, set()))
    if folder := os.environ.get("CAMPAIGN_OUT"):
        Path(folder, "campaign.json").write_text(json.dumps(counts, indent=1))
    mattered, found, other = (sum(column) for column in zip(*counts.values(), strict=True))
    assert all(n >= PER_BUG // 3 for n, _, _ in counts.values()), counts
    assert found >= 0.95 * mattered, counts
    assert other <= 0.05 * mattered, counts
