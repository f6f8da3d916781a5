"""Overlaps: what the neighbours predict at the samples of a chart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import find_block
from streamdgp.fitting.pointers import raster_at, support_mask_at
from streamdgp.fitting.raster import foot_on_raster
from streamdgp.surface.kernels import support_at

__all__ = ["neighbour_lists", "neighbour_targets", "neighbours_of"]

# Across a crease sharper than this (37 degrees) charts do not pull on one another.
_SAME_SHEET_COS = 0.8
_LEAST_RIM = 0.01
_BLEND_RADIUS2 = 0.81
_MOST_NEIGHBOURS = 512


@njit(cache=True, nogil=True, error_model="numpy")
def neighbours_of(
    chart: int,
    anchor: Any,
    rotation: Any,
    scale_m: float,
    reach: float,
    grid: Any,
    out: Any,
) -> int:
    """Charts whose anchors lie within ``reach * scale_m`` and face the same way; sorted numbers."""
    table, keys, head, following, _ = grid
    x = int(np.floor(anchor[chart, 0] / scale_m))
    y = int(np.floor(anchor[chart, 1] / scale_m))
    z = int(np.floor(anchor[chart, 2] / scale_m))
    limit = reach * scale_m * reach * scale_m
    found = 0
    for dx in range(-2, 3):
        for dy in range(-2, 3):
            for dz in range(-2, 3):
                cell = find_block(x + dx, y + dy, z + dz, table, keys)
                if cell < 0:
                    continue
                c = head[cell]
                while c >= 0:
                    if c != chart and found < out.shape[0]:
                        ex = anchor[c, 0] - anchor[chart, 0]
                        ey = anchor[c, 1] - anchor[chart, 1]
                        ez = anchor[c, 2] - anchor[chart, 2]
                        dot = (
                            rotation[c, 0, 2] * rotation[chart, 0, 2]
                            + rotation[c, 1, 2] * rotation[chart, 1, 2]
                            + rotation[c, 2, 2] * rotation[chart, 2, 2]
                        )
                        if ex * ex + ey * ey + ez * ez < limit and dot > 0.0:
                            out[found] = c
                            found += 1
                    c = following[c]
    out[:found].sort()
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def neighbour_lists(charts: Any, anchor: Any, rotation: Any, scale_m: float, reach: float, grid: Any) -> Any:
    """Neighbours of every chart: offsets (K + 1,) and chart numbers, one list behind the other."""
    buffer = np.empty(_MOST_NEIGHBOURS, np.int64)
    start = np.zeros(charts.shape[0] + 1, np.int64)
    flat = np.empty(16 * charts.shape[0] + _MOST_NEIGHBOURS, np.int64)
    for row in range(charts.shape[0]):
        found = neighbours_of(charts[row], anchor, rotation, scale_m, reach, grid, buffer)
        end = start[row] + found
        if end > flat.shape[0]:
            longer = np.empty(2 * flat.shape[0] + found, np.int64)
            longer[: start[row]] = flat[: start[row]]
            flat = longer
        flat[start[row] : end] = buffer[:found]
        start[row + 1] = end
    return start, flat[: start[-1]].copy()


@njit(cache=True, nogil=True, error_model="numpy")
def neighbour_targets(
    charts: Any,
    start: Any,
    near: Any,
    near_row: Any,
    raster_address: Any,
    support_address: Any,
    authority: Any,
    anchor: Any,
    rotation: Any,
    scale_m: float,
    mu: float,
    own: Any,
    own_support_address: Any,
    tolerance: Any,
    targets: Any,
    overlap: Any,
) -> None:
    """Combine each chart's own fit with its neighbours' predictions, sample by sample.

    A lazy L_q is quadratic, so it equals its distance from the chart's own solution phi^_q. At sample i

        b_q |phi(v_i) - phi^_q(v_i)|^2 + mu sum_q' b_q' |phi(v_i) - p_i'|^2,    p_i' on phi_q' at x_i,

    is least for (b_q phi^_q(v_i) + mu sum b_q' p_i') / (b_q + mu sum b_q'): that is the target. The
    precisions b are the weights of the blend (streamdgp.surface.kernels: a chart is surest at its
    centre and where evidence backs it); with mu = 1 charts agree on the very surface that the blend
    shows, and so the blend does not move. ``authority`` scales them per neighbour. Neighbours farther
    off than ``tolerance`` (K,) count for less (Cauchy's weights): there charts disagree by what they
    cannot represent, and the mean would be wrong for both.

    ``start``, ``near`` are the neighbour lists; near_row tells a neighbour's row in ``raster_address``,
    ``support_address`` and ``authority``. ``own`` (K, N, 3) holds phi^_q(v_i); samples off the chart's
    support (``own_support_address``) stay where they are. Outputs targets (K, N, 3), overlap (K, N).
    """
    y = np.empty(3)
    v = np.empty(2)
    out = np.empty(9)
    n = own.shape[1]
    world = np.empty((n, 3))
    precision = np.empty(n)
    pull = np.empty((n, 4))
    for row in range(charts.shape[0]):
        c = charts[row]
        mine = support_mask_at(own_support_address[row])
        for i in range(n):
            rho2 = 0.0
            for k in range(3):
                targets[row, i, k] = own[row, i, k]
                rho2 += own[row, i, k] * own[row, i, k] / _BLEND_RADIUS2
                world[i, k] = (
                    rotation[c, k, 0] * own[row, i, 0]
                    + rotation[c, k, 1] * own[row, i, 1]
                    + rotation[c, k, 2] * own[row, i, 2]
                )
            overlap[row, i] = 0.0
            backed = support_at(mine, own[row, i, 0], own[row, i, 1])
            precision[i] = max(1.0 - rho2, _LEAST_RIM) ** 3 * backed if backed >= 0.5 else 0.0
            for k in range(4):
                pull[i, k] = 0.0
        for m in range(start[row], start[row + 1]):
            q = near[m]
            r = near_row[m]
            if authority[r] <= 0.0:
                continue
            raster = raster_at(raster_address[r])
            support = support_mask_at(support_address[r])
            sx = (anchor[c, 0] - anchor[q, 0]) / scale_m
            sy = (anchor[c, 1] - anchor[q, 1]) / scale_m
            sz = (anchor[c, 2] - anchor[q, 2]) / scale_m
            for i in range(n):
                if precision[i] <= 0.0:
                    continue
                dx, dy, dz = world[i, 0] + sx, world[i, 1] + sy, world[i, 2] + sz
                rho2 = (dx * dx + dy * dy + dz * dz) / _BLEND_RADIUS2
                if rho2 >= 1.0:
                    continue
                for k in range(3):
                    y[k] = dx * rotation[q, 0, k] + dy * rotation[q, 1, k] + dz * rotation[q, 2, k]
                v[0] = y[0]
                v[1] = y[1]
                # The sample lies close to the neighbour: with two steps its foot is exact for the seams too.
                d2 = foot_on_raster(raster, y, v, out, 2)
                if d2 > 0.09:
                    continue
                backed = support_at(support, out[0], out[1])
                if backed < 0.5:
                    continue
                nx = out[4] * out[8] - out[5] * out[7]
                ny = out[5] * out[6] - out[3] * out[8]
                nz = out[3] * out[7] - out[4] * out[6]
                length = np.sqrt(nx * nx + ny * ny + nz * nz)
                # Direction of the neighbour's normal in this chart's frame: same sheet only.
                wx = rotation[q, 0, 0] * nx + rotation[q, 0, 1] * ny + rotation[q, 0, 2] * nz
                wy = rotation[q, 1, 0] * nx + rotation[q, 1, 1] * ny + rotation[q, 1, 2] * nz
                wz = rotation[q, 2, 0] * nx + rotation[q, 2, 1] * ny + rotation[q, 2, 2] * nz
                dot = wx * rotation[c, 0, 2] + wy * rotation[c, 1, 2] + wz * rotation[c, 2, 2]
                if not dot >= _SAME_SHEET_COS * length or length == 0.0:
                    continue
                height = ((y[0] - out[0]) * nx + (y[1] - out[1]) * ny + (y[2] - out[2]) * nz) / length
                beside2 = max(d2 - height * height, 0.0)
                b = mu * (1.0 - rho2) ** 3 * np.exp(-beside2 / 0.01) * backed * authority[r]
                # From the sample to the neighbour's foot point, turned into this chart's frame.
                ox, oy, oz = out[0] - y[0], out[1] - y[1], out[2] - y[2]
                gx = rotation[q, 0, 0] * ox + rotation[q, 0, 1] * oy + rotation[q, 0, 2] * oz
                gy = rotation[q, 1, 0] * ox + rotation[q, 1, 1] * oy + rotation[q, 1, 2] * oz
                gz = rotation[q, 2, 0] * ox + rotation[q, 2, 1] * oy + rotation[q, 2, 2] * oz
                b /= 1.0 + d2 / (tolerance[row] * tolerance[row])
                pull[i, 0] += b * gx
                pull[i, 1] += b * gy
                pull[i, 2] += b * gz
                pull[i, 3] += b
        for i in range(n):
            if pull[i, 3] <= 0.0:
                continue
            total = precision[i] + pull[i, 3]
            for k in range(3):
                along = (
                    rotation[c, 0, k] * pull[i, 0]
                    + rotation[c, 1, k] * pull[i, 1]
                    + rotation[c, 2, k] * pull[i, 2]
                )
                targets[row, i, k] = own[row, i, k] + along / total
            overlap[row, i] = pull[i, 3] / total
