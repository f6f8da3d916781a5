"""Triangles are cut where support ends, so borders follow the evidence and not the lattice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["clip_triangles"]


@njit(cache=True, nogil=True, inline="always")
def _key_between(a: np.int64, b: np.int64) -> np.int64:
    """64-bit name of the cut on the edge from vertex a (inside) to b, the same in every tile."""
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(31))) + np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return np.int64(h ^ (h >> np.uint64(30)))


@njit(cache=True, nogil=True, error_model="numpy")
def clip_triangles(vertices: Any, keys: Any, normals: Any, support: Any, triangles: Any, level: float) -> Any:
    """Keep the part of a mesh where ``support`` (V,), linear over triangles, exceeds ``level``.

    Returns vertices, keys, normals with the cuts behind the old ones, and triangles.
    """
    count = triangles.shape[0]
    most = 0
    for t in range(count):
        inside = 0
        for k in range(3):
            inside += support[triangles[t, k]] > level
        if 0 < inside < 3:
            most += 2
    cut_from, cut_to = np.empty(most, np.int64), np.empty(most, np.int64)
    new = np.empty((count + most, 3), np.int32)
    made, cuts = 0, 0
    first = vertices.shape[0]
    table = {np.int64(-1): np.int64(0)}
    corner = np.empty(4, np.int64)
    for t in range(count):
        n = 0
        for k in range(3):
            a, b = np.int64(triangles[t, k]), np.int64(triangles[t, (k + 1) % 3])
            inside_a, inside_b = support[a] > level, support[b] > level
            if inside_a:
                corner[n] = a
                n += 1
            if inside_a != inside_b:
                if not inside_a:
                    a, b = b, a
                name = a * first + b
                if name not in table:
                    table[name] = np.int64(cuts)
                    cut_from[cuts], cut_to[cuts] = a, b
                    cuts += 1
                corner[n] = first + table[name]
                n += 1
        for k in range(2, n):
            new[made, 0], new[made, 1], new[made, 2] = corner[0], corner[k - 1], corner[k]
            made += 1
    total = first + cuts
    all_vertices, all_normals = np.empty((total, 3)), np.empty((total, 3), np.float32)
    all_keys = np.empty(total, np.int64)
    all_vertices[:first], all_normals[:first], all_keys[:first] = vertices, normals, keys
    for c in range(cuts):
        a, b = cut_from[c], cut_to[c]
        f = (support[a] - level) / (support[a] - support[b])
        f = min(max(f, 0.1), 0.9)
        for k in range(3):
            all_vertices[first + c, k] = vertices[a, k] + f * (vertices[b, k] - vertices[a, k])
            # Beyond the border nothing tells how the surface goes on.
            all_normals[first + c, k] = normals[a, k]
        all_keys[first + c] = _key_between(keys[a], keys[b])
    return all_vertices, all_keys, all_normals, new[:made]
