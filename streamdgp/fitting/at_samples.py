"""Charts at samples of V that all of them share: evaluation, regression, transport problems; chart by chart.

On a CPU these are compiled and not products of a library: such a product takes all charts of a batch at
once, and which of its kernels runs, and how it shares out the work, may depend on how many charts
there are and on settings of the whole process. Here every sum runs over features or samples in their order,
and what lies side by side in a register are different sums, so a chart's bits come from its own numbers.
No fastmath for the same reason: it lets the compiler take sums apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from streamdgp.sampling.domain import poisson_disk_domain

__all__ = [
    "UNBACKED_COST",
    "SharedSamples",
    "consistency_samples",
    "moved_charts",
    "points_at",
    "regressed_charts",
    "transport_problems",
]

_CONSISTENCY_SAMPLES = 64
UNBACKED_COST = 8.0
"""What a sample that no evidence backs costs anywhere: being one constant, it has no say."""


def consistency_samples(device: torch.device | str = "cpu") -> torch.Tensor:
    """The Poisson-disk samples of V at which charts are compared: (64, 2) float32, one tensor per device."""
    return _samples_on(torch.device(device))


@lru_cache
def _samples_on(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(poisson_disk_domain(_CONSISTENCY_SAMPLES, seed=0)).to(device)


@dataclass(frozen=True)
class SharedSamples:
    """Samples v (n, 2), features there (n, k), and the operator (k, n) from values there to coefficients."""

    v: torch.Tensor
    rows: torch.Tensor
    operator: torch.Tensor

    @cached_property
    def for_kernels(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The features (k, n) and the operator (n, k) on the CPU, as compiled loops run through them."""
        rows, operator = (np.ascontiguousarray(x.T.numpy()) for x in (self.rows, self.operator))
        return rows, operator


def moved_charts(rows: Any, operator: Any, parameters: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Charts (C, P) after the change towards targets (C, n, 3) at the samples was regressed.

    rows (k, n) are the features there; operator (n, k) maps values at the samples to coefficients.
    """
    stored = np.ascontiguousarray(parameters.numpy()).reshape(len(parameters), -1, 3)
    out = np.empty_like(stored)
    _move(rows, operator, stored, np.ascontiguousarray(targets.numpy()), out)
    return torch.from_numpy(out).reshape(len(parameters), -1)


def points_at(rows: Any, parameters: torch.Tensor) -> torch.Tensor:
    """phi (C, n, 3) of charts (C, P) at the samples with features ``rows`` (k, n)."""
    stored = np.ascontiguousarray(parameters.numpy()).reshape(len(parameters), -1, 3)
    out = np.empty((len(parameters), rows.shape[1], 3), np.float32)
    _combine(rows, stored, out)
    return torch.from_numpy(out)


def regressed_charts(operator: Any, targets: torch.Tensor) -> torch.Tensor:
    """Coefficients (C, k, 3) from targets (C, n, 3) at the samples; operator (n, k)."""
    out = np.empty((len(targets), operator.shape[1], 3), np.float32)
    _combine(operator, np.ascontiguousarray(targets.numpy()), out)
    return torch.from_numpy(out)


@njit(cache=True, nogil=True, error_model="numpy")
def _combined(rows: Any, weights: Any, out: Any) -> None:
    """out (3, m) = weights (k, 3) transposed by rows (k, m), one row after another."""
    m = rows.shape[1]
    x, y, z = out[0], out[1], out[2]
    for p in range(m):
        x[p] = y[p] = z[p] = np.float32(0.0)
    for f in range(rows.shape[0]):
        row = rows[f]
        w0, w1, w2 = weights[f, 0], weights[f, 1], weights[f, 2]
        for p in range(m):
            x[p] += w0 * row[p]
            y[p] += w1 * row[p]
            z[p] += w2 * row[p]


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(rows: Any, weights: Any, out: Any) -> None:
    """out (C, m, 3) from rows (k, m), weights (C, k, 3): points at samples, or coefficients from targets."""
    values = np.empty((3, rows.shape[1]), np.float32)
    for c in range(weights.shape[0]):
        _combined(rows, weights[c], values)
        for p in range(rows.shape[1]):
            for k in range(3):
                out[c, p, k] = values[k, p]


@njit(cache=True, nogil=True, error_model="numpy")
def _move(rows: Any, operator: Any, charts: Any, targets: Any, out: Any) -> None:
    """Charts (C, k, 3) and what their change towards targets (C, n, 3) is regressed to; out (C, k, 3)."""
    n, features = rows.shape[1], rows.shape[0]
    values, change = np.empty((3, n), np.float32), np.empty((n, 3), np.float32)
    found = np.empty((3, features), np.float32)
    for c in range(charts.shape[0]):
        _combined(rows, charts[c], values)
        for p in range(n):
            for k in range(3):
                change[p, k] = targets[c, p, k] - values[k, p]
        _combined(operator, change, found)
        for f in range(features):
            for k in range(3):
                out[c, f, k] = charts[c, f, k] + found[k, f]


@njit(cache=True, nogil=True, error_model="numpy")
def transport_problems(
    samples: Any, points: Any, weights: Any, reach: float, picked: Any, backed: Any, cost: Any
) -> None:
    """What transport is to assign, one chart after another (``LazyRegime._transported``).

    samples (n, 2) of the plane, points (C, N, 3) and weights (C, N). Outputs: picked (C, n, 3), evidence
    spread over the patch; backed (C, n) bool, samples with evidence within ``reach`` of them; cost (C, n, n)
    squared distances, and one constant for samples that nothing backs.
    """
    n = samples.shape[0]
    reach2 = np.float32(reach * reach)
    for c in range(points.shape[0]):
        rows = 0
        for r in range(points.shape[1]):
            rows += weights[c, r] > 0.0
        for i in range(n):
            # Rows come sorted in space, so equal steps through them spread over the patch.
            r = min((2 * i + 1) * rows // (2 * n), points.shape[1] - 1)
            for k in range(3):
                picked[c, i, k] = points[c, r, k]
        for i in range(n):
            u, v = samples[i, 0], samples[i, 1]
            near = False
            for r in range(points.shape[1]):
                if weights[c, r] > 0.0:
                    x, y = u - points[c, r, 0], v - points[c, r, 1]
                    if x * x + y * y < reach2:
                        near = True
                        break
            backed[c, i] = near
            for j in range(n):
                if near:
                    x, y, z = u - picked[c, j, 0], v - picked[c, j, 1], picked[c, j, 2]
                    cost[c, i, j] = x * x + y * y + z * z
                else:
                    cost[c, i, j] = UNBACKED_COST
