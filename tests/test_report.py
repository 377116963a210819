"""The report: numbers by value, and two pages that show all they were given and fetch nothing."""

import base64
import hashlib
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sections import SVG, TARGET, section, table, verdict

from reproduce.progress import duration
from reproduce.report import board, write
from reproduce.wording import interval, number, prose, spread

ROOT = Path(__file__).resolve().parents[1]


class Page(HTMLParser):
    """What a reader meets: text, ids, links, resources, and which tags stay open."""

    VOID = frozenset({"meta", "link", "img", "input"})

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.open, self.words = [], [], [], [], []
        self.cells, self.alts, self.scripts, self.policy = [], [], [], ""
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        self.ids += [found["id"]] if "id" in found else []
        self.alts += [found["alt"]] if "alt" in found else []
        if "href" in found:
            (self.links if tag == "a" else self.loads).append(found["href"])
        self.loads += [found["src"]] if "src" in found else []
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        if "script" in self.open:
            self.scripts.append(data)
            return
        self.words.append(data)
        if self.cells and {"td", "th"} & set(self.open):
            self.cells[-1] += data


def pages(tmp_path, sections, tier="small"):
    html = write(tier, sections, tmp_path / "results", {"commit": "3f0c2d9"})
    return html.read_text("utf-8"), html.with_suffix(".md").read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (math.nan, ""),
        (pd.NA, ""),
        (0, "0"),
        (-0.0, "0"),
        (0.000123, "1.23e-4"),
        (0.00123456, "0.0012346"),
        (1021.3478, "1021.3"),
        (254.5812, "254.58"),
        (200.0, "200"),
        (np.float32(0.5), "0.5"),
        (130647294, "130647294"),
        (-12.3456789, "-12.346"),
        (4.1e15, "4.1e15"),
        (math.inf, "inf"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((254.5812, 251.2, 258.0, 3), "254.6 [251.2, 258.0], n = 3"),
        ((254.5812, None, math.nan, 2), "254.58, n = 2"),
        ((254.5812, 251.2, 258.0), "254.6 [251.2, 258.0]"),
        ((1.0976691, 1.0976571, 1.0976811, 5), "1.09767 [1.09766, 1.09768], n = 5"),
        ((0.03114, -0.00931, 0.07159, 5), "0.03114 [-0.00931, 0.07159], n = 5"),
        ((1.234e-5, 1.1e-5, 1.4e-5, 3), "1.234e-5 [1.100e-5, 1.400e-5], n = 3"),
        ((-1e-9, -0.5, 0.5, 3), "0.0000 [-0.5000, 0.5000], n = 3"),
        ((7.0, 7.0, 7.0, 3), "7 [7, 7], n = 3"),
        ((None, None, None, 0), ""),
    ],
)
def test_interval(values, text):
    assert interval(*values) == text


def test_interval_names_its_unit():
    assert interval(2.5, 2.0, 3.0, 5, "nats") == "2.500 [2.000, 3.000] nats, n = 5"


