"""Meshes: one tile, and the welded whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Mesh", "TileMesh", "weld_tiles"]


@dataclass(frozen=True)
class TileMesh:
    """The surface inside one cubic tile of the global lattice.

    index is the tile's place on the lattice of tiles; vertices (N, 3) float32 are relative to
    ``origin_m``; normals (N, 3) float32; triangles (M, 3) int32, counter-clockwise from outside.
    vertex_keys (N,) int64 name lattice edges: equal keys in two tiles are one vertex. Equal
    signatures mean equal content.
    """

    index: tuple[int, int, int]
    resolution_m: float
    origin_m: npt.NDArray[np.float64]
    signature: int
    vertices: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.int32]
    vertex_keys: npt.NDArray[np.int64]

    @property
    def byte_count(self) -> int:
        return sum(a.nbytes for a in (self.vertices, self.normals, self.triangles, self.vertex_keys)) + 256


@dataclass(frozen=True)
class Mesh:
    """vertices (N, 3) float64 world metres, normals (N, 3) float32, triangles (M, 3) int32."""

    vertices: npt.NDArray[np.float64]
    normals: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.int32]


def weld_tiles(tiles: Iterable[TileMesh]) -> Mesh:
    """Join tiles into one mesh without cracks: vertices with equal keys become one."""
    parts = [t for t in tiles if len(t.vertices)]
    if not parts:
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    keys = np.concatenate([t.vertex_keys for t in parts])
    vertices = np.concatenate([t.origin_m + t.vertices.astype(np.float64) for t in parts])
    normals = np.concatenate([t.normals for t in parts])
    starts = np.cumsum([0, *(len(t.vertices) for t in parts[:-1])])
    triangles = np.concatenate([t.triangles + s for t, s in zip(parts, starts, strict=True)])
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    # Keep the order of first appearance: same tiles, same bytes.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    kept = first[order]
    return Mesh(vertices[kept], normals[kept], rank[inverse][triangles].astype(np.int32))
