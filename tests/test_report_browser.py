"""The report in a real browser: it loads, fetches nothing, shows figures, filters and sorts."""

from pathlib import Path

import pandas as pd
import pytest
from chromium import PROGRAM, Chromium, Page
from sections import section, table, verdict

from reproduce.report import write

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not PROGRAM, reason="no chromium, chromium-browser or google-chrome"),
]
ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = sorted(p for p in ROOT.glob("results/*/report.html") if p.parts[-2] != "smoke")
FIGURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40">'
    "<style>rect { fill: teal }</style><rect width='80' height='40'/></svg>"
)
PHONE = 360

# as they are written, and what a reader may sort them by
VALUES = [254.6, None, 1.2e-5, -3.25, 1021.0]
VERDICTS = ["not run", "undecided", "reproduced", "not comparable", "contradicted"]


def _claims():
    """Five claims of one target: all verdicts, numbers small and large, one without a number."""
    for i, (value, word) in enumerate(zip(VALUES, VERDICTS, strict=True)):
        low, high = (None, None) if value is None else (value - 1e-6, value + 1e-6)
        yield verdict(
            claim=f"ne-epochs/{'edcba'[i]}", statement=f"Claim {i}", ours=value, verdict=word,
            ci_low=low, ci_high=high, reason="for want of power" if i == 1 else "", holm=None,
        )  # fmt: skip


