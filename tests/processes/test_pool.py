"""Workers are ready early, have one thread and the caller's environment, and are replaced where one is killed."""

import os
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from largebatch.processes import local_pool


def threads_and_variable(name):
    return torch.get_num_threads(), os.environ.get(name)


def die():
    os.kill(os.getpid(), 9)


@pytest.fixture
def pool():
    return local_pool(1, "torch")


def test_a_worker_has_one_thread_and_the_variables_of_the_time_it_starts(pool, monkeypatch):
    seen = []
    for value in ("before", None):
        if value is None:
            monkeypatch.delenv("LARGEBATCH_TEST")
        else:
            monkeypatch.setenv("LARGEBATCH_TEST", value)
        with pool() as executor:
            seen.append(executor.submit(threads_and_variable, "LARGEBATCH_TEST").result(timeout=60))
    assert seen == [(1, "before"), (1, None)]


def test_another_executor_works_after_a_worker_was_killed(pool):
    with pool() as executor, pytest.raises(BrokenProcessPool):
        executor.submit(die).result(timeout=60)
    with pool() as executor:
        assert executor.submit(os.getpid).result(timeout=60) != os.getpid()


def test_a_module_that_is_not_there_is_left_to_the_worker():
    with local_pool(1, "no_such_module")() as executor:
        assert executor.submit(abs, -1).result(timeout=60) == 1
