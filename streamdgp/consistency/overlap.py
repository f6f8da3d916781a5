"""Overlaps: what the neighbours predict at the samples of a chart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import find_block
from streamdgp.fitting.feet import FOOT, MOST, PHI, POINT, feet_on_raster, feet_scratch, foot_normal
from streamdgp.fitting.pointers import raster_at, support_mask_at
from streamdgp.levels import level_key
from streamdgp.surface.blend import support_at

__all__ = ["authorities", "neighbour_lists", "neighbour_targets", "neighbours_of"]

# Across a crease sharper than this (37 degrees) charts do not pull on one another.
_SAME_SHEET_COS = 0.8
_LEAST_RIM = 0.01
_BLEND_RADIUS2 = 0.81
_MOST_NEIGHBOURS = 4096


@njit(cache=True, nogil=True, inline="always")
def _span(middle_m: float, reach_m: float, cell_m: float) -> tuple[int, int]:
    """Cells from the first to behind the last that a stretch of a line meets."""
    return int(np.floor((middle_m - reach_m) / cell_m)), int(np.floor((middle_m + reach_m) / cell_m)) + 1


@njit(cache=True, nogil=True, error_model="numpy")
def neighbours_of(
    chart: int,
    anchor: Any,
    rotation: Any,
    level: Any,
    scales_m: Any,
    reach: float,
    grid: Any,
    out: Any,
) -> int:
    """Charts that face the same way, with anchors within ``reach`` times the mean radius of the two balls.

    Their numbers, sorted.
    """
    table, keys, head, following, counters = grid
    found = 0
    for their in range(scales_m.shape[0]):
        if counters[1 + their] == 0:
            continue
        cell_m = scales_m[their]
        limit_m = 0.5 * reach * (scales_m[level[chart]] + cell_m)
        x0, x1 = _span(anchor[chart, 0], limit_m, cell_m)
        y0, y1 = _span(anchor[chart, 1], limit_m, cell_m)
        z0, z1 = _span(anchor[chart, 2], limit_m, cell_m)
        for x in range(x0, x1):
            for y in range(y0, y1):
                for z in range(z0, z1):
                    cell = find_block(x, y, level_key(z, their), table, keys)
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
                            if ex * ex + ey * ey + ez * ez < limit_m * limit_m and dot > 0.0:
                                out[found] = c
                                found += 1
                        c = following[c]
    out[:found].sort()
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def neighbour_lists(
    charts: Any, anchor: Any, rotation: Any, level: Any, scales_m: Any, reach: float, grid: Any
) -> Any:
    """Neighbours of every chart: offsets (K + 1,) and chart numbers, one list behind the other."""
    buffer = np.empty(_MOST_NEIGHBOURS, np.int64)
    start = np.zeros(charts.shape[0] + 1, np.int64)
    flat = np.empty(16 * charts.shape[0] + _MOST_NEIGHBOURS, np.int64)
    for row in range(charts.shape[0]):
        found = neighbours_of(charts[row], anchor, rotation, level, scales_m, reach, grid, buffer)
        end = start[row] + found
        if end > flat.shape[0]:
            longer = np.empty(2 * flat.shape[0] + found, np.int64)
            longer[: start[row]] = flat[: start[row]]
            flat = longer
        flat[start[row] : end] = buffer[:found]
        start[row + 1] = end
    return start, flat[: start[-1]].copy()


@njit(cache=True, nogil=True, error_model="numpy")
def authorities(charts: Any, fit_mass: Any, fresh_mass: Any) -> Any:
    """How far the word of stored charts (M,) counts: the share of today's evidence that they know, cubed.

    What a chart that waits for its refit has not seen, the chart being fitted has. Masses (charts, 64).
    """
    out = np.empty(charts.shape[0])
    # Sums side by side: one addition need not wait for the one before.
    fit, fresh = np.empty(4), np.empty(4)
    for m in range(charts.shape[0]):
        c = charts[m]
        fit[:], fresh[:] = 0.0, 0.0
        for cell in range(0, fit_mass.shape[1], 4):
            for k in range(4):
                fit[k] += fit_mass[c, cell + k]
                fresh[k] += fresh_mass[c, cell + k]
        known = fit[0] + fit[1] + fit[2] + fit[3]
        out[m] = (known / (known + fresh[0] + fresh[1] + fresh[2] + fresh[3] + 1e-30)) ** 3
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def neighbour_targets(
    charts: Any,
    start: Any,
    near: Any,
    raster_address: Any,
    support_address: Any,
    authority: Any,
    anchor: Any,
    rotation: Any,
    level: Any,
    scales_m: Any,
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
    precisions b are the weights of the blend (streamdgp.surface.blend: a chart is surest at its
    centre and where evidence backs it); with mu = 1 charts agree on the very surface that the blend
    shows, and so the blend does not move. ``authority`` scales them per neighbour. Neighbours farther
    off than ``tolerance`` (K,) count for less (Cauchy's weights): there charts disagree by what they
    cannot represent, and the mean would be wrong for both.

    ``start``, ``near`` (M,) are the neighbour lists, and ``raster_address``, ``support_address`` and
    ``authority`` (M,) what stands beside them. ``own`` (K, N, 3) holds phi^_q(v_i); samples off the chart's
    support (``own_support_address``) stay where they are. Outputs targets (K, N, 3), overlap (K, N).
    """
    s = feet_scratch()
    n = own.shape[1]
    assert n <= MOST
    sample, weight, axis = np.empty(n, np.int64), np.empty(n), np.empty(3)
    # Coordinates one after another: the samples less the chart's anchor, and in a neighbour's frame.
    world, there = np.empty(3 * n), np.empty(4 * n)
    precision = np.empty(n)
    pull = np.empty((n, 4))
    for row in range(charts.shape[0]):
        c = charts[row]
        scale_m = scales_m[level[c]]
        mine = support_mask_at(own_support_address[row])
        for i in range(n):
            rho2 = 0.0
            for k in range(3):
                targets[row, i, k] = own[row, i, k]
                rho2 += own[row, i, k] * own[row, i, k] / _BLEND_RADIUS2
                world[k * n + i] = (
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
            if authority[m] <= 0.0:
                continue
            near_enough = 0
            # A length in this chart's ball radii, in those of the neighbour.
            shrink = scale_m / scales_m[level[q]]
            sx = (anchor[c, 0] - anchor[q, 0]) / scale_m
            sy = (anchor[c, 1] - anchor[q, 1]) / scale_m
            sz = (anchor[c, 2] - anchor[q, 2]) / scale_m
            r00, r10, r20 = rotation[q, 0, 0], rotation[q, 1, 0], rotation[q, 2, 0]
            r01, r11, r21 = rotation[q, 0, 1], rotation[q, 1, 1], rotation[q, 2, 1]
            r02, r12, r22 = rotation[q, 0, 2], rotation[q, 1, 2], rotation[q, 2, 2]
            # No branch inside: the compiler makes vectors of it.
            for i in range(n):
                dx, dy, dz = (
                    shrink * (world[i] + sx),
                    shrink * (world[n + i] + sy),
                    shrink * (world[2 * n + i] + sz),
                )
                there[i] = dx * r00 + dy * r10 + dz * r20
                there[n + i] = dx * r01 + dy * r11 + dz * r21
                there[2 * n + i] = dx * r02 + dy * r12 + dz * r22
                there[3 * n + i] = (dx * dx + dy * dy + dz * dz) / _BLEND_RADIUS2
            for i in range(n):
                rho2 = there[3 * n + i]
                if rho2 >= 1.0 or precision[i] <= 0.0:
                    continue
                k = near_enough
                y0, y1 = there[i], there[n + i]
                s[POINT + k], s[POINT + MOST + k], s[FOOT + k], s[FOOT + MOST + k] = y0, y1, y0, y1
                s[POINT + 2 * MOST + k] = there[2 * n + i]
                sample[k] = i
                weight[k] = (1.0 - rho2) ** 3
                near_enough += 1
            if near_enough == 0:
                continue
            # The samples lie close to the neighbour: with two steps their feet are exact for the seams too.
            feet_on_raster(raster_at(raster_address[m]).reshape(-1), s, near_enough, 2)
            support = support_mask_at(support_address[m])
            # This chart's third axis in the neighbour's frame, to tell whether both are on one sheet.
            for k in range(3):
                axis[k] = (
                    rotation[q, 0, k] * rotation[c, 0, 2]
                    + rotation[q, 1, k] * rotation[c, 1, 2]
                    + rotation[q, 2, k] * rotation[c, 2, 2]
                )
            tolerance2 = (tolerance[row] * shrink) ** 2
            for k in range(near_enough):
                # From the sample to its foot on the neighbour, and the neighbour's normal there.
                f0, f1 = s[PHI + k], s[PHI + MOST + k]
                o0, o1 = f0 - s[POINT + k], f1 - s[POINT + MOST + k]
                o2 = s[PHI + 2 * MOST + k] - s[POINT + 2 * MOST + k]
                d2 = o0 * o0 + o1 * o1 + o2 * o2
                if d2 > 0.09:
                    continue
                n0, n1, n2 = foot_normal(s, k)
                length = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
                dot = axis[0] * n0 + axis[1] * n1 + axis[2] * n2
                if not dot >= _SAME_SHEET_COS * length or length == 0.0:
                    continue
                backed = support_at(support, f0, f1)
                if backed < 0.5:
                    continue
                height = (o0 * n0 + o1 * n1 + o2 * n2) / length
                beside2 = max(d2 - height * height, 0.0)
                b = mu * weight[k] * np.exp(-beside2 / 0.01) * backed * authority[m]
                b /= 1.0 + d2 / tolerance2
                i = sample[k]
                for j in range(3):
                    pull[i, j] += (b / shrink) * (
                        rotation[q, j, 0] * o0 + rotation[q, j, 1] * o1 + rotation[q, j, 2] * o2
                    )
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
