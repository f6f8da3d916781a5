"""What the surfels that a frame touched mean to the charts there are.

Two passes: all cores look, each for a part of the surfels, which charts see them and where; then what the
surfels gained is added up there, in their order, so that the sums are the same on any number of cores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.evidence.kernels import find_block
from streamdgp.evidence.patches import DIRTY_CELLS, LEAST_NORMAL
from streamdgp.evidence.precision import NORMAL_STEP, OFFSET_STEP_VOX
from streamdgp.levels import LEVELS, level_key
from streamdgp.parts import in_parts

__all__ = ["survey_touched"]

_MOST_NEAR = 4096
_DIRTY = DIRTY_CELLS * DIRTY_CELLS
# Pixels come row by row of small blocks, back and forth across the border of two cells of the anchor grid:
# the last cell of every parity is remembered.
_CELLS = 8
# The charts that are near, side by side, as rows of a scratch at constant distances: anchors from the corner
# of the cell, so that single precision does at any distance from the origin, and normals; and whether the
# surfel at hand lies in their balls.
_ANCHOR, _FACING, _IN_BALL, _END = (_MOST_NEAR * k for k in (0, 3, 6, 7))
# A surfel is seen by some eight charts; where there are more, there is more room.
_ROOM = 12
# Surfels, a third of a microsecond each; a part sets up lists of its own.
_LEAST_PART = 4000


def survey_touched(
    touched: npt.NDArray[np.int64],
    gained: npt.NDArray[np.float64],
    charts: dict[str, npt.NDArray[Any]],
    radii_m: npt.NDArray[np.float64],
    scales_m: npt.NDArray[np.float64],
    min_cos: float,
    voxel_m: float,
    surfels: tuple[npt.NDArray[Any], ...],
    grid: tuple[npt.NDArray[Any], ...],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Note what touched surfels gained in the charts that see them.

    Parameters
    ----------
    touched, gained
        Surfels (T,) and the weight that each gained, or lost.
    charts
        Columns of the atlas; ``fresh_mass`` (charts, 64) float32 accumulates the gain by cell.
    radii_m, scales_m
        (LEVELS,): radii of anchors and of balls by level.
    surfels, grid
        ``SurfelMap.look_up`` and the atlas's grid of anchors.

    Returns
    -------
    The charts (C,) that see any of the surfels, ascending, and for every surfel whether a compatible anchor
    lies within its radius (see ``streamdgp.sampling.anchors``), so that it needs no other.
    """
    anchor, rotation = charts["anchor"], charts["rotation"]
    covered, counts = np.empty(len(touched), np.bool_), np.empty(len(touched), np.int64)

    def look(begin: int, end: int) -> npt.NDArray[np.int64]:
        places, filled, done = np.empty(_ROOM * (end - begin), np.int64), 0, begin
        while True:
            done, filled = _look(
                touched, done, end, anchor, rotation, radii_m, scales_m, min_cos, voxel_m, surfels, grid,
                places, filled, counts, covered,
            )  # fmt: skip
            if done == end:
                return places[:filled]
            places = np.concatenate([places, np.empty(len(places) + _MOST_NEAR * LEVELS, np.int64)])

    is_seen = np.zeros(len(anchor), np.bool_)
    begin = 0
    for places in in_parts(look, len(touched), _LEAST_PART):
        begin = _add_up(places, counts, gained, begin, charts["fresh_mass"], is_seen)
    return np.flatnonzero(is_seen), covered


@njit(cache=True, nogil=True, error_model="numpy")
def _list_near(
    x: int,
    y: int,
    z: int,
    cell_m: float,
    level: int,
    anchor: Any,
    rotation: Any,
    grid: Any,
    near: Any,
    s: Any,
    first: int,
    at: int,
) -> int:
    """Charts about a cell of the anchor grid, into near[first:] and s[at:]; their number."""
    table, keys, head, following, _ = grid
    corner_m = (x * cell_m, y * cell_m, z * cell_m)
    listed = 0
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            for dz in range(-1, 2):
                cell = find_block(x + dx, y + dy, level_key(z + dz, level), table, keys)
                if cell < 0:
                    continue
                c = head[cell]
                while c >= 0:
                    if listed < _MOST_NEAR:
                        near[first + listed] = c
                        for k in range(3):
                            s[at + _ANCHOR + k * _MOST_NEAR + listed] = anchor[c, k] - corner_m[k]
                            s[at + _FACING + k * _MOST_NEAR + listed] = rotation[c, k, 2]
                        listed += 1
                    c = following[c]
    return listed


