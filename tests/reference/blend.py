"""The blend at one point, chart by chart, as the formula reads: what ``blend_points`` must agree with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.fitting.raster import RASTER, foot_on_raster
from streamdgp.surface.blend import support_at

__all__ = ["blend_at"]

Array = npt.NDArray[Any]

_SUPPORT_FLOOR = 1e-3
_SAME_SHEET_COS = 0.35
_STEEPEST = 2.0
_RASTER_SLACK = 0.08


@njit(error_model="numpy")
def _say(
    x: Any,
    band_m: float,
    blend_radius: float,
    charts: Any,
    scratch: Any,
) -> int:
    """What charts say of one point: rows of ``scratch`` (96, 12); returns how many."""
    anchor, rotation, scale, rasters, support = charts
    y = np.empty(3)
    v = np.empty(2)
    out = np.empty(9)
    entries = 0
    half = (RASTER - 1) / 2
    for c in range(anchor.shape[0]):
        s = scale[c]
        dx, dy, dz = x[0] - anchor[c, 0], x[1] - anchor[c, 1], x[2] - anchor[c, 2]
        rho2 = (dx * dx + dy * dy + dz * dz) / (s * s * blend_radius * blend_radius)
        if rho2 >= 1.0:
            continue
        for k in range(3):
            y[k] = (dx * rotation[c, 0, k] + dy * rotation[c, 1, k] + dz * rotation[c, 2, k]) / s
        band = band_m / s
        # Cheap reject: far above or below the chart's height at this place.
        i = min(max(int((y[0] + 1.0) * half + 0.5), 0), RASTER - 1)
        j = min(max(int((y[1] + 1.0) * half + 0.5), 0), RASTER - 1)
        if abs(y[2] - rasters[c, i, j, 2]) > _STEEPEST * band + _RASTER_SLACK:
            continue
        v[0] = y[0]
        v[1] = y[1]
        d2 = foot_on_raster(rasters[c], y, v, out, 2)
        nx = out[4] * out[8] - out[5] * out[7]
        ny = out[5] * out[6] - out[3] * out[8]
        nz = out[3] * out[7] - out[4] * out[6]
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        if not (length > 0.0):
            continue
        nx, ny, nz = nx / length, ny / length, nz / length
        d = (y[0] - out[0]) * nx + (y[1] - out[1]) * ny + (y[2] - out[2]) * nz
        if abs(d) > band:
            continue
        off2 = max(d2 - d * d, 0.0)
        if off2 > 0.09:
            continue
        backed = support_at(support[c], out[0], out[1])
        q = 1.0 - rho2
        w = q * q * q * np.exp(-off2 / 0.01)
        if entries >= scratch.shape[0]:
            break
        e = entries
        entries += 1
        scratch[e, 0] = d * s
        scratch[e, 1] = rotation[c, 0, 0] * nx + rotation[c, 0, 1] * ny + rotation[c, 0, 2] * nz
        scratch[e, 2] = rotation[c, 1, 0] * nx + rotation[c, 1, 1] * ny + rotation[c, 1, 2] * nz
        scratch[e, 3] = rotation[c, 2, 0] * nx + rotation[c, 2, 1] * ny + rotation[c, 2, 2] * nz
        scratch[e, 4] = w * max(backed, _SUPPORT_FLOOR)
        scratch[e, 5] = w
        scratch[e, 6] = backed
        scratch[e, 7] = support_at(np.where(support[c] > 0.0, 1.0, 0.0), out[0], out[1])
        # Distance to the foot, with a handicap where the foot is off its evidence.
        scratch[e, 8] = d2 * s * s + (1.0 - min(backed, 1.0)) * 4.0 * band_m * band_m
        scratch[e, 9], scratch[e, 10], scratch[e, 11] = c, out[0], out[1]
    return entries


def blend_at(
    x: Array, band_m: float, blend_radius: float, charts: tuple[Array, ...], scratch: Array, result: Array
) -> bool:
    """Blend at one point.

    ``charts`` = (anchor (K, 3), rotation (K, 3, 3), scale (K,), rasters (K, 33, 33, 3),
    support (K, 16, 16)); in id order, so sums do not depend on who asks. ``scratch`` is
    (96, 12) float64. result = [distance_m, normal (3), support]. False where no chart reaches.
    """
    said = scratch[: _say(x, band_m, blend_radius, charts, scratch)]
    sheets: list[tuple[Array, Array]] = []
    free = np.ones(len(said), np.bool_)
    while free.any() and len(sheets) < 3:
        best = said[np.argmin(np.where(free, said[:, 8], np.inf))]
        own = free & (said[:, 1:4] @ best[1:4] >= _SAME_SHEET_COS)
        free &= ~own
        blended = _sheet(said[own])
        if blended is not None:
            # A sheet's best chart stands first.
            sheets.append((blended, said[own][np.argsort(said[own][:, 8], kind="stable")]))
        elif not sheets:
            return False
    if not sheets:
        return False
    held, rows = sheets[0]
    for other, others in sheets[1:]:
        held, rows = _meet(x, held, rows, other, others, charts)
    result[:] = held
    return True


def _sheet(rows: Array) -> Array | None:
    """The blend of one sheet: distance, normal, support."""
    weight, normal = rows[:, 4].sum(), rows[:, 4] @ rows[:, 1:4]
    length = np.linalg.norm(normal)
    if not (weight > 1e-12 and length > 0.0):
        return None
    backed, known, plain = (rows[:, 5] @ rows[:, 6], rows[:, 5] @ rows[:, 7], rows[:, 5].sum())
    # Of those who looked, the share that saw it; of the charts' weight, the share that was looked at.
    support = min(backed / max(known, 1e-30), known / max(plain, 1e-30))
    return np.array([rows[:, 4] @ rows[:, 0] / weight, *(normal / length), support])


def _meet(
    x: Array, held: Array, rows: Array, other: Array, others: Array, charts: tuple[Array, ...]
) -> tuple[Array, Array]:
    """Two sheets that end at each other bound the solid together."""
    scale = charts[2]
    size = min(scale[int(rows[0, 9])], scale[int(others[0, 9])])
    # How high the middle of what a sheet's best chart shows lies over the other sheet's plane.
    over_held = held[0] + (_middle(int(others[0, 9]), charts) - x) @ held[1:4]
    over_other = other[0] + (_middle(int(rows[0, 9]), charts) - x) @ other[1:4]
    is_edge, is_corner = max(over_held, over_other) < 0, min(over_held, over_other) > 0
    if held[1:4] @ other[1:4] < -0.7 or not (is_edge or is_corner):
        return held, rows
    if min(abs(over_held), abs(over_other)) < 0.02 * size:
        return held, rows
    side = 1.0 if is_edge else -1.0
    here, beside_held, goes_on = _backing(rows, held, other, side, charts)
    there, beside_other, others_go_on = _backing(others, other, held, side, charts)
    if min(here, there) < 0.5 or max(goes_on, others_go_on) > 0.5:
        return held, rows
    chosen, kept = (other, others) if (other[0] > held[0]) == is_edge else (held, rows)
    chosen = chosen.copy()
    if abs(held[0] - other[0]) < size / 8:
        chosen[4] = max(chosen[4], min(beside_held, beside_other))
    return chosen, kept


def _middle(chart: int, charts: tuple[Array, ...]) -> Array:
    """World place of the middle of what a chart shows."""
    anchor, rotation, scale, rasters, support = charts
    shown = support[chart].astype(np.float64)
    at = np.einsum("ij,ijk->k", shown, rasters[chart][1::2, 1::2].astype(np.float64)) / shown.sum()
    middle: Array = anchor[chart] + scale[chart] * rotation[chart] @ at
    return middle


def _backing(
    rows: Array, own: Array, other: Array, side: float, charts: tuple[Array, ...]
) -> tuple[float, float, float]:
    """How well a sheet is backed around its feet, right beside them, and well behind the other one."""
    _, rotation, scale, _, support = charts
    around = beside = behind = 0.0
    uphill = other[1:4] - (other[1:4] @ own[1:4]) * own[1:4]
    for row in rows:
        c = int(row[9])
        low = np.floor((row[10:12] + 1) * 8 - 0.5).astype(int)
        window = support[c][max(low[0] - 1, 0) : max(low[0] + 3, 0), max(low[1] - 1, 0) : max(low[1] + 3, 0)]
        around = max(around, float(window.max(initial=0.0)))
        cells = support[c][max(low[0], 0) : max(low[0] + 2, 0), max(low[1], 0) : max(low[1] + 2, 0)]
        beside = max(beside, float(cells.max(initial=0.0)))
        foot_height = (other[0] - own[0] * (other[1:4] @ own[1:4])) / scale[c]
        step = (side * 2.5 / 8 - foot_height) / (uphill @ uphill) * (rotation[c].T @ uphill)[:2]
        at = row[10:12] + step
        if at @ at < 1.0:
            behind = max(behind, support_at(support[c], at[0], at[1]))
    return around, beside, behind
