"""The whole way: a script or a function is run, recorded, judged; frameworks are found; nothing is left behind."""

import copy
import json

import pytest
import torch
from gallery_ranks import GALLERY, evidence
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import _global_optimizer_pre_hooks

from largebatch import check
from largebatch.check._assemble import assemble
from largebatch.check._run import _nothing_seen
from largebatch.cli import main
from largebatch.culprits._judge import findings
from largebatch.recording import Recorder


def wrong(found):
    return [f.culprit for f in found if f.severity == "wrong"]


FRAMEWORKS = [
    ("accelerate_loop.py", ""), ("accelerate_loop.py", "duplicates_from_padding"),
    ("accelerate_loop.py", "scheduler_steps_per_worker"),
    ("lightning_loop.py", ""), ("lightning_loop.py", "mean_of_means"),
    ("lightning_loop.py", "short_last_window"),
    ("transformers_loop.py", ""), ("transformers_loop.py", "mean_of_means"),
]  # fmt: skip


@pytest.fixture(scope="module")
def seen():
    return dict(zip(FRAMEWORKS, evidence(FRAMEWORKS, 2), strict=True))


@pytest.mark.parametrize(("script", "bug"), FRAMEWORKS)
def test_trainers_are_right_and_their_misuse_is_found(seen, script, bug):
    run = seen[script, bug]
    assert wrong(findings(run)) == ([bug] if bug else [])
    assert sum(update.is_judged for update in run.updates) >= 4


def recorded(train, **settings):
    recorder = Recorder(stops=False, **settings)
    with recorder.installed():
        train()
    return recorder.record()


def small_loop(state):
    """A loop with everything that a replay could disturb; leaves its end in `state`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    data = torch.utils.data.TensorDataset(torch.randn(30, 4), torch.randint(0, 3, (30,)))
    check.reference(model, data, lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(2):
        for inputs, targets in torch.utils.data.DataLoader(data, batch_size=7, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
    state.update(copy.deepcopy(model.state_dict()), random=torch.get_rng_state())


def test_a_watched_loop_ends_where_the_bare_one_does_and_the_process_is_as_it_was():
    patched = [(torch.nn.utils, "clip_grad_norm_"), (torch.utils.data.DataLoader, "__iter__"),
               (torch.optim.lr_scheduler.LRScheduler, "step"), (torch.amp.GradScaler, "step")]  # fmt: skip
    before = [vars(owner).get(name) for owner, name in patched]
    bare, watched = {}, {}
    small_loop(bare)
    record = recorded(lambda: small_loop(watched))
    assert all(torch.equal(bare[name], watched[name]) for name in bare)
    assert [vars(owner).get(name) for owner, name in patched] == before
    assert not _global_optimizer_pre_hooks
    run = assemble([record])
    assert wrong(findings(run)) == []
    assert sum(update.is_judged for update in run.updates) >= 5


def test_a_failing_loop_leaves_nothing_behind_either():
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError), recorder.installed():
        1 / 0  # noqa: B018
    assert not _global_optimizer_pre_hooks
    assert "installed" not in vars(torch.utils.data.DataLoader)


def test_replays_are_exact_in_float64():
    def train():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)).double()
        x, y = torch.randn(23, 4, dtype=torch.float64), torch.randint(0, 3, (23,))
        check.reference(model, (x, y), lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in torch.arange(23).split(9):
            optimizer.zero_grad()
            for part in batch.split(5):
                (F.cross_entropy(model(x[part]), y[part], reduction="sum") / len(batch)).backward()
            optimizer.step()

    run = assemble([recorded(train)])
    deviations = [float(((u.applied[0] - u.reference) ** 2).sum() ** 0.5) for u in run.updates]
    assert len(deviations) == 3
    assert max(deviations) < 1e-12


def test_gradients_inside_a_closure_are_seen():
    def train():
        model = nn.Linear(3, 2)
        x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
        check.reference(model, (x, y), lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def closure():
            optimizer.zero_grad()
            loss = 3 * F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        optimizer.step(closure=closure)

    run = assemble([recorded(train)])
    assert wrong(findings(run)) == ["unknown_factor"]
    assert [round(f.ratio, 4) for f in findings(run)] == [3.0]


def test_low_precision_is_allowed_its_rounding():
    def train():
        torch.manual_seed(0)
        model = nn.Linear(30, 20)
        x, y = torch.randn(64, 30), torch.randint(0, 20, (64,))
        check.reference(model, (x, y), lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    run = assemble([recorded(train)])
    assert wrong(findings(run)) == []
    assert run.updates[0].tolerance == 3e-2


def test_inputs_that_cannot_be_traced_are_said_so():
    def train():
        model = nn.Linear(3, 2)
        x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
        check.reference(model, (x, y), lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        F.cross_entropy(model(x + 1), y).backward()
        optimizer.step()

    record = recorded(train)
    said = _nothing_seen(__file__, [record])
    assert said.startswith("no gradient could be replayed: update 1: 8 of 8 inputs are no rows of the data")


def test_loader_workers_are_watched_too():
    (run,) = evidence([("ddp.py", "--loader-workers", 1, "--augment", 1)], 1, gradients=2)
    assert wrong(findings(run)) == []
    assert all(part.noise for update in run.updates for part in update.micro_batches)


def test_the_command_finds_two_causes_and_separates_them(capsys):
    words = ("--bug", "accumulation_not_divided", "--samples", "48", "--ragged", "0", "--epochs", "1")
    assert main(["check", str(GALLERY / "ddp.py"), *words, "--workers", "2", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "fail"
    (found,) = [f for f in result["findings"] if f["severity"] == "wrong"]
    assert found["culprit"] == "accumulation_not_divided"
    assert found["others"] == []
    assert found["ratio"] == pytest.approx(2, rel=1e-3)
    assert (
        "your gradient is 2 × the reference: the loss was not divided by the 2 accumulation steps" in found["evidence"]
    )
    assert set(found) >= {"culprit", "severity", "update", "rank", "ratio", "evidence", "fix"}


def test_the_command_on_a_script_that_passes_and_on_none(capsys):
    assert main(["check", str(GALLERY / "plain.py"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("pass: 1 worker, 9 updates, 8 gradients held against the reference")
    assert main(["check"]) == 2
    assert "script: expected a Python script, or --optimizer module:Class" in capsys.readouterr().err
    assert main(["check", "no_such.py"]) == 2
    assert "no_such.py, which does not exist here" in capsys.readouterr().err


def test_words_are_parted_between_command_and_script():
    from largebatch.cli._check import split_words

    words = ["train.py", "--lr", "0.1", "--workers", "3", "--json", "--", "--workers", "8"]
    assert split_words(words) == (["--workers", "3", "--json"], ["train.py", "--lr", "0.1", "--workers", "8"])
    assert split_words(["train.py", "--help"]) == ([], ["train.py", "--help"])
    assert split_words(["--workers=2", "train.py"]) == (["--workers=2"], ["train.py"])
