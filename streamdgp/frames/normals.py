"""Normals of organised measurements: a robust plane through each cell's window.

A plane n.X = k seen from the sensor satisfies n.d = k / z for the ray d and the depth z along it.
With neighbours expressed in a local pinhole camera that looks along the cell's own ray, d is
(1, x, y) and 1/z is *affine* in (x, y): a 3x3 weighted least squares, exact at any slant. Further
passes keep only the window cells that lie on the plane, so the two sides of an edge do not mix. Where
they do, they scatter about their plane by more than the noise; then fewer neighbours are considered,
closer in depth to the cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.parts import in_parts

__all__ = ["organised_normals"]

_MAX_RADIUS = 15
_MAX_WINDOW = (2 * _MAX_RADIUS + 1) ** 2
_NOISE_WIDTHS = 4.0
# A plane explains its neighbours when they scatter about it by at most this variance, in sigma^2.
_NOISE_VARIANCES = 1.2
# More than any spread, m^2; infinity is not for fast arithmetic.
_NO_SPREAD = 1e30


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _window_normals(
    ranges: Any,
    rays: Any,
    sigma: Any,
    min_radius: int,
    cell_rad: float,
    stride: int,
    slopes: Any,
    wrap: bool,
    row0: int,
    row1: int,
    normals: Any,
    residual: Any,
) -> None:
    height, width = ranges.shape
    xs = np.empty(_MAX_WINDOW)
    ys = np.empty(_MAX_WINDOW)
    ds = np.empty(_MAX_WINDOW)
    zs = np.empty(_MAX_WINDOW)
    for i in range(row0 + (-row0) % stride, row1, stride):
        for j in range(0, width, stride):
            t0 = ranges[i, j]
            if t0 <= 0.0:
                continue
            s0 = sigma[i, j]
            # Wide enough that the noise does not tilt the plane, in at most 7 x 7 cells.
            radius = min_radius
            if cell_rad > 0.0:
                radius = min(max(min_radius, int(_NOISE_WIDTHS * s0 / (t0 * cell_rad))), _MAX_RADIUS)
            step = max(1, radius // 3)
            cx, cy, cz = rays[i, j, 0], rays[i, j, 1], rays[i, j, 2]
            # Basis (e1, e2) orthogonal to the cell's ray c.
            if abs(cx) < 0.7:
                e1x, e1y, e1z = 0.0, cz, -cy
            else:
                e1x, e1y, e1z = -cz, 0.0, cx
            norm = np.sqrt(e1x * e1x + e1y * e1y + e1z * e1z)
            e1x, e1y, e1z = e1x / norm, e1y / norm, e1z / norm
            e2x = cy * e1z - cz * e1y
            e2y = cz * e1x - cx * e1z
            e2z = cx * e1y - cy * e1x
            least_spread = 2.0 * _NO_SPREAD
            plane = (0.0, 0.0, 0.0)
            for attempt in range(slopes.shape[0]):
                slope = slopes[attempt]
                count = 0
                possible = 0
                for di in range(-radius, radius + 1, step):
                    ii = i + di
                    if ii < 0 or ii >= height:
                        continue
                    for dj in range(-radius, radius + 1, step):
                        jj = j + dj
                        if wrap:
                            jj = jj % width
                        elif jj < 0 or jj >= width:
                            continue
                        ti = ranges[ii, jj]
                        if ti <= 0.0:
                            continue
                        possible += 1
                        ux, uy, uz = rays[ii, jj, 0], rays[ii, jj, 1], rays[ii, jj, 2]
                        c = ux * cx + uy * cy + uz * cz
                        if c < 0.2:
                            continue
                        x = (ux * e1x + uy * e1y + uz * e1z) / c
                        y = (ux * e2x + uy * e2y + uz * e2z) / c
                        z = ti * c
                        if abs(z - t0) > slope * t0 * np.sqrt(x * x + y * y) + 4.0 * s0:
                            continue
                        xs[count] = x
                        ys[count] = y
                        ds[count] = t0 / z
                        zs[count] = z
                        count += 1
                if count < 6 or 4 * count < possible:
                    continue
                alpha, beta, gamma = 1.0, 0.0, 0.0
                rss = 0.0
                inliers = 1.0 * count
                ok = True
                for pass_index in range(4):
                    gate = 3.0 * s0
                    if pass_index < 2:
                        gate = 6.0 * s0 if pass_index == 1 else 1e30
                    n = 0.0
                    sx = sy = sd = sxx = sxy = syy = sxd = syd = 0.0
                    rss = 0.0
                    # No branch inside: the compiler makes vectors of it.
                    for k in range(count):
                        x, y, d = xs[k], ys[k], ds[k]
                        # To first order, the depth error that explains the error of t0 / z.
                        e = (d - alpha - beta * x - gamma * y) * zs[k] * zs[k] / t0
                        w = 1.0 if abs(e) <= gate else 0.0
                        n += w
                        rss += w * e * e
                        sx += w * x
                        sy += w * y
                        sd += w * d
                        sxx += w * x * x
                        sxy += w * x * y
                        syy += w * y * y
                        sxd += w * x * d
                        syd += w * y * d
                    inliers = n
                    if n < 6 or 4 * n < possible:
                        ok = False
                        break
                    mx, my, md = sx / n, sy / n, sd / n
                    vxx = sxx / n - mx * mx
                    vxy = sxy / n - mx * my
                    vyy = syy / n - my * my
                    vxd = sxd / n - mx * md
                    vyd = syd / n - my * md
                    det = vxx * vyy - vxy * vxy
                    trace = vxx + vyy
                    # Samples along one line say nothing across it.
                    if not (det > 0.01 * trace * trace):
                        ok = False
                        break
                    beta = (vyy * vxd - vxy * vyd) / det
                    gamma = (vxx * vyd - vxy * vxd) / det
                    alpha = md - beta * mx - gamma * my
                if not ok:
                    continue
                if abs(alpha - 1.0) * t0 > 4.0 * s0:
                    continue
                spread = rss / max(inliers - 3.0, 1.0)
                if spread < least_spread:
                    least_spread = spread
                    plane = (alpha, beta, gamma)
                if attempt > 0 or spread <= _NOISE_VARIANCES * s0 * s0:
                    break
            if least_spread > _NO_SPREAD:
                continue
            alpha, beta, gamma = plane
            # n.d = k / z > 0 along the ray, so -n faces the sensor.
            px = alpha * cx + beta * e1x + gamma * e2x
            py = alpha * cy + beta * e1y + gamma * e2y
            pz = alpha * cz + beta * e1z + gamma * e2z
            norm = np.sqrt(px * px + py * py + pz * pz)
            if not (norm > 0.0):
                continue
            normals[i, j, 0] = -px / norm
            normals[i, j, 1] = -py / norm
            normals[i, j, 2] = -pz / norm
            residual[i, j] = np.sqrt(least_spread)


@njit(cache=True, nogil=True, error_model="numpy")
def _spread_normals(
    ranges: Any, rays: Any, sigma: Any, stride: int, row0: int, row1: int, normals: Any
) -> None:
    """Give every cell the normal of its stride block's first cell, if it lies on that plane."""
    width = ranges.shape[1]
    for i in range(row0, row1):
        a = i - i % stride
        for j in range(width):
            b = j - j % stride
            if (a == i and b == j) or ranges[i, j] <= 0.0:
                continue
            off = 0.0
            for k in range(3):
                off += normals[a, b, k] * (ranges[i, j] * rays[i, j, k] - ranges[a, b] * rays[a, b, k])
            if abs(off) <= 4.0 * sigma[i, j]:
                for k in range(3):
                    normals[i, j, k] = normals[a, b, k]