@njit(cache=True, nogil=True, error_model="numpy")
def _look(
    touched: Any,
    begin: int,
    end: int,
    anchor: Any,
    rotation: Any,
    radii_m: Any,
    scales_m: Any,
    min_cos: float,
    voxel_m: float,
    surfels: Any,
    grid: Any,
    places: Any,
    filled: int,
    counts: Any,
    covered: Any,
) -> Any:
    """Which charts see the surfels touched[begin:end], and where.

    From ``filled`` on, ``places`` gets a chart times 64 plus its cell, ``counts`` how many they are of each
    surfel. Ends early where there is no room; returns the surfel it came to and the places filled.

    Neighbouring pixels touch neighbouring surfels: the charts about a cell of the anchor grid are
    listed once and serve until another cell of the same level and parity comes.
    """
    _, _, _, _, key, weight, offset, normal, count = surfels
    counters = grid[4]
    step_m = OFFSET_STEP_VOX * voxel_m
    lists = LEVELS * _CELLS
    near, s = np.empty(lists * _MOST_NEAR, np.int64), np.empty(lists * _END, np.float32)
    known, lengths = np.full((lists, 3), np.iinfo(np.int64).min), np.zeros(lists, np.int64)
    none = np.float32(0.0)
    for i in range(begin, end):
        t = touched[i]
        cx = (key[t, 0] + 0.5) * voxel_m
        cy = (key[t, 1] + 0.5) * voxel_m
        cz = (key[t, 2] + 0.5) * voxel_m
        sx, sy, sz = np.float32(normal[t, 0]), np.float32(normal[t, 1]), np.float32(normal[t, 2])
        length = np.sqrt(sx * sx + sy * sy + sz * sz)
        ox, oy, oz = offset[t, 0] * step_m, offset[t, 1] * step_m, offset[t, 2] * step_m
        fx, fy, fz = np.float32(ox), np.float32(oy), np.float32(oz)
        spread_m = 3.0 * np.sqrt(count[t] / max(weight[t], 1e-30))
        # A surfel whose normals cancel is no candidate for an anchor.
        is_candidate = length * NORMAL_STEP > LEAST_NORMAL and weight[t] > 0.0
        least = np.float32(min_cos) * length
        covers, before = 0, filled
        for level in range(LEVELS):
            if counters[1 + level] == 0:
                continue
            scale_m, radius_m = scales_m[level], radii_m[level]
            reach2, radius2 = np.float32(scale_m * scale_m), np.float32(radius_m * radius_m)
            x, y, z = int(np.floor(cx / scale_m)), int(np.floor(cy / scale_m)), int(np.floor(cz / scale_m))
            slot = _CELLS * level + ((x & 1) << 2 | (y & 1) << 1 | z & 1)
            # Offsets, not slices: to count the references to an array takes longer than the surfel.
            first, at = slot * _MOST_NEAR, slot * _END
            if known[slot, 0] != x or known[slot, 1] != y or known[slot, 2] != z:
                known[slot, 0], known[slot, 1], known[slot, 2] = x, y, z
                lengths[slot] = _list_near(
                    x, y, z, scale_m, level, anchor, rotation, grid, near, s, first, at
                )
            listed = lengths[slot]
            if filled + listed > places.shape[0]:
                return i, before
            noise_m = np.float32(min(spread_m, 2.0 * radius_m))
            px, py = np.float32(cx - x * scale_m), np.float32(cy - y * scale_m)
            pz = np.float32(cz - z * scale_m)
            hits = 0
            # No branch inside: the compiler makes vectors of it.
            for m in range(listed):
                nx, ny, nz = (
                    s[at + _FACING + m],
                    s[at + _FACING + _MOST_NEAR + m],
                    s[at + _FACING + 2 * _MOST_NEAR + m],
                )
                ex, ey = px - s[at + _ANCHOR + m], py - s[at + _ANCHOR + _MOST_NEAR + m]
                ez = pz - s[at + _ANCHOR + 2 * _MOST_NEAR + m]
                dot = sx * nx + sy * ny + sz * nz
                is_in_ball = (ex * ex + ey * ey + ez * ez <= reach2) & (dot > least)
                s[at + _IN_BALL + m] = np.float32(1.0) if is_in_ball else none
                hits += 1 if is_in_ball else 0
                ex, ey, ez = ex + fx, ey + fy, ez + fz
                along = ex * nx + ey * ny + ez * nz
                beyond = max(abs(along) - noise_m, none)
                beside2 = ex * ex + ey * ey + ez * ez - along * along
                covers += 1 if (dot >= least) & (beside2 + beyond * beyond <= radius2) else 0
            if hits == 0:
                continue
            for m in range(listed):
                if s[at + _IN_BALL + m] == none:
                    continue
                c = near[first + m]
                ex, ey, ez = cx - anchor[c, 0] + ox, cy - anchor[c, 1] + oy, cz - anchor[c, 2] + oz
                p0 = (ex * rotation[c, 0, 0] + ey * rotation[c, 1, 0] + ez * rotation[c, 2, 0]) / scale_m
                p1 = (ex * rotation[c, 0, 1] + ey * rotation[c, 1, 1] + ez * rotation[c, 2, 1]) / scale_m
                a = min(max(int(np.floor((p0 + 1.0) * 0.5 * DIRTY_CELLS)), 0), DIRTY_CELLS - 1)
                b = min(max(int(np.floor((p1 + 1.0) * 0.5 * DIRTY_CELLS)), 0), DIRTY_CELLS - 1)
                places[filled] = c * _DIRTY + a * DIRTY_CELLS + b
                filled += 1
        covered[i] = not is_candidate or covers > 0
        counts[i] = filled - before
    return end, filled


@njit(cache=True, nogil=True, error_model="numpy")
def _add_up(places: Any, counts: Any, gained: Any, begin: int, fresh_mass: Any, is_seen: Any) -> int:
    """Add what surfels from ``begin`` on gained at their places; returns the first that has none there."""
    i, left = begin, 0
    fresh = fresh_mass.reshape(-1)
    for k in range(places.shape[0]):
        while left == 0:
            left = counts[i]
            i += 1
        fresh[places[k]] += gained[i - 1]
        is_seen[places[k] // _DIRTY] = True
        left -= 1
    return i
