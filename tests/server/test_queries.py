"""Mesh queries over a real socket: regions, resolutions, revisions, known tiles, refusals."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest

from streamdgp.errors import InvalidInputError, NotFoundError, ResourceLimitError
from streamdgp.surface import Mesh, weld_tiles
from streamdgp.v1 import scene_service_pb2, surface_service_pb2
from streamdgp.wire import encode_array, error_from_rpc, tile_from_proto
from tests.server.harness import (
    TIMEOUT_S,
    ServerProcess,
    Stream,
    box,
    get_mesh,
    make_frame,
    mesh_bytes,
    send_scan,
    vertices_of,
)

SCENE = "scenes/queried"


@pytest.fixture(scope="module")
def filled(server: ServerProcess) -> ServerProcess:
    """A scene of two streams, so of at least two revisions."""
    send_scan(server, 1, 3, SCENE)
    send_scan(server, 4, 6, SCENE)
    return server


def known_tiles(responses: list[surface_service_pb2.GetMeshResponse]) -> surface_service_pb2.KnownTiles:
    ids = [r.tile.id for r in responses if r.HasField("tile")]
    return surface_service_pb2.KnownTiles(
        indices=encode_array(np.array([(t.i, t.j, t.k) for t in ids], np.int32)),
        signatures=encode_array(np.array([t.signature for t in ids], np.uint64)),
    )


def test_a_mesh_is_whole_and_of_one_revision(filled: ServerProcess) -> None:
    responses = get_mesh(filled, SCENE)
    revision, _ = mesh_bytes(responses)
    scene = filled.scenes.GetScene(scene_service_pb2.GetSceneRequest(name=SCENE))
    assert revision == scene.header.revision
    assert responses[0].start.resolution_m == pytest.approx(scene.scene.resolved_config["resolution_m"])


def test_tiles_weld_to_the_surface(filled: ServerProcess) -> None:
    tiles = [tile_from_proto(r.tile) for r in get_mesh(filled, SCENE) if r.HasField("tile")]
    mesh: Mesh = weld_tiles(tiles)  # type: ignore[arg-type]
    assert 0 < len(mesh.vertices) < sum(len(t.vertices) for t in tiles)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.5).mean() < 0.01
    outwards = (mesh.normals * mesh.vertices).sum(1) / radius
    assert (outwards > 0.7).mean() > 0.99


def test_asking_twice_gives_the_same_bytes(filled: ServerProcess) -> None:
    assert mesh_bytes(get_mesh(filled, SCENE)) == mesh_bytes(get_mesh(filled, SCENE))


def test_known_tiles_are_not_sent_again(filled: ServerProcess) -> None:
    first = get_mesh(filled, SCENE)
    again = get_mesh(filled, SCENE, known_tiles=known_tiles(first))
    assert [r for r in again if r.HasField("tile")] == []
    assert sum(r.HasField("unchanged") for r in again) == first[-1].end.tile_count
    assert again[-1].end.tile_count == 0


def test_a_tile_that_is_gone_is_named(filled: ServerProcess) -> None:
    gone = surface_service_pb2.KnownTiles(
        indices=encode_array(np.array([(900, 900, 900)], np.int32)),
        signatures=encode_array(np.array([5], np.uint64)),
    )
    (removed,) = [r.removed for r in get_mesh(filled, SCENE, known_tiles=gone) if r.HasField("removed")]
    assert (removed.i, removed.j, removed.k, removed.signature) == (900, 900, 900, 5)
    elsewhere = get_mesh(filled, SCENE, known_tiles=gone, region=box(-1, -1, -1, 1, 1, 1))
    assert [r for r in elsewhere if r.HasField("removed")] == []


def test_a_changed_tile_is_sent_although_known(filled: ServerProcess) -> None:
    known = known_tiles(get_mesh(filled, SCENE, revision=1))
    newest = get_mesh(filled, SCENE, known_tiles=known)
    sent = [r.tile for r in newest if r.HasField("tile")]
    kept = {(r.unchanged.i, r.unchanged.j, r.unchanged.k) for r in newest if r.HasField("unchanged")}
    whole = {(r.tile.id.i, r.tile.id.j, r.tile.id.k) for r in get_mesh(filled, SCENE) if r.HasField("tile")}
    assert sent
    assert kept | {(t.id.i, t.id.j, t.id.k) for t in sent} == whole


def test_a_region_limits_what_is_sent(filled: ServerProcess) -> None:
    everything = get_mesh(filled, SCENE)
    part = get_mesh(filled, SCENE, region=box(-1, -1, -1, 0, 1, 1))
    assert 0 < part[-1].end.tile_count < everything[-1].end.tile_count
    tiles = {r.tile.SerializeToString(deterministic=True) for r in everything if r.HasField("tile")}
    assert {r.tile.SerializeToString(deterministic=True) for r in part if r.HasField("tile")} <= tiles
    nothing = get_mesh(filled, SCENE, region=box(50, 50, 50, 51, 51, 51))
    assert nothing[-1].end.tile_count == 0


def test_a_resolution_is_obeyed(filled: ServerProcess) -> None:
    own = get_mesh(filled, SCENE)
    coarse = get_mesh(filled, SCENE, resolution_m=2 * own[0].start.resolution_m)
    assert coarse[0].start.resolution_m == 2 * own[0].start.resolution_m
    assert 0 < len(vertices_of(coarse)) < len(vertices_of(own)) / 2


def test_older_revisions_stay_as_they_were(server: ServerProcess) -> None:
    scene = "scenes/history"
    seen = {}
    for number in range(1, 4):
        send_scan(server, number, number, scene)
        revision, mesh = mesh_bytes(get_mesh(server, scene))
        seen[revision] = mesh
    assert len(seen) == 3
    assert len(set(seen.values())) == 3
    for revision, mesh in seen.items():
        assert mesh_bytes(get_mesh(server, scene, revision=revision)) == (revision, mesh)


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_a_senseless_resolution(filled: ServerProcess, value: float) -> None:
    with pytest.raises(InvalidInputError, match="a finite resolution_m above 0"):
        get_mesh(filled, SCENE, resolution_m=value)


@pytest.mark.parametrize("value", [1e-6, 1e-30, 1e-300])
def test_an_absurdly_fine_resolution_says_its_cost_and_the_limit(filled: ServerProcess, value: float) -> None:
    with pytest.raises(ResourceLimitError, match=r"at most 100,000,000 lattice cells; got about") as caught:
        get_mesh(filled, SCENE, resolution_m=value)
    assert caught.value.metadata["limit"] == "100000000"
    assert float(caught.value.metadata["cost"]) > 1e8


@pytest.mark.parametrize(
    ("corners", "text"),
    [
        ((1, 0, 0, 0, 1, 1), "min <= max"),
        ((0, 0, 1, 1, 1, 0), "min <= max"),
        ((0, 0, float("nan"), 1, 1, 1), "finite corners"),
        ((0, 0, 0, float("inf"), 1, 1), "finite corners"),
    ],
)
def test_a_senseless_region(filled: ServerProcess, corners: tuple[float, ...], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        get_mesh(filled, SCENE, region=box(*corners))


def test_unknown_scenes_revisions_and_tiles(filled: ServerProcess) -> None:
    with pytest.raises(NotFoundError, match="a scene named nowhere"):
        get_mesh(filled, "scenes/nowhere")
    with pytest.raises(InvalidInputError, match="a scene name"):
        get_mesh(filled, "scenes/../../etc")
    with pytest.raises(NotFoundError, match="a revision up to"):
        get_mesh(filled, SCENE, revision=10_000)
    with pytest.raises(InvalidInputError, match="a revision of 0"):
        get_mesh(filled, SCENE, revision=-1)
    uneven = surface_service_pb2.KnownTiles(
        indices=encode_array(np.zeros((2, 3), np.int32)), signatures=encode_array(np.zeros(1, np.uint64))
    )
    with pytest.raises(InvalidInputError, match="one signature for each"):
        get_mesh(filled, SCENE, known_tiles=uneven)


def test_an_empty_scene_has_an_empty_mesh(server: ServerProcess) -> None:
    server.scenes.CreateScene(scene_service_pb2.CreateSceneRequest(scene_id="void"))
    responses = get_mesh(server, "scenes/void")
    assert mesh_bytes(responses) == (0, b"")
    assert responses[0].start.resolution_m == 0
    with pytest.raises(InvalidInputError):
        get_mesh(server, "scenes/void", resolution_m=0)


def test_what_is_not_offered_yet_says_so(server: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.surface.Query(surface_service_pb2.QueryRequest(scene=SCENE))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
    with pytest.raises(grpc.RpcError) as caught:
        list(server.surface.WatchSurface(surface_service_pb2.WatchSurfaceRequest(scene=SCENE)))
    assert "known_tiles" in str(error_from_rpc(caught.value))


def test_queries_while_streaming_include_every_applied_frame(server: ServerProcess) -> None:
    scene = "scenes/busy"
    stream = Stream(server, scene)
    stream.opened()
    frame_counts: dict[int, int] = {}
    finished = threading.Event()

    def feed() -> None:
        for number in range(1, 31):
            stream.send_frames(make_frame(number))
            stream.wait_durable(number - 3)
        stream.finish()
        finished.set()

    feeder = threading.Thread(target=feed)
    feeder.start()
    answers = 0
    while not finished.is_set():
        applied = stream.progress.applied_sequence_number
        responses = get_mesh(server, scene)
        revision, _ = mesh_bytes(responses)
        if revision:
            request = scene_service_pb2.GetSceneStatisticsRequest(scene=scene, revision=revision)
            answer = server.scenes.GetSceneStatistics(request, timeout=TIMEOUT_S)
            frame_counts[revision] = answer.statistics.frame_count
            assert frame_counts[revision] >= applied
            distances = np.linalg.norm(vertices_of(responses), axis=1)
            assert np.abs(distances - 0.5).max() < 0.1
        answers += 1
    feeder.join()
    assert answers > 1
    assert len(frame_counts) > 1
    assert list(frame_counts.values()) == sorted(frame_counts.values())
    assert stream.progress.applied_sequence_number == 30
