"""A stream of frames that survives lost connections.

The stream numbers the frames, keeps each until the server has it on disk (in memory, or in a spool on the
robot's disk), and holds back what the server gives no credit for. When the connection breaks it opens a new
one and goes on where the server says it stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

import grpc

from streamdgp.errors import (
    InvalidFrameError,
    ResourceLimitError,
    SequenceError,
    ServerUnavailableError,
    StreamdgpError,
)
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
from streamdgp_client._backlog import Backlog, MemoryBacklog
from streamdgp_client._retry import RetryPolicy
from streamdgp_client._spool import Spool
from streamdgp_client._types import ConnectionChange, FrameRecord, Progress, Rejection

if TYPE_CHECKING:
    from streamdgp.v1.ingest_service_pb2_grpc import IngestServiceAsyncStub

    _Call = grpc.aio.StreamStreamCall[ingest_service_pb2.IngestRequest, ingest_service_pb2.IngestResponse]

__all__ = ["FrameStream", "WaitFor"]

WaitFor = Literal["durable", "applied"]
_LOG: Final = logging.getLogger(__name__)
_READ_BYTES: Final = 4 * 2**20  # taken from the backlog at a time
_STEADY_S: Final = 60.0  # a connection that held so long was no failed attempt


class FrameStream:
    """Sends frames of one producer into one scene. Made by ``AsyncClient.stream``; use with ``async with``.

    Leaving the block waits until all frames are part of the surface; leaving it by an exception
    drops what is not sent, but for what is in a spool. Not for concurrent senders.

    Without a spool, entering the block waits for the server. With one it does not: then numbers count from 1
    until the server was reached for the first time, and are the server's from then on.
    """

    def __init__(
        self,
        stub: IngestServiceAsyncStub,
        open_message: ingest_service_pb2.IngestOpen,
        *,
        server: str,
        retry: RetryPolicy,
        buffer_bytes: int,
        open_spool: Callable[[], Spool] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_rejected: Callable[[Rejection], None] | None = None,
        on_connection: Callable[[ConnectionChange], None] | None = None,
    ) -> None:
        self._stub = stub
        self._open = open_message
        self._server = server
        self._retry = retry
        self._on_progress = on_progress
        self._on_rejected = on_rejected
        self._on_connection = on_connection
        self._changed = asyncio.Condition()
        self._backlog: Backlog = MemoryBacklog(buffer_bytes)
        self._open_spool = open_spool
        self._write_from = 0  # of the next frame to write to this connection
        self._credit = 0
        self._max_frame_bytes = MAX_FRAME_BYTES
        self._progress = Progress()
        self._closing = False
        self._half_closed = False
        self._attempt = 0
        self._opened_at_s: float | None = None
        self._first_bound = 0
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
        return self._backlog.next_number

    @property
    def is_numbered(self) -> bool:
        """Whether the numbers are the server's; at first they may not be, with a spool."""
        return self._backlog.is_bound

    @property
    def waiting_count(self) -> int:
        """How many frames are kept because they are not known to be durable."""
        return self._backlog.next_number - self._backlog.oldest_number

    @property
    def epoch(self) -> int:
        """The epoch in force, as the server said."""
        return self._open.epoch

    async def __aenter__(self) -> Self:
        if self._open_spool is not None:
            self._backlog = await asyncio.to_thread(self._open_spool)
        self._task = asyncio.create_task(self._run(), name="streamdgp ingest")
        try:
            await self._until(lambda: self._backlog.is_bound or self._open_spool is not None)
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

    async def send(
        self, frame: Frame, *, source_id: str = "", source_crc32c: int = 0, wait_for_room: bool = True
    ) -> int:
        """Send a frame, as the server gives credit; with a spool it is on the robot's disk after this.

        Parameters
        ----------
        source_id, source_crc32c
            Which frame of a scan it is, so that the server knows it again.
        wait_for_room
            Whether to wait while the memory or the spool for frames that are not durable is full, and without
            a spool while the server gives no credit.

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
        ResourceLimitError
            It would have to wait, and may not; the stream goes on without the frame.
        StorageError
            The robot's disk refused the frame; the stream goes on without it.
        StreamdgpError
            The stream has failed otherwise.
        """
        message = await asyncio.to_thread(
            frame_to_proto, frame, sequence_number=0, source_id=source_id, source_crc32c=source_crc32c
        )
        return await self._enqueue(message, wait_for_room=wait_for_room)

    async def skip(self, *, source_id: str = "", source_crc32c: int = 0) -> int:
        """Use up a number for a frame that cannot be read, so that later numbers keep their frames.

        The server reports it as rejected. Returns and raises as ``send``.
        """
        message = unreadable_frame(sequence_number=0, source_id=source_id, source_crc32c=source_crc32c)
        return await self._enqueue(message, wait_for_room=True)

    async def last_waiting(self) -> FrameRecord | None:
        """Return what the newest frame is that waits; before the first ``send``: the newest in the spool.

        Raises
        ------
        StorageError
            The spool is damaged.
        """
        if not self.waiting_count:
            return None
        last = self._backlog.next_number - 1
        (frame,) = await asyncio.to_thread(self._backlog.read, last, last + 1, 1)
        return FrameRecord(last, frame.source_id, frame.source_crc32c, "")

    async def wait(self, until: WaitFor = "applied") -> Progress:
        """Wait until all frames sent so far are durable or applied; raises as ``send``."""
        is_bound, last = self._backlog.is_bound, self._backlog.next_number - 1
        if not is_bound:  # numbers count from 1 until now
            await self._until(lambda: self._backlog.is_bound)
            last += self._first_bound - 1
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
        """End the stream now; what is durable stays, and what is in a spool."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    # --- the caller's side -------------------------------------------------------------------------

    async def _enqueue(self, message: frame_pb2.Frame, *, wait_for_room: bool) -> int:
        size = message.ByteSize()
        if size > self._max_frame_bytes:
            raise InvalidFrameError(
                f"a frame of at most {self._max_frame_bytes} bytes",
                f"{size} bytes",
                "Thin it out or cut it up.",
            )
        if not wait_for_room and not self._ended and not self._may_come(size):
            raise ResourceLimitError(
                f"room for a frame of {size} bytes that the server has not made durable yet",
                f"{self._backlog.next_number - self._backlog.oldest_number} frames that wait for it already",
                "Wait, leave the frame out, or allow a larger buffer or spool.",
            )
        await self._until(lambda: not self._ended and self._may_come(size))
        if self._open_spool is None:
            number = self._backlog.append(message)
        else:
            number = await asyncio.to_thread(self._backlog.append, message)
        async with self._changed:
            self._changed.notify_all()
        return number

    def _may_come(self, frame_bytes: int) -> bool:
        """Whether there is room for a frame; without a spool no more are taken than there is credit for."""
        has_credit = self._backlog.next_number <= self._progress.durable + self._credit
        return (has_credit or self._open_spool is not None) and self._backlog.has_room(frame_bytes)

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
            await asyncio.to_thread(self._backlog.close)

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
            loop = asyncio.get_running_loop()
            if self._opened_at_s is not None and loop.time() - self._opened_at_s > _STEADY_S:
                self._attempt = 0
            self._opened_at_s = None
            self._attempt += 1
            if not is_retryable(error) or not self._retry.allows(self._attempt):
                self._error = error
                return
            delay_s = self._retry.delay_s(self._attempt)
            _LOG.info("stream lost (%s), attempt %d in %.2f s", error, self._attempt, delay_s)
            self._tell_connection(error)
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
            if not (self._half_closed and self._progress.applied >= self._backlog.next_number - 1):
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
                await self._changed.wait_for(
                    lambda: self._is_finished or self._write_from < self._write_until
                )
                finished, first, stop = self._is_finished, self._write_from, self._write_until
            if finished:
                self._half_closed = await self._write_quietly(call, None)
                return
            if self._open_spool is None:
                queued = self._backlog.read(first, stop, _READ_BYTES)
            else:
                queued = await asyncio.to_thread(self._backlog.read, first, stop, _READ_BYTES)
            self._write_from = first + len(queued)
            for request in pack_requests(queued):
                if not await self._write_quietly(call, request):
                    return
                last = request.frames.frames[-1] if request.HasField("frames") else request.part
                self._advance(sent=max(self._progress.sent, last.sequence_number))

    @property
    def _write_until(self) -> int:
        """Number before which frames may be written now: there is credit for them."""
        return min(self._backlog.next_number, self._progress.durable + self._credit + 1)

    @property
    def _is_finished(self) -> bool:
        """Whether all is written, and nothing more will come."""
        return self._closing and self._write_from >= self._backlog.next_number

    async def _take_opened(self, response: ingest_service_pb2.IngestResponse) -> None:
        if response.WhichOneof("response") != "opened":
            raise StreamdgpError(
                "'opened' as the first response",
                str(response.WhichOneof("response")),
                "Server and client differ.",
            )
        opened = response.opened
        coming = opened.next_sequence_number
        if not self._backlog.is_bound:
            self._first_bound = coming
            # Before anything is sent: after a crash these frames must get the same numbers again.
            await asyncio.to_thread(self._backlog.bind, coming)
        oldest, stop = self._backlog.oldest_number, self._backlog.next_number
        if not oldest <= coming <= stop:
            raise SequenceError(
                f"the server to go on between frame {oldest} and {stop}",
                f"frame {coming}",
                "Another producer sends under this id, or the server lost frames: start again"
                + (
                    "." if self._open_spool is None else " with another producer or scene, and another spool."
                ),
            )
        async with self._changed:
            self._open.epoch = opened.epoch
            self._max_frame_bytes = opened.max_frame_bytes or MAX_FRAME_BYTES
            self._write_from = coming
            self._opened_at_s = asyncio.get_running_loop().time()
            self._take_progress(response.header.revision, opened.progress)
            self._changed.notify_all()
        self._tell_connection(None)

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

    def _tell_connection(self, error: StreamdgpError | None) -> None:
        if self._on_connection is not None:
            self._on_connection(ConnectionChange(self._write_from, error, self._attempt))

    def _take_progress(self, revision: int, message: ingest_service_pb2.IngestProgress) -> None:
        if message.durable_sequence_number > self._progress.durable:
            self._attempt = 0
        self._credit = message.credit_count
        self._backlog.discard(message.durable_sequence_number)
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
