"""CIFAR-like batches without the power of pickle: what they are made of is built, nothing else.

A batch is a dict of arrays, lists, strings and numbers. A pickle is a program that may call any
function that it names. Here it may name what numpy's arrays need, each replaced by a function of
ours that makes an empty array, a type of number or latin-1 bytes; any other name is refused before
anything is imported.
"""

from __future__ import annotations

__all__ = ["unpickle"]

import io
import pickle
import re
from collections.abc import Callable
from typing import Any, ClassVar

from datamodules.cache import DataError, one_line

import numpy as np


def _array(kind: object, shape: object, _code: object) -> np.ndarray:
    # how every array begins; its shape and bytes follow as its state
    if kind is not _ndarray or shape != (0,):
        raise pickle.UnpicklingError("an array that does not begin empty")
    return np.empty(0, np.int8)


def _dtype(code: Any, *_: object) -> np.dtype:
    if not re.fullmatch(r"[<>=|]?([biuf]\d{1,2}|\?)", str(code)):
        raise pickle.UnpicklingError(f"an array of {code!r}")
    return np.dtype(np.dtype(code), copy=True)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # how Python 3 writes bytes for Python 2
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes by way of {encoding!r}")
    return text.encode("latin1")


def _ndarray(*_: object) -> None:
    raise pickle.UnpicklingError("an array made by a call")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class _Refused(pickle.UnpicklingError):
    pass


# The unpickler that is written in Python keeps its memo in a dict; the one in C allocates as much
# as a forged index asks for.
class _Batches(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        # setting the state of anything else could change one of our functions
        if not isinstance(self.stack[-2], np.ndarray | np.dtype):
            raise pickle.UnpicklingError("state for what is no array")
        super().load_build()

    dispatch: ClassVar = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def unpickle(where: str, content: bytes) -> dict[str, Any]:
    """A dict of arrays, lists, strings and numbers, written by Python 2 or 3.

    Raises:
        DataError: if ``content`` names anything else, is damaged, or is no such dict.
    """
    try:
        value = _Batches(io.BytesIO(content), encoding="latin1").load()
    except _Refused as refused:
        raise DataError(
            f"{where} is refused: its pickle wants {refused}, which no data batch needs; "
            "get it again from where it was published"
        ) from None
    except Exception as error:  # a damaged pickle may come to grief anywhere
        raise DataError(
            f"{where} is truncated or no data batch ({one_line(error)}); get it again"
        ) from error
    if not isinstance(value, dict) or not all(isinstance(key, str | bytes) for key in value):
        raise DataError(f"{where} is no data batch: it holds a {type(value).__name__}")
    return {key if isinstance(key, str) else key.decode("latin1"): value[key] for key in value}
