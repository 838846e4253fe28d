"""A script that cannot be checked gets a plain explanation: where each rank is, what it lacks, what to do."""

import re

import pytest

from largebatch import check
from largebatch.check._child import observe
from largebatch.check._explain import Outcome, explain, place
from largebatch.check._run import _nothing_seen
from largebatch.recording import Recorder

IN_ALL_REDUCE = """Thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait

Current thread 0x00007e (most recent call first):
  File "/env/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 2806 in all_reduce
  File "/env/lib/python3.11/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/home/me/train.py", line 31 in main
  File "<frozen runpy>", line 88 in _run_code
  File "/src/largebatch/check/_child.py", line 40 in observe
"""
IN_BACKWARD = IN_ALL_REDUCE.replace(
    'site-packages/torch/distributed/distributed_c10d.py", line 2806 in all_reduce',
    'site-packages/torch/autograd/graph.py", line 825 in _engine_run_backward',
)


@pytest.mark.parametrize(
    ("stack", "collective", "line"),
    [
        (IN_ALL_REDUCE, "torch.distributed.all_reduce", "/home/me/train.py:31 (main)"),
        (IN_BACKWARD, "DDP's all_reduce of gradients in backward()", "/home/me/train.py:31 (main)"),
        (IN_ALL_REDUCE.replace("distributed_c10d.py", "rendezvous.py"), "torch.distributed.init_process_group",
         "/home/me/train.py:31 (main)"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_a_stack_tells_the_collective_and_the_users_line(stack, collective, line):
    assert place(stack).collective == collective
    assert place(stack).line == line


def test_a_hang_names_every_rank_and_its_collective():
    said = explain(
        "train.py",
        [
            Outcome(0, -9, "", updates=5, passes=1, stack=IN_BACKWARD),
            Outcome(1, -9, "", updates=5, stack=IN_ALL_REDUCE),
        ],
        30,
    )
    assert said.startswith("no progress for 30 s")
    assert "worker 0 waits in DDP's all_reduce of gradients in backward() at /home/me/train.py:31 (main)" in said
    assert "worker 1 waits in torch.distributed.all_reduce" in said
    assert "the workers do not meet" in said


def test_a_slow_start_is_not_called_a_hang_in_a_collective():
    said = explain("train.py", [Outcome(0, -9, "", stack=IN_ALL_REDUCE.replace("distributed_c10d", "x"))], 30)
    assert "raise --timeout" in said


def test_a_lost_connection_is_put_down_to_who_left():
    lost = Outcome(0, 0, "raised", "RuntimeError", "[../gloo/pair.cc:534] Connection closed by peer", "trace", 3, 1)
    said = explain("train.py", [lost, Outcome(1, 0, "ended", updates=3)], None)
    assert "worker 0 still waited for the others after 3 update(s) and 1 more micro-batch(es)" in said
    assert "worker 1 had left the loop after 3 update(s)" in said
    assert "the inputs are uneven" in said


def test_a_crash_is_put_down_to_the_rank_that_crashed_first():
    own = Outcome(1, 0, "raised", "ValueError", "my own", "Traceback …", 2)
    lost = Outcome(0, 0, "raised", "RuntimeError", "Connection closed by peer", "", 2)
    said = explain("train.py", [lost, own], None)
    assert said.startswith("worker 1 of train.py crashed after 2 update(s)")
    assert "ValueError: my own" in said


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("Torch not compiled with CUDA enabled", "choose the device by torch.cuda.is_available()"),
        ("Distributed package doesn't have NCCL built in", "choose the backend by torch.cuda.is_available()"),
        ("Expected to have finished reduction in the prior iteration", "find_unused_parameters=True"),
    ],
)
def test_well_known_crashes_come_with_advice(message, advice):
    assert advice in explain("train.py", [Outcome(0, 0, "raised", "RuntimeError", message)], None)


def test_a_killed_worker_and_an_exit_code():
    assert "worker 0 was ended by signal 9" in explain("t.py", [Outcome(0, -9, "", said="Killed")], None)
    said = explain(
        "t.py", [Outcome(0, 0, "exited", message="2", said="usage: t.py\nt.py: error: --lr is needed")], None
    )
    assert re.search(r"t\.py ended with exit code 2; it said:\n.*\n.*--lr is needed", said)


def test_settings_out_of_range_are_told_together():
    with pytest.raises(
        ValueError, match="which does not exist here\nworkers: expected at least 1, got 0\ntimeout: expected"
    ):
        check.loop("no_such.py", workers=0, timeout_seconds=0)
    with pytest.raises(ValueError, match=r"expected a function at the top of a file, got .*<lambda>; move it there"):
        check.loop(lambda: None)


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(text)
    return path


STEP = """
import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(3, 2)).sum().backward()
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("print('hello')", "mentions no PyTorch"),
        (STEP, "ran to its end and no torch optimizer stepped"),
        (STEP + "optimizer.step()", "check.reference(model, dataset, core.cross_entropy)"),
        (
            "from largebatch import check, core\n"
            + STEP
            + "check.reference(model, None, core.cross_entropy)\noptimizer.step()",
            "1 steps were made, but none after a backward pass through the model given to check.reference",
        ),
    ],
)
def test_a_script_that_shows_nothing_is_told_what_it_lacks(tmp_path, text, said):
    path, recorder = script(tmp_path, text), Recorder()
    assert observe(str(path), [], recorder) == {"how": "ended"}
    assert said in _nothing_seen(str(path), [recorder.record()])


SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from largebatch import check, core
dist.init_process_group("gloo")
x, y = torch.randn(12, 2), torch.zeros(12, dtype=torch.long)
model = torch.nn.Linear(2, 2)
check.reference(model, (x, y), core.cross_entropy)
fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.nn.functional.cross_entropy(model(x), y).backward()
optimizer.step()
"""


def test_sharded_parameters_are_said_not_to_be_followed(tmp_path):
    result = check.loop(script(tmp_path, SHARDED), workers=1)
    assert result.verdict == "error"
    assert result.reason.startswith("no gradient could be replayed: the parameters are sharded over the workers (FSDP)")


UNEVEN = """
import torch
import torch.distributed as dist
from largebatch import check, core
from torch.nn.functional import cross_entropy
dist.init_process_group("gloo")
rank = dist.get_rank()
x, y = torch.randn(12, 2), torch.zeros(12, dtype=torch.long)
model = torch.nn.Linear(2, 2)
check.reference(model, (x, y), core.cross_entropy)
model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for batch in torch.arange(12 if rank == 0 else 8).split(4):
    optimizer.zero_grad()
    cross_entropy(model(x[batch]), y[batch]).backward()
    optimizer.step()
if rank == 1:
    {end}
"""


def test_uneven_inputs_that_hang_are_ended_and_located(tmp_path):
    path = script(tmp_path, UNEVEN.format(end="import time; time.sleep(600)"))
    result = check.loop(path, compare=False, timeout_seconds=10)
    assert result.verdict == "error"
    assert "worker 0 waits in DDP's all_reduce of gradients in backward() at" in result.reason
    line = next(n for n, text in enumerate(UNEVEN.splitlines(), 1) if ".backward()" in text)
    assert f"script.py:{line}" in result.reason
    assert "worker 1 is in no collective" in result.reason


def test_uneven_inputs_where_one_rank_leaves(tmp_path):
    result = check.loop(script(tmp_path, UNEVEN.format(end="dist.destroy_process_group()")), compare=False)
    assert "worker 0 still waited for the others after 2 update(s)" in result.reason
    assert "worker 1 had left the loop" in result.reason
