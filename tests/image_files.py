"""Small image sets for the tests, in folders and archives, and an own cold cache for each test."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

from datamodules import handwritten
from datamodules.sources import DataError, load

import numpy as np
import pytest

TRAIN_IMAGES, TRAIN_LABELS = handwritten.MNIST_FILES["train"]
TEST_IMAGES, TEST_LABELS = handwritten.MNIST_FILES["test"]


@pytest.fixture(autouse=True)
def cold(tmp_path, monkeypatch):
    """A cold cache, no data but the test's own, and a MNIST that may be small."""
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ENTROFLOW_DATA", raising=False)
    monkeypatch.setattr(handwritten, "MNIST_COUNTS", {"train": 20, "test": 10})


def error_of(source, split="train", **options) -> str:
    """The one line by which loading fails."""
    with pytest.raises(DataError) as caught:
        load(source, split, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def refuse(*_args):
    raise AssertionError("read again, although it is in the cache")


def entries(cache: Path) -> list[Path]:
    """The entries of the cache, those half-written and set aside included."""
    return sorted(path.parent for path in cache.glob("*/images.npy"))


def overwrite(name, change):
    """A function that changes the bytes of a file in the folder it is given."""

    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))
        return path

    return damage


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def small_mnist(folder: Path, seed: int = 0, pack: bool = False) -> dict[str, np.ndarray]:
    """Four IDX files of 20 + 10 images of 5 x 4 in ``folder``; their arrays by file name."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for count, (images, labels) in zip((20, 10), handwritten.MNIST_FILES.values(), strict=True):
        arrays[images] = rng.integers(0, 256, (count, 5, 4), np.uint8)
        arrays[labels] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        data = gzip.compress(idx(array)) if pack else idx(array)
        (folder / (f"{name}.gz" if pack else name)).write_bytes(data)
    return arrays


def noise(seed: int, size: tuple[int, int], mode: str = "RGB") -> np.ndarray:
    """A random picture: uint8 (H, W, 3), or (H, W) if ``mode`` is L; ``size`` is (W, H)."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encode(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def picture(mode: str, size: tuple[int, int], level: int) -> bytes:
    """A PNG of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, size, level if mode in ("L", "I;16") else (level, 2, 3)).save(file, "PNG")
    return file.getvalue()


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """``files`` by name in a folder or archive, of the kind that the name of ``path`` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif ".tar" in path.suffixes:
        kind = path.suffix.removeprefix(".").removeprefix("tar")
        with tarfile.open(path, f"w:{kind}") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def hub_table(pictures: list[bytes], labelled: bool = True):
    """A table of the pictures with labels 1, 0, 1, ... of the classes cat and dog."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    label = ClassLabel(names=["cat", "dog"]) if labelled else Value("int64")
    columns = {
        "id": list(range(len(pictures))),
        "img": [{"bytes": data, "path": None} for data in pictures],
        "kind": [1 - i % 2 for i in range(len(pictures))],
    }
    features = Features({"id": Value("int64"), "img": Image(), "kind": label})
    return Dataset.from_dict(columns, features=features)


def hub_folder(folder: Path, pictures: list[bytes], labelled: bool = True) -> str:
    """A local data set with the splits train (all pictures) and test (the first); its source."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, part in (("train", pictures), ("test", pictures[:1])):
        hub_table(part, labelled).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return f"hub:{folder}"
