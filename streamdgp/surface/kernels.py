"""The implicit surface: a partition-of-unity blend of signed distances to the charts of one sheet.

For a point x every chart whose ball holds it gives a foot point, a signed distance d_q (sign from the
chart's normal) and a weight

    w_q = (1 - rho^2)^3 * exp(-(t / 0.1)^2) * max(support, eps),   rho = |y| / blend_radius,

with t the part of the offset that is not along the normal (the foot left the chart). Only charts whose
normal agrees with the nearest supported foot's may blend, so two sheets never cancel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.fitting.raster import RASTER, foot_on_raster

__all__ = ["blend_at", "evaluate_nodes", "march", "refine_vertices", "support_at"]

_SUPPORT_FLOOR = 1e-3
_SAME_SHEET_COS = 0.35
_MAX_ENTRIES = 96
# Height above a chart is at most this many times the distance to it (60 degrees), plus lattice slack.
_STEEPEST = 2.0
_RASTER_SLACK = 0.08


@njit(cache=True, nogil=True, error_model="numpy")
def support_at(mask: Any, u: float, v: float) -> float:
    """Bilinear look-up of a chart's support mask (cells over [-1, 1]^2) at tangent coordinates."""
    n = mask.shape[0]
    a = (u + 1.0) * 0.5 * n - 0.5
    b = (v + 1.0) * 0.5 * n - 0.5
    i = int(np.floor(a))
    j = int(np.floor(b))
    a -= i
    b -= j
    total = 0.0
    for di in range(2):
        for dj in range(2):
            ii, jj = i + di, j + dj
            if 0 <= ii < n and 0 <= jj < n:
                total += (a if di else 1.0 - a) * (b if dj else 1.0 - b) * mask[ii, jj]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def blend_at(
    x: Any,
    band_m: float,
    blend_radius: float,
    charts: Any,
    scratch: Any,
    result: Any,
) -> bool:
    """Blend at one point.

    ``charts`` = (anchor (K, 3), rotation (K, 3, 3), scale (K,), rasters (K, 33, 33, 3),
    support (K, 16, 16)); in id order, so sums do not depend on who asks. ``scratch`` is
    (96, 7) float64. result = [distance_m, normal (3), support]. False where no chart reaches.
    """
    anchor, rotation, scale, rasters, support = charts
    y = np.empty(3)
    v = np.empty(2)
    out = np.empty(9)
    entries = 0
    nearest = 1e30
    nearest_entry = -1
    half = (RASTER - 1) / 2
    for c in range(anchor.shape[0]):
        s = scale[c]
        dx, dy, dz = x[0] - anchor[c, 0], x[1] - anchor[c, 1], x[2] - anchor[c, 2]
        rho2 = (dx * dx + dy * dy + dz * dz) / (s * s * blend_radius * blend_radius)
        if rho2 >= 1.0:
            continue
        for k in range(3):
            y[k] = (dx * rotation[c, 0, k] + dy * rotation[c, 1, k] + dz * rotation[c, 2, k]) / s
        band = band_m / s
        # Cheap reject: far above or below the chart's height at this place.
        i = min(max(int((y[0] + 1.0) * half + 0.5), 0), RASTER - 1)
        j = min(max(int((y[1] + 1.0) * half + 0.5), 0), RASTER - 1)
        if abs(y[2] - rasters[c, i, j, 2]) > _STEEPEST * band + _RASTER_SLACK:
            continue
        v[0] = y[0]
        v[1] = y[1]
        d2 = foot_on_raster(rasters[c], y, v, out, 3)
        nx = out[4] * out[8] - out[5] * out[7]
        ny = out[5] * out[6] - out[3] * out[8]
        nz = out[3] * out[7] - out[4] * out[6]
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        if not (length > 0.0):
            continue
        nx, ny, nz = nx / length, ny / length, nz / length
        d = (y[0] - out[0]) * nx + (y[1] - out[1]) * ny + (y[2] - out[2]) * nz
        if abs(d) > band:
            continue
        off2 = max(d2 - d * d, 0.0)
        if off2 > 0.09:
            continue
        backed = support_at(support[c], out[0], out[1])
        q = 1.0 - rho2
        w = q * q * q * np.exp(-off2 / 0.01)
        if entries >= scratch.shape[0]:
            break
        e = entries
        entries += 1
        scratch[e, 0] = d * s
        scratch[e, 1] = rotation[c, 0, 0] * nx + rotation[c, 0, 1] * ny + rotation[c, 0, 2] * nz
        scratch[e, 2] = rotation[c, 1, 0] * nx + rotation[c, 1, 1] * ny + rotation[c, 1, 2] * nz
        scratch[e, 3] = rotation[c, 2, 0] * nx + rotation[c, 2, 1] * ny + rotation[c, 2, 2] * nz
        scratch[e, 4] = w * max(backed, _SUPPORT_FLOOR)
        scratch[e, 5] = w
        scratch[e, 6] = backed
        # Distance to the foot, with a handicap where the foot is off its evidence.
        rank = d2 * s * s + (1.0 - min(backed, 1.0)) * 4.0 * band_m * band_m
        if rank < nearest:
            nearest = rank
            nearest_entry = e
    if nearest_entry < 0:
        return False
    mx, my, mz = scratch[nearest_entry, 1], scratch[nearest_entry, 2], scratch[nearest_entry, 3]
    weight = distance = plain = backed_sum = 0.0
    ax = ay = az = 0.0
    for e in range(entries):
        dot = scratch[e, 1] * mx + scratch[e, 2] * my + scratch[e, 3] * mz
        if dot < _SAME_SHEET_COS:
            continue
        w = scratch[e, 4]
        weight += w
        distance += w * scratch[e, 0]
        ax += w * scratch[e, 1]
        ay += w * scratch[e, 2]
        az += w * scratch[e, 3]
        plain += scratch[e, 5]
        backed_sum += scratch[e, 5] * scratch[e, 6]
    if not (weight > 1e-12):
        return False
    length = np.sqrt(ax * ax + ay * ay + az * az)
    if not (length > 0.0):
        return False
    result[0] = distance / weight
    result[1] = ax / length
    result[2] = ay / length
    result[3] = az / length
    result[4] = backed_sum / max(plain, 1e-30)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_nodes(
    corner: Any,
    step_m: float,
    band_m: float,
    blend_radius: float,
    charts: Any,
    value: Any,
    valid: Any,
) -> None:
    """Signed distance at the lattice nodes ``(corner + index) * step_m`` of one tile.

    corner (3,) int64 is the tile's first node on the global lattice; value and valid are
    (n, n, n). Node coordinates depend on the global index alone, so neighbouring tiles agree.
    """
    anchor, rotation, scale, rasters, _ = charts
    n = value.shape[0]
    near = np.zeros((n, n, n), np.uint8)
    half = (RASTER - 1) / 2
    y = np.empty(3)
    for c in range(anchor.shape[0]):
        s = scale[c] * blend_radius
        lo = np.empty(3, np.int64)
        hi = np.empty(3, np.int64)
        for k in range(3):
            lo[k] = max(int(np.ceil((anchor[c, k] - s) / step_m)) - corner[k], 0)
            hi[k] = min(int(np.floor((anchor[c, k] + s) / step_m)) - corner[k], n - 1)
        band = band_m / scale[c]
        for i in range(lo[0], hi[0] + 1):
            dx = (corner[0] + i) * step_m - anchor[c, 0]
            for j in range(lo[1], hi[1] + 1):
                dy = (corner[1] + j) * step_m - anchor[c, 1]
                for k in range(lo[2], hi[2] + 1):
                    if near[i, j, k]:
                        continue
                    dz = (corner[2] + k) * step_m - anchor[c, 2]
                    if dx * dx + dy * dy + dz * dz >= s * s:
                        continue
                    for m in range(3):
                        y[m] = (
                            dx * rotation[c, 0, m] + dy * rotation[c, 1, m] + dz * rotation[c, 2, m]
                        ) / scale[c]
                    a = min(max(int((y[0] + 1.0) * half + 0.5), 0), RASTER - 1)
                    b = min(max(int((y[1] + 1.0) * half + 0.5), 0), RASTER - 1)
                    if abs(y[2] - rasters[c, a, b, 2]) <= _STEEPEST * band + _RASTER_SLACK:
                        near[i, j, k] = 1
    x = np.empty(3)
    scratch = np.empty((_MAX_ENTRIES, 7))
    result = np.empty(5)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                valid[i, j, k] = 0
                if not near[i, j, k]:
                    continue
                x[0] = (corner[0] + i) * step_m
                x[1] = (corner[1] + j) * step_m
                x[2] = (corner[2] + k) * step_m
                if blend_at(x, band_m, blend_radius, charts, scratch, result):
                    value[i, j, k] = result[0]
                    valid[i, j, k] = 1


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
                            f = min(max(f, 0.001), 0.999)
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
    """Move vertices onto the zero set (two Newton steps along the blended normal); fill normals, support."""
    scratch = np.empty((_MAX_ENTRIES, 7))
    result = np.empty(5)
    x = np.empty(3)
    limit = 0.3 * step_m
    for i in range(vertices.shape[0]):
        support[i] = 0.0
        for k in range(3):
            x[k] = vertices[i, k]
            normals[i, k] = 0.0
        for step in range(2):
            if not blend_at(x, band_m, blend_radius, charts, scratch, result):
                support[i] = 0.0
                break
            d = min(max(result[0], -limit), limit)
            for k in range(3):
                x[k] -= d * result[1 + k]
                normals[i, k] = result[1 + k]
            # A step that does not come near the zero set was made across a jump between charts.
            support[i] = result[4] if step == 0 or abs(result[0]) < limit else 0.0
        for k in range(3):
            vertices[i, k] = x[k]
