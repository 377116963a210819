"""Let ``import lightning`` work beside a torchvision whose compiled library does not load.

The torchvision wheel on the default index is built for CUDA. Beside a CPU build of torch its
``_C`` library cannot be loaded; torchvision swallows that, and then fails because it describes two
operators, ``torchvision::nms`` and ``torchvision::qnms``, that nobody has declared. lightning and
torchmetrics import torchvision whenever it is installed, so they fail with it.

Importing this module, before lightning, closes the gap: where the library does not load, the two
schemas are declared without kernels. Transforms and all else that is written in Python then work;
a call of a compiled operator still raises. Where torchvision is absent or sound, nothing changes.
"""

from __future__ import annotations

__all__ = ["declare_missing_operators"]

from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _library_path() -> str | None:
    """Path of torchvision's ``_C`` library, found without importing torchvision.

    Returns:
        The path, ``""`` if torchvision came without the library, None if there is no torchvision.
    """
    package = find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return None
    loader = (ExtensionFileLoader, EXTENSION_SUFFIXES)
    for folder in package.submodule_search_locations:
        library = FileFinder(folder, loader).find_spec("_C")
        if library is not None and library.origin is not None:
            return library.origin
    return ""


def declare_missing_operators() -> bool:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` if torchvision's library cannot.

    Calling it again, or importing this module again, changes nothing.

    Returns:
        True if this call declared the operators, False if there was no need to.
    """
    path = _library_path()
    if path is None:
        return False

    import torch

    namespace = torch.ops.torchvision
    missing = [name for name in OPERATORS if not hasattr(namespace, name)]
    if not missing:
        return False
    if path:
        try:
            torch.ops.load_library(path)
            return False
        except OSError:
            pass
    # A fragment, because the namespace may be defined only once in a process.
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        fragment.define(name + SIGNATURE)
    # The schemas die with their handle. It is kept in torch, as this module may be imported anew.
    vars(namespace)["_entroflow_fragment"] = fragment
    return True


declare_missing_operators()
