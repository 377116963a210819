"""The house itself: which way imports point, what is committed, what installs."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = ("reproduce", "lightning_modules", "datamodules")
# what each floor may import of the others
BELOW = {
    "reproduce": {"lightning_modules", "datamodules"},
    "lightning_modules": set(),
    "datamodules": set(),
}


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import statement."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_downwards(package):
    for path in python_files(package):
        for module, name in imports(path):
            other = module.split(".")[0]
            if other in PACKAGES and other != package:
                guard = module == "datamodules" and name == "_torchvision"
                assert other in BELOW[package] or guard, f"{path.name} imports {module}"


def test_nothing_imports_pytorch_lightning():
    for package in PACKAGES:
        for path in python_files(package):
            assert "pytorch_lightning" not in {m.split(".")[0] for m, _ in imports(path)}


def test_files_hold_one_idea():
    for package in PACKAGES:
        for path in python_files(package):
            assert len(path.read_text().splitlines()) <= 350, path.name


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines()]


def test_no_machine_paths_and_no_package_indexes():
    # spelled apart, so that this file does not find itself
    forbidden = re.compile(
        "|".join([r"(?<![\w.])/(?:wo" + r"rk|fa" + r"rm|ho" + r"me|ro" + r"ot)/",
                  "pypi" + r"\.org", "download" + r"\.pytorch", "/opt/" + "wheels"])
    )  # fmt: skip
    for path in tracked():
        if path.suffix in (
            ".py",
            ".md",
            ".yaml",
            ".yml",
            ".toml",
            ".txt",
            ".cff",
            ".json",
            ".csv",
        ):
            if path.exists():
                assert not forbidden.search(path.read_text()), path


def test_constraints_lie_in_the_ranges_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = dict(line.split("==") for line in lines if "==" in line)
    exact = {name.lower().replace("_", "-"): version for name, version in exact.items()}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        assert name in exact, f"{name} has no exact version"
        assert requirement.specifier.contains(exact[name]), requirement
    assert "torchvision" in exact


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("results/smoke/claims.csv", True),
        ("results/small/runs/a-1/last.ckpt", True),
        ("results/small/models/a-1/model.safetensors", True),
        ("results/small/records/neural-entropy/a.json", False),
        ("results/small/ne-epochs.png", False),
        ("results/small/report.html", False),
    ],
)
def test_what_git_ignores(path, ignored):
    done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert (done.returncode == 0) == ignored


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "lightning_modules.callbacks",
        "datamodules.mixtures",
        "reproduce.runner",
        "reproduce.training",
    ],
)
def test_imports_alone_in_a_fresh_interpreter(module):
    # the guard must come before lightning, whichever of our modules a user imports first
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]


def make(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """make as a user calls it, not as `make test` hands its own flags down."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *args], cwd=ROOT, capture_output=True, text=True, check=check, env=env
    )


def test_make_help_lists_every_target():
    from reproduce.papers import PAPERS, targets

    words = make("help").stdout.split()
    commands = "all smoke test lint list data report weights export bench clean".split()
    for name in (*targets(), *PAPERS, *commands):
        assert name in words, name


def test_make_passes_options_on(monkeypatch):
    words = make("-n", "ne-epochs", "TIER=small", "SEEDS=2", "JOBS=1").stdout.split()
    wanted = "ne-epochs --tier small --results results --seeds 2 --jobs 1"
    assert words[-9:] == wanted.split()
    words = make("-n", "ne-epochs").stdout.split()
    assert words[-5:] == ["ne-epochs", "--tier", "smoke", "--results", "results"]
    words = make("-n", "export", "TARGET=ne-epochs", "RESULTS=mine").stdout.split()
    assert words[-6:] == ["export", "ne-epochs", "--tier", "smoke", "--results", "mine"]
    monkeypatch.setenv("NAME", "this-machine")  # as some shells do
    assert make("-n", "weights").stdout.split()[-1] == "weights"
    assert make("-n", "weights", "NAME=vgg16").stdout.split()[-2:] == ["weights", "vgg16"]


def test_unknown_target_is_no_silent_success():
    assert make("ne-nothing", check=False).returncode == 2
