"""Kill it anywhere, lose nothing: every resume ends bit for bit where the uninterrupted run does."""

import os
import random
import shutil
import signal
import time

import pytest
import torch

import small_tasks
from largebatch import core
from largebatch.results import RunFolder
from largebatch.train import fit
from ranks import CONTEXT, run_ranks

KILLS = 20
RECIPE = small_tasks.recipe(32, duration="16ep", precision="fp32", warmup="gradual(3ep,start_lr=0.01)")


def train(path):
    task = small_tasks.task(small_tasks.with_dropout)
    return fit(task, RECIPE, seed=2, out=path, checkpoint_every="10steps", log_every=3, progress=False)


def train_and_describe(path):
    run = train(path)
    return run.status, [p.detach().clone() for p in run.model.state_dict().values()], run.metrics, run.notes


def rank_process(path, rank, size, rendezvous):
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LARGEBATCH_RENDEZVOUS=f"file://{rendezvous}", GLOO_SOCKET_IFNAME="lo"
    )
    torch.set_num_threads(1)
    train(path)


def start(path, size, rendezvous):
    rendezvous.unlink(missing_ok=True)
    arguments = [(path, rank, size, rendezvous) for rank in range(size)]
    ranks = [CONTEXT.Process(target=rank_process, args=each) for each in arguments]
    for process in ranks:
        process.start()
    return ranks


def rows_of(path):
    """The log without the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in RunFolder(path).log()]


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_killed_at_a_random_moment_ends_bit_for_bit_the_same(size, tmp_path):
    whole = run_ranks(train_and_describe, size, tmp_path / "whole")[0]
    assert whole[0] == "finished"
    begun = time.monotonic()
    for process in start(tmp_path / "timing", size, tmp_path / "rendezvous"):
        process.join()
    length = time.monotonic() - begun
    moments = random.Random(size)
    interrupted = 0
    for kill in range(KILLS):
        path = tmp_path / f"killed-{kill}"
        ranks = start(path, size, tmp_path / "rendezvous")
        time.sleep(moments.uniform(0, length))
        for process in ranks:
            process.kill()
        for process in ranks:
            process.join()
        interrupted += not (path / "result.json").exists()
        found = run_ranks(train_and_describe, size, path)[0]
        assert found[0] == "finished"
        assert found[2] == whole[2]
        assert all(torch.equal(a, b) for a, b in zip(found[1], whole[1], strict=True))
        assert rows_of(path) == rows_of(tmp_path / "whole")
        shutil.rmtree(path)
    assert interrupted >= KILLS // 2


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "checksums.json"])
def test_a_damaged_checkpoint_is_passed_over_and_the_user_told(name, tmp_path):
    expected = train_and_describe(tmp_path / "whole")
    path = tmp_path / "damaged"
    shutil.copytree(tmp_path / "whole", path)
    (path / "result.json").unlink()
    newest = max((path / "checkpoints").iterdir(), key=lambda p: int(p.name))
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 4
    (newest / name).write_bytes(content)
    status, weights, _, notes = train_and_describe(path)
    assert status == "finished"
    assert all(torch.equal(a, b) for a, b in zip(weights, expected[1], strict=True))
    assert len(notes) == 1
    assert newest.name in notes[0]
    assert "continued from" in notes[0]
    assert rows_of(path) == rows_of(tmp_path / "whole")


def test_a_checkpoint_that_was_passed_over_is_no_longer_among_the_last(tmp_path):
    folder = tmp_path / "run"
    fit(small_tasks.task(), small_tasks.recipe(duration="4ep"), out=folder, progress=False)
    (folder / "result.json").unlink()
    for samples in ("609", "812"):
        (folder / "checkpoints" / samples / "training.pt").write_bytes(b"")
    fit(small_tasks.task(), small_tasks.recipe(duration="4ep"), out=folder, checkpoint_every="5steps", progress=False)
    kept = [core.read_checkpoint(path).samples for path in (folder / "checkpoints").iterdir()]
    assert len(kept) >= 3  # the start and the last two, all of them whole
    assert 0 in kept


def test_a_damaged_result_is_named(tmp_path):
    fit(small_tasks.task(), small_tasks.recipe(duration="1ep"), out=tmp_path, progress=False)
    (tmp_path / "result.json").write_text('{"status"')
    with pytest.raises(ValueError, match=r"result\.json: expected JSON, got .* delete the file, or restore it"):
        fit(small_tasks.task(), small_tasks.recipe(duration="1ep"), out=tmp_path, progress=False)


def test_a_resume_at_another_world_size_sees_the_same_batches(tmp_path):
    whole = train_and_describe(tmp_path / "whole")
    ranks = start(tmp_path / "run", 1, tmp_path / "rendezvous")
    while len(list((tmp_path / "run" / "checkpoints").glob("*"))) < 3:
        time.sleep(0.01)
    os.kill(ranks[0].pid, signal.SIGKILL)
    ranks[0].join()
    assert not (tmp_path / "run" / "result.json").exists()
    found = run_ranks(train_and_describe, 3, tmp_path / "run")[0]
    assert rows_of(tmp_path / "run")[-1]["samples"] == rows_of(tmp_path / "whole")[-1]["samples"]
    assert [row["lr"] for row in rows_of(tmp_path / "run") if "lr" in row] == [
        row["lr"] for row in rows_of(tmp_path / "whole") if "lr" in row
    ]
    assert found[2]["train_loss"] == pytest.approx(whole[2]["train_loss"], rel=0.05)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_leaves_a_checkpoint_and_the_run_continues(number, name, tmp_path):
    class Stopper:
        """Raises the signal in the middle of training."""

        name = "stopper"

        def wants(self, update):
            if update == 60:
                signal.raise_signal(number)

        def see_epoch(self, view):
            pass

        def state_dict(self):
            return {}

    task = small_tasks.task(small_tasks.with_dropout)
    stopped = fit(task, RECIPE, seed=2, out=tmp_path / "run", observers=[Stopper()], log_every=3, progress=False)
    assert stopped.status == "stopped"
    assert stopped.reason == f"stopped by {name} after update 61; the same call continues it"
    assert (tmp_path / "run" / "checkpoints" / str(stopped.samples)).is_dir()
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = train_and_describe(tmp_path / "run")
    expected = train_and_describe(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(resumed[1], expected[1], strict=True))
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def stop_one_rank(path):
    class Stopper:
        name = "stopper"

        def wants(self, update):
            if update == 40 and os.environ["RANK"] == "1":
                signal.raise_signal(signal.SIGTERM)

        def see_epoch(self, view):
            pass

        def state_dict(self):
            return {}

    run = fit(small_tasks.task(), RECIPE, out=path, observers=[Stopper()], progress=False)
    return run.status, run.updates


def test_one_rank_that_is_asked_to_stop_stops_all_after_the_same_update(tmp_path):
    assert run_ranks(stop_one_rank, 2, tmp_path) == [("stopped", 41)] * 2


def test_a_folder_in_use_is_refused(tmp_path):
    path = tmp_path / "run"
    with RunFolder(path).lock(), pytest.raises(RuntimeError, match=rf"process {os.getpid()} holds it"):
        train(path)
