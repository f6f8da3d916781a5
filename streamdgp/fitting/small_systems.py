"""Small dense systems, compiled, in place: Cholesky, Householder tridiagonalisation, shifted solves.

A chart's systems have some thirty unknowns: a call into a library costs as much as solving one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["cholesky", "reflect", "shifted_scores", "solve_shifted", "substitute", "tridiagonalise"]


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def cholesky(a: Any, n: int) -> None:
    """In place, lower triangle."""
    for j in range(n):
        s = a[j, j]
        for k in range(j):
            s -= a[j, k] * a[j, k]
        root = np.sqrt(max(s, 1e-300))
        a[j, j] = root
        for i in range(j + 1, n):
            t = a[i, j]
            for k in range(j):
                t -= a[i, k] * a[j, k]
            a[i, j] = t / root


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def substitute(factor: Any, b: Any, n: int) -> None:
    """Solve L L^T x = b for b (n, 3), in place."""
    for i in range(n):
        for c in range(3):
            s = b[i, c]
            for k in range(i):
                s -= factor[i, k] * b[k, c]
            b[i, c] = s / factor[i, i]
    for i in range(n - 1, -1, -1):
        for c in range(3):
            s = b[i, c]
            for k in range(i + 1, n):
                s -= factor[k, i] * b[k, c]
            b[i, c] = s / factor[i, i]


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def tridiagonalise(a: Any, b: Any, diagonal: Any, beside: Any, reflectors: Any) -> None:
    """Householder: a (n, n, full) = Q T Q^T and b (n, 3) becomes Q^T b; Q is kept in ``reflectors``.

    Row k of ``reflectors`` holds u of the k-th reflection I - u u^T; a is destroyed. Rows of both may
    be longer than n, the rest zero: all inner loops run over whole rows, which costs less than the ends
    of short ones.
    """
    n, wide = len(diagonal), a.shape[1]
    p = np.zeros(wide)
    for k in range(n - 2):
        u = reflectors[k]
        norm2 = 0.0
        for i in range(wide):
            # Symmetric: row k serves for column k, and lies in one piece.
            u[i] = a[k, i] if i > k else 0.0
            norm2 += u[i] * u[i]
        alpha = np.sqrt(norm2)
        first = u[k + 1]
        if first > 0.0:
            alpha = -alpha
        beside[k] = alpha
        length2 = norm2 - first * first + (first - alpha) * (first - alpha)
        if length2 < 1e-280:
            u[:] = 0.0
            continue
        u[k + 1] = first - alpha
        scale = np.sqrt(2.0 / length2)
        for i in range(wide):
            u[i] *= scale
            p[i] = 0.0
        along = 0.0
        for i in range(k + 1, n):
            row = a[i]
            t = 0.0
            for j in range(wide):
                t += row[j] * u[j]
            p[i] = t
            along += t * u[i]
        for i in range(wide):
            p[i] -= 0.5 * along * u[i]
        for i in range(k + 1, n):
            row = a[i]
            ui, pi = u[i], p[i]
            for j in range(wide):
                row[j] -= ui * p[j] + pi * u[j]
        reflect(u, b, k + 1)
    beside[n - 2] = a[n - 1, n - 2]
    for k in range(n):
        diagonal[k] = a[k, k]


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def reflect(u: Any, b: Any, begin: int) -> None:
    """b (n, 3) becomes (I - u u^T) b; u is zero before ``begin``."""
    s0 = s1 = s2 = 0.0
    for i in range(begin, len(b)):
        s0 += u[i] * b[i, 0]
        s1 += u[i] * b[i, 1]
        s2 += u[i] * b[i, 2]
    for i in range(begin, len(b)):
        b[i, 0] -= s0 * u[i]
        b[i, 1] -= s1 * u[i]
        b[i, 2] -= s2 * u[i]


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def solve_shifted(diagonal: Any, beside: Any, shift: float, b: Any, x: Any) -> None:
    """x = (T + shift)^-1 b by LDL^T, b and x (n, 3)."""
    n = len(diagonal)
    down = np.empty(n)
    last = 1.0 / (diagonal[0] + shift)
    down[0] = last
    x0, x1, x2 = b[0, 0], b[0, 1], b[0, 2]
    x[0, 0], x[0, 1], x[0, 2] = x0, x1, x2
    for i in range(1, n):
        e = beside[i - 1]
        factor = e * last
        last = 1.0 / (diagonal[i] + shift - factor * e)
        down[i] = last
        x0, x1, x2 = b[i, 0] - factor * x0, b[i, 1] - factor * x1, b[i, 2] - factor * x2
        x[i, 0], x[i, 1], x[i, 2] = x0, x1, x2
    x0 = x1 = x2 = 0.0
    for i in range(n - 1, -1, -1):
        e = beside[i] if i + 1 < n else 0.0
        x0 = (x[i, 0] - e * x0) * down[i]
        x1 = (x[i, 1] - e * x1) * down[i]
        x2 = (x[i, 2] - e * x2) * down[i]
        x[i, 0], x[i, 1], x[i, 2] = x0, x1, x2


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def shifted_scores(diagonal: Any, beside: Any, b: Any, shifts: Any, inner: Any, volume: Any) -> None:
    """b . (T + shift)^-1 b and log det (T + shift) for all shifts (G,), side by side.

    By LDL^T: with L z = b the product is the sum of z^2 over the pivots, so half of the solution will do.
    """
    n, g = len(diagonal), len(shifts)
    last, product = np.empty(g), np.empty(g)
    z0, z1, z2 = np.empty(g), np.empty(g), np.empty(g)
    for c in range(g):
        pivot = diagonal[0] + shifts[c]
        last[c] = 1.0 / pivot
        product[c] = pivot
        volume[c] = 0.0
        z0[c], z1[c], z2[c] = b[0, 0], b[0, 1], b[0, 2]
        inner[c] = (b[0, 0] * b[0, 0] + b[0, 1] * b[0, 1] + b[0, 2] * b[0, 2]) / pivot
    for i in range(1, n):
        d, e = diagonal[i], beside[i - 1]
        b0, b1, b2 = b[i, 0], b[i, 1], b[i, 2]
        for c in range(g):
            factor = e * last[c]
            pivot = d + shifts[c] - factor * e
            last[c] = 1.0 / pivot
            product[c] *= pivot
            y0, y1, y2 = b0 - factor * z0[c], b1 - factor * z1[c], b2 - factor * z2[c]
            inner[c] += (y0 * y0 + y1 * y1 + y2 * y2) * last[c]
            z0[c], z1[c], z2[c] = y0, y1, y2
        # One logarithm for eight pivots; they lie between 1e-7 and 10.
        if i % 8 == 0:
            for c in range(g):
                volume[c] += np.log(product[c])
                product[c] = 1.0
    for c in range(g):
        volume[c] += np.log(product[c])
