"""Weighted ridge regression of many charts at once, ridge chosen per chart by its own data.

For chart rows Psi (N, 3 + m), weights W, targets Y (N, 3):

    min_B  sum_i w_i |Y_i - Psi_i B|^2 + lambda * sum_k d_k |B_k|^2

with no penalty on the three affine columns. lambda maximises the marginal likelihood of the data under
the prior that the penalty is (REML: Patterson and Thompson 1971; Wood 2011), which follows noise less
often than cross-validation does. With S the Gram matrix of the features after the affine ones are
eliminated and the penalty is whitened, n rows, m features:

    REML(lambda) = (n - 3) log(RSS + lambda |B|^2) + gamma * (log det(S + lambda) - m log lambda).

gamma is what a degree of freedom costs (``FitConfig.smoothness``): 1 is REML as it stands, more is
smoother. One eigendecomposition per chart serves every candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["RidgeFit", "ridge_candidates", "solve_ridge", "solve_ridge_reml"]

_CANDIDATES = 13
# Below 1e-4 rounding in single precision is amplified to more than the penalty forbids.
_SMALLEST, _LARGEST = 1e-4, 1.0
_AFFINE = 3
_JITTER = 1e-6


@dataclass(frozen=True)
class RidgeFit:
    """coefficients (C, 3 + m, 3), ridge (C,) relative to the total weight, noise variance (C,)."""

    coefficients: torch.Tensor
    ridge: torch.Tensor
    noise_variance: torch.Tensor


@lru_cache(maxsize=1)
def ridge_candidates() -> npt.NDArray[np.float32]:
    """The ridges that are compared: (13,) from 1e-4 to 1."""
    return np.logspace(np.log10(_SMALLEST), np.log10(_LARGEST), _CANDIDATES).astype(np.float32)


def _normal_equations(
    rows: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gram (C, k, k), moment (C, k, 3), both divided by the total weight (C,)."""
    total = weights.sum(1).clamp_min(1e-30)
    weighted = rows * (weights / total[:, None])[..., None]
    return weighted.mT @ rows, weighted.mT @ targets, total


def solve_ridge(
    rows: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    penalty: torch.Tensor,
    ridge: torch.Tensor,
) -> torch.Tensor:
    """Coefficients (C, k, 3) for a given ridge (C,), by batched Cholesky."""
    gram, moment, _ = _normal_equations(rows, targets, weights)
    diagonal = torch.full((gram.shape[-1],), _JITTER, dtype=gram.dtype, device=gram.device).repeat(
        len(gram), 1
    )
    diagonal[:, _AFFINE:] += ridge[:, None] * penalty
    gram.diagonal(dim1=1, dim2=2).add_(diagonal)
    factor, _ = torch.linalg.cholesky_ex(gram)
    return torch.cholesky_solve(moment, factor)


def solve_ridge_reml(
    rows: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    penalty: torch.Tensor,
    gamma: float,
    floor: torch.Tensor | None = None,
) -> RidgeFit:
    """Solve with the ridge of the largest marginal likelihood, per chart.

    rows (C, N, 3 + m), targets (C, N, 3), weights (C, N; 0 = padding), penalty (m,); ``floor`` (C,)
    is the smallest ridge to consider: the likelihood takes errors for independent, and where they are
    not (drift, sensor bias) it would follow them.
    """
    gram, moment, total = _normal_equations(rows, targets, weights)
    count = (weights > 0).sum(1).to(rows.dtype).clamp_min(1)
    root = penalty.rsqrt()
    # Eliminate the affine columns: A = gram[:3,:3], S = Schur complement on the features.
    a = gram[:, :_AFFINE, :_AFFINE].clone()
    a.diagonal(dim1=1, dim2=2).add_(_JITTER)
    cross = gram[:, :_AFFINE, _AFFINE:]
    factor, _ = torch.linalg.cholesky_ex(a)
    a_cross = torch.cholesky_solve(cross, factor)
    a_moment = torch.cholesky_solve(moment[:, :_AFFINE], factor)
    schur = gram[:, _AFFINE:, _AFFINE:] - cross.mT @ a_cross
    rest = moment[:, _AFFINE:] - cross.mT @ a_moment
    schur = schur * root[:, None] * root
    rest = rest * root[:, None]
    values, vectors = torch.linalg.eigh(schur)
    values = values.clamp_min(0)
    projected = vectors.mT @ rest  # (C, m, 3)
    energy = projected.square().sum(-1)
    affine_fit = rows[..., :_AFFINE] @ a_moment
    rss_affine = (weights / total[:, None] * (targets - affine_fit).square().sum(-1)).sum(1)
    grid = torch.from_numpy(ridge_candidates()).to(rows)
    shrunk = values[:, None, :] + grid[None, :, None]  # (C, G, m)
    freedom = _AFFINE + (values[:, None, :] / shrunk).sum(-1)
    gain = (energy[:, None, :] * (2 / shrunk - values[:, None, :] / shrunk.square())).sum(-1)
    rss = (rss_affine[:, None] - gain).clamp_min(1e-12)
    penalised = (rss_affine[:, None] - (energy[:, None, :] / shrunk).sum(-1)).clamp_min(1e-12)
    volume = (shrunk / grid[None, :, None]).log().sum(-1)
    score = (count[:, None] - _AFFINE).clamp_min(1) * penalised.log() + gamma * volume
    if floor is not None:
        allowed = grid[None, :] >= floor[:, None].clamp_max(_LARGEST)
        score = torch.where(allowed, score, torch.full_like(score, torch.inf))
    best = score.argmin(1)
    ridge = grid[best]
    features = root[:, None] * (vectors @ (projected / (values + ridge[:, None])[..., None]))
    affine = a_moment - a_cross @ features
    chosen = torch.arange(len(best), device=rows.device)
    noise = rss[chosen, best] / (1 - freedom[chosen, best] / count).clamp_min(0.05)
    return RidgeFit(torch.cat([affine, features], 1), ridge, noise)
