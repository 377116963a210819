"""A user's own variant: a target with some keys changed, apart from the published tables.

``run TARGET --label NAME --set key=value`` puts records, tables and report under
``results/variants/NAME/<tier>``. What was changed stands in ``variant.json`` there, so that
``status`` and ``report`` need the label alone, and a label never means two things.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reproduce.errors import RequestError
from reproduce.records import write_atomically
from reproduce.target import Target

__all__ = ["changes_of", "check_arms", "folder_of", "parse", "remember"]


def folder_of(results: Path, label: str) -> Path:
    """The results folder of a label.

    Raises:
        RequestError: a label that is no plain name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", label):
        raise RequestError(f"--label {label!r}: use letters, digits, dots, dashes and underscores")
    return results / "variants" / label


def parse(pairs: Iterable[str]) -> dict[str, Any]:
    """``key=value`` pairs with YAML values.

    Raises:
        RequestError: something else than a pair.
    """
    import yaml

    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise RequestError(f"--set {pair!r}: write key=value, as in model.init_args.lr=0.01")
        try:
            # YAML 1.1 takes 1e-3 for a word
            number = re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
            changes[key] = float(value) if number else yaml.safe_load(value)
        except yaml.YAMLError:
            raise RequestError(f"--set {pair!r}: the value is no YAML") from None
    return changes


def changes_of(results: Path) -> dict[str, Any]:
    """The keys that a results folder changes: none, but for a variant's."""
    path = results / "variant.json"
    try:
        return json.loads(path.read_text())["set"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise RequestError(f"{path} is damaged: remove it and give --set again") from None


def remember(results: Path, label: str, changes: Mapping[str, Any]) -> None:
    """Write down what a label means.

    Raises:
        RequestError: nothing was changed, or the label means something else already.
    """
    known = changes_of(results)
    if known and changes and changes != known:
        was = " ".join(f"--set {k}={json.dumps(v)}" for k, v in known.items())
        raise RequestError(f"--label {label} means {was}: choose another label")
    if not known and not changes:
        raise RequestError(f"--label {label} is new: say what it changes with --set key=value")
    if not known:
        write_atomically(results / "variant.json", json.dumps({"set": dict(changes)}) + "\n")


def check_arms(targets: Iterable[Target], tier: str, changes: Mapping[str, Any]) -> None:
    """Raise RequestError if a change would make two arms of a target one."""
    for target in targets:
        varied = {k for arm in target.arms(tier) for k in arm.overrides}
        if clash := varied & changes.keys():
            raise RequestError(
                f"--set {min(clash)}: the arms of {target.id} set it, each its own; change another"
            )
