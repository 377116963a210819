"""The reference arrays: what the authors' code computed, where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch


def _folder() -> Path | None:
    if folder := os.environ.get("ENTROFLOW_REFERENCE"):
        return Path(folder)
    if data := os.environ.get("ENTROFLOW_DATA"):
        return Path(data).resolve().parent / "reference"
    return None


FOLDER = _folder()  # read once: other tests hide the variables from their own code
DTYPES = {"f64": torch.float64, "f32": torch.float32}


def arrays(name: str) -> dict[str, torch.Tensor]:
    """The arrays of one file, by their names; the test is skipped where it is not there."""
    path = FOLDER / f"{name}.npz" if FOLDER else None
    if path is None or not path.is_file():
        pytest.skip(f"no {name}.npz in {FOLDER or 'ENTROFLOW_REFERENCE (unset)'}")
    with np.load(path) as file:
        return {k: torch.from_numpy(np.array(file[k])) for k in file.files}
