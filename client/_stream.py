"""A stream of frames that survives lost connections.

The stream numbers the frames, keeps each until the server has it on disk, and holds back what the
server gives no credit for. When the connection breaks it opens a new one and goes on where the
server says it stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

import grpc

from streamdgp.errors import InvalidFrameError, SequenceError, ServerUnavailableError, StreamdgpError
from streamdgp.frames import Frame
from streamdgp.v1 import frame_pb2, ingest_service_pb2
from streamdgp.wire import (
    MAX_FRAME_BYTES,
    error_from_rejection,
    error_from_rpc,
    frame_to_proto,
    is_retryable,
    pack_requests,
    unreadable_frame,
)
from streamdgp_client._retry import RetryPolicy
from streamdgp_client._types import Progress, Rejection

if TYPE_CHECKING:
    from streamdgp.v1.ingest_service_pb2_grpc import IngestServiceAsyncStub

    _Call = grpc.aio.StreamStreamCall[ingest_service_pb2.IngestRequest, ingest_service_pb2.IngestResponse]

__all__ = ["FrameStream", "WaitFor"]

WaitFor = Literal["durable", "applied"]
_LOG: Final = logging.getLogger(__name__)


class FrameStream:
    """Sends frames of one producer into one scene. Made by ``AsyncClient.stream``; use with ``async with``.

    Leaving the block waits until all frames are part of the surface; leaving it by an exception
    drops what is not sent. Not for concurrent senders.
    """

    def __init__(
        self,
        stub: IngestServiceAsyncStub,
        open_message: ingest_service_pb2.IngestOpen,
        *,
        server: str,
        retry: RetryPolicy,
        on_progress: Callable[[Progress], None] | None = None,
        on_rejected: Callable[[Rejection], None] | None = None,
    ) -> None:
        self._stub = stub
        self._open = open_message
        self._server = server
        self._retry = retry
        self._on_progress = on_progress
        self._on_rejected = on_rejected
        self._changed = asyncio.Condition()
        self._unacknowledged: deque[frame_pb2.Frame] = deque()
        self._next_number = 0  # of the next frame that the caller sends; 0: never opened
        self._write_from = 0  # of the next frame to write to this connection
        self._credit = 0
        self._max_frame_bytes = MAX_FRAME_BYTES
        self._progress = Progress()
        self._closing = False
        self._half_closed = False
        self._attempt = 0
        self._error: StreamdgpError | None = None
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    @property
    def progress(self) -> Progress:
        """How far the stream has come."""
        return self._progress

    @property
    def next_sequence_number(self) -> int:
        """Number that the next frame gets."""
        return self._next_number

    @property
    def epoch(self) -> int:
        """The epoch in force, as the server said."""
        return self._open.epoch

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="streamdgp ingest")
        try:
            await self._until(lambda: self._next_number > 0)
        except BaseException:
            await self.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.cancel()

    async def send(self, frame: Frame, *, source_id: str = "", source_crc32c: int = 0) -> int:
        """Send a frame; waits while the server gives no credit.

        Returns
        -------
        int
            The frame's sequence number.

        Raises
        ------
        SequenceError
            Another stream of this producer took over, or the numbers stand for other frames.
        ServerUnavailableError
            The server could not be reached for too long.
        InvalidFrameError
            The frame is larger than the server takes; the stream goes on without it.
        StreamdgpError
            The stream has failed otherwise.
        """
        number = self._next_number
        message = await asyncio.to_thread(
            frame_to_proto,
            frame,
            sequence_number=number,
            source_id=source_id,
            source_crc32c=source_crc32c,
        )
        return await self._enqueue(message)

    async def skip(self, *, source_id: str = "", source_crc32c: int = 0) -> int:
        """Use up a number for a frame that cannot be read, so that later numbers keep their frames.

        The server reports it as rejected. Returns and raises as ``send``.
        """
        return await self._enqueue(
            unreadable_frame(
                sequence_number=self._next_number, source_id=source_id, source_crc32c=source_crc32c
            )
        )

    async def wait(self, until: WaitFor = "applied") -> Progress:
        """Wait until all frames sent so far are durable or applied; raises as ``send``."""
        last = self._next_number - 1
        await self._until(lambda: getattr(self._progress, until) >= last)
        return self._progress

    async def close(self, wait_for: WaitFor = "applied") -> Progress:
        """Finish the stream once all frames are durable or applied; raises as ``send``."""
        if self._task is None or self._task.done():
            self._raise_error()
            return self._progress
        try:
            if wait_for == "applied":
                async with self._changed:
                    self._closing = True
                    self._changed.notify_all()
                await asyncio.shield(self._task)
                self._raise_error()
            else:
                await self.wait("durable")
        finally:
            await self.cancel()
        return self._progress

    async def cancel(self) -> None:
        """End the stream now; what is durable stays."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    # --- the caller's side -------------------------------------------------------------------------

    async def _enqueue(self, message: frame_pb2.Frame) -> int:
        number, size = message.sequence_number, message.ByteSize()
        if size > self._max_frame_bytes:
            raise InvalidFrameError(
                f"a frame of at most {self._max_frame_bytes} bytes",
                f"{size} bytes",
                "Thin it out or cut it up.",
            )
        await self._until(lambda: not self._ended and number <= self._progress.durable + self._credit)
        async with self._changed:
            self._unacknowledged.append(message)
            self._next_number = number + 1
            self._changed.notify_all()
        return number

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or condition())
            satisfied = condition()
        self._raise_error()
        if not satisfied:
            raise StreamdgpError("an open stream", "one that has ended", "Open a new one.")

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    # --- the connection's side ---------------------------------------------------------------------

    async def _run(self) -> None:
        """Keep a connection until the stream is finished or fails; whatever happens, nobody waits on."""
        try:
            await self._keep_connected()
        finally:
            async with self._changed:
                self._ended = True
                self._changed.notify_all()

    async def _keep_connected(self) -> None:
        error: StreamdgpError
        while True:
            try:
                await self._connect_and_pump()
                return
            except grpc.aio.AioRpcError as cause:
                error = error_from_rpc(cause, self._server)
                error.__cause__ = cause
            except StreamdgpError as cause:
                error = cause
            self._attempt += 1
            if not is_retryable(error) or self._attempt > self._retry.max_attempts:
                self._error = error
                return
            delay_s = self._retry.delay_s(self._attempt)
            _LOG.info("stream lost (%s), attempt %d in %.2f s", error, self._attempt, delay_s)
            await asyncio.sleep(delay_s)

    async def _connect_and_pump(self) -> None:
        """One connection: open, then write and read until the server ends it."""
        call: _Call = self._stub.Ingest()
        try:
            await self._write_quietly(call, ingest_service_pb2.IngestRequest(open=self._open))
            await self._take_opened(await self._read(call))
            writer = asyncio.create_task(self._write(call), name="streamdgp ingest writer")
            try:
                while isinstance(response := await call.read(), ingest_service_pb2.IngestResponse):
                    await self._take(response)
            finally:
                writer.cancel()
                await asyncio.wait([writer])
            if not (self._half_closed and self._progress.applied >= self._next_number - 1):
                raise ServerUnavailableError(
                    f"{self._server} to keep the stream open", "its end", "Is it shutting down?"
                )
        finally:
            call.cancel()

    async def _read(self, call: _Call) -> ingest_service_pb2.IngestResponse:
        response = await call.read()
        if isinstance(response, ingest_service_pb2.IngestResponse):
            return response
        raise ServerUnavailableError(
            f"an answer of {self._server}", "the end of the stream", "Try again later."
        )

    @staticmethod
    async def _write_quietly(call: _Call, request: ingest_service_pb2.IngestRequest | None) -> bool:
        """Write, or half-close for None; False when the call has ended, whose reason the next read raises."""
        try:
            await (call.done_writing() if request is None else call.write(request))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    async def _write(self, call: _Call) -> None:
        """Write what is queued, as many frames a message as there are."""
        self._half_closed = False
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._closing or self._write_from < self._next_number)
                queued = [f for f in self._unacknowledged if f.sequence_number >= self._write_from]
                self._write_from = self._next_number
                finished = self._closing and not queued
            for request in pack_requests(queued):
                if not await self._write_quietly(call, request):
                    return
                last = request.frames.frames[-1] if request.HasField("frames") else request.part
                self._advance(sent=max(self._progress.sent, last.sequence_number))
            if finished:
                self._half_closed = await self._write_quietly(call, None)
                return

    async def _take_opened(self, response: ingest_service_pb2.IngestResponse) -> None:
        if response.WhichOneof("response") != "opened":
            raise StreamdgpError(
                "'opened' as the first response",
                str(response.WhichOneof("response")),
                "Server and client differ.",
            )
        opened = response.opened
        async with self._changed:
            reconnected = self._next_number > 0
            if not reconnected:
                self._next_number = opened.next_sequence_number
            oldest = self._unacknowledged[0].sequence_number if self._unacknowledged else self._next_number
            if not oldest <= opened.next_sequence_number <= self._next_number:
                raise SequenceError(
                    f"the server to go on between frame {oldest} and {self._next_number}",
                    f"frame {opened.next_sequence_number}",
                    "Another producer sends under this id, or the server lost frames: start again.",
                )
            self._open.epoch = opened.epoch
            self._max_frame_bytes = opened.max_frame_bytes or MAX_FRAME_BYTES
            self._write_from = opened.next_sequence_number
            self._take_progress(response.header.revision, opened.progress)
            self._changed.notify_all()

    async def _take(self, response: ingest_service_pb2.IngestResponse) -> None:
        kind = response.WhichOneof("response")
        if kind == "rejected":
            await self._take_rejected(response.rejected)
        elif kind == "ack":
            async with self._changed:
                self._take_progress(response.header.revision, response.ack.progress)
                self._changed.notify_all()

    async def _take_rejected(self, message: ingest_service_pb2.FrameRejected) -> None:
        error = error_from_rejection(message)
        if not message.number_consumed:
            raise error  # numbers and frames are out of step: nothing that is sent now could be right
        _LOG.info("frame %d was rejected: %s", message.sequence_number, error)
        if self._on_rejected is not None:
            self._on_rejected(Rejection(message.sequence_number, error))

    def _take_progress(self, revision: int, message: ingest_service_pb2.IngestProgress) -> None:
        if message.durable_sequence_number > self._progress.durable:
            self._attempt = 0
        self._credit = message.credit_count
        while (
            self._unacknowledged
            and self._unacknowledged[0].sequence_number <= message.durable_sequence_number
        ):
            self._unacknowledged.popleft()
        self._advance(
            sent=max(self._progress.sent, message.durable_sequence_number),
            durable=message.durable_sequence_number,
            applied=message.applied_sequence_number,
            revision=revision,
        )

    def _advance(
        self,
        sent: int | None = None,
        durable: int | None = None,
        applied: int | None = None,
        revision: int | None = None,
    ) -> None:
        old = self._progress
        new = Progress(
            old.sent if sent is None else sent,
            old.durable if durable is None else durable,
            old.applied if applied is None else applied,
            old.revision if revision is None else revision,
        )
        if new != old:
            self._progress = new
            if self._on_progress is not None:
                self._on_progress(new)
