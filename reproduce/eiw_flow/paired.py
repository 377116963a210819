"""Rows beside those of a control of the same seed."""

import pandas as pd

__all__ = ["beside"]


def beside(rows: pd.DataFrame, control: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """``rows`` that have a control, equal in ``by``, with its value as ``control``."""
    other = control[[*by, "value"]].rename(columns={"value": "control"})
    return rows.merge(other, on=by).assign(cell="")
