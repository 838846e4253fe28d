"""The verb `plan`: from a run folder, from measured step times or from numbers, to what N workers cost."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from largebatch.cli._output import print_json

if TYPE_CHECKING:
    from largebatch.plan import Network, Plan, RunCost, StepTime
    from largebatch.target import Hyperbola
    from largebatch.trials import StepMeasurement

__all__ = ["PlanCommand", "run_plan"]


@dataclass
class PlanCommand:
    """What do N workers cost me, in hours and money, and where should I stop adding them?

    `largebatch plan goyal` is ImageNet in an hour on 256 GPUs, with every assumption. A run folder gives step time, samples
    and gradients; a task with --measure step times measured here, on one worker and on two; and numbers alone will do:
    --samples, --seconds-per-sample, --local-batch.

    Args:
        source: goyal, a run folder, a task (with --measure), or nothing.
        workers: 1..4096 for doublings, or 1,2,6.
        samples: to the target at a small batch, with its interval if it has one: VALUE or VALUE LOW HIGH.
        critical_batch: VALUE LOW HIGH, as `largebatch probe` gives it; left out: the same samples at every batch.
        local_batch: samples of each worker and update, so that the batch grows with the workers.
        global_batch: samples of all workers and one update, so that each one's share shrinks.
        seconds_per_sample: of one worker, forward, backward and optimiser.
        fixed_seconds: of an update, whatever its batch.
        bandwidth_gbit: of the network in one direction, Gbit/s; left out: gradients are shared in no time.
        latency_us: of a message, in microseconds.
        algorithm: of the all-reduce: ring, halving-doubling, recursive-doubling, tree or pipelined-tree.
        gradient_mb: of all gradients, in MB (4 bytes a parameter).
        workers_per_server: joined by a faster link.
        server_gbit: that link, Gbit/s.
        overlap: share of the compute that communication hides behind, 0 to 1.
        joining_seconds: of an update of two workers or more, beyond compute and all-reduce; --measure finds its own.
        jitter: standard deviation of a worker's step, as a share of it: all wait for the slowest.
        price: of a worker and hour, in any currency.
        budget: how much the plan may cost.
        min_saving: the least share of the time that twice the workers must save.
        picture: the Pareto front, as an SVG file.
        measure: measure the step times of the task first; takes a minute or two.
        json: print the result as JSON on stdout.
    """

    source: tuple[str, ...]
    workers: str = "1..4096"
    samples: tuple[float, ...] = ()
    critical_batch: tuple[float, ...] = ()
    local_batch: int | None = None
    global_batch: int | None = None
    seconds_per_sample: float | None = None
    fixed_seconds: float | None = None
    bandwidth_gbit: float | None = None
    latency_us: float = 50.0
    algorithm: str = "ring"
    gradient_mb: float | None = None
    workers_per_server: int = 1
    server_gbit: float | None = None
    overlap: float | None = None
    joining_seconds: float = 0.0
    jitter: float = 0.0
    price: float | None = None
    budget: float | None = None
    min_saving: float = 0.25
    picture: Path | None = None
    measure: bool = False
    json: bool = False


def run_plan(command: PlanCommand) -> int:
    """Make the plan and print it; returns the exit code."""
    from largebatch import plan

    if command.picture is not None and command.picture.suffix != ".svg":
        raise ValueError(f"--picture: expected a file that ends in .svg, got {command.picture}; a browser shows it")
    if len(command.source) > 1:
        raise ValueError(f"source: expected one, got {' '.join(command.source)}; plan them one by one")
    source = command.source[0] if command.source else ""
    if source == "goyal":
        workers = (8, 256) if command.workers == PlanCommand.workers else None
        numbers = plan.doublings(*workers) if workers else _workers(command.workers)
        found = plan.goyal(numbers, price_per_worker_hour=command.price)
    else:
        found = _planned(command, source)
    if command.picture is not None:
        command.picture.write_text(plan.picture(found, f"plan: {source or 'from numbers'}"))
        sys.stderr.write(f"picture: {command.picture}\n")
    print_json(found.to_json()) if command.json else print(found.text())
    return 0


def _planned(command: PlanCommand, source: str) -> "Plan":
    from largebatch import plan

    notes: list[str] = []
    run = plan.read_run_cost(source) if source and not command.measure else None
    curve = _curve(command, run, notes)  # before a minute is spent on measuring
    local, whole = command.local_batch, command.global_batch
    if command.measure:
        measured = _measured(source)
        step = measured.step_time()
        notes.append(f"step times of {source} measured here: {measured.text()}")
        notes.append("all-reduce and joining are those of processes that share this machine")
        if local is None and whole is None:
            local = measured.local_batch_sizes[1]
            notes.append(f"each worker takes {local} samples of an update (assumed): give --local-batch")
    else:
        step = _step(command, run, notes)
        if local is None and whole is None and run is not None:
            local = max(1, run.global_batch_size // run.workers)
            notes.append(f"each worker takes the {local} samples of an update that a worker of the run took")
    return plan.estimate(
        curve,
        step,
        _workers(command.workers),
        local_batch_size=local,
        global_batch_size=whole,
        price_per_worker_hour=command.price,
        budget=command.budget,
        min_saving=command.min_saving,
        notes=notes,
    )


def _measured(source: str) -> "StepMeasurement":
    from largebatch import tasks, trials

    if not source:
        raise ValueError(
            "--measure: expected a task to measure, got none; for example largebatch plan digits/mlp --measure"
        )
    return trials.measure_steps(tasks.find(source))


def _curve(command: PlanCommand, run: "RunCost | None", notes: list[str]) -> "Hyperbola":
    """Samples to the target at each batch."""
    import math

    from largebatch.target import Hyperbola, samples_to_target

    critical = command.critical_batch or math.inf
    if not command.critical_batch:
        notes.append("the same samples at every batch (assumed): give --critical-batch VALUE LOW HIGH from a probe")
    if command.samples:
        fewest = command.samples[0] if len(command.samples) == 1 else command.samples
        return Hyperbola.known(fewest, critical)
    if run is None:
        raise ValueError(
            "--samples: expected the samples to the target at a small batch, got none; give them, or a run"
        )
    share = (
        1.0 if critical == math.inf else float(samples_to_target(run.global_batch_size, 1.0, command.critical_batch[0]))
    )
    notes.append(f"the run's {run.samples} samples at batch {run.global_batch_size} are what the target takes there")
    return Hyperbola.known(run.samples / share, critical)


def _step(command: PlanCommand, run: "RunCost | None", notes: list[str]) -> "StepTime":
    """Seconds of an update."""
    from largebatch.plan import StepTime

    per_sample, fixed, error = command.seconds_per_sample, command.fixed_seconds or 0.0, 0.0
    if per_sample is None and run is not None:
        local = run.global_batch_size / run.workers
        per_sample = (run.step_seconds.value - fixed) / local
        error = run.step_seconds.stderr / run.step_seconds.value if run.step_seconds.n > 1 else 0.0
        notes.append(
            f"an update of the run took {run.step_seconds} on {run.workers} worker(s); in proportion to its samples "
            "(assumed; --measure tells the fixed part)"
        )
    if per_sample is None:
        raise ValueError(
            "--seconds-per-sample: expected the time of a sample on one worker, got none; give it, a run folder, or a task "
            "and --measure"
        )
    network, gradient_bytes = _network(command, run, notes)
    return StepTime(
        per_sample,
        fixed,
        network,
        gradient_bytes,
        overlap_share=command.overlap,
        joining_seconds=command.joining_seconds,
        jitter=command.jitter,
        relative_error=error,
    )


def _network(command: PlanCommand, run: "RunCost | None", notes: list[str]) -> "tuple[Network | None, float]":
    """How gradients are shared, and how many bytes they are."""
    from largebatch.plan import Link, Network

    if command.bandwidth_gbit is None:
        notes.append("gradients are shared in no time (assumed): give --bandwidth-gbit")
        return None, 0.0
    megabytes = command.gradient_mb
    gradient_bytes = run.gradient_bytes if megabytes is None and run is not None else 1e6 * (megabytes or 0.0)
    server = None if command.server_gbit is None else Link(command.server_gbit * 1e9 / 8)
    link = Link(command.bandwidth_gbit * 1e9 / 8, command.latency_us * 1e-6)
    return Network(link, command.algorithm, command.workers_per_server, server), gradient_bytes


def _workers(text: str) -> "list[int] | tuple[int, ...]":
    """The numbers that "1..4096" or "1,2,6" stands for.

    Raises:
        ValueError: it is neither.
    """
    from largebatch.plan import doublings

    first, dots, last = text.partition("..")
    try:
        if dots:
            ends = int(first), int(last)
            if not 1 <= ends[0] <= ends[1]:
                raise ValueError
            return doublings(*ends)
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--workers: expected 1..4096 or 1,2,6, got {text!r}; numbers of 1 or more, ascending"
        ) from None