def test_spread_shares_decimals_even_when_wide():
    assert spread(1021.3478, 900.1, 1142.6) == ("1021", "900", "1143")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (41, "41 s"), (852, "14 min"), (12240, "3 h 24 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_prose_sets_indices_and_code_but_no_markup():
    assert prose("S_NN < `S_tot` & ne_epochs") == (
        "S<sub>NN</sub> &lt; <code>S_tot</code> &amp; ne_epochs"
    )


def test_board_is_a_markdown_table_by_paper():
    sections = [
        section(verdicts=[verdict(statement="a | b * c"), verdict(ours=None, verdict="not run")]),
        section({"id": "eiw-order", "paper": "eiw-flow"}),
        section({"id": "x", "paper": "another"}, verdicts=[]),
    ]
    lines = board(sections).splitlines()
    assert lines[0] == (
        "| claim | statement | paper's value | ours, 95 % interval | smallest visible effect "
        "| verdict |"
    )
    assert [line.split(" |")[0] for line in lines[2:]] == [
        "| EIW-Flow: 1 claim",
        "| `ne-epochs/rises`",
        "| Neural Entropy: 2 claims",
        "| `ne-epochs/rises`",
        "| `ne-epochs/rises`",
    ]
    assert (
        r"| a \| b \* c | 254 nats | 254.6 [251.2, 258.0] nats, n = 3 | 4.12 nats | reproduced |"
        in lines[5]
    )
    assert lines[6].endswith("| 254 nats |  | 4.12 nats | not run |")


def test_html_shows_every_claim_and_row(tmp_path):
    claims = [verdict(statement=f"Claim {i}", reason=f"because {i}") for i in range(7)]
    html, markdown = pages(tmp_path, [section(table=table(40), verdicts=claims)])
    page = Page(html)
    for i in range(7):
        assert page.text.count(f"Claim {i} ne-epochs/rises") == 2  # on the board and below
        assert f"because {i}" in page.text
    for row in range(1, 41):
        assert f"{row}000" in page.cells
        assert re.search(rf"\| VP \| {row}000 \| S_NN \|", markdown)
    for cell in ("1.235", "[1.200, 1.270]", "1.1 ± 0.03", "not comparable", "F-c", "0.0281"):
        assert cell in page.cells
        assert f"| {cell} |" in markdown
    assert "failed" not in page.cells
    assert not page.open


def test_both_pages_say_what_chance_and_holm_say(tmp_path):
    verdicts = [
        verdict(),
        verdict(verdict="undecided", holm=False),
        verdict(verdict="contradicted", holm=None),
        verdict(kind="Identity", holm=None),
        verdict(verdict="not comparable", holm=None),
    ]
    html, markdown = pages(tmp_path, [section(verdicts=verdicts)])
    for text in (Page(html).text, markdown):
        assert "3 claims other than identities are judged here" in text
        assert "about 0.15 false verdicts among them (0.05 × 3)" in text
        assert "within their paper: 1 of 2 in Neural Entropy" in text
        assert "does not survive Holm" in text
        assert "Trend; slope per seed, Student t; p = 3.1e-4" in text
        assert "4.12 nats" in text
    assert "2 reproduced, 1 contradicted, 1 undecided, 1 not comparable, 0 not run" in markdown


def test_both_pages_show_cost_staleness_and_command(tmp_path):
    stale = ("gm3-vp-s1-0a1b2c3d: has no entropy@2",)
    html, markdown = pages(tmp_path, [section(stale=stale)])
    for text in (Page(html).text, markdown):
        assert "9 of 10 cells done, 1 failed, 1 stale; 2 min of compute" in text
        assert stale[0] in text
        assert "make ne-epochs TIER=small" in text
        assert "3f0c2d9" in text
        assert re.search(r"Records are stale in ne-epochs ?\.", text)
        assert re.search(r"Cells failed in ne-epochs ?\.", text)


def test_text_is_escaped(tmp_path):
    attack = "<script>alert('S_NN')</script>"
    target = dict.fromkeys(("title", "question", "how", "reference"), attack)
    changes = dict.fromkeys(("claim", "statement", "paper_value", "reason", "method"), attack)
    frame = table().assign(process=attack, note=attack).rename(columns={"updates": attack})
    html, markdown = pages(
        tmp_path,
        [
            section(
                target | {"departures": (attack,)},
                table=frame,
                verdicts=[verdict(**changes, unit=attack)],
                stale=(attack,),
            )
        ],
    )
    assert len(re.findall("<script", html)) == 1  # the page's own
    assert Page(html).cells.count(attack) >= 4
    assert not re.search(r"(?<!\\)<script", re.sub(r"`[^`]*`", "", markdown))


def test_figure_is_inside_the_page_and_beside_the_markdown(tmp_path):
    figure = tmp_path / "ne-epochs.svg"
    figure.write_text(SVG)
    html, markdown = pages(tmp_path, [section(figure=figure)])
    page = Page(html)
    assert page.alts == [TARGET["title"]]
    assert [load[:26] for load in page.loads[-1:]] == ["data:image/svg+xml;base64,"]
    assert r"![Entropy & time \<b\>](ne-epochs.png)" in markdown
    assert str(tmp_path) not in html + markdown


def test_page_is_sound_and_needs_no_network(tmp_path):
    figure = tmp_path / "f.svg"
    figure.write_text(SVG)
    others = [section({"id": "sf-x", "paper": "simflow"}, figure=figure), section(figure=figure)]
    html, _ = pages(tmp_path, others)
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    assert {"#ne-epochs", "#sf-x", "#board"} <= set(page.links)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert all(load.startswith("data:") for load in page.loads)
    assert not re.search(r"https?://|url\(|@import|<script \w", html)
    assert page.text.index("Verdict board") < page.text.index(TARGET["question"].split("_")[0])


def test_the_policy_names_the_one_script(tmp_path):
    page = Page(pages(tmp_path, [section()])[0])
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page.policy
    assert page.policy.startswith("default-src 'none';")


def test_same_input_same_bytes(tmp_path):
    one = pages(tmp_path / "a", [section()])
    assert one == pages(tmp_path / "b", [section()])
    assert sorted(p.name for p in (tmp_path / "a" / "results").iterdir()) == [
        "report.html",
        "report.md",
    ]


@pytest.mark.parametrize("tier", ["smoke", "small", "gpu", "paper"])
def test_nothing_to_show_yet(tmp_path, tier):
    html, markdown = pages(tmp_path, [], tier)
    assert "No target has been asked for" in Page(html).text
    assert board([]) == "No claim yet.\n"
    assert f"Tier `{tier}`" in markdown


def test_section_without_table_figure_or_claim(tmp_path):
    bare = section(table=pd.DataFrame(), verdicts=[], figure=tmp_path / "missing.svg")
    html, markdown = pages(tmp_path, [bare, section({"id": "x"}, table=table().iloc[:0])])
    assert "No row yet." in Page(html).text
    assert "No row yet." in markdown
    assert "![" not in markdown
    assert "<img" not in html


def test_smoke_says_that_nothing_is_comparable(tmp_path):
    for text in pages(tmp_path, [section(verdicts=[verdict(verdict="not comparable")])], "smoke"):
        assert "The numbers are not comparable with the paper." in text
        assert "No statistical claim is judged here" in text


def test_definitions_reach_both_pages(tmp_path):
    html, markdown = pages(tmp_path, [section()])
    page = Page(html)
    for word in ("KL bound", "Smallest visible effect", "Equivalence", "Holm", "Stale", "R2E2"):
        assert word in page.text
        assert re.search(rf"^- {word}( \(`[^)]*`\))?: ", markdown, re.M)
    assert "S<sub>NN</sub>" in html
    assert "#neural-entropy-neural-entropy-s_nn" in page.links  # from the target's table


def test_import_is_light():
    code = "import sys, reproduce.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize(
    ("ends", "labels"),
    [((160, 2500), ["200", "500", "1,000", "2,000"]), ((10, 20_000), None)],
)
def test_a_short_log_axis_has_few_labels_that_do_not_overlap(ends, labels, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    from reproduce import figures

    monkeypatch.setattr(plt, "close", lambda fig: None)
    fig, ax = figures.figure()
    ax.plot(ends, ends)
    ax.set_xscale("log")
    figures.save(fig, tmp_path / "axis")
    monkeypatch.undo()
    low, high = ax.get_xlim()
    seen = [t.get_text() for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high]
    assert labels is None or seen == labels
    assert not any(t.get_text() for t in ax.get_xticklabels(minor=True))
    plt.close(fig)


# ------------------------------------------------------------------------------- headline answers
@pytest.fixture
def asked(monkeypatch):
    """A page that answers one question, of two claims that are there and one that is not."""
    names = ("ne-epochs/rises", "ne-epochs/falls", "x/unknown")
    monkeypatch.setattr("reproduce.report.headlines", lambda: (("Does S_NN rise?", names),))
    claims = [verdict(), verdict(claim="ne-epochs/falls", verdict="contradicted")]
    return [section(verdicts=claims, costs={"a": 60.0, "b": 3540.0})]


def test_headline_questions_come_first_with_their_cost(asked, tmp_path):
    page, text = pages(tmp_path, asked)
    assert 0 < page.index('id="short"') < page.index('id="board"')
    assert "Seen with 60 min of compute." in page
    short = text[text.index("## In short") : text.index("## Verdict board")]
    assert "| Does S_NN rise? |  |  | 60 min of compute |" in short
    assert [line.split("|")[3].strip() for line in short.splitlines()[5:7]] == [
        "reproduced (weakest: D=9)",
        "contradicted (weakest: D=9)",
    ]


def test_a_question_without_a_judged_claim_is_not_asked(asked, tmp_path):
    for claim in asked[0].verdicts:
        claim.verdict = "not comparable"
    page, text = pages(tmp_path, asked)
    assert 'id="short"' not in page
    assert "In short" not in text


def test_costs_count_shared_cells_once_and_cells_that_were_not_run_not_at_all():
    from reproduce.report import costs_table

    both = [section(costs={"a": 60.0, "b": 3540.0, "c": 0.0}), section(costs={"a": 60.0})]
    other = section({"paper": "simflow"}, costs={"d": 0.0})
    assert costs_table([*both, other]).splitlines()[2:] == [
        "| Neural Entropy | 2 | 2 | 60 min |",
        "| SimFlow | 1 | 0 | not run yet |",
    ]


def test_headlines_name_claims_that_exist():
    from reproduce.definitions import headlines
    from reproduce.papers import targets

    known = {f"{t.id}/{c.slug}" for t in targets().values() for c in t.claims}
    assert {name for _, names in headlines() for name in names} <= known
