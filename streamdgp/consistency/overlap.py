"""Overlaps: what the neighbours predict where a chart has evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import find_block
from streamdgp.fitting.raster import foot_on_raster
from streamdgp.surface.kernels import support_at

__all__ = ["colour_charts", "neighbour_targets", "neighbours_of"]

_SAME_SHEET_COS = 0.5
_MAX_NEIGHBOURS = 96


@njit(cache=True, nogil=True, error_model="numpy")
def neighbours_of(
    chart: int, anchor: Any, rotation: Any, scale_m: float, reach: float, grid: Any, out: Any  # noqa: ANN401
) -> int:
    """Charts whose anchors lie within ``reach * scale_m`` and that may share evidence; sorted numbers."""
    table, keys, head, following, _ = grid
    x = np.int64(np.floor(anchor[chart, 0] / scale_m))
    y = np.int64(np.floor(anchor[chart, 1] / scale_m))
    z = np.int64(np.floor(anchor[chart, 2] / scale_m))
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
def colour_charts(charts: Any, anchor: Any, rotation: Any, scale_m: float, grid: Any, colour: Any) -> int:  # noqa: ANN401
    """Greedy colouring of the overlap graph among ``charts`` (in order); returns the number of colours.

    ``colour`` (all charts,) int32 is -1 on entry for every chart. Blocks of one colour do not overlap
    by much, so they can be solved together as one step of block Gauss-Seidel.
    """
    near = np.empty(256, np.int64)
    used = np.empty(257, np.uint8)
    colours = 0
    for c in charts:
        found = neighbours_of(c, anchor, rotation, scale_m, 1.0, grid, near)
        used[: found + 1] = 0
        for k in range(found):
            other = colour[near[k]]
            if 0 <= other <= found:
                used[other] = 1
        pick = 0
        while used[pick]:
            pick += 1
        colour[c] = pick
        colours = max(colours, pick + 1)
    return colours


@njit(cache=True, nogil=True, error_model="numpy")
def neighbour_targets(
    charts: Any,  # noqa: ANN401
    near_start: Any,  # noqa: ANN401
    near: Any,  # noqa: ANN401
    near_rasters: Any,  # noqa: ANN401
    near_supports: Any,  # noqa: ANN401
    anchor: Any,  # noqa: ANN401
    rotation: Any,  # noqa: ANN401
    scale_m: float,
    mu: float,
    points: Any,  # noqa: ANN401
    weights: Any,  # noqa: ANN401
    targets: Any,  # noqa: ANN401
    total: Any,  # noqa: ANN401
) -> None:
    """Combine each row's evidence with its neighbours' predictions.

    With phi_q'(foot of x_i) = p_i' the objective sum_i w_i |phi(v_i) - x_i|^2 + mu sum_q' b_q' w_i
    |phi(v_i) - p_i'|^2 at fixed v_i is one least squares with target (x_i + mu sum b p) / (1 + mu sum b)
    and weight w_i (1 + mu sum b). b falls off towards the neighbour's border and is zero off its support.

    ``near`` lists, per chart (offsets ``near_start``), rows of ``near_rasters``; near[:, 0] is the
    chart number, near[:, 1] the row.
    """
    x = np.empty(3)
    y = np.empty(3)
    v = np.empty(2)
    out = np.empty(9)
    for row in range(charts.shape[0]):
        c = charts[row]
        for i in range(points.shape[1]):
            w = weights[row, i]
            for k in range(3):
                targets[row, i, k] = points[row, i, k]
            total[row, i] = w
            if w <= 0.0:
                continue
            for k in range(3):
                x[k] = (
                    rotation[c, k, 0] * points[row, i, 0]
                    + rotation[c, k, 1] * points[row, i, 1]
                    + rotation[c, k, 2] * points[row, i, 2]
                )
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
                b = (1.0 - rho2) * (1.0 - rho2) * mu
                # The neighbour's foot point, back in the world, then in this chart's frame.
                fx = rotation[q, 0, 0] * out[0] + rotation[q, 0, 1] * out[1] + rotation[q, 0, 2] * out[2]
                fy = rotation[q, 1, 0] * out[0] + rotation[q, 1, 1] * out[1] + rotation[q, 1, 2] * out[2]
                fz = rotation[q, 2, 0] * out[0] + rotation[q, 2, 1] * out[1] + rotation[q, 2, 2] * out[2]
                fx += (anchor[q, 0] - anchor[c, 0]) / scale_m
                fy += (anchor[q, 1] - anchor[c, 1]) / scale_m
                fz += (anchor[q, 2] - anchor[c, 2]) / scale_m
                t0 += b * (fx * rotation[c, 0, 0] + fy * rotation[c, 1, 0] + fz * rotation[c, 2, 0])
                t1 += b * (fx * rotation[c, 0, 1] + fy * rotation[c, 1, 1] + fz * rotation[c, 2, 1])
                t2 += b * (fx * rotation[c, 0, 2] + fy * rotation[c, 1, 2] + fz * rotation[c, 2, 2])
                share += b
            if share > 0.0:
                targets[row, i, 0] = (points[row, i, 0] + t0) / (1.0 + share)
                targets[row, i, 1] = (points[row, i, 1] + t1) / (1.0 + share)
                targets[row, i, 2] = (points[row, i, 2] + t2) / (1.0 + share)
                total[row, i] = w * (1.0 + share)
