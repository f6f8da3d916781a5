"""Tiles become one mesh without cracks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from streamdgp.errors import InvalidInputError, ServerUnavailableError
from streamdgp.v1 import common_pb2, surface_service_pb2
from streamdgp.wire import Tile, encode_array, tile_from_proto, tile_to_proto
from streamdgp_client import AsyncClient, Mesh
from streamdgp_client._mesh import crop, weld
from tests.client.fake_server import FakeSurface, serve


def strip(index: int) -> Tile:
    """A unit square in the plane z = 1, at x = index; neighbours share two keys."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    keys = np.array([2 * index, 2 * index + 2, 2 * index + 3, 2 * index + 1])
    return Tile(
        index=(index, 0, 0),
        signature=2**64 - 1 - index,
        origin_m=np.array([index, 0.0, 1.0]),
        vertices=corners,
        normals=np.tile(np.array([0, 0, 1], np.float32), (4, 1)),
        triangles=np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        vertex_keys=keys,
    )


def test_a_tile_comes_back_bit_for_bit() -> None:
    tile = strip(3)
    message = surface_service_pb2.MeshTile.FromString(tile_to_proto(tile).SerializeToString())
    back = tile_from_proto(message)
    assert (back.index, back.signature) == (tile.index, tile.signature)
    for name in ("origin_m", "vertices", "normals", "triangles", "vertex_keys"):
        np.testing.assert_array_equal(getattr(back, name), getattr(tile, name))
        assert getattr(back, name).dtype == getattr(tile, name).dtype


def test_a_tile_whose_triangles_miss_its_vertices_is_refused() -> None:
    message = tile_to_proto(strip(0))
    message.triangles.CopyFrom(encode_array(np.array([[0, 1, 4]], np.int32)))
    with pytest.raises(InvalidInputError, match="triangles among them"):
        tile_from_proto(message)


def test_tiles_weld_by_key_in_any_order() -> None:
    tiles = [strip(index) for index in range(5)]
    mesh = weld(tiles, revision=4, resolution_m=0.5)
    again = weld(tiles[::-1], revision=4, resolution_m=0.5)
    assert mesh.vertices.shape == (12, 3)
    assert (mesh.vertices.dtype, mesh.triangles.dtype) == (np.float64, np.int32)
    assert mesh.triangles.shape == (10, 3)
    np.testing.assert_array_equal(mesh.vertices, again.vertices)
    np.testing.assert_array_equal(mesh.triangles, again.triangles)
    a, b, c = (mesh.vertices[mesh.triangles[:, i]] for i in range(3))
    doubled_areas = np.cross(b - a, c - a)
    np.testing.assert_allclose(doubled_areas, np.tile([0.0, 0.0, 1.0], (10, 1)))
    edges = np.sort(mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses == 1).sum() == 12  # the outline of a 5 x 1 strip: 2 * 5 + 2 edges, no crack inside
    assert (uses == 2).sum() == 9


def test_no_tiles_make_an_empty_mesh() -> None:
    mesh = weld([], revision=1, resolution_m=0.0)
    assert (mesh.vertices.shape, mesh.triangles.shape) == ((0, 3), (0, 3))


def test_a_box_keeps_the_triangles_with_a_corner_in_it() -> None:
    mesh = weld([strip(index) for index in range(5)], revision=4, resolution_m=0.5)
    part = crop(mesh, (1.9, -1, 0, 2.1, 2, 2))
    assert part.vertices[:, 0].min() == 1
    assert part.vertices[:, 0].max() == 3
    assert len(part.triangles) == 4
    assert len(crop(mesh, (9, 9, 9, 10, 10, 10)).triangles) == 0


def answers(tiles: Sequence[Tile], tile_count: int) -> list[surface_service_pb2.GetMeshResponse]:
    header = common_pb2.ResponseHeader(revision=7)
    start = surface_service_pb2.MeshStart(resolution_m=0.5, estimated_tile_count=len(tiles))
    return [
        surface_service_pb2.GetMeshResponse(header=header, start=start),
        *(surface_service_pb2.GetMeshResponse(header=header, tile=tile_to_proto(tile)) for tile in tiles),
        surface_service_pb2.GetMeshResponse(
            header=header, end=surface_service_pb2.MeshEnd(tile_count=tile_count)
        ),
    ]


def query(service: FakeSurface, roi_m: Sequence[float] | None = None, timeout_s: float = 30.0) -> Mesh:
    async def work() -> Mesh:
        async with serve(service) as server, AsyncClient(server, timeout_s=timeout_s) as client:
            return await client.query_mesh("room", roi_m=roi_m, resolution_m=0.5, revision=7)

    return asyncio.run(work())


def test_a_queried_mesh_is_welded_cropped_and_says_its_revision() -> None:
    service = FakeSurface(answers([strip(index) for index in range(5)], 5))
    mesh = query(service)
    assert (mesh.revision, mesh.resolution_m, len(mesh.triangles)) == (7, 0.5, 10)
    request = service.requests[0]
    assert (request.scene, request.revision, request.resolution_m) == ("scenes/room", 7, 0.5)
    assert not request.HasField("region")
    assert len(query(service, (1.9, -1, 0, 2.1, 2, 2)).triangles) == 4
    assert service.requests[1].region.min_m.x == 1.9


@pytest.mark.parametrize("responses", [answers([strip(0)], 2), answers([strip(0)], 1)[:-1], []])
def test_an_incomplete_mesh_is_an_error(responses: list[surface_service_pb2.GetMeshResponse]) -> None:
    with pytest.raises(ServerUnavailableError, match="a whole mesh"):
        query(FakeSurface(responses))


def test_a_server_that_falls_silent_is_given_up() -> None:
    service = FakeSurface(answers([strip(0)], 1)[:-1], silent=True)
    with pytest.raises(ServerUnavailableError, match=r"within 0\.3 s; got nothing"):
        query(service, timeout_s=0.3)
