"""Image folders: decoded as Goyal et al. evaluate and augment, at random only through torch's generator."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from largebatch.tasks import ImageFolder
from largebatch.tasks._images import Box, image_folders, random_box
from tasks.tiny_files import write_images

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


def test_classes_are_numbered_by_name_and_images_normalised(tmp_path: Path) -> None:
    write_images(tmp_path, classes=("n02", "n01"))
    train, val = image_folders(tmp_path)
    assert train.classes == val.classes == ["n01", "n02"]
    assert len(train) == 4
    assert [int(train[i][1]) for i in range(4)] == [0, 0, 1, 1]
    image, target = val[0]
    assert image.shape == (3, 224, 224)
    assert (image.dtype, target.dtype, target.shape) == (torch.float32, torch.int64, ())
    # the class folder written second, so its green is 60; JPEG is exact to about two levels on a flat colour
    torch.testing.assert_close(image[:, 100, 100] * STD + MEAN, torch.tensor([200, 60, 30]) / 255, atol=0.012, rtol=0)
    assert val[1][0].shape == (3, 224, 224)  # a grey image has three channels too


def test_evaluation_takes_the_centre_of_the_shorter_side_at_256(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ramp = Image.new("RGB", (512, 256))
    ramp.putdata([(x // 2, 0, 0) for _ in range(256) for x in range(512)])
    ramp.save(tmp_path / "a" / "ramp.png")
    red = ImageFolder(tmp_path, augment=False)[0][0][0] * STD[0] + MEAN[0]
    columns = torch.arange(144, 144 + 224) // 2 / 255  # 256 high already, so nothing is resized
    torch.testing.assert_close(red, columns.expand(224, 224), atol=1e-6, rtol=0)


def test_augmentation_depends_on_torchs_generator_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pixels = torch.randint(0, 256, (80, 90, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a" / "noise.png")
    data = ImageFolder(tmp_path, augment=True)
    draws: list[torch.Tensor] = []
    with torch.random.fork_rng():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(data[0][0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_half_of_the_crops_are_flipped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    left_to_right = Image.new("RGB", (64, 64))
    left_to_right.putdata([(4 * x, 0, 0) for _ in range(64) for x in range(64)])
    left_to_right.save(tmp_path / "a" / "ramp.png")
    data = ImageFolder(tmp_path, augment=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flipped = sum(bool(image[0, 0, 0] > image[0, 0, -1]) for image, _ in (data[0] for _ in range(400)))
    assert abs(flipped - 200) < 4 * 10  # standard deviation sqrt(400 / 4) = 10


def test_random_boxes_fit_and_have_the_papers_areas_and_shapes() -> None:
    width, height = 500, 375
    with torch.random.fork_rng():
        torch.manual_seed(0)
        boxes = [box for box in (random_box(width, height) for _ in range(2000)) if box]
    assert len(boxes) > 1990
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    shares = [(b.right - b.left) * (b.bottom - b.top) / (width * height) for b in boxes]
    ratios = [(b.right - b.left) / (b.bottom - b.top) for b in boxes]
    # to within the rounding of the sides to whole pixels
    assert 0.078 < min(shares) < 0.1
    assert 0.9 < max(shares) <= 1
    assert 0.74 < min(ratios) < 0.76
    assert 1.32 < max(ratios) < 1.35


def test_where_no_box_fits_the_centre_is_taken(tmp_path: Path) -> None:
    assert random_box(width=1000, height=2) is None
    (tmp_path / "a").mkdir()
    Image.new("RGB", (1000, 2)).save(tmp_path / "a" / "sliver.png")
    assert ImageFolder(tmp_path, augment=True)[0][0].shape == (3, 224, 224)


def test_a_box_may_cover_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.tensor([1.0, 0.5, 0.99, 0.99], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws)
    assert random_box(100, 100) == Box(0, 0, 100, 100)


def test_train_and_val_must_have_the_same_classes(tmp_path: Path) -> None:
    write_images(tmp_path, classes=("cat", "dog", "emu"))
    (tmp_path / "val" / "emu").rename(tmp_path / "val" / "fox")
    with pytest.raises(
        ValueError, match="the same class folders in train and val, got only in train: emu; only in val: fox"
    ):
        image_folders(tmp_path)


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: expected a folder with one folder of images per class"):
        ImageFolder(tmp_path / "nowhere", augment=False)
    with pytest.raises(ValueError, match="expected one folder of images per class, got no folders"):
        ImageFolder(tmp_path, augment=False)
    write_images(tmp_path / "data")
    (tmp_path / "data" / "train" / "n03").mkdir()
    (tmp_path / "data" / "train" / "n03" / "notes.txt").write_text("none yet")
    with pytest.raises(ValueError, match=r"train: .*\.jpeg, \.jpg, \.png file per class, got none in: n03: add images"):
        image_folders(tmp_path / "data")


@pytest.mark.parametrize("cut", [lambda b: b[: len(b) // 2], lambda b: b"no image at all", lambda b: b""])
def test_a_corrupt_image_is_named(tmp_path: Path, cut: object) -> None:
    write_images(tmp_path)
    path = tmp_path / "train" / "n01" / "n01_0.JPEG"
    path.write_bytes(cut(path.read_bytes()))  # pyright: ignore
    train, _ = image_folders(tmp_path)
    with pytest.raises(
        ValueError, match=r"n01_0\.JPEG: expected an image that Pillow can decode, got \w+: .*or remove it"
    ):
        train[0]


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'largebatch\[vision\]'"):
        image_folders(tmp_path)
