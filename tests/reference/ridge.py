"""Weighted ridge regression and its cross-validation the slow way: dense, float64, candidate by candidate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["cross_validation_scores", "dense_ridge"]

Array = npt.NDArray[np.float64]
_AFFINE = 3


def dense_ridge(
    rows: Array, targets: Array, weights: Array, penalty: Array, ridge: float, jitter: float = 1e-6
) -> tuple[Array, Array]:
    """Coefficients (k, 3) and hat matrix (N, N) of one chart; weights are taken relative to their sum."""
    w = weights / weights.sum()
    diagonal = np.full(rows.shape[1], jitter)
    diagonal[_AFFINE:] += ridge * penalty
    solve = np.linalg.solve(rows.T @ (w[:, None] * rows) + np.diag(diagonal), rows.T * w)
    return solve @ targets, rows @ solve


def cross_validation_scores(
    rows: Array, targets: Array, weights: Array, penalty: Array, candidates: Array, gamma: float
) -> Array:
    """Robust generalised cross-validation of every candidate ridge, from residuals and the hat matrix."""
    used = weights > 0
    rows, targets, weights = rows[used], targets[used], weights[used]
    w = weights / weights.sum()
    scores = []
    for ridge in candidates:
        coefficients, hat = dense_ridge(rows, targets, weights, penalty, float(ridge))
        rss = float((w * ((targets - rows @ coefficients) ** 2).sum(1)).sum())
        slack = 1 - gamma * float(np.trace(hat)) / len(w)
        scores.append(rss / slack**2 if slack > 0.05 else np.inf)
    return np.array(scores)
