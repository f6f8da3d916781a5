"""How soon a server is back, and how fast it works off a backlog: python -m benchmarks.recovery.

A simulated room is streamed to a real server as fast as it takes the frames, until all are applied. Then a
server is started on their log alone, as one finds it that was killed after its acknowledgements and before
its first commit: it applies the same frames again, and must come to the same mesh about as fast. The two are
repeated in turns. Start times are those of a server on a scene that has nothing left to apply.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import grpc

from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.datasets import open_dataset
from streamdgp.demo import running_server
from streamdgp.simulate import simulate_scan
from streamdgp.v1 import (
    frame_pb2,
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    scene_service_pb2,
    scene_service_pb2_grpc,
    surface_service_pb2,
    surface_service_pb2_grpc,
)
from streamdgp.wire import frame_to_proto

START_S = 5.0
RATE_RATIO = 0.95
_SCENE = "scenes/room"
_START_FRAMES = 300
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass
class _Feed:
    """Sends frames as fast as they are taken, and waits until so many are applied."""

    frames: Sequence[frame_pb2.Frame]
    until_applied: int
    _credit_to: int = 0
    _has_ended: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, address: str) -> None:
        """Until the last one is applied."""
        with grpc.insecure_channel(address, options=_OPTIONS) as channel:
            call = ingest_service_pb2_grpc.IngestServiceStub(channel).Ingest(self._requests())
            try:
                for response in call:
                    if response.HasField("rejected"):
                        raise click.ClickException(f"a frame was refused: {response.rejected.message}")
                    message = response.opened if response.HasField("opened") else response.ack
                    if message.progress.applied_sequence_number >= self.until_applied:
                        return
                    with self._changed:
                        progress = message.progress
                        self._credit_to = progress.durable_sequence_number + progress.credit_count
                        self._changed.notify_all()
            finally:
                with self._changed:
                    self._has_ended = True
                    self._changed.notify_all()
                call.cancel()
        raise click.ClickException("the server ended the stream before all frames were applied")

    def _requests(self) -> Iterator[ingest_service_pb2.IngestRequest]:
        opening = ingest_service_pb2.IngestOpen(scene=_SCENE, producer_id="camera", create_if_missing=True)
        yield ingest_service_pb2.IngestRequest(open=opening)
        for frame in self.frames:
            with self._changed:
                self._changed.wait_for(
                    lambda number=frame.sequence_number: number <= self._credit_to or self._has_ended
                )
                if self._has_ended:
                    return
            yield ingest_service_pb2.IngestRequest(frames=ingest_service_pb2.FrameBatch(frames=[frame]))
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended)


@dataclass(frozen=True)
class _Round:
    """A stream and a recovery of the same frames, in frames a second, and whether the meshes are the same."""

    streamed_per_s: float
    recovered_per_s: float
    is_same: bool


def _simulated(frames: int, scratch: Path) -> list[frame_pb2.Frame]:
    scan = open_dataset(simulate_scan("room", scratch / "room", "depth", frames).path)
    return [frame_to_proto(scan.read(k), sequence_number=k + 1) for k in range(len(scan))]


def _mesh(address: str) -> list[bytes]:
    """All tiles, each serialised, sorted."""
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        request = surface_service_pb2.GetMeshRequest(scene=_SCENE)
        answers = surface_service_pb2_grpc.SurfaceServiceStub(channel).GetMesh(request)
        return sorted(
            one.tile.SerializeToString(deterministic=True) for one in answers if one.HasField("tile")
        )


def _one_round(frames: Sequence[frame_pb2.Frame], scratch: Path) -> _Round:
    """Stream, then recover from the log that the stream left."""
    streamed, recovered = scratch / "streamed", scratch / "recovered"
    # Frames are kept, or the log would not have all of them.
    with running_server(streamed, "--keep-frames") as address:
        started_s = time.perf_counter()
        _Feed(frames, len(frames)).run(address)
        streamed_s = time.perf_counter() - started_s
        mesh = _mesh(address)
    scene = _SCENE.removeprefix("scenes/")
    (recovered / "scenes" / scene).mkdir(parents=True)
    shutil.copy(streamed / "scenes" / scene / "scene.json", recovered / "scenes" / scene)
    shutil.move(streamed / "scenes" / scene / "log", recovered / "scenes" / scene / "log")
    shutil.rmtree(streamed)
    with running_server(recovered, "--keep-frames") as address:
        started_s = time.perf_counter()
        _Feed([], len(frames)).run(address)
        recovered_s = time.perf_counter() - started_s
        is_same = _mesh(address) == mesh
    shutil.rmtree(recovered)
    return _Round(len(frames) / streamed_s, len(frames) / recovered_s, is_same)


def _start_times(frames: Sequence[frame_pb2.Frame], repeats: int, scratch: Path) -> dict[str, list[float]]:
    """Seconds from the start of the process to its ready line and to its first answers."""
    data = scratch / "start"
    with running_server(data) as address:
        _Feed(frames, len(frames)).run(address)
    times: dict[str, list[float]] = {"ready": [], "scenes listed": [], "whole mesh": []}
    for _ in range(repeats):
        started_s = time.perf_counter()
        with running_server(data) as address:
            times["ready"].append(time.perf_counter() - started_s)
            with grpc.insecure_channel(address) as channel:
                stub = scene_service_pb2_grpc.SceneServiceStub(channel)
                stub.ListScenes(scene_service_pb2.ListScenesRequest())
            times["scenes listed"].append(time.perf_counter() - started_s)
            _mesh(address)
            times["whole mesh"].append(time.perf_counter() - started_s)
    return times


def run(frame_count: int, repeats: int, scratch: Path) -> Result:
    """Start times, then streams and recoveries in turns."""
    frames = _simulated(frame_count, scratch)
    starts = _start_times(frames[:_START_FRAMES], repeats, scratch)
    rounds = [_one_round(frames, scratch) for _ in range(repeats)]
    ratio = statistics.median(one.recovered_per_s / one.streamed_per_s for one in rounds)
    rows = [[name, f"{statistics.median(s):.2f}", f"{max(s):.2f}"] for name, s in starts.items()]
    compared = [
        [
            f"{k + 1}",
            f"{one.streamed_per_s:.1f}",
            f"{one.recovered_per_s:.1f}",
            f"{one.recovered_per_s / one.streamed_per_s:.3f}",
            "yes" if one.is_same else "NO",
        ]
        for k, one in enumerate(rounds)
    ]
    return Result(
        "Recovery",
        [
            Table(
                f"room, {len(frames[:_START_FRAMES])} frames 320 x 240: seconds from the server's start",
                ["", "median", "longest"],
                rows,
            ),
            Table(
                f"{len(frames)} frames: applied while they are streamed, and from the log after a kill",
                ["round", "streamed frames/s", "recovered frames/s", "ratio", "same mesh"],
                compared,
            ),
        ],
        [
            Check(
                "gate", "longest start until the whole mesh is there, s", max(starts["whole mesh"]), START_S
            ),
            Check("gate", "recovered / streamed frames a second, median", ratio, RATE_RATIO, False),
            Check("gate", "recoveries that came to another mesh", sum(not one.is_same for one in rounds), 0),
        ],
        [],
        {
            "start_s": starts,
            "streamed_per_s": [one.streamed_per_s for one in rounds],
            "recovered_per_s": [one.recovered_per_s for one in rounds],
        },
    )


@click.command(epilog="Example: python -m benchmarks.recovery --frames 200")
@click.option("--frames", default=2000, show_default=True, help="Frames of the backlog.")
@click.option("--repeats", default=3, show_default=True, help="Starts, and streams and recoveries in turns.")
@json_option
def main(frames: int, repeats: int, json_path: Path | None) -> None:
    """Measure how soon a server answers after its start, and how fast it works off a backlog."""
    with tempfile.TemporaryDirectory(prefix="streamdgp-recovery-") as scratch:
        result = run(frames, repeats, Path(scratch))
    conclude(result, json_path)


if __name__ == "__main__":
    main()
