"""Culprits of parameters and optimisers: copies that differ, decay where it does not belong, trust ratios that are none.

LARS: You, Gitman and Ginsburg 2017 (arXiv 1708.03888), Algorithm 1: the first step of every tensor is γ·η·‖w‖/(‖g‖ +
β‖w‖)·(g + βw), at decay β = 0 too. LAMB: You et al. 2020 (arXiv 1904.00962), Algorithm 2: the step of every tensor has
the norm γ·φ(‖w‖).
"""

from largebatch.culprits._aggregate import is_close
from largebatch.culprits._evidence import Evidence, FirstStep
from largebatch.culprits._verdict import Finding

__all__ = ["decay_on_norm_and_bias", "not_distributed", "parameters_differ", "trust_ratio_not_the_papers",
           "unused_parameters"]  # fmt: skip

SPREAD = 1e-6
"""Relative distance between copies. Ranks that add up in the same order agree in every bit."""


def parameters_differ(run: Evidence) -> Finding | None:
    """The ranks train different models."""
    for update in run.updates:
        if update.spread > SPREAD:
            when = "from the start" if update is run.updates[0] else f"from update {update.number} on"
            return Finding(
                "parameters_differ", "wrong",
                f"{when} the workers' parameters differ, by {update.spread:.1e} of their norm",
                "let DistributedDataParallel copy worker 0's weights (wrap the model before training), or seed all workers "
                "alike before it is made; afterwards only equal gradients keep them equal",
                update=update.number, ratio=update.spread,
            )  # fmt: skip
    return None


def not_distributed(run: Evidence) -> Finding | None:
    """Several processes were started and the script joined none of them."""
    if run.is_distributed or run.replicas < 2:
        return None
    return Finding(
        "not_distributed", "unusual",
        f"{run.replicas} workers were started, but the script never joined a process group: it was checked as one worker",
        "fine for a script that is run on one worker (check it with --workers 1); otherwise call "
        "torch.distributed.init_process_group and wrap the model in DistributedDataParallel",
    )  # fmt: skip


def decay_on_norm_and_bias(run: Evidence) -> Finding | None:
    """Weight decay pulls scales of norms and biases to 0."""
    names = [p.name for p in run.parameters if p.dimensions <= 1 and p.decay > 0]
    if not names:
        return None
    return Finding(
        "decay_on_norm_and_bias", "unusual",
        f"weight decay acts on {len(names)} norm or bias parameter(s): "
        f"{', '.join(names[:4])}{', …' if len(names) > 4 else ''}",
        "large-batch recipes leave them out (Goyal et al. 2017, section 5.1): give them a parameter group with "
        "weight_decay=0",
    )  # fmt: skip


def unused_parameters(run: Evidence) -> Finding | None:
    """Parameters that no gradient reaches, or that no optimiser has."""
    missing = {name for update in run.updates for step in update.steps for name in step.without_gradient}
    always = [
        name
        for name in sorted(missing)
        if all(name in step.without_gradient for update in run.updates for step in update.steps)
    ]
    left_out = [p.name for p in run.parameters if p.decay != p.decay]
    if not always and not left_out:
        return None
    said = [f"{len(always)} got no gradient in any update ({', '.join(always[:4])})"] if always else []
    said += [f"{len(left_out)} belong to no optimizer ({', '.join(left_out[:4])})"] if left_out else []
    return Finding(
        "unused_parameters", "unusual",
        f"of the parameters that require a gradient, {' and '.join(said)}",
        "freeze them with requires_grad_(False) if it is meant; else find out why the loss does not depend on them",
    )  # fmt: skip


def trust_ratio_not_the_papers(run: Evidence) -> Finding | None:
    """A LARS or LAMB whose first step is not the paper's, measured tensor by tensor in the run itself."""
    name = run.optimizer.lower()
    steps = [step for step in run.first_steps if step.weight_norm > 0 and step.gradient_norm > 0 and step.rate > 0]
    if not steps or not ("lars" in name or "lamb" in name):
        return None
    is_lars = "lars" in name
    judged = [step for step in steps if step.decay > 0] or steps  # a group without decay may be left out on purpose
    if not all(_is_plain(step, is_lars) for step in judged):
        return None
    step = judged[0]
    return Finding(
        "trust_ratio_not_the_papers",
        "wrong",
        f"update 1: {run.optimizer} moved {step.name} by its plain step of norm {step.step_norm:.3g}, without the paper's "
        f"trust ratio (weight decay {step.decay:g})",
        "many ports skip the trust ratio at weight_decay=0 (timm: always_adapt=True turns it on); "
        "`largebatch check --optimizer module:Class` tests the optimizer, largebatch.train.LARS and LAMB pass",
        update=1,
    )


def _is_plain(step: FirstStep, is_lars: bool) -> bool:
    """Whether a tensor made momentum SGD's first step, or Adam's, whose entries are all about the rate."""
    if is_lars:
        return is_close(step.step_norm, step.rate * step.decayed_norm, 0.02)
    adams, papers = step.rate * step.elements**0.5, step.rate * step.weight_norm
    return is_close(step.step_norm, adams, 0.05) and not is_close(step.step_norm, papers, 0.05)
