"""A real server process and raw streams to it, for tests."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import grpc
import numpy as np

from streamdgp.frames import DepthFrame, Intrinsics
from streamdgp.v1 import (
    common_pb2,
    frame_pb2,
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    scene_service_pb2,
    scene_service_pb2_grpc,
    surface_service_pb2,
    surface_service_pb2_grpc,
)
from streamdgp.wire import error_from_rpc, frame_to_proto, tile_from_proto
from tests.server.forked import ForkedProcess

WIDTH, HEIGHT = 80, 60
INTRINSICS = Intrinsics(70.0, 70.0, 39.5, 29.5)
TIMEOUT_S = 120.0


def sphere_depth(world_T_sensor: np.ndarray, radius_m: float = 0.5) -> np.ndarray:
    """(H, W) float32 depth of a sphere at the world origin, 0 beside it."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    rays = np.stack(
        [(u - INTRINSICS.cx) / INTRINSICS.fx, (v - INTRINSICS.cy) / INTRINSICS.fy, np.ones(u.shape)], -1
    )
    center = -world_T_sensor[:3, :3].T @ world_T_sensor[:3, 3]
    a, b = (rays**2).sum(-1), rays @ center
    discriminant = b**2 - a * (center @ center - radius_m**2)
    depth = np.where(discriminant > 0, (b - np.sqrt(np.maximum(discriminant, 0))) / a, 0)
    return np.where(depth > 0, depth, 0).astype(np.float32)


def pose_around(angle_rad: float, distance_m: float = 1.5) -> np.ndarray:
    """A camera that looks at the origin from the circle y = 0."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, -s], [0, 1, 0], [s, 0, c]]
    pose[:3, 3] = pose[:3, :3] @ [0, 0, -distance_m]
    return pose


def make_frame(number: int, *, angle_rad: float | None = None) -> frame_pb2.Frame:
    """Frame ``number`` of a walk around the sphere."""
    pose = pose_around(0.15 * number if angle_rad is None else angle_rad)
    frame = DepthFrame(sphere_depth(pose), INTRINSICS, pose)
    return frame_to_proto(
        frame, sequence_number=number, source_id=f"frame-{number:06d}", source_crc32c=1000 + number
    )


class ServerProcess:
    """``streamdgp-server serve`` on a free port; use as a context."""

    def __init__(self, data: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.data = data
        with (data.parent / f"{data.name}.stderr").open("a") as stderr:
            self._process = self._start(arguments, environment, stderr)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("streamdgp-server ready on "):
            self._process.wait()
            raise AssertionError(f"no ready line but {line!r}; stderr: {self.stderr()}")
        self.address = line.split()[3].rstrip(",")
        self.channel = grpc.insecure_channel(
            self.address,
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        self.ingest = ingest_service_pb2_grpc.IngestServiceStub(self.channel)
        self.scenes = scene_service_pb2_grpc.SceneServiceStub(self.channel)
        self.surface = surface_service_pb2_grpc.SurfaceServiceStub(self.channel)

    def _start(
        self, arguments: tuple[str, ...], environment: Mapping[str, str] | None, stderr: IO[str]
    ) -> subprocess.Popen[str] | ForkedProcess:
        words = ("serve", "--data", str(self.data), "--listen", "127.0.0.1:0", "--threads", "1", *arguments)
        if environment is None:
            return ForkedProcess("streamdgp_server", words, os.environ, stderr)
        # It may be meant for what is read while things are loaded.
        return subprocess.Popen(
            [sys.executable, "-m", "streamdgp_server", *words],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **environment},
        )

    def stderr(self) -> str:
        return (self.data.parent / f"{self.data.name}.stderr").read_text()

    @property
    def pid(self) -> int:
        return self._process.pid

    def resident_bytes(self) -> int:
        """Memory that the process has in use."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        return 1024 * int(kilobytes)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit code."""
        self._process.send_signal(number)
        code = self._process.wait(timeout=TIMEOUT_S)
        self.channel.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def wait(self) -> int:
        """Until the process has ended by itself; returns its exit code."""
        code = self._process.wait(timeout=TIMEOUT_S)
        self.channel.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            code = self.stop()
            assert kind is not None or code == 0, f"exit code {code}; stderr: {self.stderr()}"


