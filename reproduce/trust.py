"""What a record must satisfy before it is taken in, or anything is built from it.

A record's config turns into objects, and jsonargparse takes more than `class_path` for a name to
import or a file to open: any string where a class or a callable may stand, keys with dots or a
plus sign, `config`, and values that parse as YAML. So a config holds only what the suite's own
hold: plain names for keys, numbers, single words, and class paths, each of which must name a
class of the suite or of a few public namespaces of torch and Lightning. Anything else is refused
before it is imported.
"""

import importlib
import math
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from reproduce.cells import Cell, without_paths
from reproduce.errors import RequestError
from reproduce.papers import PAPERS
from reproduce.records import SIDECAR_BYTES, CorruptRecord, read_record

__all__ = ["check_config", "device_kind", "read", "read_sidecar"]

RECORD_BYTES = 5_000_000
UNPACKED_BYTES = 20_000_000

_OURS = {"model": ("lightning_modules",), "data": ("datamodules",)}
_NESTED = ("lightning_modules", "datamodules")
_FOREIGN = (
    "torch.nn",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.strategies",
)
_SECTIONS = {"seed_everything", "model", "data", "trainer", "marks", "checkpoint"}
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WORD = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_+-]*)?")  # no dot, slash, colon, brace or space
_HUB = re.compile(r"hub:[A-Za-z0-9_-][\w.-]*/[A-Za-z0-9_-][\w.-]*(@[\w.-]+)?", re.ASCII)
_CLASS = re.compile(r"([A-Za-z]\w*(?:\.[A-Za-z]\w*)*)\.([A-Za-z]\w*)", re.ASCII)
_EVALUATED = re.compile(r"[a-z][a-z0-9_]*@[0-9]{1,6}")


def read(path: Path, tier: str) -> tuple[Cell, dict[str, Any]]:
    """A record that may be used, and the cell that its own config describes.

    Args:
        path: ``<paper>/<cell>.json``.

    Raises:
        RequestError: it is absent, damaged, too large, of another tier or under another name, its
            hash is not that of its config, it names what a config may not name, or it holds what
            is no measurement; one line with the file and the reason.
    """
    try:
        return _read(path, tier)
    except RequestError as error:
        raise RequestError(f"{_place(path)}: {error}") from None


def read_sidecar(path: Path) -> bytes | None:
    """The bytes of a record's sidecar (arrays of numbers, no pickles), or None if it has none.

    Raises:
        RequestError: it is too large, damaged, or holds anything but arrays of numbers.
    """
    import numpy as np

    if not path.exists():
        return None
    try:
        _need_file(path, SIDECAR_BYTES)
        content = path.read_bytes()
        with zipfile.ZipFile(BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            _need(unpacked <= UNPACKED_BYTES, "unpacks to more than 20 MB")
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            for name in arrays.files:
                kind = getattr(arrays[name], "dtype", np.dtype(object)).kind
                _need(kind in "buif", f"{_shown(name)} is no array of numbers")
    except RequestError as error:
        raise RequestError(f"{_place(path)}: {error}") from None
    except Exception:  # any damage looks different: zip, header, pickle and memory errors
        raise RequestError(f"{_place(path)}: is no whole archive of plain arrays") from None
    return content


def device_kind(record: dict[str, Any]) -> str:
    """``cpu``, ``mps``, or ``cuda``, of which records give the device's name."""
    return record["device"] if record["device"] in ("cpu", "mps") else "cuda"


def _read(path: Path, tier: str) -> tuple[Cell, dict[str, Any]]:
    _need(path.parent.name in PAPERS, f"lies in no paper's folder ({', '.join(PAPERS)})")
    _need_file(path, RECORD_BYTES)
    try:
        record = read_record(path)
    except CorruptRecord:
        raise RequestError("is not whole JSON with a record's keys") from None
    except RecursionError:
        raise RequestError("is nested too deeply") from None
    if record is None:
        raise RequestError("is gone")
    for key, value in record.items():
        _check_plain(key, "a key", 100)
        _check_plain(value, key, 10_000 if key == "error" else 500)
    config = record["config"]
    check_config(config)
    _check_numbers(record)
    _need(record["tier"] == tier, f"is of tier {_shown(record['tier'])}, not {tier}")
    _need(
        type(record["seed"]) is int and record["seed"] == config["seed_everything"],
        "its seed is not its config's seed_everything",
    )
    _need(
        record["precision"] == str(config["trainer"].get("precision", "32-true")),
        "its precision is not its config's",
    )
    cell = Cell(path.parent.name, tier, record["seed"], {}, config)
    _need(record["config_sha256"] == cell.sha256, "its config_sha256 is not that of its config")
    _need(
        record["cell"] == cell.name == path.stem,
        f"its file or its `cell` is not named as its config says: {_shown(cell.name)}",
    )
    return cell, record


def _need(holds: bool, why: str) -> None:
    if not holds:
        raise RequestError(why)


def _need_file(path: Path, most: int) -> None:
    try:
        _need(path.is_file(), "is no file")
        _need(path.stat().st_size <= most, f"is larger than {most / 1e6:g} MB")
        path.open("rb").close()
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror})") from None


def _shown(value: Any) -> str:
    """A value from elsewhere in a message: one printable line of bounded length."""
    text = str(value)
    return (text if text.isprintable() else ascii(text))[:200]


def _place(path: Path) -> str:
    return _shown(str(path)[-200:])  # the end of it tells files apart


