"""Normals of organised measurements, one cell at a time, as streamdgp/frames/normals.py defines them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["window_normals"]

Array = npt.NDArray[np.float64]


def window_normals(
    ranges: Array, rays: Array, sigma: Array, radius: int, slopes: tuple[float, ...], wrap: bool
) -> tuple[Array, Array]:
    """Normals (H, W, 3) towards the sensor and the rms range residual (H, W), float64 throughout."""
    normals, residual = np.zeros(rays.shape), np.zeros(ranges.shape)
    for i, j in np.argwhere(ranges > 0):
        found = _best_plane(ranges, rays, sigma[i, j], (i, j), radius, slopes, wrap)
        if found is not None:
            normals[i, j], residual[i, j] = found
    return normals, residual


def _best_plane(
    ranges: Array,
    rays: Array,
    sigma: float,
    cell: tuple[int, int],
    radius: int,
    slopes: tuple[float, ...],
    wrap: bool,
) -> tuple[Array, float] | None:
    steps = np.arange(-radius, radius + 1, max(1, radius // 3))
    rows, columns = (x.ravel() for x in np.meshgrid(cell[0] + steps, cell[1] + steps, indexing="ij"))
    inside = (rows >= 0) & (rows < len(ranges))
    if wrap:
        columns = columns % ranges.shape[1]
    else:
        inside &= (columns >= 0) & (columns < ranges.shape[1])
    t, d = ranges[rows[inside], columns[inside]], rays[rows[inside], columns[inside]]
    t, d = t[t > 0], d[t > 0]
    t0, axis = ranges[cell], rays[cell]
    # Any two directions across the ray do.
    e1, e2 = np.linalg.svd(axis[None])[2][1:]
    possible, along = len(t), d @ axis
    t, d, along = t[along >= 0.2], d[along >= 0.2], along[along >= 0.2]
    z, x, y = t * along, d @ e1 / along, d @ e2 / along
    best, least = None, np.inf
    for attempt, slope in enumerate(slopes):
        near = np.abs(z - t0) <= slope * t0 * np.hypot(x, y) + 4 * sigma
        plane = _robust_plane(x[near], y[near], z[near], t0, sigma, max(6, possible / 4))
        if plane is None or abs(plane[0][0] - 1) * t0 > 4 * sigma:
            continue
        (a, b, c), spread = plane
        if spread < least:
            n = -(a * axis + b * e1 + c * e2)
            best, least = (n / np.linalg.norm(n), np.sqrt(spread)), spread
        if attempt > 0 or spread <= 1.2 * sigma**2:
            break
    return best


def _robust_plane(
    x: Array, y: Array, z: Array, t0: float, sigma: float, enough: float
) -> tuple[Array, float] | None:
    """(alpha, beta, gamma) of t0 / z = alpha + beta x + gamma y, and the mean square about the one before."""
    basis, value = np.stack([np.ones_like(x), x, y], 1), t0 / z
    plane = np.array([1.0, 0.0, 0.0])
    spread = 0.0
    for gate in (np.inf, 6 * sigma, 3 * sigma, 3 * sigma):
        error = (value - basis @ plane) * z**2 / t0
        kept = np.abs(error) <= gate
        if kept.sum() < enough:
            return None
        spread = float((error[kept] ** 2).sum() / max(kept.sum() - 3, 1))
        covariance = np.cov(x[kept], y[kept], bias=True)
        if not np.linalg.det(covariance) > 0.01 * np.trace(covariance) ** 2:
            return None
        plane = np.linalg.lstsq(basis[kept], value[kept], rcond=None)[0]
    return plane, spread
