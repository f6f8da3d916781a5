"""Free space and charts: a cell of a chart's domain shows where most of those who looked saw it.

Surfels forget what was seen before they came; a chart remembers. Every look is asked, once and by the very
pixel, for each cell of a chart's support: it saw a surface there (a hit), it saw through (a pass), or
something stood in front (no vote). A cell shows the share of hits. So a chart cannot run across a gap
that was looked through, nor past an edge that wandered with the pose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.free_space import (
    extent,
    farthest_gap,
    is_hidden,
    least_and_gap,
    passes_at,
    pixel_and_gap,
    project,
)
from streamdgp.evidence.patches import SUPPORT_CELLS
from streamdgp.fitting.pointers import raster_at

__all__ = ["MOST_VOTES", "REACH", "against", "count_votes", "inherit_passes"]

# What a pass counts against a hit: a surface shows where three in four of those who looked saw it,
_PASS_WEIGHT = 3.0
# or two in three where many did. That was there: passes say that it went, or that the poses have moved.
_SURE_PASS_WEIGHT = 2.0
_SURE_FROM, _SURE = 16.0, 26.0
# So many passes count nothing: a single ray may err beside an edge.
_DOUBTED_PASSES = 0.5
MOST_VOTES = 40
"""Hits and passes of a cell are halved when one of them reaches this: old views are forgotten."""
REACH = 2.0
"""Cells that lie farther from the anchor, in radii of the chart, are not judged."""
_LEAST_INCIDENCE = 0.2
# Along a slanting ray a small error of the pose is a long way; but never more than so many times as long.
_LEAST_COS = 0.7
# A bent surface ends beside its limb, within a pixel of it: at less incidence all pixels around must agree.
_LIMB_COS = 0.5
_LIMB_WINDOW = 3
_SIGMAS = 1.0
# A first pass is clear, and counts twice, where no pixel of these ends at the cell: no edge is beside it.
_CLEAR_WINDOW = 3
# A hit is clear where all pixels of these end at the cell.
_BACK_WINDOW = 5
# What ends farther in front of a cell, as a share of the margin, says nothing of it.
_BEFORE = 2.0 / 3.0
# Support is shown anew when a cell's share crosses a sixth: a half, where the mesh ends, is one of them.
_LEVELS = 6.0
_BULGE = 0.3
# What comes into space that was long free must be able to show within some frames.
_MOST_INHERITED = 7
# The cells of a chart side by side, as rows of a scratch.
_CELLS = SUPPORT_CELLS * SUPPORT_CELLS
_U, _V, _D, _FACING = (_CELLS * k for k in range(4))


@njit(cache=True, nogil=True, inline="always")
def against(hits: Any, passes: Any) -> Any:
    """What passes of a cell count against its hits, in hits; both may be arrays (...) of float."""
    sure = np.minimum(np.maximum((hits - _SURE_FROM) / (_SURE - _SURE_FROM), 0.0), 1.0)
    weight = _PASS_WEIGHT + (_SURE_PASS_WEIGHT - _PASS_WEIGHT) * sure
    return weight * np.maximum(passes - _DOUBTED_PASSES, 0.0)


@njit(cache=True, nogil=True, inline="always")
def _share(hits: int, passes: int) -> float:
    """Hits among hits and passes; one pass beside an edge opens no hole where two saw a surface."""
    others = against(hits, passes)
    return hits / (hits + others) if others > 0.0 else 1.0


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _copy_judged(raster: Any, support: Any, passes: Any, cell_of: Any, s: Any) -> int:
    """Put the cells that are surface, or were, side by side: points and central differences; their number."""
    judged = 0
    for i in range(SUPPORT_CELLS):
        for j in range(SUPPORT_CELLS):
            du, dv = 2 * i - (SUPPORT_CELLS - 1), 2 * j - (SUPPORT_CELLS - 1)
            if support[i, j] == 0 and passes[i, j] == 0:
                continue
            if du * du + dv * dv > SUPPORT_CELLS * SUPPORT_CELLS:
                continue
            a, b = 2 * i + 1, 2 * j + 1
            x, y, z = raster[a, b, 0], raster[a, b, 1], raster[a, b, 2]
            # No surface of the chart: there is no evidence so far out, and nobody looks for it there.
            if not x * x + y * y + z * z <= REACH * REACH:
                continue
            for k in range(3):
                s[k * _CELLS + judged] = raster[a, b, k]
                s[(3 + k) * _CELLS + judged] = raster[a + 1, b, k] - raster[a - 1, b, k]
                s[(6 + k) * _CELLS + judged] = raster[a, b + 1, k] - raster[a, b - 1, k]
            cell_of[judged] = i * SUPPORT_CELLS + j
            judged += 1
    return judged


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _place(
    judged: int,
    anchor: Any,
    rotation: Any,
    scale_m: float,
    origin: Any,
    sensor_rotation: Any,
    is_pinhole: bool,
    camera: Any,
    s: Any,
    at: Any,
) -> None:
    """Where a camera sees the cells (column, row, depth; else their place in its frame), how slanted."""
    x, y, z = anchor[0] - origin[0], anchor[1] - origin[1], anchor[2] - origin[2]
    r00, r01, r02 = rotation[0, 0], rotation[0, 1], rotation[0, 2]
    r10, r11, r12 = rotation[1, 0], rotation[1, 1], rotation[1, 2]
    r20, r21, r22 = rotation[2, 0], rotation[2, 1], rotation[2, 2]
    q00, q01, q02 = sensor_rotation[0, 0], sensor_rotation[0, 1], sensor_rotation[0, 2]
    q10, q11, q12 = sensor_rotation[1, 0], sensor_rotation[1, 1], sensor_rotation[1, 2]
    q20, q21, q22 = sensor_rotation[2, 0], sensor_rotation[2, 1], sensor_rotation[2, 2]
    f0, f1, f2, f3 = camera[0], camera[1], camera[2], camera[3]
    # No branch inside: the compiler makes vectors of it.
    for n in range(judged):
        r0, r1, r2 = s[n] * scale_m, s[_CELLS + n] * scale_m, s[2 * _CELLS + n] * scale_m
        px = x + r00 * r0 + r01 * r1 + r02 * r2
        py = y + r10 * r0 + r11 * r1 + r12 * r2
        pz = z + r20 * r0 + r21 * r1 + r22 * r2
        xs = px * q00 + py * q10 + pz * q20
        ys = px * q01 + py * q11 + pz * q21
        zs = px * q02 + py * q12 + pz * q22
        at[_U + n] = f0 * xs / zs + f2 if is_pinhole else xs
        at[_V + n] = f1 * ys / zs + f3 if is_pinhole else ys
        at[_D + n] = zs
        # Tangents by central differences give the cell's normal, here in the chart's frame.
        s0, s1, s2 = s[3 * _CELLS + n], s[4 * _CELLS + n], s[5 * _CELLS + n]
        t0, t1, t2 = s[6 * _CELLS + n], s[7 * _CELLS + n], s[8 * _CELLS + n]
        n0, n1, n2 = s1 * t2 - s2 * t1, s2 * t0 - s0 * t2, s0 * t1 - s1 * t0
        l0 = px * r00 + py * r10 + pz * r20
        l1 = px * r01 + py * r11 + pz * r21
        l2 = px * r02 + py * r12 + pz * r22
        size = np.sqrt((n0 * n0 + n1 * n1 + n2 * n2) * (px * px + py * py + pz * pz))
        at[_FACING + n] = abs(n0 * l0 + n1 * l1 + n2 * l2) / max(size, 1e-30)


@njit(cache=True, nogil=True, error_model="numpy")
def count_votes(
    charts: Any,
    seen: Any,
    far: Any,
    is_pinhole: bool,
    camera: Any,
    noise: Any,
    sensor_rotation: Any,
    origin: Any,
    margin_m: float,
    anchor: Any,
    rotation: Any,
    level: Any,
    scales_m: Any,
    raster_address: Any,
    support: Any,
    hits: Any,
    passes: Any,
    frames: int,
    is_counted: Any,
    shifts: Any,
) -> None:
    """Count in hits and passes (charts, 16, 16) uint8 what a view sees; see ``SensorView`` for the view.

    ``charts`` (C,) are judged, in a look that came after so many ``frames``: a clear hit of a
    cell that does not show counts for all of them. Only cells that are surface, or were, count: elsewhere a
    chart runs on anywhere. A return within ``margin_m`` and a sigma of the cell, along the cell's normal,
    is a hit, one farther behind a pass; one farther in front than two thirds of the margin hides the cell.
    support (charts, 16, 16) uint8. ``is_counted`` and ``shifts`` (C,) uint8 are set for charts with
    new votes, and for those whose support shows otherwise by them. A raster address (C,) of 0 says that
    the chart is not fitted.
    """
    out = np.empty(2)
    s, at, cell_of = np.empty(9 * _CELLS, np.float32), np.zeros(4 * _CELLS), np.empty(_CELLS, np.int32)
    for row in range(charts.shape[0]):
        c = charts[row]
        if raster_address[row] == 0:
            continue
        scale_m = scales_m[level[c]]
        x = anchor[c, 0] - origin[0]
        y = anchor[c, 1] - origin[1]
        z = anchor[c, 2] - origin[2]
        length = np.sqrt(x * x + y * y + z * z)
        # So near, poses and depths are not exact enough.
        if length < 2.0 * scales_m[0]:
            continue
        xs = x * sensor_rotation[0, 0] + y * sensor_rotation[1, 0] + z * sensor_rotation[2, 0]
        ys = x * sensor_rotation[0, 1] + y * sensor_rotation[1, 1] + z * sensor_rotation[2, 1]
        zs = x * sensor_rotation[0, 2] + y * sensor_rotation[1, 2] + z * sensor_rotation[2, 2]
        d = project(xs, ys, zs, is_pinhole, camera, out)
        if d <= 2.0 * scales_m[0]:
            continue
        # Depth is along the optical axis of a camera, range along the ray.
        ax, ay, az = x / length, y / length, z / length
        if is_pinhole:
            ax, ay, az = sensor_rotation[0, 2], sensor_rotation[1, 2], sensor_rotation[2, 2]
        cos = abs(ax * rotation[c, 0, 2] + ay * rotation[c, 1, 2] + az * rotation[c, 2, 2])
        # How far the chart comes towards the sensor: by its tilt and by its bulge.
        depth_m = (np.sqrt(max(1.0 - cos * cos, 0.0)) + _BULGE) * scale_m * (length / d)
        if d > 2.0 * scale_m:
            around = extent(xs, ys, zs, d, scale_m, is_pinhole, camera, _LIMB_WINDOW)
            if is_hidden(out[0], out[1], around, d - depth_m - margin_m, far, seen.shape, not is_pinhole):
                continue
        judged = _copy_judged(raster_at(raster_address[row]), support[c], passes[c], cell_of, s)
        _place(judged, anchor[c], rotation[c], scale_m, origin, sensor_rotation, is_pinhole, camera, s, at)
        for n in range(judged):
            i, j = cell_of[n] // SUPPORT_CELLS, cell_of[n] % SUPPORT_CELLS
            p = passes[c, i, j]
            facing = at[_FACING + n]
            if facing < _LEAST_INCIDENCE:
                continue
            u, v, d = at[_U + n], at[_V + n], at[_D + n]
            if not is_pinhole:
                d = project(u, v, d, is_pinhole, camera, out)
                u, v = out[0], out[1]
            if d <= 0.0:
                continue
            # Elsewhere the pixels around the very one would widen every edge by a pixel.
            if is_pinhole and facing > _LIMB_COS:
                nearest, gap = pixel_and_gap(seen, u, v, d, _BEFORE * margin_m)
            else:
                nearest, gap = least_and_gap(seen, u, v, _LIMB_WINDOW, not is_pinhole, d, _BEFORE * margin_m)
            if not nearest > 0.0:
                continue
            reach_m = margin_m + _SIGMAS * (noise[0] + noise[1] * (nearest - noise[2]) ** 2)
            facing = max(facing, _LEAST_COS)
            is_hit = gap * facing <= reach_m
            if not is_hit and (nearest - d) * facing <= reach_m:
                continue
            h = hits[c, i, j]
            is_counted[row] = 1
            if is_hit and p == 0:
                # As nearly all are: it shows, and goes on showing.
                hits[c, i, j] = (h // 2 if h >= MOST_VOTES else h) + 1
                continue
            before = _share(h, p)
            if max(h, p) >= MOST_VOTES:
                h //= 2
                p //= 2
            if is_hit:
                # What comes where all was free must show in time, though few looks see it: clear of edges.
                is_back = frames > 1 and before < 0.5
                if is_back and is_pinhole:
                    is_back = farthest_gap(seen, u, v, _BACK_WINDOW, d) * facing <= reach_m
                h += frames if is_back else 1
            elif p == 0 and is_pinhole:
                beside = least_and_gap(seen, u, v, _CLEAR_WINDOW, False, d, _BEFORE * margin_m)[1]
                p = 1 if beside * facing <= reach_m else 2
            else:
                p += 1
            hits[c, i, j] = h
            passes[c, i, j] = p
            if int(before * _LEVELS) != int(_share(h, p) * _LEVELS):
                shifts[row] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def inherit_passes(
    charts: Any,
    wanted: Any,
    anchor: Any,
    rotation: Any,
    level: Any,
    scales_m: Any,
    raster_address: Any,
    voxel_m: float,
    table: Any,
    block_keys: Any,
    remembered: Any,
    passes: Any,
) -> None:
    """Give the ``wanted`` cells (C, 16, 16) of charts (C,) the passes that the evidence remembers there."""
    for row in range(charts.shape[0]):
        c = charts[row]
        scale_m = scales_m[level[c]]
        raster = raster_at(raster_address[row])
        for i in range(SUPPORT_CELLS):
            for j in range(SUPPORT_CELLS):
                if not wanted[row, i, j]:
                    continue
                a, b = 2 * i + 1, 2 * j + 1
                r0, r1, r2 = raster[a, b, 0] * scale_m, raster[a, b, 1] * scale_m, raster[a, b, 2] * scale_m
                x = anchor[c, 0] + rotation[c, 0, 0] * r0 + rotation[c, 0, 1] * r1 + rotation[c, 0, 2] * r2
                y = anchor[c, 1] + rotation[c, 1, 0] * r0 + rotation[c, 1, 1] * r1 + rotation[c, 1, 2] * r2
                z = anchor[c, 2] + rotation[c, 2, 0] * r0 + rotation[c, 2, 1] * r1 + rotation[c, 2, 2] * r2
                seen_through = passes_at(x, y, z, voxel_m, table, block_keys, remembered)
                # Counted two at a time there: the first of them is one look, not two.
                passes[c, i, j] = min(max(seen_through - 1, 0), _MOST_INHERITED)
