"""The implicit surface: a partition-of-unity blend of signed distances to the charts of one sheet.

For a point x every chart whose ball holds it gives a foot point, a signed distance d_q (sign from the
chart's normal) and a weight

    w_q = (1 - rho^2)^3 * exp(-(t / 0.1)^2) * max(support, eps),   rho = |y| / blend_radius,

with t the part of the offset that is not along the normal (the foot left the chart). Only charts whose
normal agrees with the nearest supported foot's may blend, so two sheets never cancel; where sheets meet in a
crease, see ``streamdgp.surface.creases``. What is shown is cut
where support falls below a half: the lesser of the share of those who saw a surface there among those who
looked, and of how much of the weight is of charts that were looked at there at all.

Many points are blended at once, chart by chart: a chart's raster is read while it is in the cache, and feet
are found side by side. What a chart says of a point is noted, and all that was noted of it is blended in
the order of the charts: the sums do not depend on who asks, or in what company.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.fitting.feet import FOOT, MOST, PHI, POINT, feet_on_raster, feet_scratch, foot_normal
from streamdgp.fitting.pointers import raster_at, support_mask_at
from streamdgp.fitting.raster import RASTER
from streamdgp.surface.creases import (
    BACKED,
    CHART,
    DISTANCE,
    FOOT_U,
    FOOT_V,
    KNOWN,
    NORMAL,
    NOTE,
    PLAIN,
    RANK,
    SHEET,
    WEIGHT,
    backed_and_known,
    meet,
)

__all__ = [
    "RASTER_SLACK",
    "STEEPEST",
    "blend_notes",
    "blend_points",
    "grown_notes",
    "in_chart",
    "is_near_chart",
    "new_found",
    "new_notes",
    "note_points",
    "put_point",
    "support_at",
]

_SUPPORT_FLOOR = 1e-3
_SAME_SHEET_COS = 0.35
# Height above a chart is at most this many times the distance to it (60 degrees), plus lattice slack.
STEEPEST = 2.0
RASTER_SLACK = 0.08
_HALF = (RASTER - 1) / 2
_STEPS = 2
# At a corner three meet.
_MOST_SHEETS = 3


@njit(cache=True, nogil=True, error_model="numpy")
def support_at(mask: Any, u: float, v: float) -> float:
    """Bilinear look-up of a chart's support mask (cells over [-1, 1]^2) at tangent coordinates."""
    backed: float = backed_and_known(mask, u, v)[0]
    return backed


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def in_chart(rotation: Any, scale: float, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Chart coordinates of an offset from the anchor, world axes."""
    return (
        (x * rotation[0, 0] + y * rotation[1, 0] + z * rotation[2, 0]) / scale,
        (x * rotation[0, 1] + y * rotation[1, 1] + z * rotation[2, 1]) / scale,
        (x * rotation[0, 2] + y * rotation[1, 2] + z * rotation[2, 2]) / scale,
    )


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def is_near_chart(raster: Any, y0: float, y1: float, y2: float, height: float) -> bool:
    """Whether a point in chart coordinates lies within ``height`` above or below a chart (33, 33, 3)."""
    i = min(max(int((y0 + 1.0) * _HALF + 0.5), 0), RASTER - 1)
    j = min(max(int((y1 + 1.0) * _HALF + 0.5), 0), RASTER - 1)
    return bool(abs(y2 - raster[i, j, 2]) <= height)


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def put_point(
    found: Any, k: int, p: int, y0: float, y1: float, y2: float, length2: float, reach2: float
) -> None:
    """Put point number ``p``, in chart coordinates, into row k of found = scratch, point and weight (MOST,).

    length2, reach2 = its distance from the anchor and the chart's reach, squared.
    """
    s, point, weight = found
    point[k] = p
    weight[k] = (1.0 - length2 / reach2) ** 3
    s[POINT + k], s[POINT + MOST + k], s[POINT + 2 * MOST + k] = y0, y1, y2
    s[FOOT + k], s[FOOT + MOST + k] = y0, y1


@njit(cache=True, nogil=True, error_model="numpy")
def _find(
    points: Any,
    begin: int,
    anchor: Any,
    rotation: Any,
    scale: float,
    raster: Any,
    band_m: float,
    blend_radius: float,
    found: Any,
) -> tuple[int, int]:
    """Put points that a chart may have something to say of into the scratch: how many, and where to go on."""
    reach2 = scale * scale * blend_radius * blend_radius
    height = STEEPEST * (band_m / scale) + RASTER_SLACK
    count = 0
    p = begin
    while p < points.shape[0] and count < MOST:
        dx, dy, dz = points[p, 0] - anchor[0], points[p, 1] - anchor[1], points[p, 2] - anchor[2]
        length2 = dx * dx + dy * dy + dz * dz
        if length2 < reach2:
            y0, y1, y2 = in_chart(rotation, scale, dx, dy, dz)
            if is_near_chart(raster, y0, y1, y2, height):
                put_point(found, count, p, y0, y1, y2, length2, reach2)
                count += 1
        p += 1
    return count, p


@njit(cache=True, nogil=True)
def new_found() -> Any:
    """Room for the points of one chart: scratch of their feet, point (MOST,) and weight (MOST,)."""
    return feet_scratch(), np.empty(MOST, np.int64), np.empty(MOST)


@njit(cache=True, nogil=True)
def new_notes(count: int, capacity: int) -> Any:
    """Room for what charts say of so many points, so many notes at first.

    near = the first, the last and the best note of each point (-1: none), and the rank of the best; said =
    the note that follows each note, and the notes (see ``streamdgp.surface.creases``).
    """
    near = (
        np.full(count, -1, np.int64),
        np.empty(count, np.int64),
        np.full(count, -1, np.int64),
        np.full(count, 1e30),
    )
    return near, (np.empty(capacity, np.int64), np.empty((capacity, NOTE)))


@njit(cache=True, nogil=True)
def grown_notes(said: Any, used: int) -> Any:
    """Notes with twice the room."""
    following, value = said
    longer = (np.empty(2 * len(following) + MOST, np.int64), np.empty((2 * len(following) + MOST, NOTE)))
    longer[0][:used] = following[:used]
    longer[1][:used] = value[:used]
    return longer


@njit(cache=True, nogil=True, error_model="numpy")
def note_points(
    count: int,
    found: Any,
    chart: int,
    charts: Any,
    band_m: float,
    near: Any,
    said: Any,
    used: int,
) -> int:
    """Note what a chart says of the ``count`` points that were found for it; returns the notes in use."""
    s, point, reach = found
    _, rotation, scale, rasters, support = charts
    head, tail, best, best_rank = near
    following, value = said
    size = scale[chart]
    band = band_m / size
    if count == 0:
        return used
    feet_on_raster(raster_at(rasters[chart]).reshape(-1), s, count, _STEPS)
    mask, turn = support_mask_at(support[chart]), rotation[chart]
    for k in range(count):
        n0, n1, n2 = foot_normal(s, k)
        length = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
        if not (length > 0.0):
            continue
        n0, n1, n2 = n0 / length, n1 / length, n2 / length
        o0, o1 = s[POINT + k] - s[PHI + k], s[POINT + MOST + k] - s[PHI + MOST + k]
        o2 = s[POINT + 2 * MOST + k] - s[PHI + 2 * MOST + k]
        d = o0 * n0 + o1 * n1 + o2 * n2
        if abs(d) > band:
            continue
        d2 = o0 * o0 + o1 * o1 + o2 * o2
        off2 = max(d2 - d * d, 0.0)
        if off2 > 0.09:
            continue
        backed, known = backed_and_known(mask, s[PHI + k], s[PHI + MOST + k])
        weight = reach[k] * np.exp(-off2 / 0.01)
        p = point[k]
        following[used] = -1
        value[used, DISTANCE] = d * size
        for j in range(3):
            value[used, NORMAL + j] = turn[j, 0] * n0 + turn[j, 1] * n1 + turn[j, 2] * n2
        value[used, WEIGHT] = weight * max(backed, _SUPPORT_FLOOR)
        value[used, PLAIN], value[used, BACKED], value[used, KNOWN] = weight, backed, known
        value[used, CHART], value[used, SHEET] = chart, -1.0
        value[used, FOOT_U], value[used, FOOT_V] = s[PHI + k], s[PHI + MOST + k]
        if head[p] < 0:
            head[p] = used
        else:
            following[tail[p]] = used
        tail[p] = used
        # Distance to the foot, with a handicap where the foot is off its evidence.
        rank = d2 * size * size + (1.0 - min(backed, 1.0)) * 4.0 * band_m * band_m
        value[used, RANK] = rank
        if rank < best_rank[p]:
            best_rank[p] = rank
            best[p] = used
        used += 1
    return used


@njit(cache=True, nogil=True, error_model="numpy")
def _best_of_others(head: int, said: Any) -> int:
    """The note of least rank among those that are of no sheet yet, or -1."""
    following, value = said
    best, e = -1, head
    while e >= 0:
        if value[e, SHEET] < 0.0 and (best < 0 or value[e, RANK] < value[best, RANK]):
            best = e
        e = following[e]
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def _blend_sheet(head: int, chosen: int, sheet: int, said: Any, made: Any) -> bool:
    """Give all that agrees with a note, and is of no sheet yet, to this one, and blend it.

    made (5,) becomes distance_m, normal (3) and support; False where nothing has weight.
    """
    following, value = said
    m0, m1, m2 = value[chosen, NORMAL], value[chosen, NORMAL + 1], value[chosen, NORMAL + 2]
    total = distance = plain = backed = known = 0.0
    ax = ay = az = 0.0
    e = head
    while e >= 0:
        n0, n1, n2 = value[e, NORMAL], value[e, NORMAL + 1], value[e, NORMAL + 2]
        if value[e, SHEET] < 0.0 and n0 * m0 + n1 * m1 + n2 * m2 >= _SAME_SHEET_COS:
            value[e, SHEET] = sheet
            w = value[e, WEIGHT]
            total += w
            distance += w * value[e, DISTANCE]
            ax += w * n0
            ay += w * n1
            az += w * n2
            plain += value[e, PLAIN]
            backed += value[e, PLAIN] * value[e, BACKED]
            known += value[e, PLAIN] * value[e, KNOWN]
        e = following[e]
    length = np.sqrt(ax * ax + ay * ay + az * az)
    if not (total > 1e-12 and length > 0.0):
        return False
    made[0] = distance / total
    made[1], made[2], made[3] = ax / length, ay / length, az / length
    made[4] = min(backed / max(known, 1e-30), known / max(plain, 1e-30))
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def blend_notes(points: Any, charts: Any, near: Any, said: Any, result: Any, reached: Any) -> None:
    """Blend what was noted of points (P, 3); outputs as those of ``blend_points``."""
    head, _, best, _ = near
    middle, has_middle = np.empty((len(charts[0]), 3)), np.zeros(len(charts[0]), np.uint8)
    held, other = np.empty(5), np.empty(5)
    for p in range(points.shape[0]):
        reached[p] = 0
        if head[p] < 0 or not _blend_sheet(head[p], best[p], 0, said, held):
            continue
        reached[p] = 1
        whose = best[p]
        for sheet in range(1, _MOST_SHEETS):
            following = _best_of_others(head[p], said)
            if following < 0:
                break
            if _blend_sheet(head[p], following, sheet, said, other):
                whose = meet(
                    points[p], head[p], whose, following, said, charts, middle, has_middle, held, other
                )
        result[p] = held


@njit(cache=True, nogil=True, error_model="numpy")
def blend_points(
    points: Any, band_m: float, blend_radius: float, charts: Any, result: Any, reached: Any
) -> None:
    """Blend at points (P, 3) float64.

    ``charts`` = (anchor (K, 3), rotation (K, 3, 3), scale (K,), addresses of rasters (K,) and of support
    masks (K,) int64), in id order. Outputs result (P, 5) = [distance_m, normal (3), support] and
    reached (P,) uint8, 0 where no chart reaches.
    """
    anchor, rotation, scale, rasters, _ = charts
    found = new_found()
    near, said = new_notes(points.shape[0], 8 * points.shape[0] + MOST)
    used = 0
    for c in range(anchor.shape[0]):
        begin = 0
        while begin < points.shape[0]:
            raster = raster_at(rasters[c])
            count, begin = _find(
                points, begin, anchor[c], rotation[c], scale[c], raster, band_m, blend_radius, found
            )
            if used + count > len(said[0]):
                said = grown_notes(said, used)
            used = note_points(count, found, c, charts, band_m, near, said, used)
    blend_notes(points, charts, near, said, result, reached)