def _check_plain(node: Any, where: str, length: int, depth: int = 0) -> None:
    """Finite numbers, single printable lines, null, and lists and dicts of them."""
    _need(depth < 20, f"{where} is nested too deeply")
    if isinstance(node, dict):
        for key, value in node.items():
            _check_plain(key, f"a key of {where}", 100)
            _check_plain(value, where, length, depth + 1)
    elif isinstance(node, list):
        for value in node:
            _check_plain(value, where, length, depth + 1)
    elif isinstance(node, str):
        _need(node.isprintable(), f"{where} is not a single printable line")
        _need(len(node) <= length, f"{where} is longer than {length} characters")
    else:
        _need(node is None or _is_number(node), f"{where} holds a number that is not finite")


def _is_number(value: Any) -> bool:
    if isinstance(value, int):  # or a bool
        return abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


# ----------------------------------------------------------------------------------- the config
def check_config(config: Any) -> None:
    """Raise RequestError unless the config is whole and names nothing but what may be built."""
    _need(isinstance(config, dict), "its config is no mapping")
    strange = ", ".join(sorted(map(_shown, config.keys() ^ _SECTIONS)))
    _need(not strange, f"its config has too much or too little: {strange}")
    for section in _SECTIONS - {"seed_everything"}:
        _need(isinstance(config[section], dict), f"its config's {section} is no mapping")
    for section in _OURS:
        _need("class_path" in config[section], f"its config's {section} names no class")
        _need(
            isinstance(config[section].get("init_args"), dict),
            f"its config's {section} has no init_args",
        )
    _need(without_paths(config) == config, "its config holds paths or a logger")
    marks, last = config["marks"].get("updates"), config["trainer"].get("max_steps")
    whole = [last, *marks] if isinstance(marks, list) else [None]
    _need(all(type(n) is int and n >= 0 for n in whole), "its config has no usable marks")
    for section, value in config.items():
        _check_node(value, section, _OURS.get(section, _NESTED))


def _check_node(node: Any, where: str, packages: tuple[str, ...] = _NESTED) -> None:
    """Nothing in a config that would be imported or opened but classes that may be built."""
    if isinstance(node, list):
        for value in node:
            _check_node(value, where)
    elif isinstance(node, dict):
        for key in node:
            _need(bool(_KEY.fullmatch(key)), f"its config has a key {_shown(key)!r} in {where}")
        if "class_path" in node:
            _need(
                node.keys() <= {"class_path", "init_args"},
                f"its config's {where} has more than class_path and init_args",
            )
            _check_class(node["class_path"], where, packages)
        for key, value in node.items():
            hub = where == "data.init_args" and key == "source" and isinstance(value, str)
            if key != "class_path" and not (hub and _HUB.fullmatch(value)):
                _check_node(value, f"{where}.{key}")
    elif isinstance(node, str):
        _need(
            bool(_WORD.fullmatch(node)),
            f"its config's {where} is {_shown(node)!r}: no number, no single word",
        )


def _check_class(name: Any, where: str, packages: tuple[str, ...]) -> None:
    """A class, found under its name without importing anything but what it may come from.

    The module is imported as such, never by following attributes: else a module's own imports
    (``lightning_modules.callbacks.os``) would lead anywhere.
    """
    refusal = (
        f"its config's {where} names {_shown(name)}, which is no class of {', '.join(packages)}"
    )
    found = _CLASS.fullmatch(name) if isinstance(name, str) else None
    module, last = found.groups() if found else ("", "")
    ours = module.split(".")[0] in packages
    _need(ours or (packages is _NESTED and module in _FOREIGN), refusal)
    try:
        made = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError):
        raise RequestError(refusal) from None
    home = f"{getattr(made, '__module__', '')}."
    roots = (*_NESTED, "torch.nn", "torch.optim", "lightning.pytorch")
    _need(isinstance(made, type) and home.startswith(tuple(f"{r}." for r in roots)), refusal)


# ---------------------------------------------------------------------------------- the numbers
def _check_numbers(record: dict[str, Any]) -> None:
    _need(record["status"] in ("done", "failed"), "its status is neither done nor failed")
    _need(isinstance(record.get("error", ""), str), "its error is no text")
    words = [record["device"], *record["targets"], *record["packages"].values()]
    words += [record[k] for k in ("git_sha", "data_sha256") if record[k] is not None]
    words += [record["processor"]] if "processor" in record else []
    _need(
        all(isinstance(w, str) and 0 < len(w) <= 100 for w in [*words, record["utc"]]),
        "its device, processor, targets, packages, hashes or hour are no short texts",
    )
    _need(record["dirty"] in (True, False, None), "its dirty is neither true, false nor null")
    _need(type(record["params"]) is int and record["params"] >= 0, "its params are no count")
    for key in ("wall_s", "peak_mem_mb"):
        _need(_is_number(record[key]) and record[key] >= 0, f"its {key} is no duration or size")
    for part in ("metrics", "curves"):
        for key, values in record[part].items():
            _need(
                bool(_EVALUATED.fullmatch(key)) and isinstance(values, dict),
                f"its {part} of {_shown(key)} are not those of an evaluator",
            )
    for key, values in record["metrics"].items():
        for name, value in values.items():
            _need(
                value is None or _is_number(value),
                f"{_shown(name)} of {key} is neither a finite number nor null",
            )
    for key, curves in record["curves"].items():
        updates = curves.get("updates")
        _need(isinstance(updates, list), f"the curves of {key} have no updates")
        for name, curve in curves.items():
            _need(
                isinstance(curve, list) and len(curve) == len(updates) and _are_numbers(curve),
                f"{_shown(name)} of {key} is no curve of numbers, one for each of its updates",
            )
        _need(None not in updates, f"the updates of {key} are no numbers")


def _are_numbers(node: Any) -> bool:
    if isinstance(node, list):
        return all(map(_are_numbers, node))
    return node is None or _is_number(node)
