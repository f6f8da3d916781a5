"""How long frames take to be safe, and how many bytes a second: python -m benchmarks.ingest.

The kitchen's frames are sent by a raw stream to a real server that fits them meanwhile: at the pace of a
camera, for the time from sending a frame to its acknowledgement as durable, and then as fast as they are
taken, encoded as clients do by default and not at all. The log is on the disk of the temporary directory.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
import grpc
import numpy as np

from benchmarks.inputs import shared_data
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.datasets import open_dataset
from streamdgp.demo import running_server
from streamdgp.v1 import frame_pb2, ingest_service_pb2, ingest_service_pb2_grpc
from streamdgp.wire import frame_to_proto

ACK_P99_MS = 50.0
DURABLE_MB_PER_S = 60.0
FRAMES_PER_S = 30.0


@dataclass
class _Stream:
    """Sends frames, and notes when each was sent and when it was acknowledged as durable."""

    frames: Sequence[frame_pb2.Frame]
    frames_per_s: float
    sent_s: list[float] = field(default_factory=list)
    durable_s: list[float] = field(default_factory=list)
    _credit_to: int = 0
    _has_ended: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, address: str, scene: str) -> None:
        """Until every frame is durable."""
        channel = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        with channel:
            call = ingest_service_pb2_grpc.IngestServiceStub(channel).Ingest(self._requests(scene))
            try:
                for response in call:
                    self._note(response)
                    if len(self.durable_s) == len(self.frames):
                        break
            finally:
                with self._changed:
                    self._has_ended = True
                    self._changed.notify_all()
                call.cancel()

    def _note(self, response: ingest_service_pb2.IngestResponse) -> None:
        if response.HasField("rejected"):
            raise click.ClickException(f"a frame was refused: {response.rejected.message}")
        message = response.opened if response.HasField("opened") else response.ack
        progress, now = message.progress, time.perf_counter()
        with self._changed:
            news = progress.durable_sequence_number - len(self.durable_s)
            self.durable_s.extend([now] * news)
            self._credit_to = progress.durable_sequence_number + progress.credit_count
            self._changed.notify_all()

    def _requests(self, scene: str) -> Iterator[ingest_service_pb2.IngestRequest]:
        opening = ingest_service_pb2.IngestOpen(
            scene=f"scenes/{scene}", producer_id="camera", create_if_missing=True
        )
        yield ingest_service_pb2.IngestRequest(open=opening)
        due = time.perf_counter()
        for frame in self.frames:
            if self.frames_per_s:
                due += 1 / self.frames_per_s
                time.sleep(max(0.0, due - time.perf_counter()))
            with self._changed:
                self._changed.wait_for(
                    lambda number=frame.sequence_number: number <= self._credit_to or self._has_ended
                )
                if self._has_ended:
                    return
            self.sent_s.append(time.perf_counter())
            yield ingest_service_pb2.IngestRequest(frames=ingest_service_pb2.FrameBatch(frames=[frame]))
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended)

    @property
    def latencies_ms(self) -> np.ndarray:
        """From sending a frame to the word that it is durable."""
        return 1e3 * (np.array(self.durable_s) - np.array(self.sent_s))

    @property
    def mb_per_s(self) -> float:
        """Serialised frames, from the first sent to the last durable."""
        size = sum(frame.ByteSize() for frame in self.frames)
        return size / 1e6 / (self.durable_s[-1] - self.sent_s[0])


def _encoded(count: int, encoding: Literal["blosc", "raw"]) -> list[frame_pb2.Frame]:
    scan = open_dataset(shared_data("rgbd-kitchen"))
    return [
        frame_to_proto(scan.read(k % len(scan)), sequence_number=k + 1, encoding=encoding)
        for k in range(count)
    ]


def run(count: int) -> Result:
    """Three streams, each into a scene and a server of its own."""
    streams = {
        f"{FRAMES_PER_S:g} frames/s": _Stream(_encoded(count, "blosc"), FRAMES_PER_S),
        "as fast as taken": _Stream(_encoded(count, "blosc"), 0.0),
        "as fast as taken, not encoded": _Stream(_encoded(count, "raw"), 0.0),
    }
    rows, p99 = [], 0.0
    for name, stream in streams.items():
        with (
            tempfile.TemporaryDirectory(prefix="streamdgp-ingest-") as scratch,
            running_server(Path(scratch) / "data") as address,
        ):
            stream.run(address, "kitchen")
        took = stream.latencies_ms
        p50, p99_of_this = np.quantile(took, [0.5, 0.99])
        p99 = p99_of_this if stream.frames_per_s else p99
        rows.append(
            [
                name,
                f"{len(stream.frames)}",
                f"{np.mean([frame.ByteSize() for frame in stream.frames]) / 1e3:.0f}",
                f"{p50:.1f}",
                f"{p99_of_this:.1f}",
                f"{took.max():.1f}",
                f"{stream.mb_per_s:.1f}",
            ]
        )
    unencoded = streams["as fast as taken, not encoded"]
    columns = ["", "frames", "kB a frame", "median ms", "p99 ms", "longest ms", "durable MB/s"]
    return Result(
        "Ingest",
        [Table("rgbd-kitchen 640 x 480, time to the acknowledgement while the server fits", columns, rows)],
        [
            Check("gate", f"p99 of acknowledgements at {FRAMES_PER_S:g} frames/s, ms", p99, ACK_P99_MS),
            Check("gate", "durable MB/s, frames not encoded", unencoded.mb_per_s, DURABLE_MB_PER_S, False),
        ],
        [],
        {
            name: {"ms": stream.latencies_ms.tolist(), "mb_per_s": stream.mb_per_s}
            for name, stream in streams.items()
        },
    )


@click.command(epilog="Example: python -m benchmarks.ingest --frames 150")
@click.option("--frames", default=300, show_default=True, help="Frames of each stream.")
@json_option
def main(frames: int, json_path: Path | None) -> None:
    """Measure how long frames take to be acknowledged as durable, and how many bytes a second are."""
    conclude(run(frames), json_path)


if __name__ == "__main__":
    main()
