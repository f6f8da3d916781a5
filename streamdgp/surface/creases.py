"""Creases: where two sheets meet at an angle, both bound the solid.

Charts are fitted to one face each, and their supports end at a crease by cells of the domain, a little before
it or behind it. So of two sheets that meet the surface is what bounds the solid between their planes: at an
edge the outer one of a point's distances counts, in a corner the inner one,

    d = max(d_a, d_b)  where each sheet lies below the other,   d = min(d_a, d_b)  where each lies above,

and there it is shown as far as both sheets are backed within a cell. A sheet that goes on behind the
other one is not cut: they cross, or one of them is an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.fitting.pointers import raster_at, support_mask_at

__all__ = [
    *("BACKED", "CHART", "DISTANCE", "FOOT_U", "FOOT_V", "KNOWN", "NORMAL", "NOTE", "PLAIN", "RANK", "SHEET"),
    *("WEIGHT", "backed_and_known", "meet"),
]

# What a chart says of a point, in columns: distance_m, normal (3), weight, weight without support, backed,
# known, rank, chart, foot (2), the sheet it was given to.
DISTANCE, NORMAL, WEIGHT, PLAIN = 0, 1, 4, 5
BACKED, KNOWN, RANK, CHART = 6, 7, 8, 9
FOOT_U, FOOT_V, SHEET = 10, 11, 12
NOTE = 13
# Sheets whose normals differ by more than 135 degrees are the sides of a thin part, not of a crease.
_LEAST_COS = -0.7
# A sheet that is backed within so many cells and one ends here, and may bound another one.
_AROUND = 1
_LEAST_BACKED = 0.5
# A sheet that is backed so many cells behind the other one goes on there.
_BEYOND_CELLS = 2.5
# Within a cell of the crease support is closed.
_NEAR_CELLS = 1.0
# How far the middle of a sheet must lie off the other's plane, in chart units.
_LEAST_OFF = 0.02


@njit(cache=True, nogil=True, error_model="numpy")
def backed_and_known(mask: Any, u: float, v: float) -> tuple[float, float]:
    """Bilinear look-up of a support mask, and of where it is not 0: a cell that was judged, however."""
    n = mask.shape[0]
    a = (u + 1.0) * 0.5 * n - 0.5
    b = (v + 1.0) * 0.5 * n - 0.5
    i = int(np.floor(a))
    j = int(np.floor(b))
    a -= i
    b -= j
    backed = known = 0.0
    for di in range(2):
        for dj in range(2):
            ii, jj = i + di, j + dj
            if 0 <= ii < n and 0 <= jj < n and mask[ii, jj] > 0.0:
                share = (a if di else 1.0 - a) * (b if dj else 1.0 - b)
                backed += share * mask[ii, jj]
                known += share
    return backed, known


@njit(cache=True, nogil=True, error_model="numpy")
def _most_around(mask: Any, u: float, v: float, more: int) -> float:
    """Of the four cells about a place, and so many more on all sides, the one that is backed best."""
    n = mask.shape[0]
    i = int(np.floor((u + 1.0) * 0.5 * n - 0.5))
    j = int(np.floor((v + 1.0) * 0.5 * n - 0.5))
    most = 0.0
    for a in range(max(i - more, 0), min(i + 2 + more, n)):
        for b in range(max(j - more, 0), min(j + 2 + more, n)):
            most = max(most, mask[a, b])
    return most


@njit(cache=True, nogil=True, error_model="numpy")
def _backing(
    head: int, sheet: int, said: Any, charts: Any, own: Any, other: Any, towards: float
) -> tuple[float, float, float]:
    """How well a sheet is backed beside its feet, around them, and behind the ``other`` one.

    ``towards`` = 1 where that is above the other, -1 below; own and other (5,) are the two blended sheets:
    distance, normal, support.
    """
    following, value = said
    _, rotation, scale, _, support = charts
    beside = around = behind = 0.0
    along = other[1] * own[1] + other[2] * own[2] + other[3] * own[3]
    # Up over the other sheet, in the tangent plane of this one.
    tx, ty, tz = other[1] - along * own[1], other[2] - along * own[2], other[3] - along * own[3]
    steep2 = max(tx * tx + ty * ty + tz * tz, 1e-6)
    e = head
    while e >= 0:
        if int(value[e, SHEET]) == sheet:
            c = int(value[e, CHART])
            mask, turn = support_mask_at(support[c]), rotation[c]
            u, v = value[e, FOOT_U], value[e, FOOT_V]
            beside = max(beside, _most_around(mask, u, v, 0))
            around = max(around, _most_around(mask, u, v, _AROUND))
            cell = 2.0 / mask.shape[0]
            foot_over_other = (other[0] - own[0] * along) / scale[c]
            go = (towards * _BEYOND_CELLS * cell - foot_over_other) / steep2
            u += go * (turn[0, 0] * tx + turn[1, 0] * ty + turn[2, 0] * tz)
            v += go * (turn[0, 1] * tx + turn[1, 1] * ty + turn[2, 1] * tz)
            if u * u + v * v < 1.0:
                behind = max(behind, backed_and_known(mask, u, v)[0])
        e = following[e]
    return beside, around, behind


@njit(cache=True, nogil=True, error_model="numpy")
def _find_middle(chart: int, charts: Any, middle: Any, has_middle: Any) -> None:
    """Middle (3,) of what a chart shows, world metres; found once for each."""
    if has_middle[chart]:
        return
    has_middle[chart] = 1
    anchor, rotation, scale, rasters, support = charts
    mask, raster = support_mask_at(support[chart]), raster_at(rasters[chart])
    total = r0 = r1 = r2 = 0.0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[0]):
            w = mask[i, j]
            total += w
            r0 += w * raster[2 * i + 1, 2 * j + 1, 0]
            r1 += w * raster[2 * i + 1, 2 * j + 1, 1]
            r2 += w * raster[2 * i + 1, 2 * j + 1, 2]
    size = scale[chart] / max(total, 1e-30)
    for k in range(3):
        turn = rotation[chart, k]
        middle[chart, k] = anchor[chart, k] + size * (turn[0] * r0 + turn[1] * r1 + turn[2] * r2)


@njit(cache=True, nogil=True, error_model="numpy")
def meet(
    point: Any,
    head: int,
    a: int,
    b: int,
    said: Any,
    charts: Any,
    middle: Any,
    has_middle: Any,
    held: Any,
    other: Any,
) -> int:
    """Join note ``b``'s sheet to what is held of a point, note ``a``'s sheet; whose surface it is now.

    held and other (5,) are distance, normal and support of the two sheets; held is changed in place where
    they meet in a crease. ``said`` = notes of the point from ``head`` on; middle (charts, 3) and
    has_middle (charts,) are scratch.
    """
    _, value = said
    if held[1] * other[1] + held[2] * other[2] + held[3] * other[3] < _LEAST_COS:
        return a
    chart_a, chart_b = int(value[a, CHART]), int(value[b, CHART])
    _, _, scale, _, support = charts
    size = min(scale[chart_a], scale[chart_b])
    _find_middle(chart_a, charts, middle, has_middle)
    _find_middle(chart_b, charts, middle, has_middle)
    # Heights of each middle over the other's plane.
    over_a, over_b = held[0], other[0]
    for k in range(3):
        over_a += (middle[chart_b, k] - point[k]) * held[1 + k]
        over_b += (middle[chart_a, k] - point[k]) * other[1 + k]
    if over_a * over_b <= 0.0 or min(abs(over_a), abs(over_b)) < _LEAST_OFF * size:
        return a
    is_edge = over_a < 0.0
    towards = 1.0 if is_edge else -1.0
    beside_a, around_a, goes_on_a = _backing(head, int(value[a, SHEET]), said, charts, held, other, towards)
    beside_b, around_b, goes_on_b = _backing(head, int(value[b, SHEET]), said, charts, other, held, towards)
    if min(around_a, around_b) < _LEAST_BACKED or max(goes_on_a, goes_on_b) > _LEAST_BACKED:
        return a
    cell_m = 2.0 / support_mask_at(support[chart_a]).shape[0] * size
    is_near = abs(held[0] - other[0]) < _NEAR_CELLS * cell_m
    is_others = (other[0] > held[0]) == is_edge
    if is_others:
        held[:5] = other[:5]
    if is_near:
        held[4] = max(held[4], min(beside_a, beside_b))
    return b if is_others else a
