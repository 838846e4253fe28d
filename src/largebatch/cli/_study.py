"""The verb `study`, and the demo, which is one of its studies made small."""

import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from largebatch.cli._output import print_json
from largebatch.processes import stop_together, warm_up

if TYPE_CHECKING:
    from largebatch.study import Study, StudyResult

__all__ = ["DemoCommand", "StudyCommand", "run_demo", "run_study"]

DEMO_TASK, DEMO_LARGE, DEMO_WHOLE_UPDATES = "digits/mlp", 512, 300


@dataclass
class StudyCommand:
    """Does it hold over seeds? Cells × seeds, intervals, an answer in words; an interrupted study is continued.

    Args:
        study: open-question, warm-start, batch-sweep, remedies, keskar, goyal, or your own as path/to/file.py:name.
        task: a built-in task or path/to/file.py:name.
        seeds: of every cell; an interval needs at least 3. Default: the study's own, 5.
        out: its folder; {name} and {task} are filled in.
        runs: folder of run folders; studies that name the same one share their runs. Default: in --out.
        samples: of the training data; default: all.
        small: the small batch; default: that of the task's recipe.
        large: the large batch; default: a tenth of the training data.
        duration: of cells at equal epochs, such as 20ep; default: the recipe's own.
        whole_updates: at most so many updates where the batch is the whole data set (open-question).
        quick: fewer cells.
        tune: "lr" first searches a small grid of rates for each cell, on validation data.
        workers: processes here, of one thread each; default: one for each core.
        executor: dask://host:port instead.
        dry_run: print cells, cost and hours; train nothing.
        no_report: leave out the page.
        json: print the result as JSON on stdout.
    """

    study: str
    task: str | None = None
    seeds: int | None = None
    out: Path = Path("studies/{name}-{task}")
    runs: Path | None = None
    samples: int | None = None
    small: int | None = None
    large: int | None = None
    duration: str | None = None
    whole_updates: int | None = None
    quick: bool = False
    tune: Literal["none", "lr"] = "none"
    workers: int | None = None
    executor: str | None = None
    dry_run: bool = False
    no_report: bool = False
    json: bool = False


@dataclass
class DemoCommand:
    """The open question on real digits, in three minutes: a dozen recipes, five seeds each, and a page of it.

    Args:
        seeds: of every cell; an interval needs at least 3.
        out: folder of the study.
        json: print the result as JSON on stdout.
    """

    seeds: int = 5
    out: Path = Path("studies/demo")
    json: bool = False


def run_study(command: StudyCommand, words: list[str]) -> int:
    """Run it, or tell its cost; `words` is the whole command, for the record. Returns the exit code."""
    workers = command.workers or os.cpu_count() or 1
    if not command.dry_run and command.executor is None:
        warm_up("largebatch.study")  # while torch is imported here
    from largebatch import study

    design = _design(command)
    task = design.subject.label.replace("/", "-").replace(", ", "-").replace(" ", "-")
    folder = Path(str(command.out).replace("{name}", design.name).replace("{task}", task))
    if command.dry_run:
        where = (None, None) if command.tune == "lr" else (folder, command.runs)  # runs at tuned rates are others
        cost = study.study_cost(design, workers=workers, out=where[0], runs=where[1])
        print_json(cost.to_json()) if command.json else print(cost.text(), end="")
        if command.tune == "lr":
            sys.stderr.write("--tune: the cells as they stand, without the grid of rates and what of it is there\n")
        return 0
    with ExitStack() as stack:
        executor = stack.enter_context(study.open_executor(command.executor)) if command.executor else None

        def run(one: "Study", where: Path) -> "StudyResult":
            called = f"largebatch {shlex.join(words)}"
            return study.run_study(one, where, runs=command.runs, executor=executor, workers=workers, command=called)

        try:
            with stop_together():
                if command.tune == "lr":
                    design = study.tune_rates(design, lambda grid: run(grid, folder / "rates"))
                found = run(design, folder)
        except (KeyboardInterrupt, SystemExit):
            sys.stderr.write("stopping after the updates at hand; the same command goes on from there\n")
            raise
    return _tell(found, folder, json=command.json, report=not command.no_report)


def run_demo(command: DemoCommand) -> int:
    """Run the small study and print it; returns the exit code."""
    words = ["study", "open-question", "--task", DEMO_TASK, "--quick", "--large", str(DEMO_LARGE), "--whole-updates",
             str(DEMO_WHOLE_UPDATES), "--seeds", str(command.seeds), "--out", str(command.out)]  # fmt: skip
    sys.stderr.write(f"largebatch {shlex.join(words)}\n")
    small = StudyCommand(
        "open-question", DEMO_TASK, command.seeds, command.out, quick=True, large=DEMO_LARGE,
        whole_updates=DEMO_WHOLE_UPDATES, json=command.json,
    )  # fmt: skip
    return run_study(small, words)


def _design(command: StudyCommand) -> "Study":
    """The study that was asked for.

    Raises:
        ValueError, FileNotFoundError: there is none, or the options do not fit it; all are told.
    """
    from largebatch import study

    if command.seeds is not None and command.seeds < 1:
        raise ValueError(f"seeds: expected at least 1, and 3 to compare, got {command.seeds}")
    found = study.find_study(command.study)
    options = {
        name: value
        for name in ("small", "large", "duration", "whole_updates", "quick")
        if (value := getattr(command, name)) not in (None, False)
    }
    if isinstance(found, study.Study):
        given = [name for name in ("task", "samples") if getattr(command, name) is not None] + list(options)
        if given:
            raise ValueError(f"{', '.join(given)}: {command.study} is a design of its own; change it in its file")
        design = found
    else:
        subject = study.Subject(command.task or DEMO_TASK, command.samples)
        design = found(subject, **options)
    return design if command.seeds is None else design.with_seeds(command.seeds)


def _tell(found: "StudyResult", folder: Path, *, json: bool, report: bool) -> int:
    page = None
    if report:
        from largebatch.report import write

        page = write(folder)
    if json:
        print_json(found.to_json() | {"folder": str(folder), "report": page and str(page)})
    else:
        print(found.text(), end="")
        print(f"folder: {folder}")
        print(f"report: {page}" if page else "", end="\n" if page else "")
    return 0 if found.complete else 1
