"""A real Dask scheduler with two workers on the loopback interface; one of them is killed, and the study completes."""

import os
import signal
import socket
import subprocess
import sys
import time

import designs
import pytest

from largebatch.study import open_executor, run_study

pytest.importorskip("distributed")


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def cluster(tmp_path, port):
    """A scheduler and two workers of one thread, as processes of their own."""
    dask = [sys.executable, "-m", "distributed.cli"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    scheduler = [
        *dask[:2],
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-dashboard",
    ]
    worker = [*dask[:2], "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-nanny",
              "--no-dashboard", "--memory-limit", "0"]  # fmt: skip
    started = [subprocess.Popen(scheduler, **quiet)]
    started += [subprocess.Popen(worker, env=os.environ | {"SLOW_SECONDS": "0.01"}, **quiet) for _ in range(2)]
    yield started[1:]
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.filterwarnings("ignore")
def test_a_killed_dask_worker_costs_nothing(tmp_path, cluster, port):
    task = f"{designs.write_task(tmp_path)}:task"
    deadline = time.monotonic() + 60
    while True:
        try:
            with open_executor(f"dask://127.0.0.1:{port}") as executor:
                victim = executor.submit(os.getpid).result(timeout=30)
                assert victim in {process.pid for process in cluster}
                found = _run_and_kill(designs.two_cells(task), tmp_path / "a", executor, cluster)
            break
        except ValueError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert found.complete
    assert [row.status for row in found.runs] == ["finished"] * 6


def _run_and_kill(study, out, executor, cluster):
    import threading

    def kill_one():
        while not list(out.glob("runs/*/result.json")):
            time.sleep(0.02)
        cluster[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    found = run_study(study, out, executor=executor)
    killer.join(timeout=10)
    assert cluster[0].wait(timeout=10) == -signal.SIGKILL
    return found


@pytest.mark.parametrize(
    ("address", "message"),
    [("slurm://here", "expected dask://host:port, got 'slurm://here'"), ("dask://", "expected dask://host:port")],
)
def test_other_addresses_are_refused(address, message):
    with pytest.raises(ValueError, match=message), open_executor(address):
        pass


def test_a_silent_scheduler_is_told(port, monkeypatch):
    from distributed import Client

    def refuse(*args, **kwargs):
        raise OSError("timed out")

    monkeypatch.setattr(Client, "__init__", refuse)
    monkeypatch.setattr(Client, "__del__", lambda self: None)
    with pytest.raises(ValueError, match="no Dask scheduler answers"), open_executor(f"dask://127.0.0.1:{port}"):
        pass
