"""Augmentation of whole batches of images on tensors: flip, shift, crop.

Keskar et al. 2017 (arXiv 1609.04836, appendix E) flip and translate; padding by 4 and cropping at random is the usual
CIFAR augmentation (He et al. 2016, arXiv 1512.03385, section 4.2). What happens to a sample depends on (seed, epoch,
sample) alone: not on the batch it is in, the micro-batch or the rank.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from largebatch.core import uniform_per_sample

__all__ = ["Augmentation", "build_augmentation"]

Augmentation = Callable[[Tensor, Tensor, int, int], Tensor]
"""(images (n, c, h, w), indices (n,) int64 in the data set, seed, epoch) → images of the same shape and dtype."""

_Step = Callable[[Tensor, Tensor], Tensor]
"""(images, uniform (n, 2) in [0, 1)) → images."""


def build_augmentation(names: Sequence[str]) -> Augmentation:
    """The augmentations of a recipe, applied in order.

    Args:
        names: each of "flip" (left and right, for half of the samples), "shift:N" (by whole pixels, uniform in [-N, N] in
            both directions, zeros where nothing was) or "crop:N" (the same, of the image mirrored at its edges: padding by
            reflection, then a crop of the old size).

    Returns:
        A function of (images, indices, seed, epoch).

    Raises:
        ValueError: a name is unknown or comes twice; when called, the images are not of shape (n, c, h, w), or too small
            to be mirrored.
    """
    steps = {name: _step(name) for name in names}
    if len(steps) < len(names):
        raise ValueError(f"augment expected every name once, got {tuple(names)}: a second would draw the same numbers")

    def augment(images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
        if images.ndim != 4:
            raise ValueError(
                f"augment expected images of shape (n, c, h, w), got {tuple(images.shape)}: reshape the data, or set "
                f"augment=()"
            )
        for name, step in steps.items():
            images = step(images, uniform_per_sample(seed, f"augment {name}", epoch, indices, 2).to(images.device))
        return images

    return augment


def _step(name: str) -> _Step:
    if name == "flip":
        return _flip
    match = re.fullmatch(r"(shift|crop):([1-9]\d*)", name)
    if match is None:
        raise ValueError(f'augment expected "flip", "shift:N" or "crop:N" with N pixels, got {name!r}: write "crop:4"')
    return partial(_shift, pixels=int(match[2]), pad=_zeros if match[1] == "shift" else _mirror)


def _flip(images: Tensor, uniform: Tensor) -> Tensor:
    is_flipped = uniform[:, 0, None, None, None] < 0.5  # (n, 1, 1, 1)
    return torch.where(is_flipped, images.flip(-1), images)


def _shift(images: Tensor, uniform: Tensor, *, pixels: int, pad: Callable[[Tensor, int], Tensor]) -> Tensor:
    n, _, h, w = images.shape
    windows = pad(images, pixels).unfold(2, h, 1).unfold(3, w, 1)  # (n, c, 2·pixels + 1, 2·pixels + 1, h, w)
    tops, lefts = (uniform * (2 * pixels + 1)).long().unbind(1)  # (n,) each
    return windows[torch.arange(n, device=images.device), :, tops, lefts]


def _zeros(images: Tensor, pixels: int) -> Tensor:
    return F.pad(images, (pixels, pixels, pixels, pixels))


def _mirror(images: Tensor, pixels: int) -> Tensor:
    if pixels >= min(images.shape[2:]):
        raise ValueError(
            f"crop:{pixels} expected images with more than {pixels} pixels on each side, got {tuple(images.shape)}: crop "
            f"by less"
        )
    return F.pad(images, (pixels, pixels, pixels, pixels), mode="reflect")
