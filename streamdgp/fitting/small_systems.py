"""Small dense systems, compiled, in place: Cholesky, Householder tridiagonalisation, shifted solves.

A chart's systems have some thirty unknowns: a call into a library costs as much as solving one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["cholesky", "reflect", "solve_shifted", "substitute", "tridiagonalise"]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
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


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
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


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def tridiagonalise(a: Any, b: Any, diagonal: Any, beside: Any, reflectors: Any) -> None:
    """Householder: a (n, n, full) = Q T Q^T and b (n, 3) becomes Q^T b; Q is kept in ``reflectors``.

    Row k of ``reflectors`` holds u of the k-th reflection I - u u^T; a is destroyed.
    """
    n = len(diagonal)
    p = np.empty(n)
    for k in range(n - 2):
        u = reflectors[k]
        norm2 = 0.0
        for i in range(n):
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
        for i in range(k + 1, n):
            u[i] *= scale
        along = 0.0
        for i in range(k + 1, n):
            row = a[i]
            t = 0.0
            for j in range(k + 1, n):
                t += row[j] * u[j]
            p[i] = t
            along += t * u[i]
        for i in range(k + 1, n):
            p[i] -= 0.5 * along * u[i]
        for i in range(k + 1, n):
            row = a[i]
            ui, pi = u[i], p[i]
            for j in range(k + 1, n):
                row[j] -= ui * p[j] + pi * u[j]
        reflect(u, b, k + 1)
    beside[n - 2] = a[n - 1, n - 2]
    for k in range(n):
        diagonal[k] = a[k, k]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def reflect(u: Any, b: Any, begin: int) -> None:
    """b (n, 3) becomes (I - u u^T) b; u is zero before ``begin``."""
    s0 = s1 = s2 = 0.0
    for i in range(begin, len(u)):
        s0 += u[i] * b[i, 0]
        s1 += u[i] * b[i, 1]
        s2 += u[i] * b[i, 2]
    for i in range(begin, len(u)):
        b[i, 0] -= s0 * u[i]
        b[i, 1] -= s1 * u[i]
        b[i, 2] -= s2 * u[i]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def solve_shifted(diagonal: Any, beside: Any, shift: float, b: Any, x: Any, down: Any) -> float:
    """x = (T + shift)^-1 b by LDL^T; returns log det (T + shift). ``down`` keeps the reciprocal pivots."""
    n = len(diagonal)
    pivot = diagonal[0] + shift
    last = 1.0 / pivot
    down[0] = last
    # One logarithm for eight pivots; they lie between 1e-7 and 10.
    volume, product = 0.0, pivot
    x0, x1, x2 = b[0, 0], b[0, 1], b[0, 2]
    x[0, 0], x[0, 1], x[0, 2] = x0, x1, x2
    for i in range(1, n):
        e = beside[i - 1]
        factor = e * last
        pivot = diagonal[i] + shift - factor * e
        last = 1.0 / pivot
        down[i] = last
        product *= pivot
        if i % 8 == 0:
            volume += np.log(product)
            product = 1.0
        x0, x1, x2 = b[i, 0] - factor * x0, b[i, 1] - factor * x1, b[i, 2] - factor * x2
        x[i, 0], x[i, 1], x[i, 2] = x0, x1, x2
    x0 = x1 = x2 = 0.0
    for i in range(n - 1, -1, -1):
        e = beside[i] if i + 1 < n else 0.0
        x0 = (x[i, 0] - e * x0) * down[i]
        x1 = (x[i, 1] - e * x1) * down[i]
        x2 = (x[i, 2] - e * x2) * down[i]
        x[i, 0], x[i, 1], x[i, 2] = x0, x1, x2
    total: float = volume + np.log(product)
    return total
