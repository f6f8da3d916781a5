"""Messages of mesh tiles that were sent before: most of a surface is as it was when it was asked for last."""

from __future__ import annotations

import threading
from collections import OrderedDict

from streamdgp.surface import TileMesh
from streamdgp.v1 import surface_service_pb2
from streamdgp.wire import tile_to_proto

__all__ = ["EncodedTiles"]


class EncodedTiles:
    """Encoded tiles, bounded in bytes; those that were sent longest ago make room. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: OrderedDict[
            tuple[float, tuple[int, int, int], int], tuple[surface_service_pb2.MeshTile, int]
        ] = OrderedDict()
        self._lock = threading.Lock()

    def message(self, tile: TileMesh) -> surface_service_pb2.MeshTile:
        """The message of a tile; to be read only, others send it too."""
        key = (tile.resolution_m, tile.index, tile.signature)
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                return held[0]
        message = tile_to_proto(tile)
        size = message.ByteSize()
        with self._lock:
            if key not in self._held:
                self._held[key] = message, size
                self._bytes += size
            while self._bytes > self._max_bytes and self._held:
                _, (_, freed) = self._held.popitem(last=False)
                self._bytes -= freed
        return message
