"""Workers are ready early, have one thread and the caller's environment, and are replaced where one is killed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import torch

from largebatch.processes import local_pool, stop_together


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


STUDY = """
import os, sys
from largebatch.processes import local_pool, warm_up

if __name__ == "__main__":
    print(warm_up(sys.argv[1]))
    with local_pool(1, sys.argv[1])() as executor:
        print(executor.submit(abs, -1).result(timeout=60))
"""


def says(tmp_path, imports, **environment):
    (tmp_path / "study.py").write_text(STUDY)
    words = [sys.executable, "-P", "study.py", imports]
    return subprocess.run(
        words, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_file_here_with_the_name_of_a_module_is_not_imported(tmp_path):
    (tmp_path / "statistics.py").write_text("raise RuntimeError('not yours')")
    done = says(tmp_path, "torch")
    assert (done.stdout, done.stderr) == ("True\n1\n", "")


def test_a_module_that_is_not_there_is_left_to_the_worker(tmp_path):
    assert says(tmp_path, "no_such_module").stdout == "True\n1\n"


def test_workers_are_new_processes_where_the_servers_socket_has_no_place(tmp_path):
    far = tmp_path / ("x" * 100)
    far.mkdir()
    done = says(tmp_path, "torch", TMPDIR=str(far))
    assert (done.stdout, done.stderr) == ("False\n1\n", "")


def test_what_the_server_imports_leaves_the_gpu_to_its_forks():
    code = "import sys, torch, largebatch.study; sys.exit(torch.cuda.is_initialized())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_stops_the_workers_and_is_raised(pool, number, raised):
    before = signal.getsignal(number)
    with pool() as executor:
        working = executor.submit(time.sleep, 60)
        while not working.running():
            time.sleep(0.01)
        with pytest.raises(raised) as stop, stop_together():
            signal.raise_signal(number)
    assert raised is KeyboardInterrupt or stop.value.code == 143
    assert signal.getsignal(number) is before
    assert isinstance(working.exception(timeout=30), BrokenProcessPool)  # it was not training, so it ended at once


def draws():
    return np.random.rand()  # noqa: NPY002 - as a user's task may


def test_forks_draw_different_numbers():
    pool = local_pool(1, "torch")
    found = []
    for _ in range(2):
        with pool() as executor:
            found.append(executor.submit(draws).result(timeout=60))
    assert found[0] != found[1]
