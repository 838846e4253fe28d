"""A batch that follows the measured noise scale: it grows in doublings, between epochs, as far as B_simple allows.

McCandlish et al. 2018 (arXiv 1812.06162): the noise scale grows while a network learns, so a batch that is right at the end
wastes samples at the beginning. Ours is the largest doubling of the recipe's batch up to B_simple, over the last half of the
looks; it never shrinks. Changing only where one permutation of the data has been read to its end keeps every position
exact: epochs, schedule and resume count samples, whatever the batch was.
"""

from largebatch.noise import NoiseScale
from largebatch.recipe import Recipe, Timeline
from largebatch.train._state import State

__all__ = ["follower", "grown", "present_timeline"]

_EVERY = 10  # updates between looks: fixed, for a clock would make two runs differ
_LEAST_UPDATES = 20  # of an epoch: with fewer the recipe itself would warn


def follower(recipe: Recipe) -> NoiseScale:
    """The observer that measures."""
    return NoiseScale(every=_EVERY, preconditioned=recipe.optimizer in ("adam", "adamw", "lamb"))


def grown(batch_size: int, noise: NoiseScale, train_size: int) -> int:
    """The batch that is allowed now; the same where there is not enough data yet."""
    found = noise.estimate(last=0.5)
    most = min(found.noise_scale.value, train_size / _LEAST_UPDATES) if found.is_known else 0.0
    while 2 * batch_size <= most:
        batch_size *= 2
    return batch_size


def present_timeline(timeline: Timeline, state: State, noise: NoiseScale | None) -> Timeline:
    """The phase at its present batch, which grows here where an epoch has ended; moves `state` to it.

    Args:
        timeline: of the recipe as it is written.
        noise: None where the batch is fixed.
    """
    if noise is None or timeline.recipe.batch == "fixed":
        return timeline
    size = state.batch_size or timeline.recipe.global_batch_size
    is_between_epochs = state.phase_samples % timeline.train_size == 0
    if is_between_epochs and state.phase_samples:
        size = grown(size, noise, timeline.train_size)
    present = Timeline(timeline.recipe.at(size, warmup="keep"), timeline.train_size)
    if is_between_epochs:  # as many updates as the epochs so far would have had at this batch
        state.phase_update = present.updates_until(state.phase_samples)
    state.batch_size = size
    return present
