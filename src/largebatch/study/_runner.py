"""Running a study: give out what is not yet done, keep what comes back, lose nothing.

A run's digest is its identity. What has ended is in its folder and is never made again, whoever made it: an interrupted
study, another study with the same runs folder, `largebatch train`. A run that crashes is a row with its reason. A killed
worker takes the pool with it and says nothing of which run it died of, so all that were in flight are given again; a run
that was in flight at two deaths is given alone, and fails at the third, so that no run pays for another's.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import final

from largebatch.comparison import Study, StudyResult
from largebatch.processes import Pool, local_pool
from largebatch.results import RunFolder
from largebatch.study._collect import Collector
from largebatch.study._live import Job, LiveTable, runs_of
from largebatch.study._pictures import draw, read_picture
from largebatch.study._plan import RunPlan, plan_runs
from largebatch.study._stacked_run import is_stacked
from largebatch.study._work import RunJob, StackJob, is_done, perform

__all__ = ["run_study"]

ALONE_FROM, MOST_DEATHS = 2, 3
REWRITE_SECONDS, LONGEST_SECONDS = 2.0, 30.0
REWRITE_SHARE = 0.05  # of the time: the workers need the cores, and a large study has many rows to read


def run_study(
    study: Study,
    out: str | Path,
    *,
    runs: str | Path | None = None,
    executor: Executor | None = None,
    workers: int = 2,
    threads: int | None = 1,
    command: str = "",
    progress: bool = True,
) -> StudyResult:
    """Train every cell with every seed, measure, judge; goes on where it was interrupted.

    Args:
        out: folder of the study.
        runs: folder of run folders; None: in `out`. Studies that name the same one share their runs.
        executor: where to compute; None starts processes of one thread each here. Workers must see `out` and `runs`.
        workers: of these processes.
        threads: of torch in each run; None leaves them as they are.
        command: how it was called, for the record.
        progress: a live table on stderr, where that is a terminal.

    Raises:
        ValueError: a cell that does not fit its task, or a folder that holds another study.
        RuntimeError: another process runs this study.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1 process, got {workers}")
    folder = RunFolder(Path(out))
    _check_folder(folder, study)
    pool = local_pool(workers, "largebatch.study") if executor is None else None  # gets ready beside the planning
    plan = plan_runs(study, folder.path, None if runs is None else Path(runs), threads=threads)
    with folder.lock():
        folder.write("study.json", study.to_json() | {"runs": str(plan.runs), "command": command})
        return _Running(plan, folder, Collector(plan, command), progress).run(executor, pool, workers)


@final
class _Running:
    """One call of `run_study`."""

    def __init__(self, plan: RunPlan, folder: RunFolder, collector: Collector, progress: bool):
        self._plan, self._folder, self._collector = plan, folder, collector
        self._failures: dict[str, str] = {}
        self._deaths: dict[Job, int] = {}
        self._table = LiveTable(plan, enabled=progress)
        self._next_write = -math.inf

    def run(self, executor: Executor | None, pool: Pool | None, workers: int) -> StudyResult:
        """Runs first, then pictures of their weights."""
        jobs = _stacked([job for job in _merged(self._plan) if not is_done(job)])
        with self._table:
            self._table.begin(jobs)
            executor = self._all(jobs, perform, executor, pool, workers)
            pictures = [job for job in self._plan.pictures() if read_picture(job) is None]
            executor = self._all(pictures, draw, executor, pool, workers)
        if pool is not None and executor is not None:
            executor.shutdown()
        return self._write(force=True)

    def _all(
        self, jobs: Sequence[Job], work: Callable[..., str], executor: Executor | None, pool: Pool | None, workers: int
    ) -> Executor | None:
        """Do all of them; returns the executor in use at the end, which is another one where a worker was killed."""
        waiting, flying = deque(jobs), dict[Future[str], Job]()
        while waiting or flying:
            executor = pool() if executor is None and pool is not None else executor
            assert executor is not None
            try:
                self._submit(executor, work, waiting, flying, workers if pool else len(jobs))
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                raise
            died = [job for future in done if (job := self._end(future, flying.pop(future))) is not None]
            if died and pool is None:
                raise RuntimeError(
                    "the executor broke: a worker of it was killed; the same call goes on where it stood"
                )
            if died:
                died += flying.values()  # with the pool, all of them
                wait(flying)
                flying.clear()
                executor = None
                waiting.extendleft(job for job in died if self._survives(job))
            self._write()
        return executor

    def _submit(
        self,
        executor: Executor,
        work: Callable[..., str],
        waiting: deque[Job],
        flying: dict[Future[str], Job],
        most: int,
    ) -> None:
        while waiting and len(flying) < most:
            is_suspect = self._deaths.get(waiting[0], 0) >= ALONE_FROM
            if flying and (is_suspect or any(self._deaths.get(job, 0) >= ALONE_FROM for job in flying.values())):
                return
            job = waiting.popleft()
            try:
                flying[executor.submit(work, job)] = job
            except BrokenExecutor:  # between two looks; those in flight will tell
                waiting.appendleft(job)
                if not flying:
                    raise
                return

    def _end(self, future: Future[str], job: Job) -> Job | None:
        """Note how a job ended; returns it if its worker was killed."""
        try:
            future.result()
        except BrokenExecutor:
            return job
        except Exception as error:
            self._fail(job, f"{type(error).__name__}: {' '.join(str(error).split())}")
        self._table.ended(job)
        return None

    def _survives(self, job: Job) -> bool:
        self._deaths[job] = self._deaths.get(job, 0) + 1
        if self._deaths[job] < MOST_DEATHS:
            return True
        self._fail(job, f"its worker was killed {MOST_DEATHS} times; out of memory?")
        self._table.ended(job)
        return False

    def _fail(self, job: Job, reason: str) -> None:
        for run in runs_of(job):
            self._failures[Path(run.folder).name] = reason

    def _write(self, *, force: bool = False) -> StudyResult:
        """Rewrite the tables, now and then: a reader may look on."""
        begun = time.monotonic()
        if not force and begun < self._next_write:
            return self._last
        self._last = self._collector.collect(self._failures)
        self._folder.write("result.json", self._last.to_json())
        self._table.show(self._last)
        ended = time.monotonic()
        self._next_write = ended + min(max(REWRITE_SECONDS, (ended - begun) / REWRITE_SHARE), LONGEST_SECONDS)
        return self._last


def _merged(plan: RunPlan) -> list[RunJob]:
    """One job for each folder: cells of one recipe share their runs, and each measures what any of them asks for."""
    jobs: dict[str, RunJob] = {}
    for run in plan.planned:
        held = jobs.get(run.job.folder)
        both = run.job.measures if held is None else tuple(dict.fromkeys((*held.measures, *run.job.measures)))
        jobs[run.job.folder] = replace(run.job, measures=both)
    return list(jobs.values())


def _stacked(jobs: list[RunJob]) -> list[Job]:
    """Runs that are trained together in one job, at the place of the first."""
    groups: dict[object, list[RunJob]] = {}
    for job in jobs:
        together = is_stacked(job.subject.load(), job.recipe)
        groups.setdefault((job.subject, str(job.recipe.to_json(with_changes=False))) if together else job, []).append(
            job
        )
    return [StackJob(tuple(group)) if isinstance(key, tuple) else group[0] for key, group in groups.items()]


def _check_folder(folder: RunFolder, study: Study) -> None:
    held = folder.read("study.json")
    if held is not None and held["name"] != study.name:
        raise ValueError(
            f"{folder.path}: holds the study {held['name']!r}, this is {study.name!r}: choose another --out"
        )
