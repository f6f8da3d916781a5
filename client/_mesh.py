"""Tiles of a mesh stream become one mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamdgp.v1 import common_pb2
from streamdgp.wire import Tile

__all__ = ["Mesh", "box_from_roi", "crop", "weld"]


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh of one revision.

    ``vertices`` (N, 3) float64 metres, world frame; ``normals`` (N, 3) float32, unit, towards the
    side that the sensor was on; ``triangles`` (M, 3) int32, counter-clockwise seen from there.
    """

    vertices: npt.NDArray[np.float64]
    normals: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.int32]
    revision: int
    resolution_m: float


def weld(tiles: Sequence[Tile], revision: int, resolution_m: float) -> Mesh:
    """Join tiles; vertices with equal keys are one vertex.

    The result does not depend on the order of the tiles.
    """
    if not tiles:
        empty = np.empty((0, 3))
        return Mesh(
            empty,
            empty.astype(np.float32),
            empty.astype(np.int32),
            revision=revision,
            resolution_m=resolution_m,
        )
    tiles = sorted(tiles, key=lambda tile: tile.index)
    first_vertex = np.cumsum([0, *(len(tile.vertices) for tile in tiles)])
    keys = np.concatenate([tile.vertex_keys for tile in tiles])
    _, kept, number = np.unique(keys, return_index=True, return_inverse=True)
    vertices = np.concatenate([tile.vertices.astype(np.float64) + tile.origin_m for tile in tiles])
    triangles = np.concatenate(
        [
            tile.triangles.astype(np.int64) + start
            for tile, start in zip(tiles, first_vertex[:-1], strict=True)
        ]
    )
    return Mesh(
        vertices=vertices[kept],
        normals=np.concatenate([tile.normals for tile in tiles])[kept],
        triangles=number[triangles].astype(np.int32).reshape(-1, 3),
        revision=revision,
        resolution_m=resolution_m,
    )


def crop(mesh: Mesh, roi_m: Sequence[float]) -> Mesh:
    """Keep the triangles with a corner in the box ``x0, y0, z0, x1, y1, z1`` (metres), and their vertices."""
    low, high = np.array(roi_m[:3]), np.array(roi_m[3:])
    inside = np.all((mesh.vertices >= low) & (mesh.vertices <= high), axis=1)
    triangles = mesh.triangles[inside[mesh.triangles].any(axis=1)]
    used, number = np.unique(triangles, return_inverse=True)
    return Mesh(
        vertices=mesh.vertices[used],
        normals=mesh.normals[used],
        triangles=number.astype(np.int32).reshape(-1, 3),
        revision=mesh.revision,
        resolution_m=mesh.resolution_m,
    )


def box_from_roi(roi_m: Sequence[float]) -> common_pb2.Box:
    """Return the box of six numbers."""
    x0, y0, z0, x1, y1, z1 = (float(value) for value in roi_m)
    return common_pb2.Box(
        min_m=common_pb2.Vector3(x=x0, y=y0, z=z0), max_m=common_pb2.Vector3(x=x1, y=y1, z=z1)
    )
