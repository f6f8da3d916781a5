"""Encoded tiles: the message that would be made anew, once for equal content, bounded in bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamdgp.surface import TileMesh
from streamdgp.wire import tile_from_proto, tile_to_proto
from streamdgp_server import encoded_tiles as module
from streamdgp_server.encoded_tiles import EncodedTiles


def _tile(number: int, signature: int, resolution_m: float = 0.01) -> TileMesh:
    rng = np.random.default_rng(signature)
    vertices = rng.normal(size=(60, 3)).astype(np.float32)
    place = np.array([1.0, 2.0, 3.0])
    triangles = rng.integers(0, 60, size=(100, 3)).astype(np.int32)
    keys = rng.integers(0, 2**40, size=60)
    return TileMesh((number, 0, -1), resolution_m, place, signature, vertices, vertices, triangles, keys)


def test_the_message_is_that_of_the_tile() -> None:
    encoded = EncodedTiles(1 << 20)
    for tile in (_tile(0, 1), _tile(0, 2), _tile(1, 1), _tile(0, 1, 0.02)):
        for _ in range(2):
            assert encoded.message(tile) == tile_to_proto(tile)
            np.testing.assert_array_equal(tile_from_proto(encoded.message(tile)).triangles, tile.triangles)


def test_equal_content_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(module, "tile_to_proto", lambda tile: made.append(tile.index) or tile_to_proto(tile))
    encoded = EncodedTiles(1 << 20)
    tile = _tile(0, 1)
    for again in (tile, replace(tile), replace(tile, signature=2), replace(tile, resolution_m=0.02), tile):
        encoded.message(again)
    assert len(made) == 3


def test_what_was_sent_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(
        module, "tile_to_proto", lambda tile: made.append(tile.index[0]) or tile_to_proto(tile)
    )
    size = tile_to_proto(_tile(0, 1)).ByteSize()
    encoded = EncodedTiles(int(3.5 * size))
    for number in (0, 1, 2, 0, 3, 0, 2, 1):
        encoded.message(_tile(number, 7))
    # 3 took the room of 1, which then took that of 3.
    assert made == [0, 1, 2, 3, 1]
    # The newest one always has room.
    narrow = EncodedTiles(0)
    for number in (0, 0, 1, 0):
        assert narrow.message(_tile(number, 1)) == tile_to_proto(_tile(number, 1))
    assert made[5:] == [0, 1, 0]
