"""Tiny ImageNet and the papers' large sets, on images made here with counts to match."""

from __future__ import annotations

import io
import pickle

from datamodules import photographs, tiny_imagenet
from datamodules.resizing import adm_crop, celeba_crop
from datamodules.sources import load

import numpy as np
import pytest
from image_files import cold, encode, error_of, noise, pack  # noqa: F401
from PIL import Image

# Tiny ImageNet --------------------------------------------------------------------------------

WNIDS = ("n00000003", "n00000001", "n00000002")
TOP = "tiny-imagenet-200"
ONE_CLASS = b"\n".join(b"val_%d.JPEG\tn00000001" % number for number in range(3))


@pytest.fixture
def tiny(monkeypatch):
    """Three classes of two images, four in val; every image tells its seed."""
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 3)
    monkeypatch.setattr(tiny_imagenet, "VAL_EACH", 1)
    monkeypatch.setattr(tiny_imagenet, "SHA256", {})
    table = {f"{TOP}.full.tar.xz": (12,), f"{TOP}.zip": (12,), TOP: (12, 2)}
    monkeypatch.setattr(tiny_imagenet, "TRAIN_EACH", table)
    files = {}
    for k, wnid in enumerate(WNIDS):
        for number in range(12):
            grey = (k, number) == (1, 3)
            data = encode(noise(100 * k + number, (8, 8), "L" if grey else "RGB"))
            files[f"{TOP}/train/{wnid}/images/{wnid}_{number}.JPEG"] = data
    for number in (2, 0, 1):
        files[f"{TOP}/val/images/val_{number}.JPEG"] = encode(noise(900 + number, (8, 8)))
    files[f"{TOP}/test/images/test_0.JPEG"] = b"not ours to read"
    lines = [f"val_{number}.JPEG\t{WNIDS[2 - number]}\t0\t0\t9\t9" for number in range(3)]
    files[f"{TOP}/val/val_annotations.txt"] = "\n".join(lines).encode()
    files[f"{TOP}/wnids.txt"] = "\n".join(WNIDS).encode()
    files[f"{TOP}/words.txt"] = b"n00000001\tcat, true cat\nn00000002\tdog\nn00000009\tcow"
    return files


