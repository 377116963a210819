"""The torchvision guard: lightning imports after datamodules; a sound torchvision is left alone.

What a process has loaded cannot be unloaded, so each check runs in a fresh interpreter.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

needs_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="torchvision is not installed"
)


def run(code: str) -> str:
    """Standard output of ``code`` in a fresh interpreter; fails the test if it exits non-zero."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_lightning_and_transforms_import_after_datamodules():
    code = (
        "import datamodules, lightning\n"
        "try:\n"
        "    import torchvision.transforms as t\n"
        "    from PIL import Image\n"
        "    print(t.Resize(4)(Image.new('L', (8, 8))).size)\n"
        "except ModuleNotFoundError as error:\n"
        "    assert error.name == 'torchvision', error\n"
        "    print('(4, 4)')\n"
    )
    assert run(code) == "(4, 4)"


@needs_torchvision
def test_a_second_import_keeps_the_operators():
    # The second import finds the operators; then the first module dies, with all that it held.
    code = (
        "import gc, importlib, sys, torch\n"
        "import datamodules, datamodules._torchvision as guard\n"
        "importlib.reload(guard)\n"
        "assert guard.declare_missing_operators() is False\n"
        "del sys.modules['datamodules._torchvision'], guard\n"
        "import datamodules._torchvision\n"
        "gc.collect()\n"
        "print(torch.ops.torchvision.nms.default._schema)\n"
        "print(torch.ops.torchvision.qnms.default._schema)\n"
        "import torchvision.ops\n"
    )
    signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert run(code).splitlines() == [f"torchvision::{n}{signature}" for n in ("nms", "qnms")]


# A stand-in torchvision: the folder tells whether it has a library, load_library what that does.
STAND_IN = """
import importlib.util, os, sys, tempfile
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
import torch

folder = tempfile.mkdtemp()
if {library!r}:
    open(os.path.join(folder, "_C" + EXTENSION_SUFFIXES[-1]), "w").close()
found = ModuleSpec("torchvision", None, is_package=True)
found.submodule_search_locations.append(folder)
genuine = importlib.util.find_spec
spec = found if {installed!r} else None
importlib.util.find_spec = lambda name, *rest: (
    spec if name == "torchvision" else genuine(name, *rest)
)
calls = []
def load_library(path):
    calls.append(os.path.basename(path))
    if {broken!r}:
        raise OSError("undefined symbol")
torch.ops.load_library = load_library
import datamodules
print(len(calls), hasattr(torch.ops.torchvision, "nms"), hasattr(torch.ops.torchvision, "qnms"))
"""


@pytest.mark.parametrize(
    ("installed", "library", "broken", "expected"),
    [
        pytest.param(False, False, False, "0 False False", id="absent"),
        pytest.param(True, True, False, "1 False False", id="sound"),
        pytest.param(True, True, True, "1 True True", id="broken"),
        pytest.param(True, False, False, "0 True True", id="no-library"),
    ],
)
def test_operators_are_declared_only_where_they_are_missing(installed, library, broken, expected):
    code = STAND_IN.format(installed=installed, library=library, broken=broken)
    assert run(code) == expected


@needs_torchvision
def test_one_missing_operator_joins_those_of_another_guard():
    code = (
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define('nms(Tensor x) -> Tensor')\n"
        "def load_library(path):\n"
        "    raise OSError\n"
        "torch.ops.load_library = load_library\n"
        "import datamodules\n"
        "print(torch.ops.torchvision.nms.default._schema)\n"
        "print(hasattr(torch.ops.torchvision, 'qnms'))\n"
    )
    assert run(code).splitlines() == ["torchvision::nms(Tensor x) -> Tensor", "True"]


def test_operators_that_exist_are_left_alone():
    code = (
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define('nms(Tensor x) -> Tensor')\n"
        "library.define('qnms(Tensor x) -> Tensor')\n"
        "def load_library(path):\n"
        "    raise AssertionError('nothing is to be loaded')\n"
        "torch.ops.load_library = load_library\n"
        "import datamodules\n"
        "print(torch.ops.torchvision.nms.default._schema)\n"
    )
    assert run(code) == "torchvision::nms(Tensor x) -> Tensor"


def test_importing_datamodules_does_not_import_lightning_or_the_sources():
    code = (
        "import sys, datamodules\n"
        "heavy = ('lightning', 'sklearn', 'datasets', 'torchvision', 'datamodules.sources')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "from datamodules import DataError, ImageSet, load\n"
        "print(load.__module__)\n"
    )
    assert run(code).splitlines() == ["[]", "datamodules.sources"]


def test_an_unknown_name_is_an_attribute_error():
    import datamodules

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = datamodules.no_such_name
    assert {"load", "ImageSet", "DataError", "GaussianMixture", "MixtureData"} <= set(
        dir(datamodules)
    )
