"""Overlaps: what the neighbours predict where a chart has evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import find_block
from streamdgp.fitting.raster import foot_on_raster
from streamdgp.surface.kernels import support_at

__all__ = ["neighbour_targets", "neighbours_of"]

_SAME_SHEET_COS = 0.5


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
    """Charts whose anchors lie within ``reach * scale_m`` and that may share evidence; sorted numbers."""
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
def neighbour_targets(
    charts: Any,
    near_start: Any,
    near: Any,
    near_rasters: Any,
    near_supports: Any,
    anchor: Any,
    rotation: Any,
    scale_m: float,
    mu: float,
    own: Any,
    weights: Any,
    tolerance: Any,
    targets: Any,
    overlap: Any,
) -> None:
    """Combine each chart's own fit with its neighbours' predictions, row by row.

    A lazy L_q is quadratic, so it equals its distance from the chart's own solution phi^_q. At row i

        b_q |phi(v_i) - phi^_q(v_i)|^2 + mu sum_q' b_q' |phi(v_i) - p_i'|^2,    p_i' on phi_q' at x_i,

    is least for (b_q phi^_q(v_i) + mu sum b_q' p_i') / (b_q + mu sum b_q'): that is the target. The
    precisions b = (1 - rho^2)^3 are those of the blend (a chart is surest at its centre), zero off the
    neighbour's support; with mu = 1 charts agree on the very surface that the blend would show, so
    little accuracy is lost. ``own`` (K, N, 3) holds phi^_q(v_i); rows without weight are skipped.

    ``near`` lists, per chart (offsets ``near_start``), rows of ``near_rasters``; near[:, 0] is the
    chart number, near[:, 1] the row.
    """
    x = np.empty(3)
    y = np.empty(3)
    v = np.empty(2)
    out = np.empty(9)
    for row in range(charts.shape[0]):
        c = charts[row]
        for i in range(own.shape[1]):
            for k in range(3):
                targets[row, i, k] = own[row, i, k]
            overlap[row, i] = 0.0
            if weights[row, i] <= 0.0:
                continue
            own_rho2 = 0.0
            for k in range(3):
                x[k] = (
                    rotation[c, k, 0] * own[row, i, 0]
                    + rotation[c, k, 1] * own[row, i, 1]
                    + rotation[c, k, 2] * own[row, i, 2]
                )
                own_rho2 += own[row, i, k] * own[row, i, k] / 0.81
            precision = max(1.0 - own_rho2, 0.1) ** 3
            share = 0.0
            t0 = t1 = t2 = 0.0
            for m in range(near_start[row], near_start[row + 1]):
                q = near[m, 0]
                r = near[m, 1]
                dx = x[0] + (anchor[c, 0] - anchor[q, 0]) / scale_m
                dy = x[1] + (anchor[c, 1] - anchor[q, 1]) / scale_m
                dz = x[2] + (anchor[c, 2] - anchor[q, 2]) / scale_m
                rho2 = (dx * dx + dy * dy + dz * dz) / 0.81
                if rho2 >= 1.0:
                    continue
                for k in range(3):
                    y[k] = dx * rotation[q, 0, k] + dy * rotation[q, 1, k] + dz * rotation[q, 2, k]
                v[0] = y[0]
                v[1] = y[1]
                d2 = foot_on_raster(near_rasters[r], y, v, out, 3)
                if d2 > 0.09:
                    continue
                backed = support_at(near_supports[r], out[0], out[1])
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
                if dot < _SAME_SHEET_COS * length:
                    continue
                b = mu * (1.0 - rho2) ** 3
                # The neighbour's foot point, back in the world, then in this chart's frame.
                fx = rotation[q, 0, 0] * out[0] + rotation[q, 0, 1] * out[1] + rotation[q, 0, 2] * out[2]
                fy = rotation[q, 1, 0] * out[0] + rotation[q, 1, 1] * out[1] + rotation[q, 1, 2] * out[2]
                fz = rotation[q, 2, 0] * out[0] + rotation[q, 2, 1] * out[1] + rotation[q, 2, 2] * out[2]
                fx += (anchor[q, 0] - anchor[c, 0]) / scale_m
                fy += (anchor[q, 1] - anchor[c, 1]) / scale_m
                fz += (anchor[q, 2] - anchor[c, 2]) / scale_m
                gx = fx * rotation[c, 0, 0] + fy * rotation[c, 1, 0] + fz * rotation[c, 2, 0]
                gy = fx * rotation[c, 0, 1] + fy * rotation[c, 1, 1] + fz * rotation[c, 2, 1]
                gz = fx * rotation[c, 0, 2] + fy * rotation[c, 1, 2] + fz * rotation[c, 2, 2]
                apart2 = (gx - own[row, i, 0]) ** 2 + (gy - own[row, i, 1]) ** 2 + (gz - own[row, i, 2]) ** 2
                b /= 1.0 + apart2 / (tolerance[row] * tolerance[row])
                t0 += b * gx
                t1 += b * gy
                t2 += b * gz
                share += b
            if share > 0.0:
                total = precision + share
                targets[row, i, 0] = (precision * own[row, i, 0] + t0) / total
                targets[row, i, 1] = (precision * own[row, i, 1] + t1) / total
                targets[row, i, 2] = (precision * own[row, i, 2] + t2) / total
                overlap[row, i] = share / total
