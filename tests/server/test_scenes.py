"""Scenes over a real socket: create, describe, list, delete; revisions and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from streamdgp.errors import (
    AlreadyExistsError,
    InvalidConfigError,
    InvalidInputError,
    NotFoundError,
    StreamdgpError,
)
from streamdgp.v1 import scene_service_pb2 as pb
from streamdgp.wire import error_from_rpc
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, send_scan, vertices_of


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of this file's own: lists must not see the scenes of other tests."""
    with ServerProcess(tmp_path_factory.mktemp("scenes") / "data") as process:
        yield process


def error_of(call: object, request: object) -> StreamdgpError:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)  # type: ignore[operator]
    return error_from_rpc(caught.value)


def test_the_life_of_a_scene(own: ServerProcess) -> None:
    config = pb.SceneConfig(anchor_radius_m=0.08, regime=pb.FITTING_REGIME_LAZY, seed=3)
    created = own.scenes.CreateScene(pb.CreateSceneRequest(scene_id="life", config=config))
    assert created.scene.name == "scenes/life"
    assert created.scene.create_time.seconds > 0
    assert created.scene.config.anchor_radius_m == 0.08
    assert created.scene.config.seed == 3
    assert not created.scene.HasField("bounds")
    assert isinstance(
        error_of(own.scenes.CreateScene, pb.CreateSceneRequest(scene_id="life")), AlreadyExistsError
    )
    send_scan(own, 1, 2, "scenes/life")
    answer = own.scenes.GetScene(pb.GetSceneRequest(name="scenes/life"))
    assert answer.header.revision >= 1
    assert answer.scene.frame_count == 2
    assert answer.scene.chart_count > 0
    assert answer.scene.resolved_config["anchor_radius_m"] == 0.08
    assert answer.scene.bounds.min_m.x < answer.scene.bounds.max_m.x
    assert (own.data / "scenes" / "life" / "scene.json").is_file()
    deleted = own.scenes.DeleteScene(pb.DeleteSceneRequest(name="scenes/life"))
    assert deleted.header.revision == answer.header.revision
    assert not (own.data / "scenes" / "life").exists()
    assert isinstance(error_of(own.scenes.GetScene, pb.GetSceneRequest(name="scenes/life")), NotFoundError)
    assert isinstance(
        error_of(own.scenes.DeleteScene, pb.DeleteSceneRequest(name="scenes/life")), NotFoundError
    )
    again = own.scenes.CreateScene(pb.CreateSceneRequest(scene_id="life"))
    assert again.scene.frame_count == 0


def test_deleting_ends_streams_into_the_scene(own: ServerProcess) -> None:
    stream = Stream(own, "scenes/doomed")
    stream.send_frames(make_frame(1))
    stream.wait_applied(1)
    own.scenes.DeleteScene(pb.DeleteSceneRequest(name="scenes/doomed"))
    assert isinstance(stream.wait_ended(), NotFoundError)
    assert not (own.data / "scenes" / "doomed").exists()


def test_scenes_are_listed_in_pages_by_name(own: ServerProcess) -> None:
    for name in ("list-c", "list-a", "list-b"):
        own.scenes.CreateScene(pb.CreateSceneRequest(scene_id=name))
    names, token = [], ""
    while True:
        page = own.scenes.ListScenes(pb.ListScenesRequest(page_size=2, page_token=token))
        assert len(page.scenes) <= 2
        names += [scene.name for scene in page.scenes]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(names)
    assert {"scenes/list-a", "scenes/list-b", "scenes/list-c"} <= set(names)


def test_revisions_and_statistics(own: ServerProcess) -> None:
    for number in (1, 2, 3):
        send_scan(own, number, number, "scenes/counted")
    answer = own.scenes.ListRevisions(pb.ListRevisionsRequest(scene="scenes/counted"))
    numbers = [r.number for r in answer.revisions]
    assert numbers == [3, 2, 1]
    assert answer.header.revision == 3
    assert [r.frame_count for r in answer.revisions] == [3, 2, 1]
    times = [(r.commit_time.seconds, r.commit_time.nanos) for r in answer.revisions]
    assert times == sorted(times, reverse=True)
    for revision, frames in ((0, 3), (1, 1)):
        request = pb.GetSceneStatisticsRequest(scene="scenes/counted", revision=revision)
        found = own.scenes.GetSceneStatistics(request)
        statistics = found.statistics
        assert found.header.revision == (revision or 3)
        assert statistics.frame_count == frames
        assert statistics.chart_count == next(
            r.chart_count for r in answer.revisions if r.frame_count == frames
        )
        assert statistics.surfel_count > statistics.chart_count > 0
        assert statistics.resolution_m > 0
        assert statistics.atlas_bytes > 0
        assert statistics.log_bytes > 0
    error = error_of(
        own.scenes.GetSceneStatistics, pb.GetSceneStatisticsRequest(scene="scenes/counted", revision=9)
    )
    assert isinstance(error, NotFoundError)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "-x", "ü", "a" * 64, "x y", "nul\0"])
def test_names_that_are_refused(own: ServerProcess, name: str) -> None:
    error = error_of(own.scenes.CreateScene, pb.CreateSceneRequest(scene_id=name))
    assert isinstance(error, InvalidInputError)
    assert "a scene name" in str(error)


def test_settings_that_are_refused(own: ServerProcess) -> None:
    config = pb.SceneConfig(anchor_radius_m=-1)
    error = error_of(own.scenes.CreateScene, pb.CreateSceneRequest(scene_id="bad", config=config))
    assert isinstance(error, InvalidConfigError)
    assert "anchor_radius_m" in str(error)
    assert not (own.data / "scenes" / "bad").exists()


def test_a_damaged_scene_does_not_spoil_the_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        send_scan(server, 1, 1, "scenes/good")
        send_scan(server, 1, 1, "scenes/ill")
    (segment,) = (data / "scenes" / "ill" / "log").glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(bytes(content))
    with ServerProcess(data) as server:
        assert len(vertices_of(get_mesh(server, "scenes/good"))) > 0
        error = error_of(server.scenes.GetScene, pb.GetSceneRequest(name="scenes/ill"))
        assert error.metadata["segment"] == segment.name
        assert error.metadata["record"] in ("0", "1")
        page = server.scenes.ListScenes(pb.ListScenesRequest())
        assert [scene.name for scene in page.scenes] == ["scenes/good", "scenes/ill"]
        server.scenes.DeleteScene(pb.DeleteSceneRequest(name="scenes/ill"))
        assert not (data / "scenes" / "ill").exists()
