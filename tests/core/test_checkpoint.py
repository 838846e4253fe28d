"""Checkpoints: whole or absent, verified before use, the one before a damaged one found."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from largebatch.core import latest_checkpoint, prune_checkpoints, read_checkpoint, write_checkpoint


def tied_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def write(folder, samples):
    model = tied_model()
    training = {"state": {"samples": samples, "sums": torch.ones(2)}, "names": ["a", None, 1.5]}
    write_checkpoint(folder, samples, model.state_dict(), training)
    return model


def test_what_was_written_is_read_back_with_tied_weights(tmp_path):
    model = write(tmp_path, 128)
    checkpoint, damaged = latest_checkpoint(tmp_path)
    assert damaged == []
    assert checkpoint.samples == 128
    twin = tied_model()
    twin.load_state_dict(checkpoint.model_state())
    assert torch.equal(twin[1].weight, model[1].weight)
    assert checkpoint.training_state()["names"] == ["a", None, 1.5]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["model.safetensors", "training.pt", "checksums.json"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)
def test_any_flipped_bit_is_found_and_the_one_before_is_used(tmp_path_factory, name, place, bit):
    folder = tmp_path_factory.mktemp("run")
    write(folder, 100)
    write(folder, 200)
    path = folder / "200" / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    checkpoint, damaged = latest_checkpoint(folder)
    if checkpoint.samples == 200:  # a flip in the white space of the JSON loses nothing
        assert name == "checksums.json"
        assert damaged == []
    else:
        assert checkpoint.samples == 100
        assert "200" in damaged[0]


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "checksums.json"])
def test_truncated_and_missing_files_are_named(tmp_path, name):
    write(tmp_path, 100)
    path = tmp_path / "100" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        ValueError, match=r"incomplete|expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}: the file was damaged"
    ):
        read_checkpoint(tmp_path / "100")
    path.unlink()
    with pytest.raises(ValueError, match="the checkpoint is incomplete"):
        read_checkpoint(tmp_path / "100")
    assert latest_checkpoint(tmp_path)[0] is None


def test_the_start_the_last_and_the_best_are_kept(tmp_path):
    for samples in (0, 10, 20, 30, 40):
        write(tmp_path, samples)
    prune_checkpoints(tmp_path, 2, {10})
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [0, 10, 30, 40]


def test_leftovers_of_a_kill_while_writing_are_ignored_and_replaced(tmp_path):
    (tmp_path / ".100.tmp").mkdir()
    (tmp_path / ".100.tmp" / "model.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) == (None, [])
    write(tmp_path, 100)
    assert latest_checkpoint(tmp_path)[0].samples == 100
    assert not (tmp_path / ".100.tmp").exists()
