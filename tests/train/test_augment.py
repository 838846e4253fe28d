"""Augmentation of batches: what each does to an image, and that it depends on (seed, epoch, sample) alone."""

import itertools

import numpy as np
import pytest
import torch

from largebatch.train import build_augmentation

N = 2000
NAMES = [("flip",), ("shift:2",), ("crop:3",), ("flip", "crop:2"), ("crop:1", "shift:3", "flip")]


def images(n=N, dtype=torch.float32, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 2, 6, 5, generator=draws) * 200 + 1).to(dtype)


def shifted(image, pixels, mode):
    """Every image the definition allows for one image (c, h, w), by its offset: padded by numpy, then cut out."""
    h, w = image.shape[1:]
    padded = np.pad(image.numpy(), [(0, 0), (pixels, pixels), (pixels, pixels)], mode=mode)
    offsets = itertools.product(range(2 * pixels + 1), repeat=2)
    return {(top, left): padded[:, top : top + h, left : left + w] for top, left in offsets}


def test_a_flip_mirrors_half_of_the_images_left_and_right():
    before = images()
    after = build_augmentation(("flip",))(before, torch.arange(N), 0, 0)
    is_same = (after == before).flatten(1).all(1)
    is_mirrored = (after == torch.from_numpy(before.numpy()[..., ::-1].copy())).flatten(1).all(1)
    assert (is_same ^ is_mirrored).all()
    assert abs(is_mirrored.sum().item() - N / 2) < 4 * np.sqrt(N / 4)


@pytest.mark.parametrize(("name", "mode"), [("shift", "constant"), ("crop", "reflect")])
@pytest.mark.parametrize("pixels", [1, 3])
def test_offsets_are_whole_pixels_and_uniform(name, mode, pixels):
    before = images()
    after = build_augmentation((f"{name}:{pixels}",))(before, torch.arange(N), 0, 0)
    counts = dict.fromkeys(itertools.product(range(2 * pixels + 1), repeat=2), 0)
    for image, found in zip(before, after, strict=True):
        matches = [offset for offset, view in shifted(image, pixels, mode).items() if np.array_equal(view, found)]
        assert len(matches) == 1
        counts[matches[0]] += 1
    p = 1 / len(counts)
    assert max(abs(count - N * p) for count in counts.values()) < 4.5 * np.sqrt(N * p * (1 - p))  # of up to 49 offsets


@pytest.mark.parametrize("names", NAMES)
def test_a_sample_is_treated_alike_in_every_batch(names):
    augment, before, indices = build_augmentation(names), images(50), torch.arange(1000, 1050)
    whole = augment(before, indices, 3, 7)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([augment(before[part], indices[part], 3, 7) for part in order.split([1, 30, 19])])
    assert torch.equal(shuffled, whole[order])


@pytest.mark.parametrize("names", NAMES)
def test_seed_epoch_and_sample_each_change_the_draw(names):
    augment, before, indices = build_augmentation(names), images(100), torch.arange(100)
    results = [
        augment(before, i, seed, epoch) for i, seed, epoch in [(indices, 0, 0), (indices, 1, 0), (indices, 0, 1)]
    ]
    results.append(augment(before, indices + 100, 0, 0))
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(results, 2))
    assert torch.equal(augment(before, indices, 0, 0), results[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("names", NAMES)
def test_shape_dtype_and_the_input_are_kept(names, dtype):
    before = images(20, dtype)
    copy = before.clone()
    after = build_augmentation(names)(before, torch.arange(20), 0, 0)
    assert (after.shape, after.dtype) == (before.shape, dtype)
    assert torch.equal(before, copy)
    assert not torch.equal(after, before)


def test_augmentations_are_applied_in_order_and_draw_apart():
    before, indices = images(), torch.arange(N)
    flip, shift = build_augmentation(("flip",)), build_augmentation(("shift:1",))
    both = build_augmentation(("flip", "shift:1"))(before, indices, 0, 0)
    assert torch.equal(both, shift(flip(before, indices, 0, 0), indices, 0, 0))
    is_flipped = (flip(before, indices, 0, 0) != before).flatten(1).any(1)
    is_up = (shift(before, indices, 0, 0)[:, :, -1] == 0).flatten(1).all(1)
    expected = is_flipped.sum() * is_up.sum() / N
    assert abs((is_flipped & is_up).sum() - expected) < 4 * (N * 0.5 * 0.5 * (1 / 3) * (2 / 3)) ** 0.5


def test_nothing_to_do_does_nothing():
    before = images(3)
    assert build_augmentation(())(before, torch.arange(3), 0, 0) is before


def test_an_empty_batch_stays_empty():
    assert build_augmentation(("flip", "crop:2"))(images(0), torch.arange(0), 0, 0).shape == (0, 2, 6, 5)


@pytest.mark.parametrize("name", ["mirror", "shift", "shift:0", "shift:-1", "crop:1.5", "flip:2"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=f'expected "flip", "shift:N" or "crop:N" with N pixels, got {name!r}: write'):
        build_augmentation((name,))


def test_a_name_given_twice_is_refused():
    with pytest.raises(
        ValueError, match=r"expected every name once, got .*'flip', 'flip'.*: a second would draw the same"
    ):
        build_augmentation(("flip", "flip"))


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"expected images of shape \(n, c, h, w\), got \(3, 64\): reshape"):
        build_augmentation(("flip",))(torch.ones(3, 64), torch.arange(3), 0, 0)


def test_images_too_small_to_mirror_are_refused():
    with pytest.raises(ValueError, match=r"crop:5 expected images with more than 5 pixels .* got \(3, 2, 6, 5\): crop"):
        build_augmentation(("crop:5",))(images(3), torch.arange(3), 0, 0)
