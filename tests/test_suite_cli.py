"""`python -m reproduce` as a user types it: at once, and in one line where it is wrong."""

from pathlib import Path

import pytest
import tiny

from reproduce.__main__ import main

HEAVY = {"torch", "lightning", "pandas", "matplotlib", "yaml", "numpy", "scipy", "jsonargparse"}


def lines(capsys) -> list[str]:
    out, error = capsys.readouterr()
    assert "Traceback" not in out + error
    assert "usage:" not in out + error
    return error.splitlines()


# ------------------------------------------------------------------------------------ at once
@pytest.mark.parametrize(
    "args",
    [
        ["reproduce.cli", "--help"],
        ["reproduce.cli", "fitt"],
        ["reproduce", "list"],
        ["reproduce", "list", "--json"],
        ["reproduce", "--help"],
        ["reproduce", "run", "--help"],
        ["reproduce", "run", "ne-epoch"],
        ["reproduce", "export", "ne-epoch"],
        ["reproduce", "weights", "--help"],
    ],
    ids=" ".join,
)
def test_help_and_list_import_nothing_heavy(args, tmp_path):
    module, *rest = args
    code = f"""
import runpy, sys
sys.argv = ["x", *{rest!r}]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    code = stop.code
print("HEAVY", sorted({HEAVY!r} & set(sys.modules)), code, file=sys.stderr)
"""
    done = tiny.python("-c", code, cwd=tmp_path)
    wrong = rest[-1] in ("fitt", "ne-epoch")
    assert done.stderr.splitlines()[-1] == f"HEAVY [] {2 if wrong else 0}"
    assert len(done.stderr.splitlines()) == 1 + wrong
    assert bool(done.stdout) != wrong


# ------------------------------------------------------------------------------- the suite's CLI
@pytest.mark.parametrize(
    "args",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "ne-epoch"],
        ["run", "ne-epochs", "nothing"],
        ["run", "ne-epochs", "--tier", "huge"],
        *(["status", "--tier", "huge"], ["tables", "--tier", ""], ["report", "--tier", "Smoke"]),
        *(["run", "ne-epochs", "--jobs", n] for n in ("0", "-3", "two", "")),
        ["run", "ne-epochs", "--launcher", "carrier-pigeon"],
        ["run", "ne-epochs", "--nothing"],
        ["list", "--tier", "smoke"],
        ["data", "nothing"],
        ["export"],
        ["export", "ne-epochs"],  # nothing is trained here
        ["export", "ne-epochs", "--tier", "huge"],
        ["weights", "nothing"],
        ["weights", "--tier", "smoke"],
    ],
    ids=" ".join,
)
def test_a_wrong_request_to_the_suite_is_one_line_and_exit_2(args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    (line,) = lines(capsys)
    assert line.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["run", "report", "tables", "status"])
@pytest.mark.parametrize("below", ["file", "record"])
def test_results_that_cannot_be_written_are_told_before_the_first_cell(
    command, below, tmp_path, capsys
):
    (tmp_path / "file").write_text("I was here first")
    folder = tmp_path / "file" / "x" if below == "file" else Path("/proc/entroflow")
    code = main([command, "ne-epochs", "--results", str(folder)])
    told = lines(capsys)
    if command == "status" and code == 0:  # it only looks
        return
    assert code == 2
    assert len(told) == 1
    assert str(folder) in told[0]
    assert command == "status" or "--results" in told[0]
    assert (tmp_path / "file").read_text() == "I was here first"
