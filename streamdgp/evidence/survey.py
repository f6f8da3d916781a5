"""What the surfels that a frame touched mean to the charts there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import find_block
from streamdgp.evidence.patches import DIRTY_CELLS, LEAST_NORMAL
from streamdgp.evidence.precision import NORMAL_STEP, OFFSET_STEP_VOX
from streamdgp.levels import LEVELS, level_key

__all__ = ["survey_touched"]

_MOST_NEAR = 4096
# Pixels come row by row of small blocks, back and forth across the border of two cells of the anchor grid:
# the last cell of every parity is remembered.
_CELLS = 8
# The charts that are near, side by side, as rows of a scratch at constant distances: anchors, normals,
# and whether the surfel at hand lies in their balls.
_ANCHOR, _FACING, _IN_BALL, _END = (_MOST_NEAR * k for k in (0, 3, 6, 7))


@njit(cache=True, nogil=True, error_model="numpy")
def _list_near(
    x: int,
    y: int,
    z: int,
    part: int,
    parts: int,
    level: int,
    anchor: Any,
    rotation: Any,
    grid: Any,
    near: Any,
    s: Any,
    first: int,
    at: int,
) -> int:
    """Charts of ``part`` about a cell of the anchor grid, into near[first:] and s[at:]; their number."""
    table, keys, head, following, _ = grid
    listed = 0
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            for dz in range(-1, 2):
                cell = find_block(x + dx, y + dy, level_key(z + dz, level), table, keys)
                if cell < 0:
                    continue
                c = head[cell]
                while c >= 0:
                    if c % parts == part and listed < _MOST_NEAR:
                        near[first + listed] = c
                        for k in range(3):
                            s[at + _ANCHOR + k * _MOST_NEAR + listed] = anchor[c, k]
                            s[at + _FACING + k * _MOST_NEAR + listed] = rotation[c, k, 2]
                        listed += 1
                    c = following[c]
    return listed


@njit(cache=True, nogil=True, error_model="numpy")
def survey_touched(
    touched: Any,
    gained: Any,
    anchor: Any,
    rotation: Any,
    radii_m: Any,
    scales_m: Any,
    min_cos: float,
    voxel_m: float,
    surfels: Any,
    grid: Any,
    fresh_mass: Any,
    is_touched: Any,
    covered: Any,
    part: int,
    parts: int,
) -> None:
    """What the touched surfels mean to the charts there are, those with number ``part`` modulo ``parts``.

    Adds the weight each surfel gained to the cells of the charts that see it: fresh_mass (charts, 64)
    float32 accumulates, is_touched (charts,) uint8 is set. ``covered`` (touched,) uint8 tells whether a
    compatible anchor lies within its radius (see ``streamdgp.sampling.anchors``), so that it needs no other.
    ``radii_m``, ``scales_m`` (LEVELS,): radii of anchors and of balls by level.

    Neighbouring pixels touch neighbouring surfels: the charts about a cell of the anchor grid are
    listed once and serve until another cell of the same level and parity comes.
    """
    _, _, _, _, key, weight, offset, normal, count = surfels
    counters = grid[4]
    step_m = OFFSET_STEP_VOX * voxel_m
    lists = LEVELS * _CELLS
    near, s = np.empty(lists * _MOST_NEAR, np.int64), np.empty(lists * _END)
    known, lengths = np.full((lists, 3), np.iinfo(np.int64).min), np.zeros(lists, np.int64)
    for i in range(touched.shape[0]):
        t = touched[i]
        cx = (key[t, 0] + 0.5) * voxel_m
        cy = (key[t, 1] + 0.5) * voxel_m
        cz = (key[t, 2] + 0.5) * voxel_m
        sx, sy, sz = float(normal[t, 0]), float(normal[t, 1]), float(normal[t, 2])
        length = np.sqrt(sx * sx + sy * sy + sz * sz)
        ox, oy, oz = offset[t, 0] * step_m, offset[t, 1] * step_m, offset[t, 2] * step_m
        spread_m = 3.0 * np.sqrt(count[t] / max(weight[t], 1e-30))
        # A surfel whose normals cancel is no candidate for an anchor.
        is_candidate = length * NORMAL_STEP > LEAST_NORMAL and weight[t] > 0.0
        least = min_cos * length
        covers = 0
        for level in range(LEVELS):
            if counters[1 + level] == 0:
                continue
            scale_m, radius_m = scales_m[level], radii_m[level]
            reach2, radius2 = scale_m * scale_m, radius_m * radius_m
            x, y, z = int(np.floor(cx / scale_m)), int(np.floor(cy / scale_m)), int(np.floor(cz / scale_m))
            slot = _CELLS * level + ((x & 1) << 2 | (y & 1) << 1 | z & 1)
            # Offsets, not slices: to count the references to an array takes longer than the surfel.
            first, at = slot * _MOST_NEAR, slot * _END
            if known[slot, 0] != x or known[slot, 1] != y or known[slot, 2] != z:
                known[slot, 0], known[slot, 1], known[slot, 2] = x, y, z
                lengths[slot] = _list_near(
                    x, y, z, part, parts, level, anchor, rotation, grid, near, s, first, at
                )
            listed = lengths[slot]
            noise_m = min(spread_m, 2.0 * radius_m)
            hits = 0
            # No branch inside: the compiler makes vectors of it.
            for m in range(listed):
                nx, ny, nz = (
                    s[at + _FACING + m],
                    s[at + _FACING + _MOST_NEAR + m],
                    s[at + _FACING + 2 * _MOST_NEAR + m],
                )
                ex, ey = cx - s[at + _ANCHOR + m], cy - s[at + _ANCHOR + _MOST_NEAR + m]
                ez = cz - s[at + _ANCHOR + 2 * _MOST_NEAR + m]
                dot = sx * nx + sy * ny + sz * nz
                is_in_ball = (ex * ex + ey * ey + ez * ez <= reach2) & (dot > least)
                s[at + _IN_BALL + m] = 1.0 if is_in_ball else 0.0
                hits += 1 if is_in_ball else 0
                ex, ey, ez = ex + ox, ey + oy, ez + oz
                along = ex * nx + ey * ny + ez * nz
                beyond = max(abs(along) - noise_m, 0.0)
                beside2 = ex * ex + ey * ey + ez * ez - along * along
                covers += 1 if (dot >= least) & (beside2 + beyond * beyond <= radius2) else 0
            if hits == 0:
                continue
            for m in range(listed):
                if s[at + _IN_BALL + m] == 0.0:
                    continue
                c = near[first + m]
                ex, ey, ez = cx - anchor[c, 0] + ox, cy - anchor[c, 1] + oy, cz - anchor[c, 2] + oz
                p0 = (ex * rotation[c, 0, 0] + ey * rotation[c, 1, 0] + ez * rotation[c, 2, 0]) / scale_m
                p1 = (ex * rotation[c, 0, 1] + ey * rotation[c, 1, 1] + ez * rotation[c, 2, 1]) / scale_m
                a = min(max(int(np.floor((p0 + 1.0) * 0.5 * DIRTY_CELLS)), 0), DIRTY_CELLS - 1)
                b = min(max(int(np.floor((p1 + 1.0) * 0.5 * DIRTY_CELLS)), 0), DIRTY_CELLS - 1)
                fresh_mass[c, a * DIRTY_CELLS + b] += gained[i]
                is_touched[c] = 1
        covered[i] = not is_candidate or covers > 0
