"""One server, one disk, random events for a while: the frames of two producers are all there, each once.

``STREAMDGP_SOAK_MINUTES`` says how long; by default every event comes once or so.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamdgp.errors import StreamdgpError
from streamdgp.store import FrameLog
from streamdgp.v1 import scene_service_pb2
from tests.crash.test_failpoints import check, frame_count
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes, send_scan

_LOGGER = logging.getLogger(__name__)
_MINUTES = float(os.environ.get("STREAMDGP_SOAK_MINUTES", "0"))
_ARGUMENTS = ("--segment-size", "0.02", "--keep-revisions", "3")
_FULL_BYTES = 500_000_000
_ANGLES_RAD = {"robot": 0.03, "drone": -0.05}


class Soak:
    """A data directory, the server on it, and what it has promised."""

    def __init__(self, data: Path, rng: np.random.Generator) -> None:
        self.data, self.acknowledged = data, dict.fromkeys(_ANGLES_RAD, 0)
        self.lost = self.resident_mb = 0
        self._rng = rng
        self._server = ServerProcess(data, *_ARGUMENTS)

    def stream(self) -> None:
        """A few frames of both producers at once."""
        streams = self._send()
        for name, stream in streams.items():
            self._note(name, stream.finish())

    def query(self) -> None:
        """Meshes of the newest revision and of the oldest that is kept."""
        request = scene_service_pb2.ListRevisionsRequest(scene="scenes/test")
        kept = [one.number for one in self._server.scenes.ListRevisions(request).revisions]
        for revision in {kept[0], kept[-1]}:
            assert mesh_bytes(get_mesh(self._server, revision=revision))[0] == revision

    def delete_another_scene(self) -> None:
        """It is made, filled, and deleted; the scene beside it notices nothing."""
        send_scan(self._server, 1, 2, "scenes/other")
        self._server.scenes.DeleteScene(scene_service_pb2.DeleteSceneRequest(name="scenes/other"))
        assert not (self.data / "scenes" / "other").exists()

    def kill(self) -> None:
        """In the middle of two streams."""
        streams = self._send()
        time.sleep(self._rng.uniform(0.0, 0.5))
        self._look_at_memory()
        self._server.kill()
        for name, stream in streams.items():
            stream.wait_ended()
            self._note(name, stream)
        self._server = ServerProcess(self.data, *_ARGUMENTS)

    def restart(self) -> None:
        """As a user does."""
        self._stop()
        self._server = ServerProcess(self.data, *_ARGUMENTS)

    def fill_the_disk(self) -> None:
        """Streams wait, and go on when there is room again."""
        self._stop()
        free, ballast = shutil.disk_usage(self.data).free, self.data.parent / "ballast"
        # Its own limit, so that it is this file and nobody else's that fills the disk.
        self._server = ServerProcess(self.data, *_ARGUMENTS, "--min-free", str((free - 2e8) / 1e6))
        self.stream()
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _FULL_BYTES)
        error = Stream(self._server).wait_ended()
        assert "free on the server's disk" in str(error)
        ballast.unlink()
        self.restart()

    def finish(self) -> bytes:
        """Everything applied; returns the mesh."""
        self.stream()
        mesh = mesh_bytes(get_mesh(self._server))[1]
        self._stop()
        return mesh

    def _send(self) -> dict[str, Stream]:
        streams = {name: Stream(self._server, producer=name) for name in _ANGLES_RAD}
        for name, stream in streams.items():
            first = stream.opened().next_sequence_number
            lost = max(0, self.acknowledged[name] + 1 - first)
            self.lost += lost
            assert lost == 0, f"{name}: {self.acknowledged[name]} had been acknowledged, next is {first}"
            for number in range(first, first + int(self._rng.integers(1, 4))):
                stream.send_frames(frame_of(name, number))
        return streams

    def _note(self, name: str, stream: Stream) -> None:
        promised = stream.progress.durable_sequence_number
        self.acknowledged[name] = max(self.acknowledged[name], promised)

    def _look_at_memory(self) -> None:
        status = Path(f"/proc/{self._server._process.pid}/status").read_text()
        kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        self.resident_mb = max(self.resident_mb, kb // 1024)

    def _stop(self) -> None:
        self._look_at_memory()
        assert self._server.stop() == 0, self._server.stderr()
        assert "Traceback" not in self._server.stderr()

    def give_up(self) -> str:
        """After a failure; returns what the server said."""
        if self._server._process.poll() is None:
            self._server.kill()
        return self._server.stderr()


def frame_of(producer: str, number: int, sequence: int = 0) -> object:
    """What a producer sends under a number, on request under another one."""
    frame = make_frame(number, angle_rad=_ANGLES_RAD[producer] * number)
    frame.sequence_number = sequence or number
    return frame


@pytest.mark.timeout(300 + 240 * _MINUTES)
def test_soak(tmp_path: Path, crash_report: Callable[..., None]) -> None:
    seed = int.from_bytes(os.urandom(4))
    _LOGGER.info("events of seed %d", seed)
    rng = np.random.default_rng(seed)
    soak = Soak(tmp_path / "data", rng)
    events = [soak.stream, soak.query, soak.delete_another_scene, soak.kill]
    more = [*events, soak.restart, soak.fill_the_disk]
    end_s, count = time.monotonic() + 60 * _MINUTES, 0
    try:
        while events or time.monotonic() < end_s:
            event = events.pop(0) if events else more[int(rng.integers(len(more)))]
            _LOGGER.info("event %d: %s; %s acknowledged", count, event.__name__, soak.acknowledged)
            event()
            count += 1
        mesh = soak.finish()
    except (AssertionError, StreamdgpError) as error:
        raise AssertionError(f"seed {seed}, event {count}: {error}\n{soak.give_up()}") from error
    assert "test: intact" in check(soak.data)
    with FrameLog(soak.data / "scenes" / "test" / "log") as log:
        order = [(one.producer, one.sequence) for one in log.records() if one.sequence]
    twice = len(order) - len(set(order))
    with ServerProcess(tmp_path / "uninterrupted", *_ARGUMENTS) as server:
        stream = Stream(server)
        for place, (producer, number) in enumerate(order, 1):
            stream.send_frames(frame_of(producer, number, place))
        stream.finish()
        is_equal = mesh_bytes(get_mesh(server))[1] == mesh
        assert frame_count(server) == len(order)
    crash_report(
        "soak",
        cases=count,
        acknowledged=sum(soak.acknowledged.values()),
        lost=soak.lost,
        twice=twice,
        meshes_equal=int(is_equal),
        resident_mb=soak.resident_mb,
    )
    assert twice == 0
    assert {name: sum(one == name for one, _ in order) for name in _ANGLES_RAD} == soak.acknowledged
    assert is_equal
