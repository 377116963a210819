"""Made-up targets for the report: what a section holds, and nothing that has to be run."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd

from reproduce.report import Section

TARGET = {
    "id": "ne-epochs",
    "paper": "neural-entropy",
    "title": "Entropy & time <b>",
    "question": "Does S_NN rise?",
    "how": "One run a seed.\n\nMeasured at `marks`.",
    "reference": "T3, F-c",
    "departures": ("Smaller batches | fewer draws.",),
}
VERDICT = {
    "claim": "ne-epochs/rises",
    "kind": "Trend",
    "statement": "S_NN rises with training",
    "paper_value": "254 nats",
    "ours": 254.5812,
    "ci_low": 251.2,
    "ci_high": 258.0,
    "n": 3,
    "unit": "nats",
    "margin": None,
    "method": "slope per seed, Student t",
    "smallest_effect": 4.1234,
    "verdict": "reproduced",
    "reason": "weakest: D=9",
    "p": 0.00031,
    "holm": True,
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><g id="axes_1"/></svg>'


def verdict(**changes):
    return SimpleNamespace(**VERDICT | changes)


def table(rows=2):
    return pd.DataFrame(
        {
            "process": "VP",
            "updates": np.arange(1, rows + 1) * 1000.0,
            "metric": "S_NN",
            "unit": "nats",
            "mean": 1.2345678,
            "ci_low": 1.2,
            "ci_high": 1.27,
            "sd": 0.0281234,
            "n": 5,
            "n_failed": 0,
            "paper": [1.1] + [math.nan] * (rows - 1),
            "paper_source": ["F-c"] + [None] * (rows - 1),
            "paper_error": [0.03] + [math.nan] * (rows - 1),
            "note": ["not comparable"] + [None] * (rows - 1),
        }
    )


def section(target=None, **changes):
    fields = {
        "table": table(),
        "verdicts": [verdict()],
        "figure": None,
        "cells": 10,
        "done": 9,
        "failed": 1,
        "stale": (),
        "wall_s": 90.0,
        "command": "make ne-epochs TIER=small",
    }
    return Section(SimpleNamespace(**TARGET | (target or {})), **fields | changes)
