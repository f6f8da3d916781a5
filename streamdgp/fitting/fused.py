"""The lazy regression of one chart after another, fused for CPUs.

The same mathematics as ``LazyRegime._regress`` in torch (which stays for CUDA, and as the reference
that this is tested against), arranged so that everything of a chart stays in the first-level cache:
features are looked up on the raster lattice (so the chart that is stored is exactly the one that was
regressed), all inner products come from one Gram matrix of features and targets, the likelihood
of every ridge comes from a tridiagonal form, and robust weights only subtract the few rows that they change.

Helpers that may take sums apart (``fastmath``) are inlined by force. As functions of their own they exist
twice, alone and in the stored kernel that calls them, each vectorised in its own way, and which of the two
runs is up to what else a process compiled: its first run had other bits than all later ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.fitting.feet import FOOT, MOST, PHI, POINT, feet_on_raster, feet_scratch, foot_normal
from streamdgp.fitting.lattice import AFFINE, raster_of_chart
from streamdgp.fitting.pointers import raster_at
from streamdgp.fitting.raster import RASTER
from streamdgp.fitting.small_systems import (
    cholesky,
    reflect,
    shifted_scores,
    solve_shifted,
    substitute,
    tridiagonalise,
)

__all__ = ["STEEP_COS", "STEEP_SHARE", "regress_charts"]

_HALF = (RASTER - 1) / 2
_JITTER = 1e-6
_STEPS = 2
_WIDE = 32
STEEP_COS = 0.4
"""A chart is steep where its normal leans further from the tangent plane's than this, 66 degrees."""
STEEP_SHARE = 0.02
"""A chart with no more steep rows than this is a graph over its tangent plane."""


