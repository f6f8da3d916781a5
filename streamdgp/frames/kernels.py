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
    cosine = np.empty(n, np.float32)
    kept = 0
    for i in range(n):
        cosine[i] = -2.0
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        if nx == 0.0 and ny == 0.0 and nz == 0.0:
            continue
        value = np.float32(1.0)
        if has_origin:
            x = np.float32(origin[0]) - points[i, 0]
            y = np.float32(origin[1]) - points[i, 1]
            z = np.float32(origin[2]) - points[i, 2]
            distance = np.sqrt(x * x + y * y + z * z)
            value = (x * nx + y * ny + z * nz) / max(distance, np.float32(1e-12))
            if not value >= min_cos:
                continue
        cosine[i] = value
        kept += 1
    positions = np.empty((kept, 3))
    turned = np.empty((kept, 3), np.float32)
    noise = np.empty(kept, np.float32)
    incidence = np.empty(kept, np.float32)
    row = np.empty(kept, np.int64)
    k = 0
    for top in range(0, n, _BLOCK * max(width, 1)):
        for left in range(0, width, _BLOCK):
            for y in range(top, min(top + _BLOCK * width, n), width):
                for i in range(y + left, y + min(left + _BLOCK, width)):
                    if cosine[i] < -1.5:
                        continue
                    for a in range(3):
                        p = q = 0.0
                        for b in range(3):
                            p += rotation[a, b] * points[i, b]
                            q += rotation[a, b] * normals[i, b]
                        positions[k, a] = p + translation[a]
                        turned[k, a] = q
                    noise[k] = sigma[i]
                    incidence[k] = cosine[i]
                    row[k] = i
                    k += 1
    return positions, turned, noise, incidence, row
