"""The blend at one point, chart by chart, as the formula reads: what ``blend_points`` must agree with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.fitting.raster import RASTER, foot_on_raster
from streamdgp.surface.blend import support_at

__all__ = ["blend_at"]

_SUPPORT_FLOOR = 1e-3
_SAME_SHEET_COS = 0.35
_STEEPEST = 2.0
_RASTER_SLACK = 0.08


@njit(error_model="numpy")
def blend_at(
    x: Any,
    band_m: float,
    blend_radius: float,
    charts: Any,
    scratch: Any,
    result: Any,
) -> bool:
    """Blend at one point.

    ``charts`` = (anchor (K, 3), rotation (K, 3, 3), scale (K,), rasters (K, 33, 33, 3),
    support (K, 16, 16)); in id order, so sums do not depend on who asks. ``scratch`` is
    (96, 8) float64. result = [distance_m, normal (3), support]. False where no chart reaches.
    """
    anchor, rotation, scale, rasters, support = charts
    y = np.empty(3)
    v = np.empty(2)
    out = np.empty(9)
    entries = 0
    nearest = 1e30
    nearest_entry = -1
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
        rank = d2 * s * s + (1.0 - min(backed, 1.0)) * 4.0 * band_m * band_m
        if rank < nearest:
            nearest = rank
            nearest_entry = e
    if nearest_entry < 0:
        return False
    mx, my, mz = scratch[nearest_entry, 1], scratch[nearest_entry, 2], scratch[nearest_entry, 3]
    weight = distance = plain = backed_sum = known = 0.0
    ax = ay = az = 0.0
    for e in range(entries):
        dot = scratch[e, 1] * mx + scratch[e, 2] * my + scratch[e, 3] * mz
        if dot < _SAME_SHEET_COS:
            continue
        w = scratch[e, 4]
        weight += w
        distance += w * scratch[e, 0]
        ax += w * scratch[e, 1]
        ay += w * scratch[e, 2]
        az += w * scratch[e, 3]
        plain += scratch[e, 5]
        backed_sum += scratch[e, 5] * scratch[e, 6]
        known += scratch[e, 5] * scratch[e, 7]
    if not (weight > 1e-12):
        return False
    length = np.sqrt(ax * ax + ay * ay + az * az)
    if not (length > 0.0):
        return False
    result[0] = distance / weight
    result[1] = ax / length
    result[2] = ay / length
    result[3] = az / length
    # Of those who looked, the share that saw it; of the charts' weight, the share that was looked at.
    result[4] = min(backed_sum / max(known, 1e-30), known / max(plain, 1e-30))
    return True
