"""A verdict: one row of ``claims.csv``."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

__all__ = ["COLUMNS", "Verdict", "claims_table"]

COLUMNS = (
    "claim target reference kind statement paper_value ours ci_low ci_high n unit margin method "
    "smallest_effect tier verdict reason"
).split()


@dataclass(frozen=True)
class Verdict:
    """One row of ``claims.csv``; ``p`` and ``holm`` appear in the report only."""

    claim: str
    target: str
    reference: str
    kind: str
    statement: str
    paper_value: str
    ours: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    unit: str
    margin: float | None
    method: str
    smallest_effect: float | None
    tier: str
    verdict: str
    reason: str
    p: float | None = None
    holm: bool | None = None


def claims_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """The rows of ``claims.csv``."""
    return pd.DataFrame([[getattr(v, c) for c in COLUMNS] for v in verdicts], columns=COLUMNS)
