"""What several runs show together: growth with N at equal epochs and updates, and its laws."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from reproduce.neural_entropy.samples import EPOCHS
from reproduce.papers import printed

__all__ = ["fit_laws", "readings"]

MIXTURES = ("D9",)  # whose batches are of another size
_BATCH = 32
_SETTLED = 600  # updates before which a run only leaves its start


def readings(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """Further rows of ne-samples: convergence along each run, then laws over N for each seed."""
    stored = rows[rows["metric"] == "S_NN"]
    more = [row for _, run in stored.groupby("cell", sort=False) for row in _along(run, tier)]
    frame = pd.DataFrame(more, columns=rows.columns)
    for reading in ("epochs", "more_epochs", "updates"):
        metric = f"S_NN_at_equal_{reading}"
        for _, seed in frame[frame["metric"] == metric].groupby(["data", "process", "seed"]):
            more += _across(seed.sort_values("N"), reading)
    return pd.DataFrame(more, columns=rows.columns)


def _along(run: pd.DataFrame, tier: str) -> Iterator[dict[str, Any]]:
    """Rows of one run from its S_NN at the marks."""
    run = run.sort_values("updates")
    u, s = run["updates"].to_numpy(float), run["value"].to_numpy(float)
    base = run.iloc[-1].to_dict()
    for i, update in enumerate(u):
        if update / 2 in u:
            change = s[i] / s[list(u).index(update / 2)] - 1
            at = base | {"updates": int(update)}
            yield at | {"metric": "doubling", "value": change}
            yield at | {"metric": "converged", "value": float(abs(change) < 0.02)}
    yield base | {"metric": "S_NN_at_equal_updates", "value": s[-1]}
    late = u >= _SETTLED
    if late.sum() > 1:
        slope = np.polyfit(np.log(u[late]), s[late], 1)[0]
        yield base | {"metric": "nats_per_efold_of_updates", "value": slope}
    if base["data"] not in MIXTURES:
        for reading, epochs in zip(("epochs", "more_epochs"), EPOCHS[tier], strict=True):
            at = epochs * math.ceil(base["N"] / _BATCH)
            if at in u:
                value = s[list(u).index(at)]
                yield base | {"metric": f"S_NN_at_equal_{reading}", "value": value}
    for row in printed("neural-entropy"):
        if row["key"] == "samples-figure/S_NN" and row["at"] == {
            k: base[k] for k in ("data", "N")
        }:
            beyond = np.flatnonzero(s >= row["value"])
            if len(beyond) and beyond[0]:
                i = beyond[0]
                log_u = np.interp(row["value"], s[i - 1 : i + 1], np.log(u[i - 1 : i + 1]))
                yield base | {"metric": "updates_to_paper", "value": math.exp(log_u)}


def _across(runs: pd.DataFrame, reading: str) -> Iterator[dict[str, Any]]:
    """Laws over N of one seed; at least three N."""
    n, s = runs["N"].to_numpy(float), runs["value"].to_numpy(float)
    if len(n) < 3:
        return
    base = runs.iloc[-1].to_dict() | {"cell": ""}
    laws = fit_laws(n, s)
    laws["log_growth"] = laws["R2_log_minus_linear"] if laws["log_slope"] > 0 else -1.0
    for name, value in {"growth": s[-1] / s[0], **laws}.items():
        yield base | {"metric": f"{name}_{reading}", "value": value}


def fit_laws(n: np.ndarray, s: np.ndarray) -> dict[str, float]:
    """Least squares of ``S = a + b ln N``, ``S = a + b N`` and ``ln S = a + b ln N``.

    R2 is that of S itself for all three, so that they can be compared; 1 where S does not vary.
    """
    spread = float(((s - s.mean()) ** 2).sum())

    def r2(fitted: np.ndarray) -> float:
        return 1 - float(((s - fitted) ** 2).sum()) / spread if spread else 1.0

    log, linear = np.polyfit(np.log(n), s, 1), np.polyfit(n, s, 1)
    power = np.polyfit(np.log(n), np.log(s), 1)
    r2_log, r2_linear = r2(np.polyval(log, np.log(n))), r2(np.polyval(linear, n))
    return {
        "log_slope": log[0],
        "log_intercept": log[1],
        "power_exponent": power[0],
        "linear_slope": linear[0],
        "R2_log": r2_log,
        "R2_power": r2(np.exp(np.polyval(power, np.log(n)))),
        "R2_linear": r2_linear,
        "R2_log_minus_linear": r2_log - r2_linear,
    }
