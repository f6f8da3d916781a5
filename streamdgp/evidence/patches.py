"""Evidence of one chart: the surfels in its ball, of its sheet, binned to a bounded number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import surfels_about
from streamdgp.evidence.precision import OFFSET_STEP_VOX
from streamdgp.evidence.sheets import ALL_CELLS, follow_sheet, sheet_scratch

__all__ = ["DIRTY_CELLS", "LEAST_NORMAL", "SUPPORT_CELLS", "gather_patches"]

SUPPORT_CELLS = 16
DIRTY_CELLS = 8
LEAST_NORMAL = 0.3
"""A mean normal shorter than this is none: what it averages points every way."""
_LAYERS = 9
_MOST_NEAR = 4096
# Tangent cells that meet the unit disk: rows are kept free for their first evidence.
_DISK_CELLS = 232


@njit(cache=True, nogil=True, error_model="numpy")
def gather_patches(
    charts: Any,
    anchor: Any,
    rotation: Any,
    level: Any,
    scales_m: Any,
    min_cos: float,
    voxel_m: float,
    surfels: Any,
    points: Any,
    weights: Any,
    support: Any,
    mass: Any,
    thickness: Any,
) -> None:
    """Fill the rows of ``charts`` (K,).

    Ball membership is decided by the voxel, not by the moving mean. Evidence is binned in columns
    of the tangent plane (16 x 16) split in 9 layers of height, so folds stay apart while the noise
    of one sheet is averaged. Only the sheet that passes the anchor is taken (``streamdgp.evidence.sheets``);
    ``mass`` counts all the same, as ``survey_touched`` does.

    Outputs: points (K, N, 3) chart coordinates, weights (K, N) in chart units (1/sigma^2 * scale^2),
    support (K, 16, 16) observations per tangent cell, mass (K, 64) weight per dirty cell,
    thickness (K,) spread of the evidence along the normal, chart units: the median over tangent cells
    of the standard deviation of height within the cell. It measures all noise there is, pose drift and
    sensor bias included, whatever the sensor model says.
    """
    table, block_keys, cells, chain, _, weight, offset, normal, count = surfels
    about = np.empty((_MOST_NEAR, 4), np.int32)
    capacity = points.shape[1]
    bins = np.full(SUPPORT_CELLS * SUPPORT_CELLS * _LAYERS, -1, np.int32)
    used = np.empty(capacity, np.int32)
    moment = np.empty((SUPPORT_CELLS * SUPPORT_CELLS, 4))
    spread = np.empty(SUPPORT_CELLS * SUPPORT_CELLS)
    occupied, allowed = np.empty((2, _LAYERS, SUPPORT_CELLS), np.uint32)
    beside = sheet_scratch(_LAYERS, SUPPORT_CELLS)
    for row in range(charts.shape[0]):
        c = charts[row]
        scale_m = scales_m[level[c]]
        reach_vox = scale_m / voxel_m
        ax, ay, az = anchor[c, 0] / voxel_m, anchor[c, 1] / voxel_m, anchor[c, 2] / voxel_m
        # Columns of the rotation are the tangents and the normal.
        tx, ty, tz = rotation[c, 0, 0], rotation[c, 1, 0], rotation[c, 2, 0]
        ux, uy, uz = rotation[c, 0, 1], rotation[c, 1, 1], rotation[c, 2, 1]
        nx, ny, nz = rotation[c, 0, 2], rotation[c, 1, 2], rotation[c, 2, 2]
        near = surfels_about(ax, ay, az, reach_vox, table, block_keys, cells, chain, about)
        if near > about.shape[0]:
            about = np.empty((2 * near, 4), np.int32)
            surfels_about(ax, ay, az, reach_vox, table, block_keys, cells, chain, about)
        allowed[:] = ALL_CELLS
        for attempt in range(2):
            rows = 0
            open_cells = 0
            mass[row] = 0.0
            support[row] = 0.0
            moment[:] = 0.0
            occupied[:] = 0
            for entry in range(near):
                s = about[entry, 0]
                ex, ey, ez = (
                    about[entry, 1] + 0.5 - ax,
                    about[entry, 2] + 0.5 - ay,
                    about[entry, 3] + 0.5 - az,
                )
                sx, sy, sz = normal[s, 0], normal[s, 1], normal[s, 2]
                length = np.sqrt(sx * sx + sy * sy + sz * sz)
                dot = sx * nx + sy * ny + sz * nz
                if not (dot > min_cos * length and weight[s] > 0.0):
                    continue
                dx = ex + OFFSET_STEP_VOX * offset[s, 0]
                dy = ey + OFFSET_STEP_VOX * offset[s, 1]
                dz = ez + OFFSET_STEP_VOX * offset[s, 2]
                p0 = (dx * tx + dy * ty + dz * tz) / reach_vox
                p1 = (dx * ux + dy * uy + dz * uz) / reach_vox
                p2 = (dx * nx + dy * ny + dz * nz) / reach_vox
                w = weight[s]
                i = min(max(int(np.floor((p0 + 1.0) * 0.5 * SUPPORT_CELLS)), 0), SUPPORT_CELLS - 1)
                j = min(max(int(np.floor((p1 + 1.0) * 0.5 * SUPPORT_CELLS)), 0), SUPPORT_CELLS - 1)
                layer = min(max(int(np.floor(p2 * 4.0 + 0.5)) + 4, 0), _LAYERS - 1)
                mass[row, (i // 2) * DIRTY_CELLS + j // 2] += w
                bit = np.uint32(1 << j)
                occupied[layer, i] |= bit
                if not allowed[layer, i] & bit:
                    continue
                cell = i * SUPPORT_CELLS + j
                slot = cell * _LAYERS + layer
                support[row, i, j] += count[s]
                moment[cell, 0] += w
                moment[cell, 1] += w * p2
                moment[cell, 2] += w * p2 * p2
                moment[cell, 3] += 1.0
                r = bins[slot]
                if r < 0:
                    first = moment[cell, 3] == 1.0
                    open_cells += first
                    spare = capacity - rows - max(_DISK_CELLS - open_cells, 0)
                    if not first and spare <= 0:
                        for other in range(_LAYERS):
                            if bins[cell * _LAYERS + other] >= 0:
                                r = bins[cell * _LAYERS + other]
                if r < 0 and rows < capacity:
                    r = rows
                    bins[slot] = r
                    used[r] = slot
                    rows += 1
                    points[row, r, 0] = 0.0
                    points[row, r, 1] = 0.0
                    points[row, r, 2] = 0.0
                    weights[row, r] = 0.0
                if r >= 0:
                    total = weights[row, r] + w
                    f = w / total
                    points[row, r, 0] += f * (p0 - points[row, r, 0])
                    points[row, r, 1] += f * (p1 - points[row, r, 1])
                    points[row, r, 2] += f * (p2 - points[row, r, 2])
                    weights[row, r] = total
            for r in range(rows):
                bins[used[r]] = -1
            # Once more where another sheet passes through the ball, without it.
            if attempt or not follow_sheet(occupied, beside, allowed):
                break
        filled = 0
        for cell in range(moment.shape[0]):
            if moment[cell, 3] >= 3.0:
                mean = moment[cell, 1] / moment[cell, 0]
                spread[filled] = np.sqrt(max(moment[cell, 2] / moment[cell, 0] - mean * mean, 0.0))
                filled += 1
        thickness[row] = np.median(spread[:filled]) if filled > 0 else 0.0
        for r in range(rows):
            weights[row, r] *= scale_m * scale_m
        for r in range(rows, capacity):
            points[row, r, 0] = 0.0
            points[row, r, 1] = 0.0
            points[row, r, 2] = 0.0
            weights[row, r] = 0.0
