"""Weighted ridge regression and the choice of its ridge the slow way: dense, float64, one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["cross_validation_scores", "dense_ridge", "marginal_likelihood_scores"]

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


def marginal_likelihood_scores(
    rows: Array, targets: Array, weights: Array, penalty: Array, candidates: Array, gamma: float
) -> Array:
    r"""Restricted marginal likelihood of every candidate ridge, from covariances of the data alone.

    The penalty is a prior: with w the weights relative to their sum, each coordinate of the targets is

        y = X a + F b + e,   b_k ~ N(0, s / (ridge d_k)),   e_i ~ N(0, s / w_i),

    X the affine columns, F the others, nothing known of a. By the definition of Patterson and Thompson,
    what is judged is z = K' y with K orthonormal and K' X = 0: n - 3 numbers that a does not enter,

        z ~ N(0, s M),   M = K' (diag(1/w) + F diag(1 / (ridge d)) F') K.

    The three coordinates share s. -2 log of their likelihood is 3 (n - 3) log s + 3 log det M + q / s + const
    with q = sum of z' M^-1 z; at the best s = q / (3 (n - 3)) a third of it is, up to a constant,

        (n - 3) log q + gamma (log det M - log det M_0),   gamma = 1,   M_0 = K' diag(1/w) K.

    That is the formula of ``streamdgp.fitting.ridge``, constant and all, without a Gram matrix in it: by the
    determinant lemma log det M - log det M_0 is log det(S + ridge) - m log ridge, the cost of freedom, which
    is what gamma multiplies; and q is the least penalised sum of squares. ``rows`` must be more than three.
    """
    used = weights > 0
    rows, targets, w = rows[used], targets[used], weights[used] / weights[used].sum()
    contrasts = np.linalg.qr(rows[:, :_AFFINE], mode="complete").Q[:, _AFFINE:]
    z, features = contrasts.T @ targets, contrasts.T @ rows[:, _AFFINE:]
    noise = contrasts.T @ (contrasts / w[:, None])
    scores = []
    for ridge in candidates:
        covariance = noise + features @ (features / (float(ridge) * penalty)).T
        misfit = float((z * np.linalg.solve(covariance, z)).sum())
        freedom_cost = np.linalg.slogdet(covariance).logabsdet - np.linalg.slogdet(noise).logabsdet
        scores.append(len(z) * np.log(misfit) + gamma * float(freedom_cost))
    return np.array(scores)


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