@pytest.mark.parametrize("name", [f"{TOP}.full.tar.xz", f"{TOP}.zip", "folder"])
def test_tiny_imagenet_by_class_and_number(tmp_path, tiny, name):
    pack(tmp_path / name, tiny)
    root = tmp_path / name if name == "folder" else tmp_path
    train, val = load("tiny_imagenet", root=root), load("tiny_imagenet", "val", root=root)
    assert train.classes == val.classes == ("n00000003", "cat", "dog")
    np.testing.assert_array_equal(train.labels, np.arange(36) // 12)
    for row, image in enumerate(train.images):
        mode = "L" if row == 15 else "RGB"
        expected = noise(100 * (row // 12) + row % 12, (8, 8), mode)
        np.testing.assert_array_equal(image.transpose(1, 2, 0), np.atleast_3d(expected) + [0] * 3)
    np.testing.assert_array_equal(val.labels, [2, 1, 0])
    for number, image in enumerate(val.images):
        np.testing.assert_array_equal(image, noise(900 + number, (8, 8)).transpose(2, 0, 1))
    assert load("tiny_imagenet", root=root, size=4).images.shape == (36, 3, 4, 4)


@pytest.mark.parametrize(
    ("split", "change", "said"),
    [
        ("train", {f"{TOP}/wnids.txt": None}, "has no wnids.txt"),
        ("train", {f"{TOP}/wnids.txt": b"n00000001\nn00000002"}, "has 2 classes, not 3"),
        ("train", {f"{TOP}/wnids.txt": b"n00000001 n00000002 n00000004"}, "n00000003 is not in"),
        ("train", {f"{TOP}/train/{WNIDS[0]}/images/{WNIDS[0]}_4.JPEG": None}, "35 images, not 36"),
        ("val", {f"{TOP}/val/images/val_1.JPEG": None}, "has 2 images, not 3"),
        ("val", {f"{TOP}/val/val_annotations.txt": b""}, "val_annotations.txt has no val_0.JPEG"),
        (
            "val",
            {f"{TOP}/val/val_annotations.txt": ONE_CLASS},
            "has 0 to 3 images a class in 3 classes, not 1 in 3",
        ),
    ],
)
def test_a_tiny_imagenet_that_does_not_fit_is_refused(tmp_path, tiny, split, change, said):
    files = {name: data for name, data in (tiny | change).items() if data is not None}
    pack(tmp_path / f"{TOP}.full.tar.xz", files)
    assert said in error_of("tiny_imagenet", split, root=tmp_path)


def test_the_tiny_imagenet_of_the_tables_is_asked_for(tmp_path, tiny, monkeypatch):
    pack(tmp_path / f"{TOP}.full.tar.xz", tiny)
    monkeypatch.setattr(tiny_imagenet, "SHA256", {f"{TOP}.full.tar.xz": "0" * 64})
    assert "is not the published file: sha256" in error_of("tiny_imagenet", root=tmp_path)


# CelebA ---------------------------------------------------------------------------------------


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """Six aligned faces in three splits, four of them in train."""
    monkeypatch.setitem(photographs.COUNTS, "celeba", {"train": 4, "val": 1, "test": 1})
    monkeypatch.setattr(photographs, "CELEBA_MD5", {})
    parts = {"000003": 0, "000001": 0, "000002": 2, "000004": 0, "000005": 1, "000006": 0}
    files = {
        f"img_align_celeba/{name}.jpg": encode(noise(int(name), (178, 218)), "JPEG")
        for name in parts
    }
    lines = "".join(f"{name}.jpg {part}\n" for name, part in parts.items())
    (tmp_path / "list_eval_partition.txt").write_text(lines)
    return files


@pytest.mark.parametrize("name", ["img_align_celeba.zip", "img_align_celeba"])
def test_celeba_is_cut_and_split_as_published(tmp_path, faces, name):
    pack(tmp_path / name if name.endswith("zip") else tmp_path, faces)
    train = load("celeba", root=tmp_path)
    assert train.images.shape == (4, 3, 64, 64)
    assert train.classes == ("face",)
    for image, number in zip(train.images, (1, 3, 4, 6), strict=True):
        jpeg = faces[f"img_align_celeba/{number:06}.jpg"]
        expected = celeba_crop(Image.open(io.BytesIO(jpeg)), 64)
        np.testing.assert_array_equal(image, np.asarray(expected).transpose(2, 0, 1))
    assert len(load("celeba", "val", root=tmp_path)) == len(load("celeba", "test", root=tmp_path))
    assert load("celeba", "val", root=tmp_path, size=32).images.shape == (1, 3, 32, 32)


def test_celeba_of_another_kind_is_refused(tmp_path, faces, monkeypatch):
    pack(tmp_path / "img_align_celeba.zip", faces)
    monkeypatch.setitem(photographs.COUNTS, "celeba", {"train": 162_770, "val": 1, "test": 1})
    assert "celeba train has 4 images, not 162,770" in error_of("celeba", root=tmp_path)
    files = dict.fromkeys(faces, encode(noise(0, (64, 64)), "JPEG"))
    pack(tmp_path / "img_align_celeba.zip", files)
    assert "000001.jpg: the CelebA crop wants an aligned image" in error_of(
        "celeba", root=tmp_path
    )
    monkeypatch.setattr(photographs, "CELEBA_MD5", {"img_align_celeba.zip": "0" * 32})
    assert "is not the published file: md5" in error_of("celeba", root=tmp_path)
    assert "from CelebA's page, then run `make data SOURCE=celeba`" in error_of("celeba")


# ImageNet -------------------------------------------------------------------------------------


PHOTOS = {
    f"{wnid}/{wnid}_{j}.JPEG": noise(10 * k + j, (70 + 9 * k, 80 - 13 * j), "RGB" if k else "L")
    for k, wnid in enumerate(("n00000002", "n00000001"))
    for j in range(2)
}


def photographs_of(split: str) -> dict[str, bytes]:
    return {f"{split}/{name}": encode(array) for name, array in PHOTOS.items()}


@pytest.mark.parametrize("kind", ["", ".tar", ".zip", ".tar.gz"])
def test_imagenet_is_cut_by_adm(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(photographs.COUNTS, "imagenet", {"train": 9, "val": 4})
    monkeypatch.setattr(photographs, "IMAGENET_CLASSES", 2)
    monkeypatch.setenv("ENTROFLOW_DATA", str(tmp_path))
    home = tmp_path / "imagenet"  # one folder serves both sizes
    pack(home / f"val{kind}" if kind else home, photographs_of("val"))
    for size in (256, 512):
        data = load(f"imagenet{size}", "val")
        assert data.images.shape == (4, 3, size, size)
        assert data.classes == ("n00000001", "n00000002")
        np.testing.assert_array_equal(data.labels, [0, 0, 1, 1])
        for image, name in zip(data.images, sorted(PHOTOS), strict=True):
            photo = Image.fromarray(PHOTOS[name]).convert("RGB")
            expected = np.asarray(adm_crop(photo, size))
            np.testing.assert_array_equal(image.transpose(1, 2, 0), expected)


def test_imagenet_without_classes_or_of_another_number_is_refused(tmp_path, monkeypatch):
    pack(tmp_path / "a", photographs_of("val"))
    assert "imagenet256 val has 4 images, not 50,000" in error_of(
        "imagenet256", "val", root=tmp_path / "a"
    )
    monkeypatch.setitem(photographs.COUNTS, "imagenet", {"train": 9, "val": 4})
    message = error_of("imagenet256", "val", root=tmp_path / "a")
    assert "has 2 classes, not 1000" in message
    pack(tmp_path / "b", {"val/x.JPEG": encode(noise(0, (300, 300)))})
    message = error_of("imagenet256", "val", root=tmp_path / "b")
    assert "has 'x.JPEG' in no folder named by a WordNet id" in message
    assert "$ENTROFLOW_DATA/imagenet/train/<wnid>/<file>" in error_of("imagenet512")


def downsampled(size: int, split: str, npz: bool) -> tuple[dict[str, bytes], np.ndarray]:
    names = [f"train_data_batch_{k}" for k in range(1, 11)] if split == "train" else ["val_data"]
    files, everything = {}, []
    for k, name in enumerate(names):
        data = np.random.default_rng(k).integers(0, 256, (2, 3 * size * size), np.uint8)
        batch = {"data": data, "labels": [k + 1, 1000], "mean": data.mean(0)}
        file = io.BytesIO()
        if npz:
            np.savez(file, **batch)
        else:
            pickle.dump(batch, file, protocol=4)
        files[name + ".npz" * npz] = file.getvalue()
        everything.append(data.reshape(2, 3, size, size))
    return files, np.concatenate(everything)


@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize("size", [32, 64])
def test_the_downsampled_imagenets_are_read_in_the_order_of_their_batches(
    tmp_path, monkeypatch, size, npz
):
    monkeypatch.setitem(photographs.COUNTS, "imagenet", {"train": 20, "val": 2})
    for split in ("train", "val"):
        files, _ = downsampled(size, split, npz)
        stem, end = f"Imagenet{size}_{split}", "_npz.zip" if npz else ".zip"
        parts = [dict(list(files.items())[:5]), dict(list(files.items())[5:])]
        if (size, split) == (64, "train"):
            for part, name in zip(parts, ("_part1", "_part2"), strict=True):
                pack(tmp_path / f"{stem}{name}{end}", part)
        else:
            pack(tmp_path / f"{stem}{end}", files)
    train, val = (load(f"imagenet{size}", split, root=tmp_path) for split in ("train", "val"))
    np.testing.assert_array_equal(train.images, downsampled(size, "train", npz)[1])
    np.testing.assert_array_equal(train.labels[:4], [0, 999, 1, 999])
    assert (train.labels[18], train.classes[0], len(train.classes)) == (9, "1", 1000)
    assert val.images.shape == (2, 3, size, size)


def test_downsampled_batches_that_lack_or_attack_are_refused(tmp_path, monkeypatch):
    files, _ = downsampled(32, "train", False)
    path = tmp_path / "Imagenet32_train.zip"
    pack(path, {name: data for name, data in files.items() if name[-1] != "7"})
    assert "has no train_data_batch_7" in error_of("imagenet32", root=tmp_path)
    pack(path, files)
    assert "has 20 images, not 1,281,167" in error_of("imagenet32", root=tmp_path)
    pack(path, files | {"train_data_batch_2": b"cos\nsystem\n(S'true'\ntR."})
    assert "train_data_batch_2 is refused: its pickle wants os.system" in error_of(
        "imagenet32", root=tmp_path
    )


# LSUN -----------------------------------------------------------------------------------------


def test_lsun_is_one_class_cut_by_adm(tmp_path, monkeypatch):
    monkeypatch.setitem(photographs.COUNTS, "lsun_church_outdoor", {"train": 3, "val": 300})
    monkeypatch.setenv("ENTROFLOW_DATA", str(tmp_path))
    files = {f"{'ba'[k % 2]}/{k}/x{k}.webp": noise(k, (90, 70 + k)) for k in range(3)}
    encoded = {name: encode(array, "WEBP", lossless=True) for name, array in files.items()}
    pack(tmp_path / "lsun" / "church_outdoor_train.zip", encoded)
    data = load("lsun_church_outdoor")
    assert data.classes == ("church outdoor",)
    assert data.images.shape == (3, 3, 64, 64)
    for image, name in zip(data.images, sorted(files), strict=True):
        expected = adm_crop(Image.fromarray(files[name]), 64)
        np.testing.assert_array_equal(image, np.asarray(expected).transpose(2, 0, 1))
    assert "lsun_bedroom: no folder has bedroom_train or " in error_of("lsun_bedroom")
    pack(tmp_path / "lsun" / "tower_val.zip", encoded)
    assert "lsun_tower val has 3 images, not 300" in error_of("lsun_tower", "val")
