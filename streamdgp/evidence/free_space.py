"""Free space: evidence that rays pass through loses its weight.

Every return says that nothing stands between the sensor and it. A surfel that lies in front of all
returns around its pixel, by more than noise and a few voxels explain, was a flying pixel, a ghost of
something that moved, or the other wall of a pose error: it loses observations, a fifth of those it has
and one more, each time it is seen through, and is gone when none is left. What stays is a majority vote
that forgets: a surface observed a hundred times is gone after some thirty frames that see through it.
"""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["carve_depth"]

_LEAST_INCIDENCE = 0.25


@njit(cache=True, nogil=True, error_model="numpy")
def _is_seen_through(
    x: float,
    y: float,
    z: float,
    normal: Any,
    nearest: Any,
    sigma: Any,
    camera: Any,
    rotation: Any,
    margin_m: float,
) -> bool:
    """Whether all returns around the pixel of a point (x, y, z), seen from the camera, lie behind it."""
    fx, fy, cx, cy = camera
    zc = x * rotation[0, 2] + y * rotation[1, 2] + z * rotation[2, 2]
    if not zc > 0.0:
        return False
    xc = x * rotation[0, 0] + y * rotation[1, 0] + z * rotation[2, 0]
    yc = x * rotation[0, 1] + y * rotation[1, 1] + z * rotation[2, 1]
    u, v = fx * xc / zc + cx + 0.5, fy * yc / zc + cy + 0.5
    if not (u >= 0.0 and v >= 0.0 and u < nearest.shape[1] and v < nearest.shape[0]):
        return False
    i, j = int(v), int(u)
    if nearest[i, j] <= 0.0 or zc >= nearest[i, j] - margin_m - 3.0 * sigma[i, j]:
        return False
    # Along a grazing ray a small error of the pose is a long way.
    nx, ny, nz = normal[0], normal[1], normal[2]
    facing = x * nx + y * ny + z * nz
    length2 = (x * x + y * y + z * z) * (nx * nx + ny * ny + nz * nz)
    return bool(facing * facing > _LEAST_INCIDENCE * _LEAST_INCIDENCE * length2)


@njit(cache=True, nogil=True, error_model="numpy")
def carve_depth(
    nearest: Any,
    sigma: Any,
    camera: Any,
    rotation: Any,
    origin: Any,
    voxel_m: float,
    margin_m: float,
    frame: int,
    blocks: int,
    block_keys: Any,
    cells: Any,
    chain: Any,
    weight: Any,
    offset: Any,
    normal: Any,
    count: Any,
    last: Any,
    lost_index: Any,
    lost_weight: Any,
) -> int:
    """Take observations from surfels in front of what a pinhole camera sees; returns how many lost some.

    ``nearest`` (H, W) is the least depth around each pixel, 0 where unknown; ``sigma`` its noise;
    ``camera`` = (fx, fy, cx, cy); rotation (3, 3), origin (3,) are those of world_T_sensor.
    ``margin_m`` is how far in front of them, beyond three sigma, still counts as the same surface.
    ``lost_index`` and ``lost_weight`` (as many as surfels) receive the surfels and what they lost.
    """
    fx, fy, cx, cy = camera
    height, width = nearest.shape
    edge = 8 * voxel_m
    reach = 0.87 * edge
    lost = 0
    for b in range(blocks):
        x = (block_keys[b, 0] + 0.5) * edge - origin[0]
        y = (block_keys[b, 1] + 0.5) * edge - origin[1]
        z = (block_keys[b, 2] + 0.5) * edge - origin[2]
        zc = x * rotation[0, 2] + y * rotation[1, 2] + z * rotation[2, 2]
        if zc < reach:
            continue
        xc = x * rotation[0, 0] + y * rotation[1, 0] + z * rotation[2, 0]
        yc = x * rotation[0, 1] + y * rotation[1, 1] + z * rotation[2, 1]
        u, v = fx * xc / zc + cx, fy * yc / zc + cy
        wide = reach * max(fx, fy) / (zc - reach + 1e-9) * 1.5 + 1.0
        if u < -wide or v < -wide or u > width + wide or v > height + wide:
            continue
        for k in range(512):
            s = cells[b, k]
            while s >= 0:
                following = chain[s]
                if weight[s] > 0.0 and last[s] != frame:
                    x = (block_keys[b, 0] * 8 + (k >> 6) + 0.5 + offset[s, 0]) * voxel_m - origin[0]
                    y = (block_keys[b, 1] * 8 + (k >> 3 & 7) + 0.5 + offset[s, 1]) * voxel_m - origin[1]
                    z = (block_keys[b, 2] * 8 + (k & 7) + 0.5 + offset[s, 2]) * voxel_m - origin[2]
                    if _is_seen_through(x, y, z, normal[s], nearest, sigma, camera, rotation, margin_m):
                        left = max(count[s] - 1 - count[s] // 5, 0)
                        taken = weight[s] * (count[s] - left) / max(count[s], 1)
                        count[s] = left
                        weight[s] = weight[s] - taken if left > 0 else 0.0
                        lost_index[lost] = s
                        lost_weight[lost] = -taken
                        lost += 1
                s = following
    return lost
