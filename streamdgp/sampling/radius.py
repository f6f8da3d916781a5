"""How large a chart may be: whether the evidence in a ball is smooth and whole enough for one chart.

A chart that is larger than need be over-smooths, one that is smaller carries more noise and costs more. A
ball serves if a quadratic over its tangent plane explains the evidence as well there as it does in the next
smaller ball, nowhere worse than its scatter, bends little, and is backed everywhere, or, where evidence is
sparse, on most sides: surface that ends within the ball ends in finer steps where cells are smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import surfels_about
from streamdgp.evidence.precision import OFFSET_STEP_VOX

__all__ = ["largest_level_served", "serves"]

# How far the normal may turn from the middle of the ball to its rim, radians.
_MOST_BEND = 0.25
# Told from a much smaller ball the bend is uncertain: only what is far too much is believed.
_BEND_DOUBT = 2.0
# Of the mean squared misfit in the next smaller ball: an estimate from a hundred rows is off by .14.
_MOST_MISFIT = 1.2
# Mean misfit in a cell: so many scatters of a row, and so many standard errors.
_LOCAL_SCATTERS, _LOCAL_ERRORS = 0.3, 3.0
# Cells over the square around the ball's disk, for the misfit.
_CELLS = 8
# Where evidence is looked for, they are so many voxels wide, or some more to have no more of them.
_CELL_VOX, _MOST_CELLS, _FINE_CELLS = 2.8, 16, 48
_MOST_COARSE = 64
# Surfels per cell of three voxels, of those that have any: nine where evidence is dense.
_SPARSE = 4.0
# At a border there are four or five.
_LEAST_SIDES, _LEAST_RHO2 = 6, 0.04
_USUAL_NEAR = 4096
# A ball of more evidence is looked at in part; with 256 rows too many creases are missed.
_ROWS = 1024
_TERMS = 6
# A row of evidence: the terms of the quadratic, its height, its weight, its distance squared, its cell.
_HEIGHT, _WEIGHT, _RHO2, _CELL, _COLUMNS = range(_TERMS, _TERMS + 5)


@njit(cache=True, nogil=True, error_model="numpy")
def _tangents(n: Any) -> tuple[float, float, float, float, float, float]:
    """Two unit tangents of a normal (Duff et al., as in ``tangent_frames``)."""
    sign = 1.0 if n[2] >= 0.0 else -1.0
    a = -1.0 / (sign + n[2])
    b = n[0] * n[1] * a
    return 1.0 + sign * n[0] * n[0] * a, sign * b, -sign * n[0], b, sign + n[1] * n[1] * a, -n[1]


@njit(cache=True, nogil=True, inline="always")
def _cell(u: float, cells: int) -> int:
    return min(max(int((u + 1.0) * 0.5 * cells), 0), cells - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def _rows_about(
    p: Any, n: Any, scale_m: float, min_cos: float, voxel_m: float, surfels: Any, backed: Any
) -> Any:
    """The evidence in a ball as rows (N, 10), lengths in radii of the ball, or some of it.

    All is entered into ``backed`` (n, n) uint8, cells of the square around the disk. Returned as well is how
    much there is per cell of three voxels that has any.
    """
    table, block_keys, cells, chain, _, weight, offset, normal, _ = surfels
    ax, ay, az = p[0] / voxel_m, p[1] / voxel_m, p[2] / voxel_m
    reach = scale_m / voxel_m
    about = np.empty((_USUAL_NEAR, 4), np.int32)
    near = surfels_about(ax, ay, az, reach, table, block_keys, cells, chain, about)
    if near > _USUAL_NEAR:
        about = np.empty((near, 4), np.int32)
        surfels_about(ax, ay, az, reach, table, block_keys, cells, chain, about)
    tx, ty, tz, ux, uy, uz = _tangents(n)
    # Some of them, spread over the ball, tell of its shape.
    step = max(1, near // _ROWS)
    rows = np.empty((near // step + 1, _COLUMNS))
    fine = backed.shape[0]
    coarse = np.zeros((_MOST_COARSE, _MOST_COARSE), np.uint8)
    across = min(max(int(2.0 * reach / 3.0), 1), _MOST_COARSE)
    count = members = occupied = 0
    for entry in range(near):
        s = about[entry, 0]
        sx, sy, sz = float(normal[s, 0]), float(normal[s, 1]), float(normal[s, 2])
        length = np.sqrt(sx * sx + sy * sy + sz * sz)
        if not (sx * n[0] + sy * n[1] + sz * n[2] > min_cos * length and weight[s] > 0.0):
            continue
        ex = (about[entry, 1] + 0.5 + OFFSET_STEP_VOX * offset[s, 0] - ax) / reach
        ey = (about[entry, 2] + 0.5 + OFFSET_STEP_VOX * offset[s, 1] - ay) / reach
        ez = (about[entry, 3] + 0.5 + OFFSET_STEP_VOX * offset[s, 2] - az) / reach
        u, v = ex * tx + ey * ty + ez * tz, ex * ux + ey * uy + ez * uz
        backed[_cell(u, fine), _cell(v, fine)] = 1
        rho2 = ex * ex + ey * ey + ez * ez
        i, j = _cell(u, across), _cell(v, across)
        members += 1
        occupied += coarse[i, j] == 0
        coarse[i, j] = 1
        if entry % step:
            continue
        row = rows[count]
        row[0], row[1], row[2], row[3], row[4], row[5] = 1.0, u, v, u * u, u * v, v * v
        row[_HEIGHT] = ex * n[0] + ey * n[1] + ez * n[2]
        row[_WEIGHT] = weight[s]
        row[_RHO2] = rho2
        row[_CELL] = _cell(u, _CELLS) * _CELLS + _cell(v, _CELLS)
        count += 1
    return rows[:count], members / max(occupied, 1)


@njit(cache=True, nogil=True, error_model="numpy")
def _quadratic(rows: Any, rho2: float, x: Any) -> float:
    """Coefficients (6,) of the heights of the rows within sqrt(rho2); the mean squared misfit, or -1."""
    a, b = np.zeros((_TERMS, _TERMS)), np.zeros(_TERMS)
    total = square = 0.0
    for r in range(rows.shape[0]):
        if rows[r, _RHO2] > rho2:
            continue
        w, h = rows[r, _WEIGHT], rows[r, _HEIGHT]
        total += w
        square += w * h * h
        for k in range(_TERMS):
            b[k] += w * h * rows[r, k]
            for m in range(k + 1):
                a[k, m] += w * rows[r, k] * rows[r, m]
    if total <= 0.0:
        return -1.0
    for i in range(_TERMS):
        # Where few points are, bends are shrunk.
        a[i, i] += 1e-3 * total if i > 2 else 1e-6 * total
    # Cholesky.
    for i in range(_TERMS):
        for j in range(i + 1):
            value = a[i, j]
            for k in range(j):
                value -= a[i, k] * a[j, k]
            a[i, j] = np.sqrt(max(value, 1e-30)) if i == j else value / a[j, j]
    explained = 0.0
    for i in range(_TERMS):
        value = b[i]
        for k in range(i):
            value -= a[i, k] * x[k]
        x[i] = value / a[i, i]
        explained += x[i] * x[i]
    for i in range(_TERMS - 1, -1, -1):
        for k in range(i + 1, _TERMS):
            x[i] -= a[k, i] * x[k]
        x[i] /= a[i, i]
    return max(square - explained, 0.0) / total


@njit(cache=True, nogil=True, error_model="numpy")
def _bend(x: Any) -> float:
    """How far the normal turns on the way from the middle to the rim, radians, where it turns most."""
    turn: float = abs(x[3] + x[5]) + np.sqrt((x[3] - x[5]) ** 2 + x[4] ** 2)
    return turn


@njit(cache=True, nogil=True, error_model="numpy")
def _is_whole(backed: Any, cells: int) -> bool:
    """Whether there is evidence in all cells of the disk, ``cells`` over the square around it.

    ``backed`` (n, n) tells it for finer ones.
    """
    fine = backed.shape[0]
    found = np.zeros((cells, cells), np.uint8)
    for i in range(fine):
        for j in range(fine):
            if backed[i, j]:
                found[i * cells // fine, j * cells // fine] = 1
    for i in range(cells):
        for j in range(cells):
            du, dv = 2 * i + 1 - cells, 2 * j + 1 - cells
            if du * du + dv * dv <= cells * cells and found[i, j] == 0:
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _is_surrounded(rows: Any) -> bool:
    """Whether there is evidence on most sides of the middle, eighths of the disk."""
    found = np.zeros(8, np.uint8)
    for r in range(rows.shape[0]):
        u, v = rows[r, 1], rows[r, 2]
        if rows[r, _RHO2] > _LEAST_RHO2:
            found[4 * (u > 0.0) + 2 * (v > 0.0) + (abs(u) > abs(v))] = 1
    return bool(found.sum() >= _LEAST_SIDES)


@njit(cache=True, nogil=True, error_model="numpy")
def _fits_everywhere(rows: Any, x: Any, scatter2: float) -> bool:
    """Whether no cell's mean is off by more than its rows' scatter explains: a crease may cross the rim."""
    sums = np.zeros((_CELLS * _CELLS, 3))
    for r in range(rows.shape[0]):
        h = rows[r, _HEIGHT]
        for k in range(_TERMS):
            h -= x[k] * rows[r, k]
        cell = int(rows[r, _CELL])
        sums[cell, 0] += rows[r, _WEIGHT] * h
        sums[cell, 1] += rows[r, _WEIGHT]
        sums[cell, 2] += 1.0
    for cell in range(_CELLS * _CELLS):
        if sums[cell, 2] > 0.0:
            limit = _LOCAL_SCATTERS + _LOCAL_ERRORS / np.sqrt(sums[cell, 2])
            if sums[cell, 0] ** 2 > (limit * sums[cell, 1]) ** 2 * scatter2:
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _evidence_about(p: Any, n: Any, scale_m: float, min_cos: float, voxel_m: float, surfels: Any) -> Any:
    """Rows of evidence in a ball, whether it is dense, and whether it backs the ball."""
    backed = np.zeros((_FINE_CELLS, _FINE_CELLS), np.uint8)
    rows, density = _rows_about(p, n, scale_m, min_cos, voxel_m, surfels, backed)
    cells = max(_CELLS, min(int(2.0 * scale_m / (_CELL_VOX * voxel_m)), _MOST_CELLS))
    is_dense = density >= _SPARSE
    return rows, is_dense, _is_whole(backed, cells) if is_dense else _is_surrounded(rows)


@njit(cache=True, nogil=True, error_model="numpy")
def _is_smooth(rows: Any, ratio: float, x: Any) -> bool:
    """Whether a quadratic, into ``x`` (6,), describes the rows as well as one does those within ``ratio``."""
    within = _quadratic(rows, ratio * ratio, x)
    misfit = _quadratic(rows, 1.1, x)
    if within < 0.0 or misfit > _MOST_MISFIT * within or _bend(x) > _MOST_BEND:
        return False
    return _fits_everywhere(rows, x, within)


@njit(cache=True, nogil=True, error_model="numpy")
def serves(
    p: Any,
    n: Any,
    scale_m: float,
    smaller_m: float,
    min_cos: float,
    voxel_m: float,
    surfels: Any,
) -> bool:
    """Whether one chart may serve the ball of radius ``scale_m`` about ``p`` (3,), unit normal ``n`` (3,).

    ``smaller_m`` is the radius of the next smaller ball.
    """
    rows, _, is_backed = _evidence_about(p, n, scale_m, min_cos, voxel_m, surfels)
    return is_backed and _is_smooth(rows, smaller_m / scale_m, np.empty(_TERMS))


@njit(cache=True, nogil=True, error_model="numpy")
def largest_level_served(
    p: Any, n: Any, most: int, scales_m: Any, min_cos: float, voxel_m: float, surfels: Any
) -> int:
    """The highest level up to ``most`` whose ball serves about ``p`` (3,), unit normal ``n`` (3,), or 0."""
    best, bend, x = 0, 0.0, np.zeros(_TERMS)
    for level in range(1, most + 1):
        if bend * scales_m[level] > _BEND_DOUBT * _MOST_BEND:
            break
        rows, is_dense, is_backed = _evidence_about(p, n, scales_m[level], min_cos, voxel_m, surfels)
        # What is not backed at one step is not at a larger one, but for gaps between rings of a LiDAR.
        if is_dense and not is_backed:
            break
        ratio = scales_m[level - 1] / scales_m[level]
        if _is_smooth(rows, ratio, x) and is_backed:
            best = level
        bend = _bend(x) / scales_m[level]
    return best
