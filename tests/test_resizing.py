"""Box averages, padding and the papers' crops: against closed forms and marked pixels."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

from datamodules import resizing
from datamodules.resizing import adm_crop, box_average, celeba_crop, pad_to

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def noise(*shape, seed=0, top=256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape, dtype=np.uint8)


def coordinates(width: int, height: int, block: int = 1) -> Image.Image:
    """Red is the column and green the row, each constant over ``block`` pixels."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width) // block
    pixels[..., 1] = (np.arange(height) // block)[:, None]
    return Image.fromarray(pixels)


def corner(picture: Image.Image) -> tuple[int, int]:
    """(column, row) of the first pixel, after a check that the others follow it in steps of 1."""
    pixels = np.asarray(picture).astype(int)
    left, top = pixels[0, 0, :2]
    rows, columns = np.indices(pixels.shape[:2])
    np.testing.assert_array_equal(pixels[..., 0], left + columns)
    np.testing.assert_array_equal(pixels[..., 1], top + rows)
    return left, top


def refusal(function, *args) -> str:
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:  # one line
        function(*args)
    return str(caught.value)


# box averages


@pytest.mark.parametrize(("side", "size"), [(4, 2), (6, 2), (6, 3), (8, 2), (5, 1), (3, 3)])
@pytest.mark.parametrize("top", [3, 256])  # small values make many ties
def test_box_average_is_the_mean_rounded_half_to_even(side, size, top):
    images = noise(6, 2, side, side, top=top)
    block = side // size
    got = box_average(images, size)
    assert got.shape == (6, 2, size, size)
    assert got.dtype == np.uint8
    for n, c, i, j in np.ndindex(got.shape):
        rows, columns = (slice(k * block, (k + 1) * block) for k in (i, j))
        total = sum(int(v) for v in images[n, c, rows, columns].flat)
        assert got[n, c, i, j] == round(Fraction(total, block * block))  # Fraction: half to even


@pytest.mark.parametrize(
    ("block", "mean"),
    [
        ([0, 0, 0, 2], 0),  # 0.5
        ([0, 0, 1, 2], 1),  # 0.75
        ([1, 1, 2, 2], 2),  # 1.5
        ([2, 2, 3, 3], 2),  # 2.5
        ([0, 255, 255, 0], 128),  # 127.5, a checkerboard
        ([254, 254, 255, 255], 254),  # 254.5
        ([255, 255, 255, 255], 255),
    ],
)
def test_ties_go_to_the_even_neighbour(block, mean):
    assert box_average(np.array(block, np.uint8).reshape(1, 1, 2, 2), 1).item() == mean


def test_rounding_does_not_brighten():
    images = noise(400, 3, 32, 32)
    error = box_average(images, 16).mean() - images.mean()
    # rounding adds a variance of about 0.09 per pixel: 6e-4 over 307,200; half up would add 0.125
    assert abs(error) < 4e-3


def test_a_constant_stays_and_blocks_give_back_their_values():
    assert (box_average(np.full((2, 3, 32, 32), 201, np.uint8), 8) == 201).all()
    small = noise(5, 3, 16, 16)
    large = small.repeat(4, axis=2).repeat(4, axis=3)
    np.testing.assert_array_equal(box_average(large, 16), small)
    np.testing.assert_array_equal(box_average(small, 16), small)


def test_a_large_white_block_does_not_overflow():
    assert (box_average(np.full((1, 1, 512, 512), 255, np.uint8), 1) == 255).all()


@pytest.mark.parametrize("chunk", [1, 3 * 64 * 4, 3 * 64 * 4 + 1])  # one image, four, four
def test_chunks_equal_the_whole(monkeypatch, chunk):
    images = noise(11, 3, 8, 8)
    whole = box_average(images, 4)
    monkeypatch.setattr(resizing, "CHUNK", chunk)
    np.testing.assert_array_equal(box_average(images, 4), whole)


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "images.npy", noise(3000, 3, 32, 32))
    return np.load(tmp_path / "images.npy", mmap_mode="r")


def test_a_memory_map_is_never_widened_as_a_whole(mapped, monkeypatch):
    monkeypatch.setattr(resizing, "CHUNK", 1 << 16)
    tracemalloc.start()
    got = box_average(mapped, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < got.nbytes + 16 * resizing.CHUNK < mapped.nbytes
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, box_average(np.array(mapped), 16))
    np.testing.assert_array_equal(pad_to(mapped[:3], 34)[:, :, 1:-1, 1:-1], mapped[:3])


def test_no_images_are_no_error():
    assert box_average(np.zeros((0, 1, 8, 8), np.uint8), 4).shape == (0, 1, 4, 4)
    assert pad_to(np.zeros((0, 1, 8, 8), np.uint8), 9).shape == (0, 1, 9, 9)


def test_what_box_average_refuses():
    images = noise(2, 1, 28, 28)
    for size in (16, 56, 0, -14):
        assert refusal(box_average, images, size).endswith("a size out of 1, 2, 4, 7, 14, 28")
    assert "28 x 20 are not square" in refusal(box_average, images[..., :20], 4)


@pytest.mark.parametrize("function", [box_average, pad_to])
def test_only_uint8_batches_are_taken(function):
    assert "not float32 of (1, 1, 4, 4)" in refusal(function, np.zeros((1, 1, 4, 4), "f4"), 4)
    assert "not uint8 of (4, 4, 1)" in refusal(function, np.zeros((4, 4, 1), np.uint8), 4)


