"""Extraction of one tile from distances at its nodes: marching cubes, vertices onto the zero set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.surface.blend import blend_points

__all__ = ["march", "refine_vertices"]

_MOST_STEPS = 5
# After a step that was longer than this, in cells, another one follows.
_CLOSE = 0.05
_FARTHEST = 0.6


@njit(cache=True, nogil=True, inline="always")
def _vertex_key(x: int, y: int, z: int, axis: int) -> np.int64:
    """64-bit name of a lattice edge, the same in every tile that shares it."""
    h = np.uint64(np.int64(x)) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(32))) + np.uint64(np.int64(y)) * np.uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(32))) + np.uint64(np.int64(z)) * np.uint64(0x165667B19E3779F9)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    h = (h ^ (h >> np.uint64(32))) + np.uint64(axis) * np.uint64(0xD6E8FEB86659FD93)
    return np.int64(h ^ (h >> np.uint64(30)))


@njit(cache=True, nogil=True, error_model="numpy")
def march(
    corner: Any,
    step_m: float,
    value: Any,
    valid: Any,
    table: Any,
    edge_corner: Any,
    edge_axis: Any,
) -> Any:
    """Marching cubes on the valid cells of one tile.

    Returns vertices (V, 3) float64 world, keys (V,) int64, triangles (T, 3) int32. A cell in which the
    sign changes by a jump (between two sheets) gives no triangle: distances of neighbouring nodes
    cannot differ by much more than their spacing.
    """
    n = value.shape[0]
    number = np.full((n, n, n, 3), -1, np.int32)
    vertices = np.empty((256, 3))
    keys = np.empty(256, np.int64)
    triangles = np.empty((512, 3), np.int32)
    vertex_count = 0
    triangle_count = 0
    corners = np.empty(8)
    for i in range(n - 1):
        for j in range(n - 1):
            for k in range(n - 1):
                case = 0
                usable = True
                for c in range(8):
                    a, b, d = i + (c & 1), j + (c >> 1 & 1), k + (c >> 2 & 1)
                    if not valid[a, b, d]:
                        usable = False
                        break
                    corners[c] = value[a, b, d]
                    if corners[c] < 0.0:
                        case |= 1 << c
                if not usable or case == 0 or case == 255:
                    continue
                for e in range(12):
                    c0 = edge_corner[e]
                    c1 = c0 | (1 << edge_axis[e])
                    if (case >> c0 & 1) != (case >> c1 & 1) and abs(corners[c0] - corners[c1]) > 1.8 * step_m:
                        usable = False
                        break
                if not usable:
                    continue
                for t in range(table[case, 0]):
                    if triangle_count == triangles.shape[0]:
                        bigger = np.empty((2 * triangle_count, 3), np.int32)
                        bigger[:triangle_count] = triangles
                        triangles = bigger
                    for m in range(3):
                        e = table[case, 1 + 3 * t + m]
                        c0 = edge_corner[e]
                        axis = edge_axis[e]
                        a, b, d = i + (c0 & 1), j + (c0 >> 1 & 1), k + (c0 >> 2 & 1)
                        index = number[a, b, d, axis]
                        if index < 0:
                            if vertex_count == keys.shape[0]:
                                more = np.empty((2 * vertex_count, 3))
                                more[:vertex_count] = vertices
                                vertices = more
                                longer = np.empty(2 * vertex_count, np.int64)
                                longer[:vertex_count] = keys
                                keys = longer
                            index = vertex_count
                            number[a, b, d, axis] = index
                            vertex_count += 1
                            v0 = corners[c0]
                            v1 = corners[c0 | (1 << axis)]
                            f = v0 / (v0 - v1)
                            f = min(max(f, 0.005), 0.995)
                            vertices[index, 0] = (corner[0] + a + (f if axis == 0 else 0.0)) * step_m
                            vertices[index, 1] = (corner[1] + b + (f if axis == 1 else 0.0)) * step_m
                            vertices[index, 2] = (corner[2] + d + (f if axis == 2 else 0.0)) * step_m
                            keys[index] = _vertex_key(corner[0] + a, corner[1] + b, corner[2] + d, axis)
                        triangles[triangle_count, m] = index
                    triangle_count += 1
    return vertices[:vertex_count], keys[:vertex_count], triangles[:triangle_count]


@njit(cache=True, nogil=True, error_model="numpy")
def refine_vertices(
    vertices: Any,
    step_m: float,
    band_m: float,
    blend_radius: float,
    charts: Any,
    normals: Any,
    support: Any,
) -> None:
    """Move vertices onto the zero set by Newton steps along the blended normal; fill normals, support.

    As many for each as it takes to come close: beside a crease steps lead to one face and then to the other.
    """
    limit = 0.3 * step_m
    count = vertices.shape[0]
    place, kept = np.empty((count, 3)), np.empty(count, np.int64)
    before = vertices.copy()
    result, reached = np.empty((count, 5)), np.empty(count, np.uint8)
    for i in range(count):
        kept[i] = i
        support[i] = 0.0
        for k in range(3):
            normals[i, k] = 0.0
    left = count
    for step in range(_MOST_STEPS):
        for m in range(left):
            place[m] = vertices[kept[m]]
        blend_points(place[:left], band_m, blend_radius, charts, result, reached)
        on_their_way = 0
        for m in range(left):
            i = kept[m]
            if not reached[m]:
                support[i] = 0.0
                continue
            d = min(max(result[m, 0], -limit), limit)
            moved2 = 0.0
            for k in range(3):
                vertices[i, k] -= d * result[m, 1 + k]
                normals[i, k] = result[m, 1 + k]
                moved2 += (vertices[i, k] - before[i, k]) ** 2
            # What does not come near the zero set, or only far off, was made across a jump between charts.
            is_near = step == 0 or (abs(result[m, 0]) < limit and moved2 < (_FARTHEST * step_m) ** 2)
            support[i] = result[m, 4] if is_near else 0.0
            if abs(result[m, 0]) > _CLOSE * step_m:
                kept[on_their_way] = i
                on_their_way += 1
        left = on_their_way
