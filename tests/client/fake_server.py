"""An ingest service in memory, with the contract's rules and faults on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from streamdgp.errors import InvalidFrameError, SequenceError, ServerUnavailableError
from streamdgp.v1 import frame_pb2, ingest_service_pb2_grpc, surface_service_pb2_grpc
from streamdgp.v1.ingest_service_pb2 import (
    FrameRecord,
    GetIngestStatusRequest,
    GetIngestStatusResponse,
    IngestAck,
    IngestOpened,
    IngestProgress,
    IngestRequest,
    IngestResponse,
)
from streamdgp.v1.surface_service_pb2 import GetMeshRequest, GetMeshResponse
from streamdgp.wire import (
    MAX_MESSAGE_BYTES,
    PartAssembler,
    abort,
    frame_from_proto,
    rejection_from_error,
)


@dataclass
class FakeIngest(ingest_service_pb2_grpc.IngestServiceServicer):
    """Keeps one producer's frames; every frame is durable and applied at once unless ``hold`` is set."""

    credit: int = 8
    cut_after: list[int] = field(default_factory=list)
    """For each connection in turn: break it after so many requests. Later connections last."""
    end_after: int | None = None
    """End a connection with OK after so many requests, as a server that shuts down might."""
    frames: list[frame_pb2.Frame] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    requests: list[IngestRequest] = field(default_factory=list)
    opens: list[IngestRequest] = field(default_factory=list)
    hold: asyncio.Event | None = None
    """While set to an unset event, nothing is acknowledged."""
    epoch: int = 0

    def _progress(self) -> IngestProgress:
        done = len(self.frames)
        return IngestProgress(
            durable_sequence_number=done, applied_sequence_number=done, credit_count=self.credit
        )

    def _response(self, **response: Any) -> IngestResponse:
        message = IngestResponse(**response)
        message.header.revision = len(self.frames)
        return message

    async def Ingest(
        self, requests: AsyncIterator[IngestRequest], context: Any
    ) -> AsyncIterator[IngestResponse]:
        opening = await anext(aiter(requests))
        self.opens.append(opening)
        if opening.open.epoch and opening.open.epoch < self.epoch:
            await abort(
                context, SequenceError(f"an epoch of at least {self.epoch}", f"{opening.open.epoch}", "Stop.")
            )
        self.epoch = opening.open.epoch or self.epoch + 1
        opened = IngestOpened(
            next_sequence_number=len(self.frames) + 1, progress=self._progress(), epoch=self.epoch
        )
        yield self._response(opened=opened)
        lasts = self.cut_after.pop(0) if self.cut_after else None
        assembler = PartAssembler()
        taken = 0
        async for request in requests:
            if taken == lasts:
                await abort(context, ServerUnavailableError("a running server", "a restart", "Try again."))
            if taken == self.end_after:
                self.end_after = None
                return
            taken += 1
            self.requests.append(request)
            whole = list(request.frames.frames)
            if request.HasField("part"):
                whole = [frame for frame in [assembler.add(request.part)] if frame is not None]
            for frame in whole:
                for response in self._take(frame):
                    yield response
            if self.hold is not None:
                await self.hold.wait()
            yield self._response(ack=IngestAck(progress=self._progress()))

    def _take(self, frame: frame_pb2.Frame) -> list[IngestResponse]:
        number = frame.sequence_number
        if number <= len(self.frames):
            return []
        if number != len(self.frames) + 1:
            gap = SequenceError(
                f"frame {len(self.frames) + 1}", f"frame {number}", "Send it again from there."
            )
            return [self._response(rejected=rejection_from_error(gap, number, number_consumed=False))]
        self.frames.append(frame)
        try:
            frame_from_proto(frame)
        except InvalidFrameError as error:
            self.rejected[number] = error.reason
            return [self._response(rejected=rejection_from_error(error, number, number_consumed=True))]
        return []

    async def GetIngestStatus(self, request: GetIngestStatusRequest, context: Any) -> GetIngestStatusResponse:
        start = int(request.page_token or "0")
        page = self.frames[start : start + 2]
        response = GetIngestStatusResponse(
            progress=self._progress(),
            epoch=self.epoch,
            records=[
                FrameRecord(
                    sequence_number=frame.sequence_number,
                    source_id=frame.source_id,
                    source_crc32c=frame.source_crc32c,
                    rejected_reason=self.rejected.get(frame.sequence_number, ""),
                )
                for frame in page
            ],
            next_page_token=str(start + 2) if start + 2 < len(self.frames) else "",
        )
        response.header.revision = len(self.frames)
        return response


@dataclass
class FakeSurface(surface_service_pb2_grpc.SurfaceServiceServicer):
    """Answers every mesh query with the given responses, and then perhaps with silence."""

    responses: list[GetMeshResponse]
    silent: bool = False
    requests: list[GetMeshRequest] = field(default_factory=list)

    async def GetMesh(self, request: GetMeshRequest, context: Any) -> AsyncIterator[GetMeshResponse]:
        self.requests.append(request)
        for response in self.responses:
            yield response
        if self.silent:
            await asyncio.Event().wait()


@asynccontextmanager
async def serve(service: FakeIngest | FakeSurface) -> AsyncIterator[str]:
    """Serve on a free port of the loopback; gives HOST:PORT."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    if isinstance(service, FakeIngest):
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(service, server)
    else:
        surface_service_pb2_grpc.add_SurfaceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
