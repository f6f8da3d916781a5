"""One producer's open ingest stream: takes frames, keeps to the numbers, tells how far they are."""

from __future__ import annotations

import asyncio
from collections import deque

from streamdgp.errors import InvalidFrameError, InvalidInputError, SequenceError, StreamdgpError
from streamdgp.store import LogRecord, RecordKind
from streamdgp.v1 import common_pb2, frame_pb2, ingest_service_pb2
from streamdgp.wire import MAX_FRAME_BYTES, PartAssembler, frame_from_proto, rejection_from_error
from streamdgp_server.part_budget import PartBudget
from streamdgp_server.scene_engine import SceneEngine

__all__ = ["IngestSession"]

_MAX_SOURCE_ID_CHARACTERS = 256
_MAX_UNSAID = 64


class IngestSession:
    """State of one stream; on the event loop.

    ``changed`` is set whenever :meth:`responses` may have something new to say.
    """

    def __init__(self, engine: SceneEngine, producer: str, epoch: int, budget: PartBudget) -> None:
        self.engine = engine
        self.producer = producer
        self.epoch = epoch
        self.changed = asyncio.Event()
        self.is_frame_half_sent = False
        self._budget = budget
        self._said = asyncio.Event()
        self._ledger = engine.ledger(producer)
        self._assembler = PartAssembler()
        self._rejections: deque[ingest_service_pb2.FrameRejected] = deque()
        self._dropped_number = 0
        self._largest_frame_bytes = 1
        self._last_progress: ingest_service_pb2.IngestProgress | None = None

    @classmethod
    async def open(cls, engine: SceneEngine, producer: str, epoch: int, budget: PartBudget) -> IngestSession:
        """Take the producer over from any older stream.

        Raises
        ------
        SequenceError
            ``epoch`` is below the newest one.
        ServerUnavailableError
            The disk has no room for frames.
        """
        engine.require_usable()
        engine.require_room()
        ledger = engine.ledger(producer)
        if epoch < 0:
            raise InvalidInputError("an epoch of 0 (choose one) or more", str(epoch), "Leave it out.")
        if epoch and epoch < ledger.epoch:
            raise SequenceError(
                f"epoch {ledger.epoch} or newer of producer {producer}",
                str(epoch),
                "A newer run of this producer has taken over; stop this one, or open without an epoch.",
                metadata={"newest_epoch": str(ledger.epoch)},
            )
        is_new_epoch = not epoch or epoch > ledger.epoch
        ledger.epoch = epoch or ledger.epoch + 1
        session = cls(engine, producer, ledger.epoch, budget)
        engine.attach(producer, session)
        # Also when the epoch is not new: what the older stream had in flight is durable after this.
        if is_new_epoch or ledger.durable_sequence + 1 != ledger.next_sequence:
            try:
                await engine.append(LogRecord(RecordKind.EPOCH, producer, ledger.epoch, 0))
            except BaseException:
                session.close()
                raise
        return session

    def close(self) -> None:
        """End of the stream, whatever ended it; nothing may be taken any more."""
        self.engine.detach(self.producer, self)
        self._drop_parts()

    def advanced(self) -> None:
        """Something became durable or applied, or the scene is ending (called by the engine)."""
        self.changed.set()

    def refused(self, sequence: int, error: StreamdgpError, *, is_consumed: bool = True) -> None:
        """A frame was refused; say so in band."""
        rejected = rejection_from_error(error, sequence, number_consumed=is_consumed)
        self._rejections.append(rejected)
        self.changed.set()

    def require_current(self) -> None:
        """Raise what must end the stream, if anything: a newer stream, a deleted scene, a shutdown."""
        self.engine.require_usable()
        if not self.engine.is_attached(self.producer, self):
            raise SequenceError(
                f"one stream of producer {self.producer}",
                "a newer one, which has taken over",
                "Stop this one, or give the producers different names.",
            )

    async def take_frame(self, frame: frame_pb2.Frame) -> None:
        """A whole frame has arrived: log it, ignore it as known, or refuse it in band."""
        await self._until_said()
        try:
            is_new = self._ledger.is_new(frame.sequence_number, frame.source_id, frame.source_crc32c)
        except SequenceError as error:
            self.refused(frame.sequence_number, error, is_consumed=False)
            return
        if not is_new:
            self.changed.set()
            return
        await self.engine.writer.room()
        refusal: InvalidInputError | None = None
        try:
            await asyncio.get_running_loop().run_in_executor(self.engine.io_executor, frame_from_proto, frame)
        except InvalidInputError as error:
            refusal = error
        self.require_current()
        self._log(frame, refusal)

    async def take_part(self, part: ingest_service_pb2.FramePart) -> None:
        """A piece of a frame has arrived."""
        if part.offset and part.sequence_number == self._dropped_number:
            return  # the rest of a frame that was refused at an earlier part
        self._dropped_number = 0
        await self._until_said()
        if part.offset == 0:
            self._drop_parts()
        await self._budget.take(self, len(part.data))
        try:
            frame = self._assembler.add(part)
        except InvalidFrameError as error:
            self._drop_parts()
            self._dropped_number = part.sequence_number
            # Sending again mends a damaged part, but not a frame that is too large.
            is_consumed = (
                part.total_bytes > MAX_FRAME_BYTES and part.sequence_number == self._ledger.next_sequence
            )
            if is_consumed:
                self._log(frame_pb2.Frame(sequence_number=part.sequence_number), error)
            else:
                self.refused(part.sequence_number, error, is_consumed=False)
            return
        self.is_frame_half_sent = frame is None
        if frame is not None:
            await self.take_frame(frame)
            self._drop_parts()

    def _drop_parts(self) -> None:
        self.is_frame_half_sent = False
        self._budget.give_back(self)

    async def _until_said(self) -> None:
        """Wait while the client leaves many refusals unread: memory must not grow with them."""
        while len(self._rejections) >= _MAX_UNSAID:
            self._said.clear()
            await self._said.wait()

    def _log(self, frame: frame_pb2.Frame, refusal: InvalidInputError | None) -> None:
        """Use the next number up: queue the frame, or why it was refused, for the log."""
        payload = frame.SerializeToString() if refusal is None else f"{refusal.reason}: {refusal}".encode()
        source_id = frame.source_id[:_MAX_SOURCE_ID_CHARACTERS]
        self._largest_frame_bytes = max(self._largest_frame_bytes, len(payload))
        reason = "" if refusal is None else payload.decode()
        record = LogRecord(
            RecordKind.FRAME if refusal is None else RecordKind.REJECTION,
            self.producer,
            self.epoch,
            frame.sequence_number,
            source_id,
            frame.source_crc32c,
            payload,
        )
        self._ledger.take(source_id, frame.source_crc32c, reason)
        self.engine.append(record, self._ledger)
        if refusal is not None:
            self.refused(frame.sequence_number, refusal)

    def responses(self) -> list[ingest_service_pb2.IngestResponse]:
        """What has not been said yet: refusals, then progress if there is any."""
        header = self.header()
        result = [
            ingest_service_pb2.IngestResponse(header=header, rejected=rejected)
            for rejected in self._rejections
        ]
        self._rejections.clear()
        self._said.set()
        progress = self.progress()
        if progress != self._last_progress:
            self._last_progress = progress
            ack = ingest_service_pb2.IngestAck(progress=progress)
            result.append(ingest_service_pb2.IngestResponse(header=header, ack=ack))
        return result

    def header(self) -> common_pb2.ResponseHeader:
        """The published revision."""
        return common_pb2.ResponseHeader(revision=self.engine.published.revision)

    def opened(self, *, is_created: bool) -> ingest_service_pb2.IngestOpened:
        """The answer to the open."""
        return ingest_service_pb2.IngestOpened(
            next_sequence_number=self._ledger.next_sequence,
            progress=self.progress(),
            epoch=self.epoch,
            scene_created=is_created,
            max_frame_bytes=MAX_FRAME_BYTES,
        )

    def progress(self) -> ingest_service_pb2.IngestProgress:
        """How far the stream has come, as of the published revision."""
        durable = self._ledger.durable_sequence
        return ingest_service_pb2.IngestProgress(
            durable_sequence_number=durable,
            applied_sequence_number=min(
                durable, self._ledger.applied_sequence(self.engine.published.applied_position)
            ),
            credit_count=self.engine.credit(self._largest_frame_bytes),
        )

    @property
    def is_settled(self) -> bool:
        """Whether everything taken is durable and applied."""
        progress = self.progress()
        return progress.applied_sequence_number == self._ledger.next_sequence - 1
