"""The Frechet distance between two sets of features, by torch-fidelity's own functions."""

from typing import Any

import torch

__all__ = ["frechet_distance"]


def frechet_distance(x: Any, y: Any) -> float:
    """``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`` of features (n, D) and (m, D).

    On features of another network than Inception it is ``fd_<extractor>``, never FID.

    Raises:
        ValueError: other shapes, fewer than two features a set, or values that are not finite.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    sets = [torch.as_tensor(v).detach().cpu().double() for v in (x, y)]
    if any(v.ndim != 2 or len(v) < 2 for v in sets):
        raise ValueError("features (n, D) wanted, at least two of each set")
    if sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(f"features of {sets[0].shape[1]} and of {sets[1].shape[1]} dimensions")
    if not all(v.isfinite().all() for v in sets):
        raise ValueError("features that are not finite have no Frechet distance")
    found = fid_statistics_to_metric(*map(fid_features_to_statistics, sets), verbose=False)
    return max(0.0, found[KEY_METRIC_FID])  # rounding may leave it just below
