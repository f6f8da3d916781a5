"""Stopping, killing and starting a real server: nothing acknowledged is lost, the surface is the same."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from streamdgp.errors import NotFoundError, ServerUnavailableError
from streamdgp.v1 import scene_service_pb2
from tests.server.forked import ForkedProcess
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes, send_scan

SCENE = "scenes/test"


def run_server(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamdgp_server", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def revision_count(server: ServerProcess) -> int:
    return len(server.scenes.ListRevisions(scene_service_pb2.ListRevisionsRequest(scene=SCENE)).revisions)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The mesh of twelve frames, streamed without incident."""
    with ServerProcess(tmp_path_factory.mktemp("uninterrupted") / "data") as server:
        send_scan(server, 1, 12)
        return mesh_bytes(get_mesh(server))[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_was_executed_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Other tests fork theirs (``tests.server.forked``), which end without taking the interpreter down."""
    with ServerProcess(tmp_path / "data", environment={}) as server:
        assert not isinstance(server._process, ForkedProcess)
        send_scan(server, 1, 3)
        assert server.stop(number) == 0
        assert server.stderr() == ""


def test_a_restart_shows_the_same_revision_and_mesh(tmp_path: Path, uninterrupted: bytes) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        send_scan(server, 1, 6)
        before = mesh_bytes(get_mesh(server))
        count = revision_count(server)
        assert server.stop(signal.SIGINT) == 0
        assert server.stderr() == ""
    with ServerProcess(data) as server:
        assert mesh_bytes(get_mesh(server)) == before
        assert mesh_bytes(get_mesh(server, revision=before[0])) == before
        stream = Stream(server)
        assert stream.opened().next_sequence_number == 7
        assert stream.opened().progress.applied_sequence_number == 6
        stream.finish()
        assert revision_count(server) == count  # nothing was fitted again
        send_scan(server, 7, 12)
        revision, mesh = mesh_bytes(get_mesh(server))
        assert revision > before[0]
        assert mesh == uninterrupted


def test_a_shutdown_ends_streams_and_keeps_durable_frames(tmp_path: Path, uninterrupted: bytes) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        stream = Stream(server)
        stream.send_frames(*(make_frame(number) for number in range(1, 9)))
        stream.wait_durable(8)
        assert server.stop() == 0
        error = stream.wait_ended()
        assert isinstance(error, ServerUnavailableError)
    with ServerProcess(data) as server:
        stream = Stream(server)
        assert stream.opened().next_sequence_number == 9
        for number in range(9, 13):
            stream.send_frames(make_frame(number))
        assert stream.finish().progress.applied_sequence_number == 12
        assert mesh_bytes(get_mesh(server))[1] == uninterrupted


@pytest.mark.parametrize("durable", [1, 7])
def test_killed_in_mid_stream_then_resumed(tmp_path: Path, durable: int, uninterrupted: bytes) -> None:
    data = tmp_path / "data"
    server = ServerProcess(data)
    stream = Stream(server)
    for number in range(1, 13):
        stream.send_frames(make_frame(number))
    stream.wait_durable(durable)
    server.kill()
    acknowledged = stream.progress.durable_sequence_number
    stream.wait_ended()
    with ServerProcess(data) as server:
        stream = Stream(server)
        next_number = stream.opened().next_sequence_number
        assert next_number > acknowledged
        for number in range(next_number, 13):
            stream.send_frames(make_frame(number))
        assert stream.finish().progress.applied_sequence_number == 12
        assert stream.rejected == []
        assert mesh_bytes(get_mesh(server))[1] == uninterrupted
    checked = run_server("check", str(data), "--all-revisions")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "test: intact" in checked.stdout


def test_rejections_are_remembered_over_a_restart(tmp_path: Path) -> None:
    """One frame is refused when it arrives, one only when it is to be integrated."""
    data = tmp_path / "data"
    unusable = make_frame(2)
    unusable.depth_image.intrinsics.fx = 0
    too_far = make_frame(3)
    too_far.world_t_sensor.matrix[3] = 9e6  # a valid pose, but beyond what 5 mm voxels can number
    fine = scene_service_pb2.SceneConfig(evidence_voxel_m=0.005, anchor_radius_m=0.05)
    with ServerProcess(data) as server:
        server.scenes.CreateScene(scene_service_pb2.CreateSceneRequest(scene_id="test", config=fine))
        stream = Stream(server)
        stream.send_frames(make_frame(1), unusable, too_far, make_frame(4))
        rejected = stream.finish().rejected
        assert [(r.sequence_number, r.reason, r.number_consumed) for r in rejected] == [
            (2, "INVALID_FRAME", True),
            (3, "INVALID_FRAME", True),
        ]
        assert stream.progress.applied_sequence_number == 4
        before = mesh_bytes(get_mesh(server))
    for _ in range(2):
        with ServerProcess(data) as server:
            stream = Stream(server)
            assert stream.opened().next_sequence_number == 5
            assert stream.finish().progress.applied_sequence_number == 4
            assert stream.rejected == []
            request = scene_service_pb2.GetSceneStatisticsRequest(scene=SCENE)
            statistics = server.scenes.GetSceneStatistics(request).statistics
            assert (statistics.frame_count, statistics.rejected_frame_count) == (2, 2)
            assert mesh_bytes(get_mesh(server)) == before


def test_old_revisions_are_dropped_and_the_rest_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data, "--keep-revisions", "2") as server:
        for number in range(1, 7):
            send_scan(server, number, number)
        answer = server.scenes.ListRevisions(scene_service_pb2.ListRevisionsRequest(scene=SCENE))
        kept = [revision.number for revision in answer.revisions]
        assert kept[:2] == [6, 5]
        assert len(kept) <= 3
        meshes = {revision: mesh_bytes(get_mesh(server, revision=revision)) for revision in kept}
        with pytest.raises(NotFoundError, match=f"a revision from {kept[-1]} to 6"):
            get_mesh(server, revision=1)
    with ServerProcess(data) as server:
        assert {revision: mesh_bytes(get_mesh(server, revision=revision)) for revision in kept} == meshes


def test_two_servers_on_one_directory(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data"):
        second = run_server("serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert second.returncode == 1
    assert "one writer" in second.stderr
    assert "held by process" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run_server("serve", "--data", str(tmp_path / "data"), "--listen", address)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:99999", ":1", "127.0.0.1:x"])
def test_an_address_that_makes_no_sense(tmp_path: Path, listen: str) -> None:
    result = run_server("serve", "--data", str(tmp_path / "data"), "--listen", listen)
    assert result.returncode == 1
    assert "HOST:PORT" in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run_server("serve", "--data", str(tmp_path / "file" / "data"), "--listen", "127.0.0.1:0")
    assert result.returncode == 1
    assert "a writable directory" in result.stderr


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(tmp_path: Path, device: str) -> None:
    result = run_server("serve", "--data", str(tmp_path), "--listen", "127.0.0.1:0", "--device", device)
    assert result.returncode == 1
    assert repr(device) in result.stderr
    assert "Traceback" not in result.stderr


def test_check_of_a_server_without_scenes(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    result = run_server("check", str(tmp_path))
    assert result.returncode == 0
    assert "no scenes" in result.stdout


def test_check_names_damage(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run_server("check", str(data)).returncode == 1
    with ServerProcess(data) as server:
        send_scan(server, 1, 2)
        busy = run_server("check", str(data))
        assert busy.returncode == 1
        assert "one writer" in busy.stderr
    chunk = max(
        (data / "scenes" / "test" / "atlas" / "icechunk" / "chunks").iterdir(), key=lambda p: p.stat().st_size
    )
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    result = run_server("check", str(data))
    assert result.returncode == 1
    assert re.search(r"revision \d+, (table \w+, column|array) \w+\)", result.stdout), result.stdout
    assert "1 damaged" in result.stderr


def test_help_shows_examples() -> None:
    for arguments in ([], ["serve"], ["check"]):
        result = run_server(*arguments, "--help")
        assert result.returncode == 0
        assert "streamdgp-server" in result.stdout