# padding


@pytest.mark.parametrize(
    ("height", "width", "size", "top", "left"),
    [(28, 28, 32, 2, 2), (28, 28, 31, 1, 1), (5, 8, 8, 1, 0), (7, 2, 8, 0, 3), (4, 4, 4, 0, 0)],
)
def test_padding_is_black_and_centred(height, width, size, top, left):
    images = noise(3, 2, height, width) | 1  # no pixel is black
    got = pad_to(images, size)
    assert got.shape == (3, 2, size, size)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got[:, :, top : top + height, left : left + width], images)
    assert np.count_nonzero(got) == images.size


def test_padding_does_not_shrink():
    assert "pad them to 30 or more" in refusal(pad_to, noise(1, 1, 28, 30), 29)


# CelebA


def test_celeba_crop_begins_at_row_40_and_column_15():
    face = celeba_crop(coordinates(178, 218), 148)  # of the crop's own size: nothing is resampled
    assert face.size == (148, 148)
    assert corner(face) == (15, 40)


def test_celeba_crop_is_64_and_bilinear():
    pixels = noise(218, 178, 3)
    assert celeba_crop(Image.fromarray(pixels)).size == (64, 64)
    # At half the size a bilinear filter that does not alias weighs four pixels 1, 3, 3, 1.
    crop = pixels[40:188, 15:163].astype(float)
    taps = [np.apply_along_axis(np.convolve, 0, crop, [1, 3, 3, 1], "valid")[1::2]]
    taps += [np.apply_along_axis(np.convolve, 1, taps[0], [1, 3, 3, 1], "valid")[:, 1::2]]
    got = np.asarray(celeba_crop(Image.fromarray(pixels), 74))[1:-1, 1:-1]
    assert np.abs(got - taps[1] / 64).max() <= 1  # Pillow rounds after each axis


def test_celeba_crop_of_a_constant_is_that_constant():
    assert celeba_crop(Image.new("RGB", (178, 218), (1, 128, 255))).getcolors() == [
        (64 * 64, (1, 128, 255))
    ]


@pytest.mark.parametrize("size", [(100, 100), (178, 187), (218, 178), (1024, 1024)])
def test_celeba_crop_refuses_what_is_not_aligned(size):
    assert f"not of {size[0]} x {size[1]}" in refusal(celeba_crop, Image.new("RGB", size))


# ADM


@pytest.mark.parametrize(
    ("width", "height", "size", "left", "top"),
    [
        (64, 64, 64, 0, 0),
        (101, 64, 64, 18, 0),  # landscape, surplus of 37: one less before than after
        (64, 91, 64, 0, 13),  # portrait, surplus of 27
        (66, 64, 64, 1, 0),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 4])  # no halving, one, two
def test_adm_crop_takes_the_middle(width, height, size, left, top, block):
    picture = coordinates(block * width, block * height, block)
    assert corner(adm_crop(picture, size)) == (left, top)


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_adm_crop_halves_with_a_box(halvings):
    block = 2**halvings
    pixels = noise(16 * block, 16 * block, 3)
    got = np.asarray(adm_crop(Image.fromarray(pixels), 16)).astype(float)
    means = pixels.reshape(16, block, 16, block, 3).mean(axis=(1, 3))
    assert np.abs(got - means).max() <= halvings  # Pillow rounds after each axis, half up


def test_adm_crop_is_bicubic_below_twice_the_size():
    below = Image.fromarray(noise(95, 95, 3))
    expected = below.resize((48, 48), Image.Resampling.BICUBIC)
    assert adm_crop(below, 48).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("width", "height"),
    [(500, 375), (375, 500), (131, 257), (400, 33), (33, 400), (5, 7), (64, 9), (1, 1), (32, 32)],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_adm_crop_has_its_size_and_keeps_a_constant(width, height, mode):
    colour = 77 if mode == "L" else (3, 77, 250)
    got = adm_crop(Image.new(mode, (width, height), colour), 32)
    assert (got.mode, got.size) == (mode, (32, 32))
    assert got.getcolors() == [(32 * 32, colour)]


def test_adm_crop_rounds_the_longer_side_half_to_even():
    picture = Image.fromarray(noise(18, 16))  # 16 x 18 to 12: 13.5 becomes 14, one row before
    expected = picture.resize((12, 14), Image.Resampling.BICUBIC).crop((0, 1, 12, 13))
    assert adm_crop(picture, 12).tobytes() == expected.tobytes()
    picture = Image.fromarray(noise(22, 16))  # 16 x 22 to 12: 16.5 becomes 16, two rows before
    expected = picture.resize((12, 16), Image.Resampling.BICUBIC).crop((0, 2, 12, 14))
    assert adm_crop(picture, 12).tobytes() == expected.tobytes()


@pytest.mark.parametrize("crop", [adm_crop, celeba_crop])
def test_what_the_crops_refuse(crop):
    assert "convert it to RGB" in refusal(crop, Image.new("P", (178, 218)), 64)
    assert "choose 1 or more" in refusal(crop, Image.new("RGB", (178, 218)), 0)


def test_pillow_is_imported_on_use():
    code = "import sys, datamodules.resizing; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
