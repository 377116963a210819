"""The report's definitions: nothing that a table shows is left without one."""

import re

import pytest

from reproduce.definitions import definitions, named_in, tiers
from reproduce.papers import PAPERS, targets
from reproduce.target import TIERS


@pytest.mark.parametrize("paper", PAPERS)
def test_every_metric_unit_and_axis_is_defined(paper):
    """In full: a new metric needs a line in the paper's ``definitions.yaml``."""
    for target in targets().values():
        if target.paper != paper:
            continue
        arms = [arm for tier in TIERS for arm in target.arms(tier)]
        names = {
            *target.metrics,
            *target.metrics.values(),
            *(axis for a in arms for axis in a.axes),
        }
        names |= {claim.unit for claim in target.claims} | {target.index}
        bare = [n for n in sorted(names - {""}) if not named_in(paper, [n])]
        assert not bare, f"{target.id}: no definition of {', '.join(bare)}"


@pytest.mark.parametrize("paper", PAPERS)
def test_every_name_is_in_use(paper):
    """What is defined is measured, asked for, or claimed somewhere in the paper's tables."""
    used = set()
    for target in targets().values():
        if target.paper == paper:
            used |= {*target.metrics, *target.metrics.values(), *(c.unit for c in target.claims)}
            used |= {axis for tier in TIERS for arm in target.arms(tier) for axis in arm.axes}
    for definition in definitions(paper):
        for name in definition.names:
            pattern = re.escape(name).replace(r"\*", ".*")
            assert any(re.fullmatch(pattern, n) for n in used), f"nothing is called {name}"


def test_anchors_are_unique():
    found = [d.anchor for g in ("verdicts", "tables", *PAPERS) for d in definitions(g)]
    assert len(found) == len(set(found)) > 60
    assert all(re.fullmatch(r"[\w-]+", anchor) for anchor in found)


def test_a_paper_s_own_term_comes_before_the_general_one():
    assert [d.term for d in named_in("neural-entropy", ["S_NN", "S_NN_se", "R2_log"])] == [
        "Neural entropy, S_NN",
        "Growth with N",
        "Standard errors",
    ]
    assert named_in("no-such-paper", ["S_NN"]) == []
    assert [d.term for d in named_in("no-such-paper", ["nats"])] == ["Nats and bits"]


def test_tiers_are_those_of_the_suite():
    assert set(tiers()) == set(TIERS)
