"""Where the weights of others lie: nothing is downloaded here, `make weights` does that."""

import hashlib
import os
from pathlib import Path

__all__ = ["cached", "located", "sha256_of"]


def cached(name: str) -> Path:
    """Where `make weights` puts the file of this name; it need not be there."""
    # the place that datamodules.cache names too, but the floors do not know each other
    root = os.environ.get("ENTROFLOW_CACHE") or "~/.cache/entroflow"
    return Path(root).expanduser().resolve() / "weights" / name


def located(variable: str, name: str) -> Path | None:
    """The file that ``variable`` of the environment names, there or not; else the cached one.

    None where the environment names no file and the cache has none.
    """
    given = os.environ.get(variable)
    if given:
        return Path(given).expanduser()
    path = cached(name)
    return path if path.is_file() else None


def sha256_of(path: Path) -> str:
    """Of the file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
