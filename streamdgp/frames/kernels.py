"""From sensor to world in one pass over the points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["world_points"]

_BLOCK = 16


@njit(cache=True, nogil=True, error_model="numpy")
def world_points(
    points: Any,
    normals: Any,
    sigma: Any,
    origin: Any,
    has_origin: bool,
    rotation: Any,
    translation: Any,
    min_cos: float,
    width: int,
) -> Any:
    """Points with a normal that face the sensor, in the world.

    points, normals (N, 3) and sigma (N,) float32 in the sensor's frame, origin (3,) float64 there.
    A zero normal marks a point without one. N points are rows of ``width`` pixels; they are returned in
    blocks of 16 x 16, because what comes next to one another then looks up the same places of the map
    (with N as the width: in the order given). Returns positions (K, 3) float64, normals (K, 3), sigma and
    incidence cosine (K,) float32, and the rows that were kept (K,) int64.
    """
    n = points.shape[0]
    positions = np.empty((n, 3))
    turned = np.empty((n, 3), np.float32)
    noise = np.empty(n, np.float32)
    incidence = np.empty(n, np.float32)
    row = np.empty(n, np.int64)
    k = 0
    ox, oy, oz = np.float32(origin[0]), np.float32(origin[1]), np.float32(origin[2])
    r00, r01, r02 = rotation[0, 0], rotation[0, 1], rotation[0, 2]
    r10, r11, r12 = rotation[1, 0], rotation[1, 1], rotation[1, 2]
    r20, r21, r22 = rotation[2, 0], rotation[2, 1], rotation[2, 2]
    t0, t1, t2 = translation[0], translation[1], translation[2]
    for top in range(0, n, _BLOCK * max(width, 1)):
        for left in range(0, width, _BLOCK):
            for row_start in range(top, min(top + _BLOCK * width, n), width):
                for i in range(row_start + left, row_start + min(left + _BLOCK, width)):
                    nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
                    if nx == 0.0 and ny == 0.0 and nz == 0.0:
                        continue
                    px, py, pz = points[i, 0], points[i, 1], points[i, 2]
                    cosine = np.float32(1.0)
                    if has_origin:
                        x, y, z = ox - px, oy - py, oz - pz
                        distance = np.sqrt(x * x + y * y + z * z)
                        cosine = (x * nx + y * ny + z * nz) / max(distance, np.float32(1e-12))
                        if not cosine >= min_cos:
                            continue
                    positions[k, 0] = r00 * px + r01 * py + r02 * pz + t0
                    positions[k, 1] = r10 * px + r11 * py + r12 * pz + t1
                    positions[k, 2] = r20 * px + r21 * py + r22 * pz + t2
                    turned[k, 0] = r00 * nx + r01 * ny + r02 * nz
                    turned[k, 1] = r10 * nx + r11 * ny + r12 * nz
                    turned[k, 2] = r20 * nx + r21 * ny + r22 * nz
                    noise[k] = sigma[i]
                    incidence[k] = cosine
                    row[k] = i
                    k += 1
    return positions[:k], turned[:k], noise[:k], incidence[:k], row[:k]