def organised_normals(
    ranges_m: npt.NDArray[np.float32],
    rays: npt.NDArray[np.float32],
    sigma_m: npt.NDArray[np.float32],
    *,
    radius: int,
    cell_rad: float = 0.0,
    stride: int = 1,
    slopes: tuple[float, ...] = (4.0,),
    wrap: bool = False,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return normals (H, W, 3) facing the sensor and the rms range residual (H, W), metres.

    Parameters
    ----------
    ranges_m
        (H, W) distance along the unit ray; 0 = no return.
    rays
        (H, W, 3) unit directions, sensor frame.
    sigma_m
        (H, W) noise of the ranges.
    radius
        Smallest half size of the window in cells.
    cell_rad
        Angle between cells; if given, windows grow to four standard deviations of the noise.
    stride
        Fit a plane at every ``stride``-th row and column; the cells between take that normal when they
        lie on the plane within 4 sigma.
    slopes
        A neighbour whose depth differs by more than ``slope * lateral distance + 4 sigma`` is not
        considered; the next is tried where the first finds no plane that explains them, or those
        before none at all.
    wrap
        Columns are periodic (a spinning sensor).

    A zero normal marks a cell without one.
    """
    height, width = ranges_m.shape
    normals = np.zeros((height, width, 3), np.float32)
    residual = np.zeros((height, width), np.float32)
    ranges = np.ascontiguousarray(ranges_m, np.float32)
    directions = np.ascontiguousarray(rays, np.float32)
    sigma = np.ascontiguousarray(sigma_m, np.float32)
    slope_array = np.asarray(slopes, np.float64)

    def band(begin: int, end: int) -> None:
        # Bands start at a multiple of the stride, so a block never spans two of them.
        rows = (begin * stride, min(end * stride, height))
        _window_normals(
            ranges, directions, sigma, radius, cell_rad, stride, slope_array, wrap, *rows, normals, residual
        )
        if stride > 1:
            _spread_normals(ranges, directions, sigma, stride, *rows, normals)

    in_parts(band, -(-height // stride))
    return normals, residual
