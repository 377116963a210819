"""Sources and their cache: right pixels, built once, and one clear line for all that fails."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from datamodules import cache, sources
from datamodules.sources import DataError, first_per_class, load, verify

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL = os.environ.get("ENTROFLOW_DATA")

TRAIN_IMAGES, TRAIN_LABELS = sources.MNIST_FILES["train"]
TEST_IMAGES, TEST_LABELS = sources.MNIST_FILES["test"]


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A cold cache, and no data but the test's own."""
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ENTROFLOW_DATA", raising=False)
    return tmp_path


def error_of(source, split="train", **options) -> str:
    with pytest.raises(DataError) as caught:
        load(source, split, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def refuse(*_args):
    raise AssertionError("read again, although it is in the cache")


def refuse_reading(monkeypatch, source):
    unread = replace(sources.SOURCES[source], read=refuse)
    monkeypatch.setitem(sources.SOURCES, source, unread)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def small_mnist(folder: Path, seed: int = 0, pack: bool = False) -> dict[str, np.ndarray]:
    """Four IDX files of 20 + 10 images of 5 x 4 in ``folder``; their arrays by file name."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for count, (images, labels) in zip((20, 10), sources.MNIST_FILES.values(), strict=True):
        arrays[images] = rng.integers(0, 256, (count, 5, 4), np.uint8)
        arrays[labels] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        data = gzip.compress(idx(array)) if pack else idx(array)
        (folder / (f"{name}.gz" if pack else name)).write_bytes(data)
    return arrays


def entries(places: Path) -> list[Path]:
    return sorted(path for path in (places / "cache").iterdir() if path.is_dir())


# digits ---------------------------------------------------------------------------------------


def test_digits_are_the_embedded_ones_in_order():
    from sklearn.datasets import load_digits

    genuine = load_digits()
    train, test = load("digits"), load("digits", "test")
    assert (train.images.shape, test.images.shape) == ((1500, 1, 8, 8), (297, 1, 8, 8))
    assert (len(train), len(test)) == (1500, 297)
    assert train.classes == tuple("0123456789")
    assert (train.source, train.split, test.split) == ("digits", "train", "test")
    both = np.concatenate([train.images, test.images])[:, 0]
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), genuine.target)
    scale = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    np.testing.assert_array_equal(both, np.array(scale)[genuine.images.astype(int)])


def test_digits_have_the_fingerprint_that_records_rely_on(tmp_path, monkeypatch):
    first = load("digits").fingerprint
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "another"))
    assert load("digits").fingerprint == first
    assert first.startswith("d102043055bc")
    assert load("digits", "test").fingerprint.startswith("6e1bda94eaf1")


def test_arrays_are_mapped_and_read_only():
    data = load("digits")
    assert isinstance(data.images, np.memmap)
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int64)
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 0


def test_the_second_load_reads_the_cache_alone(places, monkeypatch):
    first = load("digits")
    for lock in (places / "cache").glob("*.lock"):
        lock.unlink()
    refuse_reading(monkeypatch, "digits")
    second = load("digits")
    np.testing.assert_array_equal(second.images, first.images)
    assert not list((places / "cache").glob("*.lock"))  # a cache that is read-only serves as well


def test_unknown_sources_and_splits_are_told_what_there_is():
    assert "digits, mnist and hub:<name>" in error_of("imagenet")
    assert "hub:<name>" in error_of("hub:")
    assert "'val'; it has train, test" in error_of("digits", "val")
    assert "'val'; it has train, test" in error_of("mnist", "val")


# mnist ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
def test_idx_files_are_read_raw_and_gzipped(places, monkeypatch, pack):
    monkeypatch.setattr(sources, "MNIST_MD5", {})
    arrays = small_mnist(places / "files", pack=pack)
    for split, (images, labels) in sources.MNIST_FILES.items():
        data = load("mnist", split, root=places / "files")
        np.testing.assert_array_equal(data.images, arrays[images][:, None])
        np.testing.assert_array_equal(data.labels, arrays[labels])
        assert data.fingerprint == cache.fingerprint(arrays[images][:, None], arrays[labels])


def test_the_first_folder_that_has_all_files_wins(places, monkeypatch):
    monkeypatch.setenv("ENTROFLOW_DATA", str(places / "data"))
    root, data = places / "root", places / "data"
    folders = [root, data / "mnist", data, places / "cache" / "mnist"]
    pictures = [small_mnist(folder, seed)[TRAIN_IMAGES] for seed, folder in enumerate(folders)]
    for folder, expected in zip(folders, pictures, strict=True):
        np.testing.assert_array_equal(load("mnist", root=root).images[:, 0], expected)
        (folder / TRAIN_LABELS).unlink()
    assert "no folder has" in error_of("mnist", root=root)


def test_missing_files_say_what_where_and_how(places, monkeypatch):
    message = error_of("mnist", "test")
    assert "ENTROFLOW_DATA is not set" in message
    monkeypatch.setenv("ENTROFLOW_DATA", str(places / "data"))
    message = error_of("mnist", "test", root=places / "mine")
    for part in (TEST_IMAGES, TEST_LABELS, "`make data SOURCE=mnist`"):
        assert part in message
    for folder in ("mine", "data/mnist", "data", "cache/mnist"):
        assert f"{places / folder}" in message
    assert "not set" not in message
    assert not (places / "cache").exists()


def overwrite(name, change):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))
        return path

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (overwrite(TRAIN_IMAGES, lambda b: b[:-1]), "holds 399 bytes"),
        (overwrite(TRAIN_IMAGES, lambda b: b + b"x"), "holds 401 bytes"),
        (overwrite(TRAIN_IMAGES, lambda b: b[:9]), "is truncated"),
        (overwrite(TRAIN_IMAGES, lambda b: b""), "begins with"),
        (overwrite(TRAIN_IMAGES, lambda b: idx(np.zeros(20, np.uint8))), "begins with 00000801"),
        (overwrite(TRAIN_LABELS, lambda b: b"\0\0\x0d\1" + b[4:]), "begins with 00000d01"),
        (overwrite(TRAIN_LABELS, lambda b: idx(np.zeros(19, np.uint8))), "20 images"),
    ],
)
def test_damaged_idx_files_are_named(places, damage, said):
    small_mnist(places / "files")
    path = damage(places / "files")
    message = error_of("mnist", root=places / "files")
    assert str(path) in message
    assert said in message


def test_labels_beyond_the_classes_are_refused(places):
    small_mnist(places / "files")
    overwrite(TRAIN_LABELS, lambda b: b[:-1] + b"\x0a")(places / "files")
    assert "labels 0..10 do not fit 10 classes" in error_of("mnist", root=places / "files")


@pytest.mark.parametrize(
    "cut",
    [
        lambda b: b[:-30],
        lambda b: b[:5],
        lambda b: b[:-30] + bytes(30),
        lambda b: b[:10] + b"\xff" * 99,
    ],
)
def test_a_truncated_gz_is_one_line(places, cut):
    small_mnist(places / "files", pack=True)
    path = overwrite(f"{TRAIN_IMAGES}.gz", cut)(places / "files")
    assert f"{path} is truncated or damaged" in error_of("mnist", root=places / "files")


def test_a_gz_that_is_not_the_published_one_is_refused(places):
    small_mnist(places / "files", pack=True)
    message = error_of("mnist", root=places / "files")
    assert f"{TRAIN_IMAGES}.gz is not the published file" in message
    assert "f68b3c2dcbeaaa9fbdd348bbdeb94873" in message


def test_a_changed_file_makes_a_new_entry(places):
    small_mnist(places / "files")
    first = load("mnist", root=places / "files")
    path = places / "files" / TRAIN_IMAGES
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + bytes([255 - int(first.images[-1, 0, -1, -1])]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = load("mnist", root=places / "files")
    assert second.images[-1, 0, -1, -1] == 255 - int(first.images[-1, 0, -1, -1])
    assert second.fingerprint != first.fingerprint


def test_large_files_are_identified_by_size_time_and_ends(places, monkeypatch):
    monkeypatch.setattr(cache, "WHOLE", 10)
    monkeypatch.setattr(cache, "SAMPLE", 4)
    path = places / "large"
    seen = set()
    for content, when in ((b"a" * 20, 1), (b"a" * 21, 1), (b"a" * 20, 2), (b"a" * 19 + b"b", 1)):
        path.write_bytes(content)
        os.utime(path, ns=(when, when))
        seen.add(cache.identify([path]))
    assert len(seen) == 4


# the cache ------------------------------------------------------------------------------------

SLOW = """
import os, sys, time
from pathlib import Path
import numpy as np
from datamodules import sources

def read(split, inputs):
    with open(sys.argv[1] + "/built", "a") as log:
        log.write("x")
    time.sleep(float(sys.argv[3]))
    return sources.Arrays(np.full((3, 1, 2, 2), 7, np.uint8), np.arange(3), ("a", "b", "c"))

sources.SOURCES["slow"] = sources.Source(lambda: ("train",), lambda s, r: ("x",), read)
Path(sys.argv[1], "ready" + sys.argv[2]).touch()
while not Path(sys.argv[1], "go").exists():
    time.sleep(0.01)
print(sources.load("slow").images.sum())
"""


def slow(places, name, seconds):
    return subprocess.Popen(
        [sys.executable, "-B", "-c", SLOW, str(places), name, str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(*paths):
    end = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"never saw {paths}"
        time.sleep(0.01)


def test_two_cold_processes_build_once(places):
    pair = [slow(places, name, 1.0) for name in "ab"]
    wait_for(places / "readya", places / "readyb")
    (places / "go").touch()
    for process in pair:
        assert process.communicate(timeout=120) == ("84\n", "")
    assert (places / "built").read_text() == "x"
    assert len(entries(places)) == 1


def test_the_lock_dies_with_its_process(places):
    (places / "go").touch()
    dead = slow(places, "a", 600)
    wait_for(places / "built")
    dead.send_signal(signal.SIGKILL)
    dead.communicate(timeout=120)
    assert slow(places, "b", 0).communicate(timeout=120) == ("84\n", "")
    assert (places / "built").read_text() == "xx"


@pytest.mark.parametrize(
    "damage",
    [
        overwrite("images.npy", lambda b: b[:-1]),
        overwrite("images.npy", lambda b: b + b"\0"),
        overwrite("labels.npy", lambda b: b[:100]),
        overwrite("labels.npy", lambda b: b""),
        overwrite("meta.json", lambda b: b[:50]),
        overwrite("meta.json", lambda b: b"[]"),
        overwrite("meta.json", lambda b: b.replace(b'"count": 297', b'"count": 296')),
        lambda folder: (folder / "images.npy").unlink(),
    ],
)
def test_a_damaged_entry_is_set_aside_and_rebuilt(places, capfd, damage):
    first = load("digits", "test")
    (folder,) = entries(places)
    expected = np.array(first.images), np.array(first.labels)
    del first
    damage(folder)
    second = load("digits", "test")
    np.testing.assert_array_equal(second.images, expected[0])
    np.testing.assert_array_equal(second.labels, expected[1])
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"{folder}.damaged" in told[0]
    load("digits", "test")
    assert capfd.readouterr().err == ""


def test_a_half_written_entry_of_a_killed_process_is_replaced(places):
    load("digits", "test")
    (folder,) = entries(places)
    folder.rename(f"{folder}.partial")
    load("digits", "test")
    assert entries(places) == [folder]


def test_an_unwritable_cache_names_the_mend(places, monkeypatch):
    (places / "file").write_text("")
    monkeypatch.setenv("ENTROFLOW_CACHE", str(places / "file" / "cache"))
    message = error_of("digits")
    assert str(places / "file" / "cache") in message
    assert "set ENTROFLOW_CACHE" in message


def test_a_full_cache_names_the_mend_and_leaves_nothing(places):
    code = (
        "import resource\n"
        "from datamodules.sources import DataError, load\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    load('digits')\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.check_output([sys.executable, "-B", "-c", code], cwd=ROOT, text=True)
    assert len(told.splitlines()) == 1
    assert "set ENTROFLOW_CACHE" in told
    assert entries(places) == []


def test_a_cache_inside_the_checkout_is_refused(places, monkeypatch):
    monkeypatch.setattr(cache, "__file__", str(places / "checkout" / "datamodules" / "cache.py"))
    monkeypatch.setenv("ENTROFLOW_CACHE", str(places / "checkout" / "results" / "cache"))
    assert "inside the checkout" in error_of("digits")
    assert not (places / "checkout").exists()


def test_the_cache_is_in_the_home_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("ENTROFLOW_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "entroflow"


def test_verify_describes_every_split_and_sees_a_flipped_bit(places):
    small_mnist(places / "files")
    train = load("mnist", root=places / "files")
    lines = verify("mnist", places / "files")
    assert lines[0] == (
        f"mnist train: 20 images 1x5x4, 10 classes, fingerprint {train.fingerprint[:12]}"
    )
    assert lines[1].startswith("mnist test: 10 images 1x5x4, 10 classes, fingerprint ")
    path = Path(str(train.images.filename))
    path.write_bytes(path.read_bytes()[:-1] + bytes([255 - int(train.images[-1, 0, -1, -1])]))
    with pytest.raises(DataError, match="damaged; delete it"):
        verify("mnist", places / "files")


# hub ------------------------------------------------------------------------------------------


def picture(mode: str, size: tuple[int, int], level: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, size, level if mode in ("L", "I;16") else (level, 2, 3)).save(file, "PNG")
    return file.getvalue()


def hub_folder(folder: Path, pictures: list[bytes], labelled: bool = True) -> str:
    """A local data set with the splits train (all pictures) and test (the first); its source."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    label = ClassLabel(names=["cat", "dog"]) if labelled else Value("int64")
    features = Features({"id": Value("int64"), "img": Image(), "kind": label})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, part in (("train", pictures), ("test", pictures[:1])):
        columns = {
            "id": list(range(len(part))),
            "img": [{"bytes": data, "path": None} for data in part],
            "kind": [1 - i % 2 for i in range(len(part))],
        }
        table = Dataset.from_dict(columns, features=features)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return f"hub:{folder}"


def test_a_local_hub_folder_is_read_by_column_type_and_once(places, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", places / "second copy")
    name = hub_folder(places / "set", [picture("RGB", (5, 4), level) for level in (10, 20, 30)])
    first = load(name)
    assert first.images.shape == (3, 3, 4, 5)
    np.testing.assert_array_equal(first.images[:, 0, 2, 2], [10, 20, 30])
    np.testing.assert_array_equal(first.images[1, :, 0, 0], [20, 2, 3])
    np.testing.assert_array_equal(first.labels, [1, 0, 1])
    assert first.classes == ("cat", "dog")
    told = verify(name)
    assert [line.partition(f"{name} ")[2].partition(" 3x4x5")[0] for line in told] == [
        "train: 3 images",
        "test: 1 images",
    ]
    assert not list((places / "cache").glob("hub-*"))
    assert not (places / "second copy").exists()
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", refuse)
        assert load(name).fingerprint == first.fingerprint
    hub_folder(places / "set", [picture("RGB", (5, 4), level) for level in (10, 20, 31)])
    assert load(name).images[2, 0, 0, 0] == 31


def test_hub_images_are_grey_only_if_all_are(places):
    grey, colour = picture("L", (2, 2), 9), picture("RGB", (2, 2), 1)
    assert load(hub_folder(places / "grey", [grey, grey])).images.shape == (2, 1, 2, 2)
    for order in ([grey, colour], [colour, grey]):
        images = load(hub_folder(places / f"mixed{order[0] == grey}", order)).images
        pixels = {tuple(image[:, 0, 0].tolist()) for image in images}
        assert pixels == {(9, 9, 9), (1, 2, 3)}


@pytest.mark.parametrize(
    ("pictures", "labelled", "said"),
    [
        ([picture("L", (2, 2), 1), picture("L", (3, 2), 1)], True, "image 1 is 2x3 and"),
        ([picture("I;16", (2, 2), 1000)], True, "image 0 is I;16, not 8 bits"),
        ([picture("L", (2, 2), 1)[:40]], True, "cannot be decoded"),
        ([picture("L", (2, 2), 1)], False, "needs an Image and a ClassLabel column; it has id"),
    ],
)
def test_hub_sets_that_do_not_fit_are_refused(places, pictures, labelled, said):
    name = hub_folder(places / "set", pictures, labelled)
    message = error_of(name)
    assert name in message
    assert said in message


def test_a_split_that_a_hub_set_lacks_is_named(places):
    name = hub_folder(places / "set", [picture("L", (2, 2), 1)])
    assert "validation" in error_of(name, "validation")


def test_the_hub_out_of_reach_is_one_line(places):
    code = "from datamodules.sources import load; load('hub:nobody/nothing')"
    away = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(places / "hf")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=ROOT, env=away, capture_output=True, text=True
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("datamodules.cache.DataError: hub:nobody/nothing cannot be loaded (")
    assert last.endswith("or give the folder of a local copy: hub:<folder>")


def test_a_revision_is_handed_on_and_has_its_own_entry(monkeypatch):
    import datasets

    asked = []

    def record(path, split, revision, cache_dir):
        asked.append((path, split, revision, cache_dir))
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", record)
    assert "(no network)" in error_of("hub:some/set@v1", "test")
    error_of("hub:some/set")
    assert asked == [("some/set", "test", "v1", None), ("some/set", "train", None, None)]


# first_per_class ------------------------------------------------------------------------------


def test_first_per_class_by_value():
    labels = np.array([2, 0, 2, 2, 1, 0, 0, 2])
    for n, expected in ((0, []), (1, [0, 1, 4]), (2, [0, 1, 2, 4, 5]), (9, range(8))):
        chosen = first_per_class(labels, n)
        assert chosen.dtype == np.int64
        np.testing.assert_array_equal(chosen, list(expected))
    assert len(first_per_class(np.array([], np.int64), 3)) == 0
    for wrong in ((labels, -1), (labels[None], 1)):
        with pytest.raises(ValueError, match="n >= 0"):
            first_per_class(*wrong)


# real data ------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.skipif(
    not REAL or not (Path(REAL) / "mnist").is_dir(), reason="ENTROFLOW_DATA has no folder mnist"
)
def test_mnist_is_the_published_one(monkeypatch):
    monkeypatch.setenv("ENTROFLOW_DATA", REAL)
    train, test = load("mnist"), load("mnist", "test")
    assert (train.images.shape, test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert train.labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
    assert test.labels[:6].tolist() == [7, 2, 1, 0, 4, 1]
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train.labels).tolist() == published
    assert abs(train.images.mean() / 255 - 0.1307) < 5e-5  # the mean that everyone normalises by
    assert abs(train.images.std() / 255 - 0.3081) < 5e-5
    assert verify("mnist")[0].endswith(f"fingerprint {train.fingerprint[:12]}")
    meta = json.loads(Path(str(train.images.filename)).with_name("meta.json").read_text())
    assert meta["class_counts"] == published
