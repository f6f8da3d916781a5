"""Streams frames into a real server as fast as it takes them; reads its mesh back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import click
import grpc

from streamdgp.v1 import (
    frame_pb2,
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    surface_service_pb2,
    surface_service_pb2_grpc,
)

__all__ = ["CHANNEL_OPTIONS", "Feed", "mesh_tiles"]

CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass
class Feed:
    """Sends frames as fast as they are taken, and waits until so many are applied."""

    scene: str
    frames: Iterable[frame_pb2.Frame]
    until_applied: int
    on_applied: Callable[[int], None] = lambda _: None
    """Called with the number of applied frames whenever the server says it."""
    _credit_to: int = 0
    _has_ended: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, address: str) -> None:
        """Until the last one is applied."""
        with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            call = ingest_service_pb2_grpc.IngestServiceStub(channel).Ingest(self._requests())
            try:
                for response in call:
                    if response.HasField("rejected"):
                        raise click.ClickException(f"a frame was refused: {response.rejected.message}")
                    message = response.opened if response.HasField("opened") else response.ack
                    applied = message.progress.applied_sequence_number
                    self.on_applied(applied)
                    if applied >= self.until_applied:
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
        opening = ingest_service_pb2.IngestOpen(
            scene=self.scene, producer_id="camera", create_if_missing=True
        )
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


def mesh_tiles(address: str, request: surface_service_pb2.GetMeshRequest) -> list[bytes]:
    """All tiles of a mesh, each serialised, sorted."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        answers = surface_service_pb2_grpc.SurfaceServiceStub(channel).GetMesh(request)
        return sorted(
            one.tile.SerializeToString(deterministic=True) for one in answers if one.HasField("tile")
        )