@njit(cache=True, nogil=True, error_model="numpy")
def _feet(
    raster: Any,
    coefficients: Any,
    points: Any,
    weights: Any,
    count: int,
    thick: float,
    limit: float,
    s: Any,
    over: Any,
    feet: Any,
) -> None:
    """Foot points in the fixed gauge (``LazyRegime._feet``), feet (2, N); ``s``, over (2, N) are scratch."""
    a, b = coefficients[0, 0], coefficients[0, 1]
    c, d = coefficients[1, 0], coefficients[1, 1]
    t0, t1 = coefficients[2, 0], coefficients[2, 1]
    half = 0.5 * (a * a + b * b + c * c + d * d)
    det = a * d - b * c
    smallest = np.sqrt(max(half - np.sqrt(max(half * half - det * det, 0.0)), 0.0))
    graph = smallest > limit
    seen = steep = 0
    for begin in range(0, count, MOST):
        rows = min(count - begin, MOST)
        for r in range(rows):
            y0, y1, y2 = points[begin + r, 0], points[begin + r, 1], points[begin + r, 2]
            s[POINT + r], s[POINT + MOST + r], s[POINT + 2 * MOST + r] = y0, y1, y2
            if graph:
                # Over its tangent plane the chart is nearly a graph: start straight below the point.
                x0, x1 = y0 - t0, y1 - t1
                s[FOOT + r] = min(max((x0 * d - x1 * c) / det, -1.3), 1.3)
                s[FOOT + MOST + r] = min(max((x1 * a - x0 * b) / det, -1.3), 1.3)
                continue
            best = 1e30
            for i in range(0, RASTER, 4):
                for j in range(0, RASTER, 4):
                    corner = 3 * (RASTER * i + j)
                    e0, e1, e2 = y0 - raster[corner], y1 - raster[corner + 1], y2 - raster[corner + 2]
                    distance = e0 * e0 + e1 * e1 + e2 * e2
                    if distance < best:
                        best = distance
                        s[FOOT + r] = i / _HALF - 1.0
                        s[FOOT + MOST + r] = j / _HALF - 1.0
        feet_on_raster(raster, s, rows, _STEPS)
        for r in range(rows):
            feet[0, begin + r] = s[FOOT + r]
            feet[1, begin + r] = s[FOOT + MOST + r]
            over[0, begin + r] = s[PHI + r]
            over[1, begin + r] = s[PHI + MOST + r]
            n0, n1, n2 = foot_normal(s, r)
            backed = weights[begin + r] > 0.0
            seen += backed
            steep += backed and n2 < STEEP_COS * np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
    if not graph:
        return
    # A graph over its tangent plane is parametrised by that plane: see LazyRegime._feet.
    is_height = steep <= STEEP_SHARE * seen
    for r in range(count):
        if is_height:
            f0, f1 = over[0, r], over[1, r]
        else:
            f0 = feet[0, r] * a + feet[1, r] * c + t0
            f1 = feet[0, r] * b + feet[1, r] * d + t1
        feet[0, r] = f0 + thick * (points[r, 0] - f0)
        feet[1, r] = f1 + thick * (points[r, 1] - f1)


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _design(
    table: Any, feet: Any, points: Any, weights: Any, total: float, count: int, rows: Any, affine: Any
) -> None:
    """Rows (48, N) = [v, 1, psi(v), y - affine fit], each column times sqrt(w / total); affine (3, 3)."""
    m = table.shape[2]
    psi = np.empty(m, np.float32)
    g = np.zeros((3, 3))
    b = np.zeros((3, 3))
    for r in range(count):
        w = weights[r] / total
        if w <= 0.0:
            continue
        u, v = feet[0, r], feet[1, r]
        g[0, 0] += w * u * u
        g[0, 1] += w * u * v
        g[0, 2] += w * u
        g[1, 1] += w * v * v
        g[1, 2] += w * v
        g[2, 2] += w
        for k in range(3):
            y = w * points[r, k]
            b[0, k] += u * y
            b[1, k] += v * y
            b[2, k] += y
    g[1, 0], g[2, 0], g[2, 1] = g[0, 1], g[0, 2], g[1, 2]
    for k in range(3):
        g[k, k] += _JITTER
    cholesky(g, 3)
    substitute(g, b, 3)
    for j in range(3):
        for k in range(3):
            affine[j, k] = b[j, k]
    for r in range(count):
        root = np.float32(np.sqrt(max(weights[r] / total, 0.0)))
        u, v = feet[0, r], feet[1, r]
        rows[0, r] = root * u
        rows[1, r] = root * v
        rows[2, r] = root
        for k in range(3):
            flat = b[0, k] * u + b[1, k] * v + b[2, k]
            rows[AFFINE + m + k, r] = root * (points[r, k] - flat)
        x = (u + 1.0) * _HALF
        z = (v + 1.0) * _HALF
        i = min(max(int(np.floor(x)), 0), RASTER - 2)
        j = min(max(int(np.floor(z)), 0), RASTER - 2)
        x -= i
        z -= j
        w00 = np.float32((1.0 - x) * (1.0 - z)) * root
        w01 = np.float32((1.0 - x) * z) * root
        w10 = np.float32(x * (1.0 - z)) * root
        w11 = np.float32(x * z) * root
        t00, t01, t10, t11 = table[i, j], table[i, j + 1], table[i + 1, j], table[i + 1, j + 1]
        for f in range(m):
            psi[f] = w00 * t00[f] + w01 * t01[f] + w10 * t10[f] + w11 * t11[f]
        for f in range(m):
            rows[AFFINE + f, r] = psi[f]


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _gram(rows: Any, count: int, gram: Any) -> None:
    """Lower triangle of rows rows^T; as many rows as a multiple of four, register-blocked 4 x 2.

    The columns from ``count`` to the next multiple of _WIDE are cleared: whole registers to the end.
    """
    whole = (count + _WIDE - 1) // _WIDE * _WIDE
    rows[:, count:whole] = 0.0
    for i in range(0, rows.shape[0], 4):
        for j in range(0, i + 4, 2):
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = np.float32(0.0)
            for r in range(whole):
                c = rows[j, r]
                d = rows[j + 1, r]
                s0 += rows[i, r] * c
                s1 += rows[i + 1, r] * c
                s2 += rows[i + 2, r] * c
                s3 += rows[i + 3, r] * c
                t0 += rows[i, r] * d
                t1 += rows[i + 1, r] * d
                t2 += rows[i + 2, r] * d
                t3 += rows[i + 3, r] * d
            gram[i, j] = s0
            gram[i + 1, j] = s1
            gram[i + 2, j] = s2
            gram[i + 3, j] = s3
            gram[i, j + 1] = t0
            gram[i + 1, j + 1] = t1
            gram[i + 2, j + 1] = t2
            gram[i + 3, j + 1] = t3


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _choose_ridge(
    gram: Any, penalty: Any, used: int, gamma: float, floor: float, grid: Any, solution: Any
) -> float:
    """Ridge by marginal likelihood (``ridge.py``) and its solution (3 + m, 3), relative to the affine fit."""
    m = len(penalty)
    k = AFFINE + m
    a = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            a[i, j] = gram[max(i, j), min(i, j)]
        a[i, i] += _JITTER
    cholesky(a, 3)
    # Columns of the cross block and of the moments, solved against the affine block.
    eliminated = np.empty((3, m))
    l10, l20, l21 = a[1, 0] / a[1, 1], a[2, 0] / a[2, 2], a[2, 1] / a[2, 2]
    r0, r1, r2 = 1.0 / a[0, 0], 1.0 / a[1, 1], 1.0 / a[2, 2]
    for f in range(m):
        source = gram[AFFINE + f]
        x0 = source[0] * r0
        x1 = source[1] * r1 - l10 * x0
        x2 = (source[2] * r2 - l20 * x0 - l21 * x1) * r2
        x1 = (x1 - a[2, 1] * x2) * r1
        eliminated[0, f] = (x0 - a[1, 0] * x1 - a[2, 0] * x2) * r0
        eliminated[1, f] = x1
        eliminated[2, f] = x2
    moment = np.empty((3, 3))
    for i in range(3):
        for c in range(3):
            moment[i, c] = gram[k + c, i]
    substitute(a, moment, 3)
    s = np.zeros((m, (m + _WIDE - 1) // _WIDE * _WIDE))
    b = np.empty((m, 3))
    root = 1.0 / np.sqrt(penalty)
    e0, e1, e2 = eliminated[0], eliminated[1], eliminated[2]
    for f in range(m):
        source, row = gram[AFFINE + f], s[f]
        c0, c1, c2 = source[0], source[1], source[2]
        for g in range(f + 1):
            row[g] = (source[AFFINE + g] - c0 * e0[g] - c1 * e1[g] - c2 * e2[g]) * root[f] * root[g]
        for g in range(f):
            s[g, f] = row[g]
        for c in range(3):
            value = gram[k + c, AFFINE + f] * 1.0
            for i in range(3):
                value -= gram[AFFINE + f, i] * moment[i, c]
            b[f, c] = value * root[f]
    rss_affine = 0.0
    for c in range(3):
        rss_affine += gram[k + c, k + c]
        for i in range(3):
            rss_affine -= gram[k + c, i] * moment[i, c]
    diagonal, beside = np.empty(m), np.zeros(m)
    reflectors = np.zeros((m, s.shape[1]))
    tridiagonalise(s, b, diagonal, beside, reflectors)
    inner, volume = np.empty(len(grid)), np.empty(len(grid))
    shifted_scores(diagonal, beside, b, grid, inner, volume)
    best, best_score = len(grid) - 1, 1e300
    for c in range(len(grid)):
        if grid[c] < floor:
            continue
        misfit = np.log(max(rss_affine - inner[c], 1e-12))
        score = max(used - AFFINE, 1) * misfit + gamma * (volume[c] - m * np.log(grid[c]))
        if score < best_score:
            best, best_score = c, score
    x = np.empty((m, 3))
    solve_shifted(diagonal, beside, grid[best], b, x)
    for h in range(m - 3, -1, -1):
        reflect(reflectors[h], x, h + 1)
    for c in range(3):
        for f in range(m):
            solution[AFFINE + f, c] = x[f, c] * root[f]
        for i in range(3):
            value = moment[i, c]
            for f in range(m):
                value -= eliminated[i, f] * solution[AFFINE + f, c]
            solution[i, c] = value
    return float(grid[best])


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _solve(gram: Any, share: float, penalty: Any, ridge: float, matrix: Any, solution: Any) -> None:
    """Ridge solution (3 + m, 3) for a given ridge; ``share`` of the weight is in the Gram matrix."""
    k = AFFINE + len(penalty)
    for i in range(k):
        for j in range(i + 1):
            matrix[i, j] = gram[i, j] / share
        matrix[i, i] += _JITTER
        if i >= AFFINE:
            matrix[i, i] += ridge * penalty[i - AFFINE]
        for c in range(3):
            solution[i, c] = gram[k + c, i] / share
    cholesky(matrix, k)
    substitute(matrix, solution, k)


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _misfit(rows: Any, solution: Any, total: float, count: int, z: Any, left: Any) -> None:
    """Standardised distances z = |y - phi(v)| sqrt(w) (N,) from the scaled rows."""
    k = solution.shape[0]
    x, y, z0 = left[0], left[1], left[2]
    for c in range(3):
        for r in range(count):
            left[c, r] = rows[k + c, r]
    for i in range(k):
        row = rows[i]
        b0, b1, b2 = np.float32(solution[i, 0]), np.float32(solution[i, 1]), np.float32(solution[i, 2])
        for r in range(count):
            x[r] -= b0 * row[r]
            y[r] -= b1 * row[r]
            z0[r] -= b2 * row[r]
    root = np.float32(np.sqrt(total))
    for r in range(count):
        z[r] = root * np.sqrt(left[0, r] * left[0, r] + left[1, r] * left[1, r] + left[2, r] * left[2, r])


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _middle(z: Any, weights: Any, count: int, used: int, order: Any) -> Any:
    """The (used // 2)-th of the values z >= 0 that have weight, from 0; ``order`` (N,) int32 is scratch.

    Floats that are not negative have the order of their bits, so it is found bit by bit: counting runs
    through whole registers, sorting does not.
    """
    bits = z.view(np.int32)
    for r in range(count):
        order[r] = bits[r] if weights[r] > 0.0 else np.int32(0x7FFFFFFF)
    found = np.int32(0)
    for bit in range(30, -1, -1):
        tried = found | np.int32(1 << bit)
        below = np.int32(0)
        for r in range(count):
            below += np.int32(order[r] < tried)
        found = tried if below <= used // 2 else found
    order[0] = found
    return order.view(np.float32)[0]


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _reweight(rows: Any, r: int, factor: float, gram: Any) -> None:
    """Take the share 1 - factor of row r out of the Gram matrix."""
    k = gram.shape[0]
    for i in range(k):
        a = np.float32((1.0 - factor) * rows[i, r])
        for j in range(i + 1):
            gram[i, j] -= a * rows[j, r]


@njit(cache=True, nogil=True, error_model="numpy")
def regress_charts(
    points: Any,
    weights: Any,
    thickness: Any,
    start: Any,
    stored: Any,
    table: Any,
    lattice: Any,
    penalty: Any,
    grid: Any,
    settings: Any,
    coefficients: Any,
    feet: Any,
    robust: Any,
    residual: Any,
    ridge: Any,
) -> None:
    """Feet on a smooth chart, regression with the ridge by marginal likelihood, then robustly.

    Parameters
    ----------
    points, weights, thickness
        Evidence as in PatchBatch: (C, N, 3), (C, N) with 0 for padding, (C,).
    start
        (C, 3 + m, 3) coefficients; stored (C,) int64 addresses of the same charts' rasters, or none
        for a cold start: that is regressed once with a large ridge, because an assignment jitters.
    table
        (33, 33, m) features on the raster lattice, and ``lattice`` (m, 1089) the same feature by feature;
        penalty (m,), grid (G,) the ridges to try.
    settings
        gamma, smoothing ridge, ridge per thickness^2, thin, thick, gauge limit, Huber's constant.
    coefficients, feet, robust, residual, ridge
        Outputs: (C, 3 + m, 3), (C, N, 2), (C, N), (C,), (C,).
    """
    gamma, smoothing, per_thickness2, thin, thick_limit, gauge, huber = settings
    cold = stored.shape[0] == 0
    m = len(penalty)
    k = AFFINE + m
    padded = (k + 6) // 4 * 4
    n = points.shape[1]
    # Whole registers, and no power of two: rows that far apart would share the same lines of the cache.
    rows = np.zeros((padded, (n + _WIDE - 1) // _WIDE * _WIDE + 16), np.float32)
    gram = np.zeros((padded, padded), np.float32)
    matrix = np.empty((k, k))
    raster = np.empty(3 * RASTER * RASTER, np.float32)
    planes = np.empty((3, RASTER * RASTER), np.float32)
    scratch = feet_scratch()
    over = np.empty((2, n), np.float32)
    smooth = np.empty((k, 3), np.float32)
    solution = np.empty((k, 3))
    affine = np.empty((3, 3))
    foot = np.zeros((2, n), np.float32)
    z, order = np.empty(n, np.float32), np.empty(n, np.int32)
    left = np.empty((3, n), np.float32)
    for chart in range(points.shape[0]):
        w = weights[chart]
        count = used = 0
        total = 0.0
        for r in range(n):
            if w[r] > 0.0:
                count = r + 1
                used += 1
                total += w[r]
        total = max(total, 1e-30)
        t2 = thickness[chart] * thickness[chart] - thin * thin
        floor = min(max(per_thickness2 * t2, 0.0), 1.0)
        thick = min(max((thickness[chart] - thin) / (thick_limit - thin), 0.0), 1.0)
        for i in range(k):
            for c in range(3):
                smooth[i, c] = start[chart, i, c]
        if cold:
            raster_of_chart(lattice, smooth, planes, raster)
            _feet(raster, smooth, points[chart], w, count, thick, gauge, scratch, over, foot)
            _design(table, foot, points[chart], w, total, count, rows, affine)
            _gram(rows, count, gram)
            _solve(gram, 1.0, penalty, max(smoothing, floor), matrix, solution)
            for i in range(k):
                for c in range(3):
                    smooth[i, c] = solution[i, c] + (affine[i, c] if i < 3 else 0.0)
            raster_of_chart(lattice, smooth, planes, raster)
        shown = raster if cold else raster_at(stored[chart]).reshape(-1)
        _feet(shown, smooth, points[chart], w, count, thick, gauge, scratch, over, foot)
        _design(table, foot, points[chart], w, total, count, rows, affine)
        _gram(rows, count, gram)
        chosen = _choose_ridge(gram, penalty, max(used, 1), gamma, floor, grid, solution)
        _misfit(rows, solution, total, count, z, left)
        median = _middle(z, w, count, used, order) if used > 0 else np.float32(0.0)
        limit = huber * 1.4826 * median
        kept = spread = 0.0
        for r in range(n):
            robust[chart, r] = 0.0
            feet[chart, r, 0] = 0.0
            feet[chart, r, 1] = 0.0
            if r >= count or w[r] <= 0.0:
                continue
            factor = limit / max(z[r], 1e-20) if z[r] > limit else 1.0
            if factor < 1.0:
                _reweight(rows, r, factor, gram)
            robust[chart, r] = w[r] * factor
            kept += w[r] * factor
            spread += factor * z[r] * z[r]
            feet[chart, r, 0] = foot[0, r]
            feet[chart, r, 1] = foot[1, r]
        _solve(gram, max(kept / total, 1e-30), penalty, chosen, matrix, solution)
        for i in range(k):
            for c in range(3):
                coefficients[chart, i, c] = solution[i, c] + (affine[i, c] if i < 3 else 0.0)
        residual[chart] = np.sqrt(spread / max(kept, 1e-30))
        ridge[chart] = chosen
