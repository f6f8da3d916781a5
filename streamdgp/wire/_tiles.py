"""Mesh tiles to and from their messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidInputError
from streamdgp.v1 import common_pb2, surface_service_pb2
from streamdgp.wire._arrays import decode_array, encode_array

__all__ = ["Tile", "TileLike", "tile_from_proto", "tile_to_proto"]


class TileLike(Protocol):
    """What a tile of the surface has (``streamdgp.surface.TileMesh`` does)."""

    @property
    def index(self) -> tuple[int, int, int]:
        """Place on the tile lattice."""

    @property
    def signature(self) -> int:
        """Equal for equal content, unsigned 64 bits."""

    @property
    def origin_m(self) -> npt.NDArray[np.float64]:
        """(3,), what the vertices are relative to."""

    @property
    def vertices(self) -> npt.NDArray[np.float32]:
        """(N, 3) metres relative to the origin."""

    @property
    def normals(self) -> npt.NDArray[np.float32]:
        """(N, 3) unit."""

    @property
    def triangles(self) -> npt.NDArray[np.int32]:
        """(M, 3) vertex numbers."""

    @property
    def vertex_keys(self) -> npt.NDArray[np.int64]:
        """(N,); equal keys are the same vertex."""


@dataclass(frozen=True)
class Tile:
    """A tile as received; see ``TileLike``."""

    index: tuple[int, int, int]
    signature: int
    origin_m: npt.NDArray[np.float64]
    vertices: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.int32]
    vertex_keys: npt.NDArray[np.int64]


def tile_to_proto(tile: TileLike) -> surface_service_pb2.MeshTile:
    """Return the message of a tile."""
    i, j, k = (int(value) for value in tile.index)
    x, y, z = (float(value) for value in tile.origin_m)
    return surface_service_pb2.MeshTile(
        id=surface_service_pb2.TileId(i=i, j=j, k=k, signature=int(tile.signature)),
        origin_m=common_pb2.Vector3(x=x, y=y, z=z),
        vertices=encode_array(tile.vertices.astype(np.float32, copy=False)),
        normals=encode_array(tile.normals.astype(np.float32, copy=False)),
        triangles=encode_array(tile.triangles.astype(np.int32, copy=False)),
        vertex_keys=encode_array(tile.vertex_keys.astype(np.int64, copy=False)),
    )


def tile_from_proto(message: surface_service_pb2.MeshTile) -> Tile:
    """Return the tile of a message.

    Raises
    ------
    InvalidInputError
        Arrays that are not what they declare or do not fit each other.
    """
    rows: dict[str, Any] = {"ndims": (2,), "last_axis": 3, "error": InvalidInputError}
    tile = Tile(
        index=(message.id.i, message.id.j, message.id.k),
        signature=message.id.signature,
        origin_m=np.array((message.origin_m.x, message.origin_m.y, message.origin_m.z)),
        vertices=decode_array(message.vertices, "vertices", dtypes=("float32",), **rows),
        normals=decode_array(message.normals, "normals", dtypes=("float32",), **rows),
        triangles=decode_array(message.triangles, "triangles", dtypes=("int32",), **rows),
        vertex_keys=decode_array(
            message.vertex_keys, "vertex keys", dtypes=("int64",), ndims=(1,), error=InvalidInputError
        ),
    )
    count = len(tile.vertices)
    inside = not tile.triangles.size or (tile.triangles.min() >= 0 and tile.triangles.max() < count)
    if len(tile.normals) != count or len(tile.vertex_keys) != count or not inside:
        raise InvalidInputError(
            f"one normal and one key for each of {count} vertices, and triangles among them",
            f"{len(tile.normals)} normals, {len(tile.vertex_keys)} keys",
            "The server's answer is damaged; ask again.",
        )
    return tile