class Stream:
    """One open ingest stream; responses are gathered by a thread."""

    def __init__(
        self,
        server: ServerProcess,
        scene: str = "scenes/test",
        producer: str = "robot",
        epoch: int = 0,
        stub: ingest_service_pb2_grpc.IngestServiceStub | None = None,
    ) -> None:
        self._requests: queue.Queue[ingest_service_pb2.IngestRequest | None] = queue.Queue()
        self.responses: list[ingest_service_pb2.IngestResponse] = []
        self.error: Exception | None = None
        self._changed = threading.Condition()
        self._done = False
        self._call = (stub or server.ingest).Ingest(iter(self._requests.get, None))
        self._thread = threading.Thread(target=self._gather, daemon=True)
        self._thread.start()
        self.send(
            ingest_service_pb2.IngestRequest(
                open=ingest_service_pb2.IngestOpen(
                    scene=scene, producer_id=producer, epoch=epoch, create_if_missing=True
                )
            )
        )

    def send(self, request: ingest_service_pb2.IngestRequest) -> None:
        self._requests.put(request)

    def send_frames(self, *frames: frame_pb2.Frame) -> None:
        """All in one message."""
        self.send(ingest_service_pb2.IngestRequest(frames=ingest_service_pb2.FrameBatch(frames=frames)))

    def opened(self) -> ingest_service_pb2.IngestOpened:
        self.wait(lambda: bool(self.responses))
        return self.responses[0].opened

    @property
    def progress(self) -> ingest_service_pb2.IngestProgress:
        acks = [r.ack.progress for r in self.responses if r.HasField("ack")]
        return acks[-1] if acks else ingest_service_pb2.IngestProgress()

    @property
    def rejected(self) -> list[ingest_service_pb2.FrameRejected]:
        return [r.rejected for r in self.responses if r.HasField("rejected")]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; fails if the stream ends first."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition() or self._done, TIMEOUT_S), "timeout"
        assert condition(), f"the stream ended: {self.error}"

    def wait_durable(self, number: int) -> None:
        self.wait(lambda: self.progress.durable_sequence_number >= number)

    def wait_applied(self, number: int) -> None:
        self.wait(lambda: self.progress.applied_sequence_number >= number)

    def finish(self) -> Self:
        """Half-close, wait until the server ends the stream, raise its error if it gave one."""
        self._requests.put(None)
        self._thread.join(TIMEOUT_S)
        assert self._done, "timeout"
        if self.error is not None:
            raise self.error
        return self

    def wait_ended(self) -> Exception | None:
        """Until the server ends the stream; returns its error."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._done, TIMEOUT_S), "timeout"
        self._requests.put(None)
        return self.error

    def _gather(self) -> None:
        try:
            for response in self._call:
                with self._changed:
                    self.responses.append(response)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            self.error = error_from_rpc(error)
        with self._changed:
            self._done = True
            self._changed.notify_all()


def create_coarse_scene(server: ServerProcess, scene_id: str = "test") -> None:
    """A scene of few charts, for tests that ask for many meshes."""
    coarse = scene_service_pb2.SceneConfig(evidence_voxel_m=0.03, anchor_radius_m=0.12)
    server.scenes.CreateScene(scene_service_pb2.CreateSceneRequest(scene_id=scene_id, config=coarse))


def send_scan(server: ServerProcess, first: int, last: int, scene: str = "scenes/test") -> Stream:
    """Stream frames ``first`` to ``last`` and wait until they are applied."""
    stream = Stream(server, scene)
    for number in range(first, last + 1):
        stream.send_frames(make_frame(number))
    return stream.finish()


def get_mesh(
    server: ServerProcess, scene: str = "scenes/test", **request: object
) -> list[surface_service_pb2.GetMeshResponse]:
    """All messages of a mesh stream; a failed call raises this project's error."""
    try:
        return list(
            server.surface.GetMesh(
                surface_service_pb2.GetMeshRequest(scene=scene, **request), timeout=TIMEOUT_S
            )
        )
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


def mesh_bytes(responses: list[surface_service_pb2.GetMeshResponse]) -> tuple[int, bytes]:
    """Revision and all tiles as bytes, in order of their indices."""
    assert responses[0].HasField("start")
    assert responses[-1].HasField("end")
    tiles = [r.tile for r in responses if r.HasField("tile")]
    assert responses[-1].end.tile_count == len(tiles)
    (revision,) = {r.header.revision for r in responses}
    tiles.sort(key=lambda tile: (tile.id.i, tile.id.j, tile.id.k))
    return revision, b"".join(tile.SerializeToString(deterministic=True) for tile in tiles)


def vertices_of(responses: list[surface_service_pb2.GetMeshResponse]) -> np.ndarray:
    """(N, 3) float64 vertices of all tiles, world frame."""
    tiles = [tile_from_proto(r.tile) for r in responses if r.HasField("tile")]
    return np.concatenate([np.zeros((0, 3)), *(t.origin_m + t.vertices.astype(np.float64) for t in tiles)])


def box(*corners: float) -> common_pb2.Box:
    x0, y0, z0, x1, y1, z1 = corners
    return common_pb2.Box(
        min_m=common_pb2.Vector3(x=x0, y=y0, z=z0), max_m=common_pb2.Vector3(x=x1, y=y1, z=z1)
    )
