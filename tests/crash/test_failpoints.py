"""A real server killed at every place that matters: nothing acknowledged is lost or applied twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamdgp.errors import StreamdgpError
from streamdgp.store._failpoints import FAILPOINTS, VARIABLE
from streamdgp.v1 import scene_service_pb2
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes

FRAMES = 14
# Small segments, so that some are full, and few revisions, so that some are cleared away.
ARGUMENTS = ("--segment-size", "0.004", "--keep-revisions", "2")
# ``make test`` kills at a place of every kind, ``make crash`` at all of them.
SHORT = ("log.sync", "log.segment-rename", "log.drop-rename", "commit.sync", "clear.collect")
_IS_LONG = int(os.environ.get("STREAMDGP_CRASH_ROUNDS", "3")) >= 50
_LATER = {"log.write": 5, "log.sync": 6, "log.synced": 7, "ack": 4, "commit.write": 3, "commit.sync": 2}


def send(stream: Stream, first: int, last: int) -> None:
    """A few frames at a time, so that there are several commits."""
    for number in range(first, last + 1):
        stream.send_frames(make_frame(number))
        if number % 2 == 0:
            stream.wait_applied(number)
    stream.finish()


def check(data: Path) -> str:
    command = [sys.executable, "-m", "streamdgp_server", "check", str(data), "--all-revisions"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def frame_count(server: ServerProcess) -> int:
    request = scene_service_pb2.GetSceneStatisticsRequest(scene="scenes/test")
    return int(server.scenes.GetSceneStatistics(request).statistics.frame_count)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The mesh of all frames, streamed without incident."""
    with ServerProcess(tmp_path_factory.mktemp("uninterrupted") / "data", *ARGUMENTS) as server:
        send(Stream(server), 1, FRAMES)
        return mesh_bytes(get_mesh(server))[1]


@pytest.mark.parametrize("name", FAILPOINTS if _IS_LONG else SHORT)
def test_killed_there_then_resumed(
    tmp_path: Path, name: str, uninterrupted: bytes, crash_report: Callable[..., None]
) -> None:
    data = tmp_path / "data"
    failpoint = {VARIABLE: f"{name}:{_LATER.get(name, 1)}"}
    server = ServerProcess(data, *ARGUMENTS, environment=failpoint)
    stream = Stream(server)
    with pytest.raises((AssertionError, StreamdgpError)):
        send(stream, 1, FRAMES)
    assert server.wait() == -signal.SIGKILL, "the place was not reached: nothing was tested"
    acknowledged = stream.progress.durable_sequence_number
    stream.wait_ended()
    with ServerProcess(data, *ARGUMENTS) as server:
        stream = Stream(server)
        opened = stream.opened()
        lost = max(0, acknowledged + 1 - opened.next_sequence_number)
        send(stream, opened.next_sequence_number, FRAMES)
        assert stream.rejected == []
        applied, mesh = frame_count(server), mesh_bytes(get_mesh(server))[1]
        crash_report(
            "kills at failpoints",
            cases=1,
            acknowledged=acknowledged,
            lost=lost,
            twice=max(0, applied - FRAMES),
            meshes_equal=int(mesh == uninterrupted),
        )
        assert lost == 0
        assert opened.next_sequence_number <= FRAMES + 1
        assert applied == FRAMES
        assert mesh == uninterrupted
    assert "test: intact" in check(data)
    assert not list(data.rglob("*.tmp"))
