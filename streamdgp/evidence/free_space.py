"""Free space: evidence that rays pass through loses its weight.

Every return says that nothing stands between the sensor and it. A surfel that lies in front of the
returns around its pixel, by more than noise and a few voxels explain, was a flying pixel, a ghost of
something that moved, or the other wall of a pose error. Passes in a row count ever more: what is not seen
any more loses all its observations within some fifteen frames that see through it, whereas an edge that
wanders with the pose is now seen and now seen through, and stays for the charts to judge
(``streamdgp.atlas.free_cells``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.kernels import find_block
from streamdgp.evidence.precision import OFFSET_STEP_VOX, rounded_weight

__all__ = [
    "carve",
    "extent",
    "farthest_gap",
    "farthest_per_tile",
    "is_hidden",
    "least_and_gap",
    "least_around",
    "passes_at",
    "pixel_and_gap",
    "project",
]

_TILE = 8
_LEAST_INCIDENCE = 0.2
# Of its observations, a judgement after n passes in a row takes n times this share.
_SHARE_PER_JUDGEMENT = 0.04
# Passes are not counted any further: what comes later into free space must be able to appear.
_MOST_PASSES = 120
_BEHIND = -1.0
# Where every frame has a look a block is judged in every second one, and then for two: half the cost.
_JUDGED_EVERY = 2
# Cells of two voxels are coarse: all pixels about them must agree.
_CELL_WINDOW = 3
_CELL_SIGMAS = 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def project(x: float, y: float, z: float, is_pinhole: bool, camera: Any, out: Any) -> float:
    """Column and row in ``out``, and depth (pinhole) or range (sphere), of a point in the sensor frame."""
    if is_pinhole:
        if not z > 0.0:
            return _BEHIND
        out[0] = camera[0] * x / z + camera[2]
        out[1] = camera[1] * y / z + camera[3]
        return z
    r: float = np.sqrt(x * x + y * y + z * z)
    if not r > 0.0:
        return _BEHIND
    out[0] = camera[0] * np.arctan2(y, x) + camera[2]
    out[1] = camera[1] * np.arcsin(z / r) + camera[3]
    return r


@njit(cache=True, nogil=True, error_model="numpy")
def farthest_per_tile(seen: Any) -> Any:
    """The largest return of every 8 x 8 pixels: what lies beyond is hidden from all of them."""
    rows, columns = (seen.shape[0] + _TILE - 1) // _TILE, (seen.shape[1] + _TILE - 1) // _TILE
    far = np.zeros((rows, columns), np.float32)
    for i in range(seen.shape[0]):
        for j in range(seen.shape[1]):
            far[i // _TILE, j // _TILE] = max(far[i // _TILE, j // _TILE], seen[i, j])
    return far


@njit(cache=True, nogil=True, error_model="numpy")
def least_around(seen: Any, u: float, v: float, window: int, wraps: bool) -> float:
    """The least return of the window x window pixels nearest (u, v); 0 where there is none."""
    if not wraps:
        first = 0.5 * (window - 1)
        i0, j0 = int(np.floor(v - first + 0.5)), int(np.floor(u - first + 0.5))
        nearest = np.float32(np.inf)
        for i in range(max(i0, 0), min(i0 + window, seen.shape[0])):
            for j in range(max(j0, 0), min(j0 + window, seen.shape[1])):
                there = seen[i, j]
                nearest = min(nearest, there) if there > 0.0 else nearest
        return float(nearest) if nearest < np.inf else 0.0
    least: float = least_and_gap(seen, u, v, window, wraps, 0.0, 0.0)[0]
    return least


@njit(cache=True, nogil=True, error_model="numpy")
def least_and_gap(
    seen: Any, u: float, v: float, window: int, wraps: bool, d: float, before_m: float
) -> tuple[float, float]:
    """Of the window x window pixels nearest (u, v): the least return (0: none), and the least gap to d.

    For the gap, returns farther than ``before_m`` in front of d do not count: they tell nothing of d.
    """
    first = 0.5 * (window - 1)
    i0, j0 = int(np.floor(v - first + 0.5)), int(np.floor(u - first + 0.5))
    least, gap = 0.0, np.inf
    for i in range(i0, i0 + window):
        for j in range(j0, j0 + window):
            if i < 0 or i >= seen.shape[0] or (not wraps and (j < 0 or j >= seen.shape[1])):
                continue
            there = float(seen[i, j % seen.shape[1]])
            if there > 0.0:
                if there >= d - before_m:
                    gap = min(gap, abs(there - d))
                if least <= 0.0 or there < least:
                    least = there
    return least, gap


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def pixel_and_gap(seen: Any, u: float, v: float, d: float, before_m: float) -> tuple[float, float]:
    """``least_and_gap`` of the very pixel of an image that does not wrap."""
    i, j = int(np.floor(v + 0.5)), int(np.floor(u + 0.5))
    if i < 0 or i >= seen.shape[0] or j < 0 or j >= seen.shape[1]:
        return 0.0, np.inf
    there = float(seen[i, j])
    if not there > 0.0:
        return 0.0, np.inf
    return there, abs(there - d) if there >= d - before_m else np.inf


@njit(cache=True, nogil=True, error_model="numpy")
def farthest_gap(seen: Any, u: float, v: float, window: int, d: float) -> float:
    """The largest gap to d of the window x window pixels nearest (u, v); infinite where one shows nothing."""
    first = 0.5 * (window - 1)
    i0, j0 = int(np.floor(v - first + 0.5)), int(np.floor(u - first + 0.5))
    if i0 < 0 or j0 < 0 or i0 + window > seen.shape[0] or j0 + window > seen.shape[1]:
        return np.inf
    gap = 0.0
    for i in range(i0, i0 + window):
        for j in range(j0, j0 + window):
            there = float(seen[i, j])
            gap = max(gap, abs(there - d)) if there > 0.0 else np.inf
    return gap


@njit(cache=True, nogil=True, error_model="numpy")
def is_hidden(u: float, v: float, wide: Any, front: float, far: Any, shape: Any, wraps: bool) -> bool:
    """Whether (u, v) +- wide = (columns, rows) is off the image or, from ``front`` on, behind all returns."""
    height, width = shape
    wide_u, wide_v = wide
    if v < -wide_v or v > height + wide_v or (not wraps and (u < -wide_u or u > width + wide_u)):
        return True
    i0, i1 = max(int(v - wide_v) // _TILE, 0), min(int(v + wide_v) // _TILE, far.shape[0] - 1)
    last = far.shape[1] - 1
    j0, j1, k0, k1 = 0, last, 0, -1
    if not wraps:
        j0, j1 = max(int(np.floor((u - wide_u) / _TILE)), 0), min(int(np.floor((u + wide_u) / _TILE)), last)
    elif 2.0 * wide_u + 1.0 < width:
        begin, end = int(np.floor(u - wide_u)) % width, int(np.floor(u + wide_u)) % width
        j0, j1 = begin // _TILE, end // _TILE
        if begin > end:
            # Across the seam: from ``begin`` to the last column, and from the first to ``end``.
            j1, k0, k1 = last, 0, end // _TILE
    for i in range(i0, i1 + 1):
        for j in range(j0, j1 + 1):
            if far[i, j] > front:
                return False
        for j in range(k0, k1 + 1):
            if far[i, j] > front:
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def extent(
    x: float, y: float, z: float, d: float, radius: float, is_pinhole: bool, camera: Any, window: int
) -> Any:
    """Half the columns and rows that a ball at (x, y, z), sensor frame, distance d > 2 radius, may take."""
    rows = 1.5 * radius / (d - radius)
    if is_pinhole:
        # Beside the axis a ball's image is longer by the slant of the ray.
        pixels = rows * max(camera[0], camera[1]) * np.sqrt(x * x + y * y + z * z) / d + window
        return pixels, pixels
    # Towards the poles a ball takes ever more azimuth, over one all of it.
    flat = np.sqrt(x * x + y * y) - 1.2 * radius
    columns = 1e9 if flat <= 0.0 else 1.5 * radius / flat * camera[0] + window
    return columns, rows * camera[1] + window


@njit(cache=True, nogil=True, error_model="numpy")
def carve(
    blocks: Any,
    seen: Any,
    far: Any,
    is_pinhole: bool,
    camera: Any,
    window: int,
    noise: Any,
    rotation: Any,
    origin: Any,
    voxel_m: float,
    margin_m: float,
    frame: int,
    frames: int,
    block_keys: Any,
    cells: Any,
    chain: Any,
    weight: Any,
    offset: Any,
    normal: Any,
    count: Any,
    last: Any,
    view_seen: Any,
    streak: Any,
    passes: Any,
    is_changed: Any,
    lost_index: Any,
    lost_weight: Any,
) -> int:
    """Take observations from surfels in front of what a sensor sees; returns how many lost some.

    ``blocks`` (B,) are judged. The look stands for so many ``frames``. For seen, is_pinhole,
    camera, window, noise, rotation and origin see ``SensorView``; ``far`` is ``farthest_per_tile`` of what
    was seen. ``margin_m`` is how far in front of a
    return, beyond three sigma, still counts as the same surface. ``lost_index`` and ``lost_weight`` (as
    many as surfels) receive the surfels and what they lost, as negative weights. ``passes`` (blocks, 64)
    uint8 remembers, for cells of two voxels, what passed through; ``is_changed`` (blocks,) uint8 is set.
    """
    out = np.empty(2)
    step_m = OFFSET_STEP_VOX * voxel_m
    edge = 8 * voxel_m
    reach = 0.87 * edge
    lost = 0
    every = _JUDGED_EVERY if frames == 1 else 1
    judged_for = every * frames
    for row in range(blocks.shape[0]):
        b = blocks[row]
        if (b + frame) % every:
            continue
        x = (block_keys[b, 0] + 0.5) * edge - origin[0]
        y = (block_keys[b, 1] + 0.5) * edge - origin[1]
        z = (block_keys[b, 2] + 0.5) * edge - origin[2]
        xs = x * rotation[0, 0] + y * rotation[1, 0] + z * rotation[2, 0]
        ys = x * rotation[0, 1] + y * rotation[1, 1] + z * rotation[2, 1]
        zs = x * rotation[0, 2] + y * rotation[1, 2] + z * rotation[2, 2]
        if is_pinhole and zs < reach:
            if zs < -reach:
                continue
        else:
            d = project(xs, ys, zs, is_pinhole, camera, out)
            if d > 2.0 * reach and is_hidden(
                out[0],
                out[1],
                extent(xs, ys, zs, d, reach, is_pinhole, camera, window),
                d - 1.5 * reach + margin_m,
                far,
                seen.shape,
                not is_pinhole,
            ):
                continue
        for k in range(64):
            if passes[b, k] >= _MOST_PASSES:
                continue
            x = (block_keys[b, 0] * 8 + 2 * (k >> 4) + 1.0) * voxel_m - origin[0]
            y = (block_keys[b, 1] * 8 + 2 * (k >> 2 & 3) + 1.0) * voxel_m - origin[1]
            z = (block_keys[b, 2] * 8 + 2 * (k & 3) + 1.0) * voxel_m - origin[2]
            xs = x * rotation[0, 0] + y * rotation[1, 0] + z * rotation[2, 0]
            ys = x * rotation[0, 1] + y * rotation[1, 1] + z * rotation[2, 1]
            zs = x * rotation[0, 2] + y * rotation[1, 2] + z * rotation[2, 2]
            d = project(xs, ys, zs, is_pinhole, camera, out)
            if d > 0.0:
                # A cell that holds a surface is not free because a ray passes beside its limb.
                least = least_around(seen, out[0], out[1], _CELL_WINDOW, not is_pinhole)
                sigma = noise[0] + noise[1] * (least - noise[2]) ** 2
                if least > 0.0 and d < least - margin_m - _CELL_SIGMAS * sigma:
                    passes[b, k] = min(passes[b, k] + judged_for, _MOST_PASSES)
                    is_changed[b] = 1
        for k in range(512):
            s = cells[b, k]
            while s >= 0:
                following = chain[s]
                if weight[s] > 0.0 and last[s] != frame:
                    ox, oy, oz = step_m * offset[s, 0], step_m * offset[s, 1], step_m * offset[s, 2]
                    x = (block_keys[b, 0] * 8 + (k >> 6) + 0.5) * voxel_m + ox - origin[0]
                    y = (block_keys[b, 1] * 8 + (k >> 3 & 7) + 0.5) * voxel_m + oy - origin[1]
                    z = (block_keys[b, 2] * 8 + (k & 7) + 0.5) * voxel_m + oz - origin[2]
                    xs = x * rotation[0, 0] + y * rotation[1, 0] + z * rotation[2, 0]
                    ys = x * rotation[0, 1] + y * rotation[1, 1] + z * rotation[2, 1]
                    zs = x * rotation[0, 2] + y * rotation[1, 2] + z * rotation[2, 2]
                    d = project(xs, ys, zs, is_pinhole, camera, out)
                    taken = 0
                    if d > 0.0:
                        least = least_around(seen, out[0], out[1], window, not is_pinhole)
                        sigma = noise[0] + noise[1] * (least - noise[2]) ** 2
                        if least > 0.0 and d < least - margin_m - 3.0 * sigma:
                            nx, ny, nz = normal[s, 0], normal[s, 1], normal[s, 2]
                            facing = abs(x * nx + y * ny + z * nz)
                            length = np.sqrt((x * x + y * y + z * z) * (nx * nx + ny * ny + nz * nz))
                            # Along a grazing ray a small error of the pose is a long way.
                            if facing > _LEAST_INCIDENCE * length:
                                # As many judgements as half the frames would have brought.
                                for done in range(0, judged_for, _JUDGED_EVERY):
                                    more = min(judged_for - done, _JUDGED_EVERY)
                                    streak[s] = min(streak[s] + more, 250)
                                    share = min(_SHARE_PER_JUDGEMENT * streak[s], 1.0)
                                    taken += int(share * max(count[s] - taken, 0)) + 1
                    if taken > 0:
                        left = max(count[s] - taken, 0)
                        share = left / max(count[s], 1)
                        lost_index[lost] = s
                        lost_weight[lost] = -weight[s] * (1.0 - share)
                        lost += 1
                        count[s] = left
                        weight[s] = rounded_weight(weight[s] * share, 0.5)
                        for m in range(view_seen.shape[1]):
                            view_seen[s, m] = int(view_seen[s, m] * share)
                s = following
    return lost


@njit(cache=True, nogil=True, error_model="numpy")
def passes_at(x: float, y: float, z: float, voxel_m: float, table: Any, block_keys: Any, passes: Any) -> int:
    """What the evidence remembers to have passed through a place; 0 where nothing was ever near."""
    i, j, k = int(np.floor(x / voxel_m)), int(np.floor(y / voxel_m)), int(np.floor(z / voxel_m))
    b = find_block(i >> 3, j >> 3, k >> 3, table, block_keys)
    if b < 0:
        return 0
    return int(passes[b, ((i & 7) >> 1) * 16 + ((j & 7) >> 1) * 4 + ((k & 7) >> 1)])