def _sections(folder: Path):
    figure = folder / "ne-epochs.svg"
    figure.write_text(FIGURE)
    others = {"verdicts": [verdict(claim="eiw-order/x", statement="Bits fall", n=7)]}
    mixed = table(6).assign(mean=[3e-6, 20.0, 1e12, -4.5, 100.0, 0.5], ci_low=None, ci_high=None)
    long = {"statement": "A_very_long_name_" * 9 + " and its words " * 9, "paper_value": "x" * 99}
    return [
        section({"id": "eiw-order", "paper": "eiw-flow"}, figure=figure, stale=("a",), **others),
        section(table=mixed, verdicts=list(_claims()), figure=figure),
        section({"id": "sf-x", "paper": "simflow"}, verdicts=[verdict(claim="sf-x/y", **long)]),
        section({"id": "sf-bare", "paper": "simflow"}, table=pd.DataFrame(), verdicts=[]),
    ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write("small", _sections(folder), folder, {"commit": "3f0c2d9"})


@pytest.fixture
def page(browser, report):
    return Page(browser, report)


def shown(page):
    """The last letters of the claims on the board that a reader sees, from top to bottom."""
    return page(
        "[...document.querySelectorAll('[data-paper] tbody tr')].filter(r => r.checkVisibility())"
        ".map(r => r.querySelector('.id').textContent.slice(-1)).join('')"
    )


def status(page):
    return page("document.querySelector('[role=status]').textContent")


def ask(page, **given):
    """Fill in the form as a reader does: what is typed, chosen or ticked."""
    for name, value in given.items():
        if name == "verdict":
            page(f"document.querySelector('[name=verdict][value=\"{value}\"]').click()")
        elif name == "words":
            page("document.querySelector('[name=text]').focus()")
            page.type(value)
        else:
            choice = f"document.querySelector('select[name={name}]')"
            page(f"{choice}.value = '{value}'")
            page(f"{choice}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def reset(page):
    page("document.querySelector('[type=reset]').click()")
    page("new Promise(r => setTimeout(r))")


# --------------------------------------------------------------------------------- the whole page
def sound(page, file, width=1280):
    """What must hold of any report at any width."""
    assert page.complaints == []
    assert page.requests[0] == file.as_uri()
    assert all(address.startswith("data:") for address in page.requests[1:])
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    assert page(broken) == []
    assert page(
        "[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))"
        ".filter(h => !h.startsWith('#') || !document.getElementById(h.slice(1)))"
    ) == []  # fmt: skip
    # wide tables scroll in frames of their own, the page itself never sideways
    assert page("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 800, PHONE])
def test_page_is_sound(browser, report, width):
    page = Page(browser, report, width)
    sound(page, report, width)
    assert page("document.images.length") == 2
    paper = {}
    for scheme in ("light", "dark"):
        page.show(scheme=scheme)
        paper[scheme] = page("getComputedStyle(document.body).backgroundColor")
        faint = page(CONTRAST)
        assert min(faint.values()) >= 4.5, (scheme, faint)
    assert paper["light"] != paper["dark"]


# least contrast of text with what lies behind it (WCAG 2), by class or tag
CONTRAST = """(() => {
  const rgba = (c) => { const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number);
                        return [r, g, b, a]; };
  const light = (c) => { const [r, g, b] = rgba(c).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { const c = getComputedStyle(e).backgroundColor;
    return rgba(c)[3] || !e.parentElement ? c : behind(e.parentElement); };
  const least = {};
  for (const e of document.querySelectorAll("body, .badge, .soft, .id, a, button, label, th")) {
    if (!e.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    const name = e.className || e.tagName;
    least[name] = Math.min(least[name] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return least;
})()"""


@pytest.mark.slow
@pytest.mark.parametrize("file", PUBLISHED, ids=lambda p: p.parts[-2])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_published_page_is_sound(browser, file, width):
    sound(Page(browser, file, width), file, width)


def test_nothing_but_its_own_script_may_run(browser, page):
    page("document.body.append(Object.assign(document.createElement('script'),"
         "{textContent: 'window.ran = 1'}))")  # fmt: skip
    page("document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"ran = 1\">')")
    assert page("window.ran") is None
    assert any("Content Security Policy" in text for text in page.complaints)
    page("fetch('data:,x').catch(() => 0)")
    assert any("connect" in text for text in page.complaints)


def test_without_scripts_the_page_is_complete(browser, report):
    page = Page(browser, report, scripts=False)
    sound(page, report)
    assert shown(page) == "xedcbay"
    assert not page("document.getElementById('finder').checkVisibility()")
    assert page("document.querySelectorAll('thead button').length") == 0


def test_paper_leaves_nothing_out_and_has_no_controls(page):
    ask(page, verdict="undecided")
    assert shown(page) == "d"
    page.show("print")
    assert shown(page) == "xedcbay"
    assert not page("document.getElementById('finder').checkVisibility()")
    mark = "getComputedStyle(document.querySelector('thead button'), '::after').content"
    assert page(mark) == "none"


# ------------------------------------------------------------------------------------- filtering
def test_filters_add_up_and_are_taken_back(page):
    assert shown(page) == "xedcbay"
    assert status(page) == "7 of 7 claims shown"
    ask(page, verdict="undecided")
    assert shown(page) == "d"
    assert status(page) == "1 of 7 claims shown"
    ask(page, verdict="reproduced")  # either
    assert shown(page) == "xdcy"
    ask(page, paper="Neural Entropy")  # and
    assert shown(page) == "dc"
    ask(page, words="POWER want")  # all words, in any order and case
    assert shown(page) == "d"
    ask(page, words=" nowhere")
    assert shown(page) == ""
    assert status(page) == "0 of 7 claims shown"
    reset(page)
    assert shown(page) == "xedcbay"


def test_words_are_looked_for_in_all_of_a_claim(page):
    for words, found in (("eiw-order/x", "x"), ("bits fall", "x"), ("n = 7", "x"), ("1021", "a")):
        ask(page, words=words)
        assert shown(page) == found
        reset(page)


def test_a_paper_without_a_match_is_left_out(page):
    ask(page, paper="SimFlow")
    heads = "[...document.querySelectorAll('[data-paper] h3')].filter(h => h.checkVisibility())"
    assert page(f"{heads}.map(h => h.textContent)") == ["SimFlow"]
    # the targets' own sections are no part of the board
    assert page("document.querySelector('#ne-epochs .claims tbody tr').checkVisibility()")


def test_enter_does_not_leave_the_page(page, report):
    ask(page, words="power")
    page.press("Enter")
    assert shown(page) == "d"
    assert page("location.href") == report.as_uri()
    assert page.complaints == []  # nor does the policy have to hold it back


# --------------------------------------------------------------------------------------- sorting
BOARD = "[data-paper='Neural Entropy'] table"
RESULTS = "#ne-epochs .scroll table"


def press(page, table, label):
    """Press a column's head; the way it is sorted from then on."""
    head = (
        f"[...document.querySelector(`{table}`).tHead.rows[0].cells]"
        f".find(h => h.textContent === '{label}')"
    )
    page(f"{head}.querySelector('button').click()")
    ways = f"[...document.querySelectorAll(`{table} [aria-sort]`)].map(h => h.ariaSort)"
    assert page(f"{ways}.length") <= 1  # of one column at a time
    return page(f"{head}.getAttribute('aria-sort')")


def column(page, table, label):
    heads = f"[...document.querySelector(`{table}`).tHead.rows[0].cells].map(h => h.textContent)"
    at = page(heads).index(label)
    return page(
        f"[...document.querySelector(`{table}`).tBodies[0].rows].map(r => r.cells[{at}].innerText)"
    )


def test_board_is_sorted_and_a_third_press_restores_it(page):
    for label, up, down in (
        ("Claim", "edcba", "abcde"),  # Claim 0, Claim 1, ...
        ("Ours, 95 % interval", "bcead", "aecbd"),  # what has no number comes last either way
        ("Verdict", "cadbe", "ebdac"),
        ("Why", "decba", "decba"),
    ):
        for order, way in ((up, "ascending"), (down, "descending"), ("edcba", None)):
            assert press(page, BOARD, label) == way
            assert shown(page) == f"x{order}y"  # the other papers' tables stay as they are
    # and a table of one row has nothing to sort
    assert page("document.querySelectorAll('#sf-x .claims button').length") == 0


def test_result_tables_are_sorted_by_numbers(page):
    written = column(page, RESULTS, "ours")
    assert written == ["3e-6", "20", "1e12", "-4.5", "100", "0.5"]
    press(page, RESULTS, "ours")
    assert column(page, RESULTS, "ours") == ["-4.5", "3e-6", "0.5", "20", "100", "1e12"]
    press(page, RESULTS, "updates")
    assert press(page, RESULTS, "updates") == "descending"
    assert column(page, RESULTS, "updates") == [f"{i}000" for i in range(6, 0, -1)]
    press(page, RESULTS, "updates")
    assert column(page, RESULTS, "ours") == written


def test_numbers_are_read_as_they_are_written(browser, tmp_path):
    """Each of these is less than the next; the paper's words come after its numbers."""
    rising = ["-1.5e3", "−2 dB", "[1.2e-5, 0.1]", "0.5 ± 0.25", "2.97 against 2.98", "10", "1,024",
              "130,647,294 in all", "1.5e15", "inf", "2-norm", "3D", "about 270 K"]  # fmt: skip
    claims = [verdict(paper_value=text, claim=f"ne-epochs/{i}") for i, text in enumerate(rising)]
    file = write("small", [section(verdicts=claims[5:] + claims[4::-1])], tmp_path, {})
    page = Page(browser, file)
    press(page, BOARD, "Paper")
    assert column(page, BOARD, "Paper") == rising


def test_sorting_and_filtering_get_along(page):
    press(page, BOARD, "Ours, 95 % interval")
    ask(page, verdict="reproduced")
    ask(page, verdict="not comparable")
    assert shown(page) == "xbcy"
    press(page, BOARD, "Ours, 95 % interval")
    assert shown(page) == "xcby"


def test_the_keyboard_sorts(page):
    page(f"document.querySelector(`{BOARD} button`).focus()")
    page.press("Tab")
    page.press("Tab")
    assert page("document.activeElement.textContent") == "Ours, 95 % interval"
    page.press("Enter")
    assert shown(page) == "xbceady"
    page.press(" ")
    assert shown(page) == "xaecbdy"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page(outline) == "solid"  # and one sees where one is


def test_a_phone_sorts_and_filters_too(browser, report):
    page = Page(browser, report, PHONE)
    assert page(f"document.querySelector(`{BOARD} tbody td`).offsetWidth") > PHONE * 0.8
    button = f"document.querySelectorAll(`{BOARD} button`)[4]"
    page(f"{button}.scrollIntoView({{behavior: 'instant'}})")
    spot = page(f"{button}.getBoundingClientRect().toJSON()")
    middle = [spot[k] + spot[size] / 2 for k, size in (("x", "width"), ("y", "height"))]
    assert page(f"document.elementFromPoint(...{middle}) === {button}")  # in sight, not behind
    assert 0 < spot["left"] < spot["right"] < PHONE
    assert spot["height"] >= 24  # by a finger
    press(page, BOARD, "Verdict")
    assert shown(page) == "xcadbey"
    ask(page, verdict="not run")
    assert shown(page) == "e"
