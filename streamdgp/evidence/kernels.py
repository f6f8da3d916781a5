"""Compiled kernels of the surfel map: hashing, fusion, lookup.

Voxels are grouped in blocks of 8x8x8 with a dense table of surfel numbers, so a ball query costs a
hash look-up per block, not per voxel. Block coordinates are three int32: no packed key that would
overflow a few kilometres out. A surfel holds running weighted means relative to its voxel centre, in the
steps of ``precision``, equally exact at any distance from the world origin. ``chain[s]`` is the surfel of the
opposite sheet in the same voxel, or -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.evidence.precision import (
    COLOR_STEP,
    NORMAL_STEP,
    OFFSET_STEP_VOX,
    dither,
    in_steps,
    moved,
    rounded_weight,
)
from streamdgp.frames.noise import normal_variance_m2

__all__ = [
    "block_of",
    "find_block",
    "fuse_sums",
    "hash_insert",
    "insert_existing",
    "mark_blocks",
    "rehash",
    "sum_points",
    "surfels_about",
    "weigh_points",
]

BLOCK = 8
_EMPTY = np.int32(-1)
_MOST_COUNT = 65535


@njit(cache=True, nogil=True, inline="always")
def _hash3(x: int, y: int, z: int, mask: int) -> np.int64:
    h = (
        np.uint64(np.int64(x)) * np.uint64(0x9E3779B97F4A7C15)
        ^ np.uint64(np.int64(y)) * np.uint64(0xC2B2AE3D27D4EB4F)
        ^ np.uint64(np.int64(z)) * np.uint64(0x165667B19E3779F9)
    )
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return np.int64(h & np.uint64(mask))


@njit(cache=True, nogil=True)
def find_block(x: int, y: int, z: int, table: Any, keys: Any) -> int:
    """Number of the entry with key (x, y, z), or -1. ``table`` is open addressing, size 2^k."""
    mask = table.shape[0] - 1
    h = _hash3(x, y, z, mask)
    while True:
        b: int = table[h]
        if b < 0:
            return -1
        if keys[b, 0] == x and keys[b, 1] == y and keys[b, 2] == z:
            return b
        h = (h + 1) & mask


@njit(cache=True, nogil=True)
def hash_insert(number: int, table: Any, keys: Any) -> None:
    """Enter ``keys[number]`` into the table; it must not be there."""
    mask = table.shape[0] - 1
    h = _hash3(keys[number, 0], keys[number, 1], keys[number, 2], mask)
    while table[h] >= 0:
        h = (h + 1) & mask
    table[h] = number


@njit(cache=True, nogil=True)
def rehash(count: int, table: Any, keys: Any) -> None:
    """Enter the first ``count`` keys into an empty table."""
    for k in range(count):
        hash_insert(k, table, keys)


@njit(cache=True, nogil=True, inline="always")
def block_of(i: int) -> int:
    """Block coordinate of a voxel coordinate (floor division by 8)."""
    return i >> 3


@njit(cache=True, nogil=True)
def surfels_about(
    x_vox: float,
    y_vox: float,
    z_vox: float,
    reach_vox: float,
    table: Any,
    block_keys: Any,
    cells: Any,
    chain: Any,
    found: Any,
) -> int:
    """Surfels whose voxel's centre lies within ``reach_vox`` of a point, in the order of the blocks.

    Rows [number, x, y, z of the voxel] are put into ``found`` (N, 4), int32, as far as it goes. Returns how
    many there are: where it is too short, call again with a longer one.
    """
    x0, x1 = int(np.floor(x_vox - reach_vox)), int(np.floor(x_vox + reach_vox))
    y0, y1 = int(np.floor(y_vox - reach_vox)), int(np.floor(y_vox + reach_vox))
    z0, z1 = int(np.floor(z_vox - reach_vox)), int(np.floor(z_vox + reach_vox))
    count = 0
    for bx in range(block_of(x0), block_of(x1) + 1):
        for by in range(block_of(y0), block_of(y1) + 1):
            for bz in range(block_of(z0), block_of(z1) + 1):
                block = find_block(bx, by, bz, table, block_keys)
                if block < 0:
                    continue
                for x in range(max(x0, bx * BLOCK), min(x1, bx * BLOCK + 7) + 1):
                    ex = x + 0.5 - x_vox
                    for y in range(max(y0, by * BLOCK), min(y1, by * BLOCK + 7) + 1):
                        ey = y + 0.5 - y_vox
                        if ex * ex + ey * ey > reach_vox * reach_vox:
                            continue
                        for z in range(max(z0, bz * BLOCK), min(z1, bz * BLOCK + 7) + 1):
                            s = cells[block, ((x & 7) * 8 + (y & 7)) * 8 + (z & 7)]
                            if s < 0:
                                continue
                            ez = z + 0.5 - z_vox
                            if ex * ex + ey * ey + ez * ez > reach_vox * reach_vox:
                                continue
                            while s >= 0:
                                if count < found.shape[0]:
                                    found[count, 0], found[count, 1] = s, x
                                    found[count, 2], found[count, 3] = y, z
                                count += 1
                                s = chain[s]
    return count


@njit(cache=True, nogil=True)
def insert_existing(
    begin: int, end: int, keys: Any, chain: Any, table: Any, block_keys: Any, cells: Any, blocks: int
) -> int:
    """Enter stored surfels into the block index, in their order; return the number of blocks."""
    for s in range(begin, end):
        x, y, z = keys[s, 0], keys[s, 1], keys[s, 2]
        bx, by, bz = block_of(x), block_of(y), block_of(z)
        b = find_block(bx, by, bz, table, block_keys)
        if b < 0:
            b = blocks
            block_keys[b, 0], block_keys[b, 1], block_keys[b, 2] = bx, by, bz
            for k in range(512):
                cells[b, k] = -1
            hash_insert(b, table, block_keys)
            blocks += 1
        cell = ((x & 7) * 8 + (y & 7)) * 8 + (z & 7)
        chain[s] = -1
        if cells[b, cell] < 0:
            cells[b, cell] = s
        else:
            chain[cells[b, cell]] = s
    return blocks


@njit(cache=True, nogil=True)
def mark_blocks(surfels: Any, keys: Any, table: Any, block_keys: Any, is_met: Any) -> None:
    """Set ``is_met`` (blocks,) for the blocks that surfels (K,) lie in."""
    for s in surfels:
        x, y, z = block_of(keys[s, 0]), block_of(keys[s, 1]), block_of(keys[s, 2])
        is_met[find_block(x, y, z, table, block_keys)] = True


@njit(cache=True, nogil=True, error_model="numpy")
def weigh_points(
    begin: int,
    end: int,
    positions_m: Any,
    sigma_m: Any,
    incidence_cos: Any,
    voxel_m: float,
    pose_error_m: float,
    voxels: Any,
    offsets: Any,
    weights: Any,
) -> None:
    """Voxels (N, 3) of points, offsets (N, 3) from their centres in voxels, weights (N,) in 1/m^2."""
    for i in range(begin, end):
        for k in range(3):
            scaled = positions_m[i, k] / voxel_m
            whole = np.floor(scaled)
            voxels[i, k] = np.int32(whole)
            offsets[i, k] = scaled - whole - 0.5
        # No sensor is exact: a sigma below a thousandth of a voxel would drown all other evidence.
        sigma = max(np.float64(sigma_m[i]), 1e-3 * voxel_m)
        weights[i] = 1.0 / (normal_variance_m2(sigma, np.float64(incidence_cos[i])) + pose_error_m**2)


@njit(cache=True, nogil=True, error_model="numpy")
def sum_points(
    voxels: Any,
    offsets: Any,
    normals: Any,
    weights: Any,
    colors: Any,
    start: int,
    view: int,
    most_per_view: int,
    frame: int,
    table: Any,
    block_keys: Any,
    cells: Any,
    counters: Any,
    keys: Any,
    chain: Any,
    weight: Any,
    normal: Any,
    count: Any,
    first: Any,
    view_id: Any,
    view_seen: Any,
    stamp: Any,
    touched: Any,
    observed: Any,
    gained: Any,
    sums: Any,
) -> int:
    """Sum a frame's points by surfel from ``start`` on, in order; stop early when a buffer is full.

    ``counters`` = [surfels, blocks, touched]. ``stamp[s]`` is the place of surfel s in ``touched``
    while it belongs to this frame; there are its observations, the sum of their weights, and in ``sums``
    (N, 9) those of their weighted offsets, normals and colours. Returns the number of points consumed.
    """
    n = voxels.shape[0]
    surfels, blocks, touched_count = counters[0], counters[1], counters[2]
    max_surfels, max_blocks = keys.shape[0], block_keys.shape[0]
    # Neighbouring pixels mostly fall into one block.
    b, lx, ly, lz = -1, 0, 0, 0
    p = start
    while p < n:
        if surfels >= max_surfels or blocks >= max_blocks or 2 * blocks >= table.shape[0]:
            break
        x, y, z = voxels[p, 0], voxels[p, 1], voxels[p, 2]
        bx, by, bz = block_of(x), block_of(y), block_of(z)
        if b < 0 or bx != lx or by != ly or bz != lz:
            b, lx, ly, lz = find_block(bx, by, bz, table, block_keys), bx, by, bz
        if b < 0:
            b = blocks
            block_keys[b, 0], block_keys[b, 1], block_keys[b, 2] = bx, by, bz
            for k in range(512):
                cells[b, k] = -1
            hash_insert(b, table, block_keys)
            blocks += 1
        cell = ((x & 7) * 8 + (y & 7)) * 8 + (z & 7)
        s = cells[b, cell]
        previous = -1
        # The sheet whose normal does not oppose the point's; two per voxel at most.
        while s >= 0:
            dot = normal[s, 0] * normals[p, 0] + normal[s, 1] * normals[p, 1] + normal[s, 2] * normals[p, 2]
            length = np.sqrt(normal[s, 0] ** 2 + normal[s, 1] ** 2 + normal[s, 2] ** 2)
            if dot >= -0.2 * length or (previous >= 0):
                break
            previous = s
            s = chain[s]
        if s < 0:
            s = surfels
            surfels += 1
            keys[s, 0], keys[s, 1], keys[s, 2] = x, y, z
            chain[s] = -1
            if previous >= 0:
                chain[previous] = s
            else:
                cells[b, cell] = s
            weight[s] = 0.0
            for k in range(3):
                # The first point says which sheet it is until the frame's mean does.
                normal[s, k] = in_steps(normals[p, k], NORMAL_STEP, 0.5)
            count[s] = 0
            first[s] = frame
            for k in range(view_id.shape[1]):
                view_id[s, k] = 0
                view_seen[s, k] = 0
            stamp[s] = -1
        t = stamp[s]
        if t < 0 or t >= touched_count or touched[t] != s:
            t = touched_count
            touched[t] = s
            observed[t] = 0
            gained[t] = 0.0
            for k in range(9):
                sums[t, k] = 0.0
            stamp[s] = t
            touched_count += 1
        # The slot of this viewpoint; a new one takes the slot that saw least.
        v = 0
        for k in range(view_id.shape[1]):
            if view_id[s, k] == view:
                v = k
                break
            if view_seen[s, k] < view_seen[s, v]:
                v = k
        if view_id[s, v] != view:
            view_id[s, v] = view
            view_seen[s, v] = 0
        observed[t] += 1
        # A parked camera must not drown the rest: full weight up to the cap, then none.
        if view_seen[s, v] < most_per_view:
            view_seen[s, v] += 1
            w = weights[p]
            gained[t] += w
            for k in range(3):
                sums[t, k] += w * offsets[p, k]
                sums[t, 3 + k] += w * normals[p, k]
                sums[t, 6 + k] += w * colors[p, k]
        p += 1
    counters[0], counters[1], counters[2] = surfels, blocks, touched_count
    return p - start


@njit(cache=True, nogil=True, error_model="numpy")
def fuse_sums(
    begin: int,
    end: int,
    frame: int,
    touched: Any,
    observed: Any,
    gained: Any,
    sums: Any,
    weight: Any,
    offset: Any,
    normal: Any,
    color: Any,
    count: Any,
    last: Any,
    streak: Any,
) -> None:
    """Fuse what ``sum_points`` has summed for the touched surfels ``begin`` to ``end``."""
    for t in range(begin, end):
        s, w = touched[t], gained[t]
        last[s] = frame
        streak[s] = 0
        if w > 0.0 and count[s] >= _MOST_COUNT:
            # What is full forgets half; an observation without weight takes none away.
            count[s] //= 2
            weight[s] *= 0.5
        count[s] = min(np.int64(count[s]) + observed[t], _MOST_COUNT)
        if not w > 0.0:
            continue
        is_new = not weight[s] > 0.0
        total = weight[s] + w
        for k in range(3):
            turn = dither(count[s] + s, k)
            old = 0.0 if is_new else offset[s, k] * OFFSET_STEP_VOX
            offset[s, k] = moved(old, (sums[t, k] - w * old) / total, OFFSET_STEP_VOX, turn, is_new)
            old = 0.0 if is_new else normal[s, k] * NORMAL_STEP
            steps = moved(old, (sums[t, 3 + k] - w * old) / total, NORMAL_STEP, turn, is_new)
            normal[s, k] = min(max(steps, -127), 127)
            old = 0.0 if is_new else color[s, k] * COLOR_STEP
            steps = moved(old, (sums[t, 6 + k] - w * old) / total, COLOR_STEP, turn, is_new)
            color[s, k] = min(max(steps, 0), 255)
        weight[s] = rounded_weight(total, dither(count[s] + s, 0))


@njit(cache=True, nogil=True)
def join_touched(index: Any, gained: Any, stamp: Any, joined: Any, total: Any, count: int) -> int:
    """Append surfels (K,) to the ``count`` that are there already, or add their gain to what is there.

    ``stamp[s]`` is the place of surfel s among the joined ones, whatever it is for others.
    """
    for k in range(index.shape[0]):
        s = index[k]
        t = stamp[s]
        if t < 0 or t >= count or joined[t] != s:
            t = stamp[s] = count
            joined[count] = s
            total[count] = 0.0
            count += 1
        total[t] += gained[k]
    return count
