"""Image folders in ImageNet's layout, `root/train/<class>/*.JPEG` and `root/val/<class>/*.JPEG`, decoded with Pillow.

Goyal et al. 2017 (arXiv 1706.02677, section 5.1): for training the scale and aspect-ratio augmentation of Szegedy et al.
(arXiv 1409.4842: a crop of 8 to 100 % of the area, sides in a ratio between 3/4 and 4/3, resized to 224 x 224) and a
horizontal flip; for evaluation the central 224 x 224 of the image resized to a shorter side of 256; colours normalised
by their mean and standard deviation over ImageNet: as in fb.resnet.torch (datasets/imagenet.lua, transforms.lua), which
they follow, without its colour jitter and lighting noise. The ratio of the sides is drawn log-uniformly.
"""

import math
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = (".jpeg", ".jpg", ".png")
_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]  # (3, 1, 1) red, green, blue, of values in [0, 1]
_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
_CROP_PIXELS = 224
_SHORTER_SIDE_PIXELS = 256
_AREA_SHARE = (0.08, 1.0)
_SIDE_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class Box(NamedTuple):
    """A rectangle in pixels, in Pillow's order."""

    left: int
    top: int
    right: int
    bottom: int


class ImageFolder(Dataset[tuple[Tensor, Tensor]]):
    """The images of one split, decoded one at a time. Classes are numbered in the order of their folders' names.

    The augmentation draws from torch's global generator and from nothing else: seeding it per (seed, epoch, sample)
    makes an image independent of the worker that decodes it.

    Args:
        folder: holds one folder per class.
        augment: crop and flip at random, for training; else the centre crop.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders, or classes without an image; names them.
        ModuleNotFoundError: Pillow is not installed.
    """

    def __init__(self, folder: Path, *, augment: bool) -> None:
        _pillow()  # now, not at the first image
        self._augment = augment
        self._folder = folder
        self.classes, self._names, self.targets = _listing(folder)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, 224, 224) float32, normalised, and its class, () int64.

        Raises:
            ValueError: Pillow cannot decode the file; names it.
        """
        target = self.targets[index]
        image = _decode(self._folder / self.classes[target] / self._names[index])
        image = _random_crop(image) if self._augment else _centre_crop(image)
        return _normalised(image), torch.tensor(target)


def image_folders(root: Path) -> tuple[ImageFolder, ImageFolder]:
    """`root/train` augmented, and `root/val` as it is.

    Raises:
        ValueError: the two do not have the same classes; lists the differences.
    """
    train, val = ImageFolder(root / "train", augment=True), ImageFolder(root / "val", augment=False)
    only = [
        f"only in {split}: {', '.join(sorted(extra))}"
        for split, extra in (
            ("train", set(train.classes) - set(val.classes)),
            ("val", set(val.classes) - set(train.classes)),
        )
        if extra
    ]
    if only:
        raise ValueError(f"{root}: expected the same class folders in train and val, got {'; '.join(only)}")
    return train, val


def _listing(folder: Path) -> tuple[list[str], list[str], list[int]]:
    """Class names, and file name and class number of every image, in an order that no file system changes.

    Names and not paths: a million `Path` objects would take a gigabyte, in every worker process.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder with one folder of images per class, found none")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise ValueError(f"{folder}: expected one folder of images per class, got no folders in it")
    names: list[str] = []
    targets: list[int] = []
    empty: list[str] = []
    for number, name in enumerate(classes):
        images = sorted(file for file in os.listdir(folder / name) if file.lower().endswith(_SUFFIXES))
        if not images:
            empty.append(name)
        names += images
        targets += [number] * len(images)
    if empty:
        raise ValueError(
            f"{folder}: expected at least one {', '.join(_SUFFIXES)} file per class, got none in: "
            f"{', '.join(empty)}: add images or remove the folders"
        )
    return classes, names, targets


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("image folders are decoded with Pillow: pip install 'largebatch[vision]'") from error
    return Image


def _decode(path: Path) -> "Image.Image":
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # each of Pillow's decoders raises types of its own
        raise ValueError(
            f"{path}: expected an image that Pillow can decode, got {type(error).__name__}: {error}: "
            "fetch the file again or remove it"
        ) from error


def _random_crop(image: "Image.Image") -> "Image.Image":
    box = random_box(image.width, image.height)
    crop = _centre_crop(image) if box is None else _resized(image, _CROP_PIXELS, _CROP_PIXELS, box)
    if torch.rand(()) < 0.5:
        return crop.transpose(_pillow().Transpose.FLIP_LEFT_RIGHT)
    return crop


def random_box(width: int, height: int) -> Box | None:
    """A rectangle of random area, shape and place; None where ten attempts found none that fits."""
    low, high = (math.log(ratio) for ratio in _SIDE_RATIO)
    for _ in range(_ATTEMPTS):
        area_draw, ratio_draw, left_draw, top_draw = torch.rand(4, dtype=torch.float64).tolist()
        area = (_AREA_SHARE[0] + area_draw * (_AREA_SHARE[1] - _AREA_SHARE[0])) * width * height
        ratio = math.exp(low + ratio_draw * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(left_draw * (width - w + 1)), int(top_draw * (height - h + 1))
            return Box(left, top, left + w, top + h)
    return None


def _centre_crop(image: "Image.Image") -> "Image.Image":
    scale = _SHORTER_SIDE_PIXELS / min(image.width, image.height)
    resized = _resized(image, round(image.width * scale), round(image.height * scale), None)
    left, top = (resized.width - _CROP_PIXELS) // 2, (resized.height - _CROP_PIXELS) // 2
    return resized.crop(Box(left, top, left + _CROP_PIXELS, top + _CROP_PIXELS))


def _resized(image: "Image.Image", width: int, height: int, box: Box | None) -> "Image.Image":
    return image.resize((width, height), _pillow().Resampling.BICUBIC, box=box)


def _normalised(image: "Image.Image") -> Tensor:
    """(3, height, width) float32."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, height, width) uint8
    return (pixels.float() / 255 - _MEAN) / _STD
