"""From evidence to a verdict: every culprit in turn, the wrong ones first.

No torch: a verdict is redone from stored evidence.
"""

from collections.abc import Callable

from largebatch.culprits import _clipping as clipping
from largebatch.culprits import _factor as factor
from largebatch.culprits import _gradient as gradient
from largebatch.culprits import _parameters as parameters
from largebatch.culprits import _rate as rate
from largebatch.culprits import _samples as samples
from largebatch.culprits import _workers as workers
from largebatch.culprits._aggregate import fits
from largebatch.culprits._evidence import Evidence
from largebatch.culprits._verdict import CheckResult, Finding

__all__ = ["CULPRITS", "findings", "judge"]

Culprit = Callable[[Evidence], Finding | None]
FactorCulprit = Callable[[Evidence, Evidence | None], Finding | None]
Comparison = Callable[[Evidence, Evidence], Finding | None]

CLIPPING: tuple[Culprit, ...] = (
    clipping.clipped_per_micro_batch,
    clipping.clipped_before_averaging,
    clipping.clipped_while_scaled,
)
GRADIENT: tuple[Culprit, ...] = (
    gradient.gradients_not_averaged,
    gradient.zero_grad_forgotten,
    gradient.micro_batches_lost,
    gradient.decay_scaled_with_loss,
    gradient.unexplained_gradient,
)
FACTOR: tuple[FactorCulprit, ...] = (
    factor.summed_over_workers,
    factor.divided_by_workers_twice,
    factor.accumulation_not_divided,
    factor.accumulation_divided_twice,
    factor.short_last_window,
    factor.loss_scale_not_removed,
    factor.labels_without_loss_counted,
    factor.not_divided_by_count,
    factor.unknown_factor,
    factor.mean_of_means,
)
OTHER: tuple[Culprit, ...] = (
    samples.workers_read_same_data,
    samples.duplicates_from_padding,
    samples.samples_repeated,
    samples.samples_never_seen,
    samples.same_order_every_epoch,
    samples.augmentation_same_on_workers,
    rate.scheduler_steps_per_micro_batch,
    rate.scheduler_steps_per_worker,
    rate.momentum_corrected_in_sgd,
    parameters.parameters_differ,
    parameters.trust_ratio_not_the_papers,
    gradient.weights_moved,
    gradient.passes_in_one_backward,
    samples.not_shuffled,
    rate.warmup_is_a_staircase,
    parameters.decay_on_norm_and_bias,
    parameters.unused_parameters,
    parameters.not_distributed,
)
COMPARED: tuple[Comparison, ...] = (
    workers.order_depends_on_workers,
    workers.batch_norm_batch_changes,
    rate.rate_follows_no_rule,
)
CULPRITS: tuple[str, ...] = tuple(c.__name__ for group in (CLIPPING, GRADIENT, FACTOR, OTHER, COMPARED) for c in group)
"""Names of everything that can be found."""


def findings(run: Evidence, other: Evidence | None = None) -> tuple[Finding, ...]:
    """All findings, the wrong ones first.

    Args:
        run: what was seen.
        other: the same script at another number of workers, which tells apart what one run cannot.
    """
    clipped = [found for culprit in CLIPPING if (found := culprit(run))]
    aggregated = [found for culprit in GRADIENT if (found := culprit(run))]
    aggregated += [found for culprit in FACTOR if (found := culprit(run, other))]
    if clipped:
        aggregated = [found for found in aggregated if not clipping.is_explained_by_clipping(found)]
    rest = [found for culprit in OTHER if (found := culprit(run))]
    if other is not None:
        rest += [found for culprit in COMPARED if (found := culprit(run, other))]
    found = _without_consequences(clipped + aggregated + rest)
    return tuple(sorted(found, key=lambda finding: finding.severity != "wrong"))


def _without_consequences(found: list[Finding]) -> list[Finding]:
    """One cause is one finding: what follows from another finding is left out, and so is the second name of one factor."""
    names = {finding.culprit for finding in found}
    follows: dict[str, set[str]] = {
        "parameters_differ": {"gradients_not_averaged"},
        "duplicates_from_padding": {"workers_read_same_data"},
        "samples_repeated": {"workers_read_same_data"},
    }
    follows |= {
        name: {"decay_scaled_with_loss"} for name in (*factor.FACTORS, "not_divided_by_count", "unknown_factor")
    }
    kept: list[Finding] = []
    for finding in found:
        named_already = any(finding.culprit in earlier.others for earlier in kept)
        if not named_already and not follows.get(finding.culprit, set()) & names:
            kept.append(finding)
    return kept


def judge(run: Evidence, other: Evidence | None = None, notes: tuple[str, ...] = ()) -> CheckResult:
    """The verdict on a run."""
    found = findings(run, other)
    fitted = fits(run)
    return CheckResult(
        "fail" if any(finding.severity == "wrong" for finding in found) else "pass",
        found,
        workers=run.world_size,
        updates=len(run.updates),
        gradients=len(fitted),
        deviation=max((fit.deviation for _, fit in fitted), default=float("nan")),
        notes=notes,
    )
