"""Data sets of the Hugging Face Hub: read by column type, and kept as files that open offline."""

from __future__ import annotations

__all__ = ["hub_copy", "hub_source", "materialise", "read_copy"]

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from datamodules.cache import Arrays, DataError, cache_root, one_line, writing
from datamodules.pixels import PixelFile, to_pixels
from datamodules.places import Hub, Inputs, Source, check_counts

import numpy as np


def hub_source(name: str) -> Source:
    """The source ``hub:<name>``: a set on the Hub (``<name>[@<revision>]``) or a local folder."""
    return Source(lambda root: _splits(name), lambda split, root: _inputs(name), read_table)


def hub_copy(source: str) -> Path:
    """Where ``materialise`` keeps a source's copy: a folder that is there if the copy is whole."""
    return cache_root() / source / "hub"


def materialise(source: str, hub: Hub) -> list[str]:
    """Fetch a source's copy from the Hub into the cache once; what was fetched, from and to where.

    Its tables are written under our names of the splits, so that ``read_copy`` opens the folder
    without the network.

    Raises:
        DataError: if the Hub cannot be reached or the cache cannot be written.
    """
    import datasets

    target, lines = hub_copy(source), []
    if target.is_dir():
        return [f"{source}: found the copy of the Hub's {hub.name} in {target}"]
    partial = target.with_name("hub.partial")
    with writing(cache_root()):
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "data").mkdir(parents=True)
    try:
        for split, (theirs, count) in hub.splits.items():
            try:
                table = datasets.load_dataset(hub.name, split=theirs)
            except Exception as error:  # whatever a foreign format or the network comes up with
                raise DataError(
                    f"{source}: {hub.name} cannot be fetched from the Hub ({one_line(error)}); "
                    f"with the network run `make data SOURCE={source}` again, without it put the "
                    f"set's own files into $ENTROFLOW_DATA/{source}"
                ) from error
            if len(table) != count:
                raise DataError(
                    f"{source}: the Hub's {hub.name} has {len(table):,} images in {theirs}, not "
                    f"{count:,}; put the set's own files into $ENTROFLOW_DATA/{source}"
                )
            with writing(cache_root()):
                table.to_parquet(str(partial / "data" / f"{split}-00000-of-00001.parquet"))
            lines.append(
                f"{source} {split}: fetched {len(table):,} images from the Hub's {hub.name} "
                f"({theirs}) to {target}"
            )
        with writing(cache_root()):
            os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return lines


def read_copy(source: str, hub: Hub, split: str, inputs: Inputs, folder: Path) -> Arrays:
    """One split of what ``materialise`` has fetched; its count is checked."""
    arrays = read_table(split, inputs, folder)
    expected = (hub.splits[split][1], None)
    verified = check_counts(f"{source} {split}", arrays.labels, len(arrays.classes), expected)
    return arrays._replace(verified=verified)


def _inputs(name: str) -> Inputs:
    # A set on the Hub counts by name and revision alone, so that a cached one opens offline.
    folder = Path(name).expanduser()
    return (folder.resolve(),) if folder.is_dir() else (name,)


def _address(place: Path | str) -> tuple[str, str | None]:
    if isinstance(place, Path):
        return str(place), None
    path, _, revision = place.partition("@")
    return path, revision or None


def _error(name: Path | str, error: Exception) -> DataError:
    return DataError(
        f"hub:{name} cannot be loaded ({one_line(error)}); "
        "it needs the network once, or give the folder of a local copy: hub:<folder>"
    )


def _splits(name: str) -> Sequence[str]:
    from datasets import get_dataset_split_names

    (place,) = _inputs(name)
    path, revision = _address(place)
    with tempfile.TemporaryDirectory() as scratch:
        tables = scratch if isinstance(place, Path) else None
        try:
            return get_dataset_split_names(path, revision=revision, cache_dir=tables)
        except Exception as error:
            raise _error(name, error) from error


def read_table(split: str, inputs: Inputs, folder: Path) -> Arrays:
    """The first Image and the first ClassLabel column of one split; grey if all images are.

    Raises:
        DataError: if the set cannot be loaded, lacks such columns, or an image does not fit.
    """
    import datasets

    (name,) = inputs
    path, revision = _address(name)
    where = f"hub:{name} {split}"
    # A local copy needs no second one in the library's own cache, so its tables are passing.
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix="hub-") as scratch:
        tables = scratch if isinstance(name, Path) else None
        try:
            table = datasets.load_dataset(path, split=split, revision=revision, cache_dir=tables)
        except Exception as error:
            raise _error(name, error) from error
        types = table.features.items()
        image = next((key for key, kind in types if isinstance(kind, datasets.Image)), None)
        label = next((key for key, kind in types if isinstance(kind, datasets.ClassLabel)), None)
        if image is None or label is None:
            columns = ", ".join(f"{key} ({type(kind).__name__})" for key, kind in types)
            raise DataError(f"hub:{name} needs an Image and a ClassLabel column; it has {columns}")
        with PixelFile(folder, where) as pixels:
            rows = enumerate(table.select_columns(image))
            while True:
                try:
                    index, row = next(rows)
                except StopIteration:
                    break
                except Exception as error:  # Pillow meets damage with errors of many types
                    raise DataError(
                        f"{where}: an image cannot be decoded: {one_line(error)}"
                    ) from error
                if row[image] is None:
                    raise DataError(f"{where}: image {index} is missing")
                pixels.append(to_pixels(f"{where}: image {index}", row[image])[None])
            images = pixels.finish()
        return Arrays(images, np.asarray(table[label][:]), tuple(table.features[label].names))
