"""Messages of mesh tiles that were sent before: most of a surface is as it was when it was asked for last."""

from __future__ import annotations

from streamdgp.memory import BoundedCache
from streamdgp.surface import TileMesh
from streamdgp.v1 import surface_service_pb2
from streamdgp.wire import tile_to_proto

__all__ = ["EncodedTiles"]


class EncodedTiles:
    """Encoded tiles, bounded in bytes; those that were sent longest ago make room. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._held: BoundedCache[tuple[float, tuple[int, int, int], int], surface_service_pb2.MeshTile] = (
            BoundedCache(max_bytes)
        )

    def message(self, tile: TileMesh) -> surface_service_pb2.MeshTile:
        """The message of a tile; to be read only, others send it too."""
        key = (tile.resolution_m, tile.index, tile.signature)
        message = self._held.get(key)
        if message is None:
            message = tile_to_proto(tile)
            self._held.put(key, message, message.ByteSize())
        return message
