"""The README does what it says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_of_python_run(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    code = code.replace("max_steps=500", "max_steps=20")
    script = tmp_path / "alone.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path,
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-800:]
    found = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    stored, total, lost = found["neural"], found["total"], found["match"]
    assert 0 < total < 3
    assert (total**0.5 - stored**0.5) ** 2 <= lost <= (total**0.5 + stored**0.5) ** 2


def run(block: int) -> dict:
    """What one of the README's blocks of Python makes, in a few updates."""
    code = re.findall(r"```python\n(.*?)```", README, re.S)[block]
    code = code.replace("max_steps=500", "max_steps=5")
    made: dict = {}
    exec(code.replace("Trainer(", "Trainer(enable_progress_bar=False, "), made)
    return made


def test_the_ten_lines_about_images_run(capsys):
    made = run(1)
    assert made["images"].shape == (16, 1, 8, 8)
    assert made["images"].isfinite().all()
    assert "S_NN (" in capsys.readouterr().out


def test_the_ten_lines_about_flows_run(capsys):
    made = run(2)
    assert made["digits"].shape == (16, 1, 8, 8)
    assert 0 <= made["digits"].min() <= made["digits"].max() <= 15
    assert 2 < float(made["bits_per_dim"](made["bound"], 64).mean()) < 6
    assert "bits/dim" in capsys.readouterr().out


def test_the_ten_lines_about_latents_run(capsys):
    made = run(3)
    assert made["digits"].shape == (10, 1, 8, 8)
    assert made["digits"].isfinite().all()
    assert capsys.readouterr().out.endswith("each block [15, 15, 15, 15]\n")


def test_every_command_exists():
    makefile = (ROOT / "Makefile").read_text()
    from reproduce.papers import targets

    for name in re.findall(r"(?:^ {4}|`)make ([a-z][a-z-]*)", README, re.M):
        if name in ("help", *targets()):
            continue
        assert re.search(rf"^{name}(?::| )", makefile, re.M), f"make {name}"


def test_every_file_exists():
    for path in re.findall(r"(?:\]\(|-c )((?:results|reproduce|[A-Z]+\.)[\w./-]+)", README):
        assert (ROOT / path).exists(), path


def test_answers_and_board_are_those_of_the_records():
    from reproduce.board import blocks, mark
    from reproduce.papers import targets
    from reproduce.publish import read_sections
    from reproduce.records import Store

    if not (ROOT / "results/small/records").exists():
        pytest.skip("no committed records")
    for name, table in blocks(read_sections("small", Store(ROOT / "results", "small"))).items():
        written = README.split(mark(name, "begin"))[1].split(mark(name, "end"))[0]
        assert written.strip() == table, name
    for target in targets().values():
        assert f"`{target.id}`" in README


@pytest.mark.parametrize("tier", ["small"])
def test_every_metric_of_a_target_is_measured(tier):
    from reproduce.papers import targets
    from reproduce.records import Store
    from reproduce.tables import observe

    for target in (t for t in targets().values() if not t.not_run):
        seen = observe(target, tier, Store(ROOT / "results", tier))
        if seen.cells["status"].eq("done").all():  # else it is on its way
            found, asked = set(seen.rows["metric"]), set(target.metrics)
            assert found <= asked, target.id
            # a metric of each block of a flow: larger tiers have more of them
            stems = {metric.rstrip("0123456789") for metric in found}
            asked -= {
                m for m in asked - found if m[-1].isdigit() and m.rstrip("0123456789") in stems
            }
            elsewhere = [e for e in target.evaluators if e.tiers and tier not in e.tiers]
            assert found == asked or elsewhere, (target.id, asked - found)


def test_an_overview_has_a_row_a_target_and_names_what_is_not_reproduced():
    from test_report import section, verdict

    from reproduce.report import overview

    claims = [verdict(), verdict(), verdict(verdict="undecided"), verdict(verdict="contradicted")]
    lines = overview([section(verdicts=claims), section({"id": "x"}, verdicts=[])]).splitlines()
    assert lines[0] == "| target | question | claims | contradicted or undecided |"
    assert lines[2].startswith("| Neural Entropy: 2 targets |")
    assert "| 2 reproduced, 1 contradicted, 1 undecided |" in lines[3]
    assert lines[3].endswith("| contradicted: `rises`; undecided: `rises` |")
    assert lines[4].startswith("| `x` |")
