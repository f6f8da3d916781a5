"""Incremental Poisson-disk anchors: a chart wherever evidence lies too far from all compatible ones.

Dart throwing in a fixed order: candidate surfels are visited in a hashed order that depends only on
their numbers. A candidate is *covered* when a chart that is nearer than its own radius agrees with its
normal; an uncovered one becomes an anchor if the evidence around it carries a plane. Radii are steps of
``streamdgp.levels``, the largest first; an anchor of a larger radius than r keeps that distance from all
others itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import find_block, hash_insert, surfels_about
from streamdgp.evidence.patches import LEAST_NORMAL
from streamdgp.evidence.precision import NORMAL_STEP, OFFSET_STEP_VOX
from streamdgp.levels import LEVELS, level_key

__all__ = ["insert_chart", "insert_charts", "is_covered", "place_anchors"]

_USUAL_NEAR = 512
# From a voxel's centre to its corner.
_HALF_VOXEL = 0.9
# Mean shifts that together are less look at the evidence that was found for the first of them.
_SHIFT_VOX = 0.6


@njit(cache=True, nogil=True, error_model="numpy")
def insert_charts(count: int, anchor: Any, level: Any, scales_m: Any, grid: Any) -> None:
    """Enter the first ``count`` charts into an empty anchor grid, in their order."""
    for chart in range(count):
        insert_chart(chart, anchor, level[chart], scales_m[level[chart]], grid)


@njit(cache=True, nogil=True, error_model="numpy")
def insert_chart(chart: int, anchor: Any, level: int, cell_m: float, grid: Any) -> None:
    """Enter a chart into the anchor grid, into the lattice of its level, whose cells are its ball's radius.

    ``grid`` = (table, keys, head, next, counters); counters = [cells, charts of each level].
    """
    table, keys, head, following, counters = grid
    x = int(np.floor(anchor[chart, 0] / cell_m))
    y = int(np.floor(anchor[chart, 1] / cell_m))
    z = level_key(int(np.floor(anchor[chart, 2] / cell_m)), level)
    counters[1 + level] += 1
    cell = find_block(x, y, z, table, keys)
    if cell < 0:
        cell = counters[0]
        counters[0] += 1
        keys[cell, 0], keys[cell, 1], keys[cell, 2] = x, y, z
        hash_insert(cell, table, keys)
        head[cell] = -1
    following[chart] = head[cell]
    head[cell] = chart


@njit(cache=True, nogil=True, inline="always")
def _outwards(k: int, place: float) -> int:
    """The k-th of 0, 1, -1, 2, -2 ..., or of 0, -1, 1 ... for a place below the middle of [0, 1)."""
    away = (k + 1) // 2
    return away if (k % 2 == 1) == (place >= 0.5) else -away


@njit(cache=True, nogil=True, error_model="numpy")
def is_covered(
    p: Any,
    n: Any,
    spread_m: float,
    radius_m: float,
    radii_m: Any,
    scales_m: Any,
    min_cos: float,
    charts: int,
    anchor: Any,
    normal: Any,
    grid: Any,
) -> bool:
    """Whether a compatible anchor, of the first ``charts``, is nearer than its radius or ``radius_m``.

    ``spread_m`` along the chart's normal is not counted, up to twice the chart's radius.
    """
    table, keys, head, following, counters = grid
    for level in range(LEVELS):
        if counters[1 + level] == 0:
            continue
        reach_m, cell_m = max(radius_m, radii_m[level]), scales_m[level]
        noise_m = min(spread_m, 2.0 * radii_m[level])
        span = int(np.ceil(reach_m / cell_m))
        far = (reach_m + noise_m) / cell_m
        px, py, pz = p[0] / cell_m, p[1] / cell_m, p[2] / cell_m
        x, y, z = int(np.floor(px)), int(np.floor(py)), int(np.floor(pz))
        # The point's own cell first, then those it is closest to: who is covered is found to be so soon.
        for i in range(2 * span + 1):
            dx = _outwards(i, px - x)
            if abs(dx + 0.5 - px + x) > far + 0.5:
                continue
            for j in range(2 * span + 1):
                dy = _outwards(j, py - y)
                if abs(dy + 0.5 - py + y) > far + 0.5:
                    continue
                for k in range(2 * span + 1):
                    dz = _outwards(k, pz - z)
                    if abs(dz + 0.5 - pz + z) > far + 0.5:
                        continue
                    cell = find_block(x + dx, y + dy, level_key(z + dz, level), table, keys)
                    if cell < 0:
                        continue
                    c = head[cell]
                    while c >= 0:
                        ex, ey, ez = p[0] - anchor[c, 0], p[1] - anchor[c, 1], p[2] - anchor[c, 2]
                        dot = n[0] * normal[c, 0] + n[1] * normal[c, 1] + n[2] * normal[c, 2]
                        if dot >= min_cos and c < charts:
                            along = ex * normal[c, 0] + ey * normal[c, 1] + ez * normal[c, 2]
                            beyond = max(abs(along) - noise_m, 0.0)
                            beside2 = ex * ex + ey * ey + ez * ez - along * along
                            if beside2 + beyond * beyond <= reach_m * reach_m:
                                return True
                        c = following[c]
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _compatible_evidence(
    p: Any, n: Any, reach_vox: float, voxel_m: float, min_cos: float, surfels: Any, scratch: Any
) -> tuple[Any, int]:
    """Evidence that faces as ``n`` (3,) does, with voxels within reach of ``p`` (3,), and how much there is.

    Rows (N, 7) of the scratch, which is replaced where it is too short: position in voxels (3), normal (3),
    weight.
    """
    table, block_keys, cells, chain, _, weight, offset, normal, _ = surfels
    about, rows = scratch
    x, y, z = p[0] / voxel_m, p[1] / voxel_m, p[2] / voxel_m
    near = surfels_about(x, y, z, reach_vox, table, block_keys, cells, chain, about)
    if near > about.shape[0]:
        about, rows = np.empty((2 * near, 4), np.int32), np.empty((2 * near, 7))
        surfels_about(x, y, z, reach_vox, table, block_keys, cells, chain, about)
    count = 0
    for entry in range(near):
        s = about[entry, 0]
        sx, sy, sz = normal[s, 0], normal[s, 1], normal[s, 2]
        if sx * n[0] + sy * n[1] + sz * n[2] > min_cos * np.sqrt(sx**2 + sy**2 + sz**2):
            for k in range(3):
                rows[count, k] = about[entry, 1 + k] + 0.5 + OFFSET_STEP_VOX * offset[s, k]
                rows[count, 3 + k] = normal[s, k]
            rows[count, 6] = weight[s]
            count += 1
    return (about, rows), count


@njit(cache=True, nogil=True, error_model="numpy")
def _local_plane(p: Any, reach_vox: float, voxel_m: float, rows: Any, count: int, out: Any) -> int:
    """Mean normal and mean position of evidence within reach of ``p`` (3,); how many surfels it is.

    ``rows`` (count, 7) of ``_compatible_evidence``. ``out`` = [mean normal (3), mean position relative to
    ``p`` in metres (3)], weighted.
    """
    for k in range(6):
        out[k] = 0.0
    px, py, pz = p[0] / voxel_m, p[1] / voxel_m, p[2] / voxel_m
    total = 0.0
    found = 0
    for r in range(count):
        ex, ey, ez = rows[r, 0] - px, rows[r, 1] - py, rows[r, 2] - pz
        if ex * ex + ey * ey + ez * ez > reach_vox * reach_vox:
            continue
        w = rows[r, 6]
        total += w
        found += 1
        for k in range(3):
            out[k] += w * rows[r, 3 + k]
        out[3] += w * ex
        out[4] += w * ey
        out[5] += w * ez
    length = np.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2)
    if found == 0 or length == 0.0:
        return 0
    for k in range(3):
        out[k] /= length
        out[3 + k] *= voxel_m / total
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def place_anchors(
    candidates: Any,
    served: Any,
    new_level: int,
    radii_m: Any,
    scales_m: Any,
    min_cos: float,
    min_surfels: int,
    voxel_m: float,
    surfels: Any,
    charts: int,
    anchor: Any,
    normal: Any,
    level: Any,
    source: Any,
    grid: Any,
) -> tuple[int, bool]:
    """Visit ``candidates`` (surfel numbers, shuffled order); append anchors of one level.

    Levels are to be visited from the largest down. ``served`` (candidates,) uint8 tells up to which level the
    evidence about a candidate serves; ``source`` (charts,) int64 becomes the candidate of each new chart.
    Returns how many charts there are, and whether all were visited: it stops when chart arrays are full.
    """
    _, _, _, _, key, weight, offset, surfel_normal, count = surfels
    radius_m, scale_m = radii_m[new_level], scales_m[new_level]
    p = np.empty(3)
    q = np.empty(3)
    n = np.empty(3)
    plane = np.empty(6)
    scratch = np.empty((_USUAL_NEAR, 4), np.int32), np.empty((_USUAL_NEAR, 7))
    for i in range(candidates.shape[0]):
        if charts >= anchor.shape[0]:
            return charts, False
        s = candidates[i]
        if served[i] < new_level:
            continue
        length = np.sqrt(surfel_normal[s, 0] ** 2 + surfel_normal[s, 1] ** 2 + surfel_normal[s, 2] ** 2)
        if not (length * NORMAL_STEP > LEAST_NORMAL):
            continue
        for k in range(3):
            p[k] = (key[s, k] + 0.5 + OFFSET_STEP_VOX * offset[s, k]) * voxel_m
            n[k] = surfel_normal[s, k] / length
        # A surfel of noisy observations may stand off its surface by three sigma: that is no new surface.
        spread_m = 3.0 * np.sqrt(count[s] / max(weight[s], 1e-30))
        # A large anchor keeps its own distance from the small ones as well.
        own_m = radius_m if new_level > 0 else 0.0
        if is_covered(p, n, spread_m, own_m, radii_m, scales_m, min_cos, charts, anchor, normal, grid):
            continue
        # Mean shift along the normal: the anchor lies on the local plane and the normal is the
        # patch's, because a single surfel is noisy.
        for k in range(3):
            q[k] = p[k]
        reach_vox, found, shift_m = radius_m / voxel_m, 0, 0.0
        reach = reach_vox + _HALF_VOXEL + _SHIFT_VOX
        scratch, near = _compatible_evidence(q, n, reach, voxel_m, min_cos, surfels, scratch)
        for _ in range(3):
            if shift_m > _SHIFT_VOX * voxel_m:
                scratch, near = _compatible_evidence(q, n, reach, voxel_m, min_cos, surfels, scratch)
            found = _local_plane(q, reach_vox, voxel_m, scratch[1], near, plane)
            if found < min_surfels:
                break
            along = plane[0] * plane[3] + plane[1] * plane[4] + plane[2] * plane[5]
            shift_m += abs(along)
            for k in range(3):
                q[k] += along * plane[k]
        if found < min_surfels or plane[0] * n[0] + plane[1] * n[1] + plane[2] * n[2] < min_cos:
            continue
        for k in range(3):
            n[k] = plane[k]
        if is_covered(p, n, spread_m, own_m, radii_m, scales_m, min_cos, charts, anchor, normal, grid):
            continue
        if is_covered(q, n, 0.0, own_m, radii_m, scales_m, min_cos, charts, anchor, normal, grid):
            if is_covered(p, n, 0.0, own_m, radii_m, scales_m, min_cos, charts, anchor, normal, grid):
                continue
            for k in range(3):
                q[k] = p[k]
        for k in range(3):
            anchor[charts, k] = q[k]
            normal[charts, k] = n[k]
        level[charts] = new_level
        source[charts] = i
        insert_chart(charts, anchor, new_level, scale_m, grid)
        charts += 1
    return charts, True
