"""Which radius serves charts, and what those uncover that become smaller."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import find_block, surfels_about
from streamdgp.levels import level_key
from streamdgp.sampling.anchors import insert_chart, is_covered
from streamdgp.sampling.radius import largest_level_served, serves

__all__ = ["exposed_surfels", "levels_for_new", "levels_that_serve", "move_charts", "remove_charts"]

_USUAL_NEAR = 1024


@njit(cache=True, nogil=True, error_model="numpy")
def levels_for_new(
    charts: Any,
    old: int,
    anchor: Any,
    rotation: Any,
    most: int,
    radii_m: Any,
    scales_m: Any,
    min_cos: float,
    voxel_m: float,
    surfels: Any,
    grid: Any,
    served: Any,
) -> None:
    """The largest levels, up to ``most``, that serve at the anchors of charts (K,): ``served`` (K,) uint8.

    Beside one of the first ``old`` charts there is no room for a larger one.
    """
    n, normal = np.empty(3), rotation[:, :, 2]
    for row in range(charts.shape[0]):
        c = charts[row]
        served[row] = 0
        for k in range(3):
            n[k] = rotation[c, k, 2]
        if is_covered(anchor[c], n, 0.0, radii_m[1], radii_m, scales_m, min_cos, old, anchor, normal, grid):
            continue
        served[row] = largest_level_served(anchor[c], n, most, scales_m, min_cos, voxel_m, surfels)


@njit(cache=True, nogil=True, error_model="numpy")
def levels_that_serve(
    charts: Any,
    anchor: Any,
    rotation: Any,
    level: Any,
    scales_m: Any,
    min_cos: float,
    voxel_m: float,
    surfels: Any,
    wanted: Any,
) -> None:
    """The largest levels, up to their own, that serve the charts (K,), into ``wanted`` (K,) uint8."""
    n = np.empty(3)
    for row in range(charts.shape[0]):
        c = charts[row]
        for k in range(3):
            n[k] = rotation[c, k, 2]
        wanted[row] = level[c]
        while wanted[row] > 0 and not serves(
            anchor[c], n, scales_m[wanted[row]], scales_m[wanted[row] - 1], min_cos,
            voxel_m, surfels,
        ):  # fmt: skip
            wanted[row] -= 1


@njit(cache=True, nogil=True, error_model="numpy")
def exposed_surfels(
    charts: Any,
    anchor: Any,
    rotation: Any,
    reach_m: Any,
    min_cos: float,
    voxel_m: float,
    surfels: Any,
) -> Any:
    """Surfels within ``reach_m`` (K,) of the anchors of charts (K,) that face alike; some more than once."""
    table, block_keys, cells, chain, _, weight, _, normal, _ = surfels
    about = np.empty((_USUAL_NEAR, 4), np.int32)
    found = np.empty(_USUAL_NEAR, np.int64)
    count = 0
    for row in range(charts.shape[0]):
        c = charts[row]
        x, y, z = anchor[c, 0] / voxel_m, anchor[c, 1] / voxel_m, anchor[c, 2] / voxel_m
        near = surfels_about(x, y, z, reach_m[row] / voxel_m, table, block_keys, cells, chain, about)
        if near > about.shape[0]:
            about = np.empty((2 * near, 4), np.int32)
            surfels_about(x, y, z, reach_m[row] / voxel_m, table, block_keys, cells, chain, about)
        if count + near > found.shape[0]:
            longer = np.empty(2 * (count + near), np.int64)
            longer[:count] = found[:count]
            found = longer
        for entry in range(near):
            s = about[entry, 0]
            sx, sy, sz = float(normal[s, 0]), float(normal[s, 1]), float(normal[s, 2])
            dot = sx * rotation[c, 0, 2] + sy * rotation[c, 1, 2] + sz * rotation[c, 2, 2]
            if weight[s] > 0.0 and dot > min_cos * np.sqrt(sx * sx + sy * sy + sz * sz):
                found[count] = s
                count += 1
    return found[:count]


@njit(cache=True, nogil=True, error_model="numpy")
def _remove_chart(chart: int, anchor: Any, level: int, cell_m: float, grid: Any) -> None:
    """Take a chart out of the anchor grid; it must be there."""
    table, keys, head, following, counters = grid
    x = int(np.floor(anchor[chart, 0] / cell_m))
    y = int(np.floor(anchor[chart, 1] / cell_m))
    z = level_key(int(np.floor(anchor[chart, 2] / cell_m)), level)
    cell = find_block(x, y, z, table, keys)
    counters[1 + level] -= 1
    if head[cell] == chart:
        head[cell] = following[chart]
        return
    before = head[cell]
    while following[before] != chart:
        before = following[before]
    following[before] = following[chart]


@njit(cache=True, nogil=True, error_model="numpy")
def remove_charts(begin: int, end: int, anchor: Any, level: Any, scales_m: Any, grid: Any) -> None:
    """Take the charts from ``begin`` to ``end`` out of the anchor grid, the last first."""
    for c in range(end - 1, begin - 1, -1):
        _remove_chart(c, anchor, level[c], scales_m[level[c]], grid)


@njit(cache=True, nogil=True, error_model="numpy")
def move_charts(charts: Any, anchor: Any, before: Any, after: Any, scales_m: Any, grid: Any) -> None:
    """Take charts (K,) from their old levels (K,) in the anchor grid to new ones (K,)."""
    for row in range(charts.shape[0]):
        c, old, new = charts[row], before[row], after[row]
        _remove_chart(c, anchor, old, scales_m[old], grid)
        insert_chart(c, anchor, new, scales_m[new], grid)
