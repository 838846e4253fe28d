"""A batch that follows the noise: what grows when, the rate with it, every sample once an epoch, the same after a resume."""

import pytest
import torch

import small_tasks
from largebatch.core import Partials, Request
from largebatch.noise import NoiseScale
from largebatch.recipe import Recipe
from largebatch.train import fit
from largebatch.train._follow import grown

SAMPLES = 640
EPOCHS = 6


def measured(scale, looks=20):
    """A NoiseScale that has seen B_simple = scale exactly, give or take."""
    noise = NoiseScale(every=1)
    for i in range(looks):
        signal = 1.0 + 0.01 * (i % 3)
        trace = scale * 1.01
        parts = torch.full((2,), signal + trace / 8, dtype=torch.float64)
        noise.add(Partials(torch.tensor([8.0, 8.0]), parts, torch.tensor(signal + trace / 16).double()), i)
    return noise


@pytest.mark.parametrize(("scale", "wanted"), [(50, 32), (70, 64), (300, 256), (5000, 512), (20, 32)])
def test_the_largest_doubling_up_to_the_noise_scale_is_taken(scale, wanted):
    # At most 20 updates an epoch are left: 12,000 samples allow 600.
    assert grown(32, measured(scale), 12_000) == wanted


def test_without_enough_data_the_batch_stays():
    assert grown(32, NoiseScale(), 12_000) == 32


class Onlooker:
    name = "onlooker"

    def __init__(self):
        self.views = []

    def wants(self, update):
        return Request()

    def see(self, view):
        self.views.append((view.update, view.samples, view.batch_size, view.lr))

    def see_epoch(self, view):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.fixture
def followed(monkeypatch):
    """Runs in which the noise allows 16, 32 from the end of the second epoch, 64 from the end of the fourth."""
    seen = []

    def loss(outputs, targets):
        if outputs.requires_grad:
            seen.extend(targets[:, 1].tolist())
        return torch.nn.functional.cross_entropy(outputs, targets[:, 0], reduction="none")

    x, y = small_tasks.data(SAMPLES)
    task = small_tasks.task(
        small_tasks.with_dropout, train=(x, torch.stack([y, torch.arange(SAMPLES)], 1)), loss=loss, metrics={},
        test=(x[:32], torch.stack([y[:32], torch.arange(32)], 1)),
    )  # fmt: skip
    recipe = Recipe(
        16, lr=0.02, duration=f"{EPOCHS}ep", precision="fp64", ghost_batch_size=8, weight_decay=0.0, batch="follow-noise",
    )  # fmt: skip

    def allowed(batch_size, noise, train_size):
        updates = sum(1 for _ in noise.path())
        return max(batch_size, 64 if noise.looks > 12 else 32 if noise.looks > 7 else 16) if updates else batch_size

    monkeypatch.setattr("largebatch.train._follow.grown", allowed)
    monkeypatch.setattr("largebatch.train._loop.grown", allowed)
    return task, recipe, seen


def test_batch_and_rate_move_between_epochs_and_every_sample_is_seen_once_an_epoch(followed):
    task, recipe, seen = followed
    look = Onlooker()
    run = fit(task, recipe, observers=[look], progress=False)
    assert (run.status, run.samples) == ("finished", EPOCHS * SAMPLES)
    sizes = [view[2] for view in look.views]
    assert set(sizes) == {16, 32, 64}
    assert sizes == sorted(sizes)
    assert [view[0] for view in look.views] == list(range(len(sizes)))
    before = 0
    for _, samples, size, lr in look.views:
        # The linear rule times the schedule, which goes by samples: cosine over the whole duration.
        share = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * before / (EPOCHS * SAMPLES), dtype=torch.float64)))
        assert lr == pytest.approx(0.02 * size / 16 * float(share), rel=1e-9)
        assert samples == before + size
        before = samples
    for epoch in range(EPOCHS):
        assert sorted(seen[epoch * SAMPLES : (epoch + 1) * SAMPLES]) == list(range(SAMPLES))


@pytest.mark.parametrize("stop_after", [SAMPLES * 2, SAMPLES * 2 + 320, SAMPLES * 5])
def test_a_resume_is_the_same_to_the_bit(followed, stop_after, tmp_path):
    task, recipe, _ = followed
    whole = fit(task, recipe, out=tmp_path / "whole", progress=False)

    class Killed(Onlooker):
        def see(self, view):
            if view.samples > stop_after:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(task, recipe, out=tmp_path / "part", observers=[Killed()], checkpoint_every="320samples", progress=False)
    again = fit(task, recipe, out=tmp_path / "part", checkpoint_every="320samples", progress=False)
    assert again.updates == whole.updates
    for a, b in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_fixed_batch_keeps_its_identity_and_another_word_is_refused():
    assert "batch" not in Recipe(32, lr=0.1).to_json()
    follow = Recipe(16, lr=0.1, ghost_batch_size=8, batch="follow-noise")
    assert follow.to_json()["batch"] == "follow-noise"
    assert Recipe.from_json(follow.to_json()) == follow
    with pytest.raises(ValueError, match="batch: expected"):
        Recipe(32, lr=0.1, batch="follow")
