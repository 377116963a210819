"""Data sets of the Hub, by name or from a local folder, on small tables made here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from datamodules.sources import load, verify

import numpy as np
import pytest
from image_files import cold, error_of, hub_folder, picture, refuse  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


def test_a_local_hub_folder_is_read_by_column_type_and_once(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "second copy")
    name = hub_folder(tmp_path / "set", [picture("RGB", (5, 4), level) for level in (10, 20, 30)])
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
    assert not list((tmp_path / "cache").glob("hub-*"))
    assert not (tmp_path / "second copy").exists()
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", refuse)
        assert load(name).fingerprint == first.fingerprint
    hub_folder(tmp_path / "set", [picture("RGB", (5, 4), level) for level in (10, 20, 31)])
    assert load(name).images[2, 0, 0, 0] == 31


def test_hub_images_are_grey_only_if_all_are(tmp_path):
    grey, colour = picture("L", (2, 2), 9), picture("RGB", (2, 2), 1)
    assert load(hub_folder(tmp_path / "grey", [grey, grey])).images.shape == (2, 1, 2, 2)
    for order in ([grey, colour], [colour, grey]):
        images = load(hub_folder(tmp_path / f"mixed{order[0] == grey}", order)).images
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
def test_hub_sets_that_do_not_fit_are_refused(tmp_path, pictures, labelled, said):
    name = hub_folder(tmp_path / "set", pictures, labelled)
    message = error_of(name)
    assert name in message
    assert said in message


def test_a_split_that_a_hub_set_lacks_is_named(tmp_path):
    name = hub_folder(tmp_path / "set", [picture("L", (2, 2), 1)])
    assert "validation" in error_of(name, "validation")


def test_the_hub_out_of_reach_is_one_line(tmp_path):
    code = "from datamodules.sources import load; load('hub:nobody/nothing')"
    away = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
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
