"""Distances at the lattice nodes of one tile: every chart looks only at those that it may reach.

A chart that is nearly flat reaches nodes within a slab of its ball: with h its height over the tangent plane
and g the greatest slope of it, what lies farther than sqrt(1 + g^2) times the band above or below it
is farther from the chart than the band. Rows of nodes are cut to that slab first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.fitting.feet import MOST
from streamdgp.fitting.pointers import raster_at
from streamdgp.fitting.raster import RASTER
from streamdgp.surface.blend import (
    RASTER_SLACK,
    STEEPEST,
    blend_notes,
    grown_notes,
    in_chart,
    is_near_chart,
    new_found,
    new_notes,
    note_points,
    put_point,
)

__all__ = ["evaluate_nodes"]

_HALF = np.float32((RASTER - 1) / 2)
# Slopes between the nodes of a raster, and places that are not where the node is.
_STEEPER = 1.15
_LEAST_LEAN = 0.3


@njit(cache=True, nogil=True, error_model="numpy")
def _shape_of(raster: Any) -> tuple[float, float, float]:
    """Least and greatest height of a chart, and sqrt(1 + g^2) of its greatest slope g, with some margin."""
    low = high = raster[0, 0, 2]
    across = along = np.float32(0)
    for i in range(RASTER):
        for j in range(RASTER):
            h = raster[i, j, 2]
            low, high = min(low, h), max(high, h)
            if i:
                across = max(across, abs(h - raster[i - 1, j, 2]))
            if j:
                along = max(along, abs(h - raster[i, j - 1, 2]))
    slope2 = float(_HALF * across) ** 2 + float(_HALF * along) ** 2
    return float(low), float(high), min(_STEEPER * np.sqrt(1.0 + slope2), STEEPEST)


@njit(cache=True, nogil=True, error_model="numpy")
def _find_nodes(
    row: int,
    corner: Any,
    step_m: float,
    box: Any,
    chart: Any,
    reach2: float,
    shape: Any,
    lattice: Any,
    count: int,
    found: Any,
) -> tuple[int, int, int]:
    """Put nodes that a chart may have something to say of into the scratch, rows of the box at a time.

    lattice = number (n, n, n) of each node among points (M, 3), -1 where it has none yet, and those points,
    of which ``count`` are in use. Returns how many were found, the row to go on from, and ``count``.
    """
    anchor, rotation, scale, raster = chart
    number, points = lattice
    low, high, height = shape
    n = 0
    # The part of a row that lies within the slab, about its middle plane; rows that lie along it stay whole.
    lean = rotation[2, 2]
    is_upright = abs(lean) > _LEAST_LEAN
    middle = 0.5 * (low + high) * scale
    half = (0.5 * (high - low) + height) * scale / max(abs(lean), _LEAST_LEAN)
    rows = box[1, 1] - box[0, 1] + 1
    last = (box[1, 0] - box[0, 0] + 1) * rows
    length = box[1, 2] - box[0, 2] + 1
    while row < last and n + length <= MOST:
        i, j = box[0, 0] + row // rows, box[0, 1] + row % rows
        row += 1
        x, y = (corner[0] + i) * step_m, (corner[1] + j) * step_m
        dx, dy = x - anchor[0], y - anchor[1]
        if not dx * dx + dy * dy < reach2:
            continue
        first, end = box[0, 2], box[1, 2]
        if is_upright:
            # A node more on either side: what is exact follows.
            z = anchor[2] + (middle - (dx * rotation[0, 2] + dy * rotation[1, 2])) / lean
            first = max(int((z - half) / step_m) - 1 - corner[2], first)
            end = min(int((z + half) / step_m) + 1 - corner[2], end)
        for k in range(first, end + 1):
            z = (corner[2] + k) * step_m
            dz = z - anchor[2]
            length2 = dx * dx + dy * dy + dz * dz
            if not length2 < reach2:
                continue
            y0, y1, y2 = in_chart(rotation, scale, dx, dy, dz)
            if not is_near_chart(raster, y0, y1, y2, height):
                continue
            p = number[i, j, k]
            if p < 0:
                p = count
                number[i, j, k] = p
                points[p, 0], points[p, 1], points[p, 2] = x, y, z
                count += 1
            put_point(found, n, p, y0, y1, y2, length2, reach2)
            n += 1
    return n, row, count


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_nodes(
    corner: Any,
    step_m: float,
    band_m: float,
    blend_radius: float,
    charts: Any,
    value: Any,
    valid: Any,
) -> None:
    """Signed distance at the lattice nodes ``(corner + index) * step_m`` of one tile.

    corner (3,) int64 is the tile's first node on the global lattice; value and valid are
    (n, n, n). Node coordinates depend on the global index alone, so neighbouring tiles agree.
    """
    anchor, rotation, scale, rasters, _ = charts
    n = value.shape[0]
    lattice = (np.full((n, n, n), -1, np.int32), np.empty((n * n * n, 3)))
    near, said = new_notes(n * n * n, n * n * n + MOST)
    found = new_found()
    box = np.empty((2, 3), np.int64)
    count = used = 0
    for c in range(anchor.shape[0]):
        reach_m = scale[c] * blend_radius
        is_empty = False
        for k in range(3):
            box[0, k] = max(int(np.ceil((anchor[c, k] - reach_m) / step_m)) - corner[k], 0)
            box[1, k] = min(int(np.floor((anchor[c, k] + reach_m) / step_m)) - corner[k], n - 1)
            is_empty |= box[0, k] > box[1, k]
        if is_empty:
            continue
        raster = raster_at(rasters[c])
        low, high, steepest = _shape_of(raster)
        shape = (low, high, steepest * band_m / scale[c] + RASTER_SLACK)
        chart = (anchor[c], rotation[c], scale[c], raster)
        reach2 = scale[c] * scale[c] * blend_radius * blend_radius
        row, rows = 0, (box[1, 0] - box[0, 0] + 1) * (box[1, 1] - box[0, 1] + 1)
        while row < rows:
            some, row, count = _find_nodes(
                row, corner, step_m, box, chart, reach2, shape, lattice, count, found
            )
            if used + some > len(said[0]):
                said = grown_notes(said, used)
            used = note_points(some, found, c, charts, band_m, near, said, used)
    result, reached = np.empty((count, 5)), np.empty(count, np.uint8)
    blend_notes(lattice[1][:count], charts, near, said, result, reached)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                p = lattice[0][i, j, k]
                valid[i, j, k] = p >= 0 and reached[p]
                if valid[i, j, k]:
                    value[i, j, k] = result[p, 0]
