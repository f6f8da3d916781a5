"""IngestService: the bidirectional stream of frames, and where a producer stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import grpc

from streamdgp.config import SceneConfig
from streamdgp.errors import AlreadyExistsError, InvalidInputError, NotFoundError, ServerUnavailableError
from streamdgp.v1 import common_pb2, ingest_service_pb2, ingest_service_pb2_grpc
from streamdgp.wire import abort, check_name, config_from_proto, parse_scene_name
from streamdgp_server.handling import page_bounds, reports_errors, streams_errors
from streamdgp_server.ingest_session import IngestSession
from streamdgp_server.part_budget import PartBudget
from streamdgp_server.registry import SceneRegistry
from streamdgp_server.scene_engine import SceneEngine

__all__ = ["IngestServicer"]

_LOGGER = logging.getLogger(__name__)
_MAX_PAGE = 10_000
_FRAMES_IN_A_ROW = 64
_Requests = AsyncIterator[ingest_service_pb2.IngestRequest]
_Context = grpc.aio.ServicerContext[ingest_service_pb2.IngestRequest, ingest_service_pb2.IngestResponse]


class IngestServicer(ingest_service_pb2_grpc.IngestServiceServicer):
    """Takes frames in. See the comments of ``ingest_service.proto`` for the protocol."""

    def __init__(self, registry: SceneRegistry) -> None:
        self._registry = registry
        self._budget = PartBudget(registry.options.max_part_bytes)
        self._endings = set[asyncio.Task[None]]()

    @streams_errors
    async def Ingest(
        self, requests: _Requests, context: _Context
    ) -> AsyncIterator[ingest_service_pb2.IngestResponse]:
        """Answer ``open``, then say how far frames are until the client is done."""
        patience_s = self._registry.options.patience_s
        try:
            async with asyncio.timeout(patience_s):
                first = await anext(requests, None)
        except TimeoutError as error:
            raise _stalled("no first request", patience_s) from error
        if first is None or first.WhichOneof("request") != "open":
            raise InvalidInputError(
                "an IngestOpen as first request", "something else", "Open the stream first."
            )
        producer = check_name(first.open.producer_id, "a producer_id")
        engine, is_created = await self._engine(first.open)
        session = await IngestSession.open(engine, producer, first.open.epoch, self._budget)
        _LOGGER.info("%s: stream of epoch %d begins", producer, session.epoch)
        reader = asyncio.create_task(_read(session, requests, patience_s))
        reader.add_done_callback(lambda _: session.advanced())
        try:
            with self._ended_unless_read(context, producer):
                yield ingest_service_pb2.IngestResponse(
                    header=session.header(), opened=session.opened(is_created=is_created)
                )
            while True:
                session.changed.clear()
                for response in session.responses():
                    with self._ended_unless_read(context, producer):
                        yield response
                session.require_current()
                if reader.done():
                    reader.result()
                    if session.is_settled and not session.changed.is_set():
                        return
                await session.changed.wait()
        finally:
            reader.cancel()
            session.close()
            _LOGGER.info("%s: stream of epoch %d has ended", producer, session.epoch)
            await asyncio.gather(reader, return_exceptions=True)

    @reports_errors
    async def GetIngestStatus(
        self,
        request: ingest_service_pb2.GetIngestStatusRequest,
        context: _Context,
    ) -> ingest_service_pb2.GetIngestStatusResponse:
        """Tell where a producer stands and what its numbers were."""
        engine = await self._registry.get(parse_scene_name(request.scene))
        producer = check_name(request.producer_id, "a producer_id")
        ledger = engine.ledger(producer)
        start, stop, token = page_bounds(
            request.page_size,
            request.page_token,
            ledger.durable_sequence,
            default=_MAX_PAGE,
            maximum=_MAX_PAGE,
        )
        applied = ledger.applied_sequence(engine.published.applied_position)
        return ingest_service_pb2.GetIngestStatusResponse(
            header=common_pb2.ResponseHeader(revision=engine.published.revision),
            progress=ingest_service_pb2.IngestProgress(
                durable_sequence_number=ledger.durable_sequence,
                applied_sequence_number=min(applied, ledger.durable_sequence),
            ),
            epoch=ledger.epoch,
            records=[
                ingest_service_pb2.FrameRecord(
                    sequence_number=number,
                    source_id=entry.source_id,
                    source_crc32c=entry.source_crc32c,
                    rejected_reason=entry.rejected_reason,
                )
                for number, entry in enumerate(ledger.entries(start + 1, stop + 1), start + 1)
            ],
            next_page_token=token,
        )

    @contextmanager
    def _ended_unless_read(self, context: _Context, producer: str) -> Iterator[None]:
        """Around the sending of an answer: a client that does not read must not hold the stream for ever."""
        patience_s = self._registry.options.patience_s
        handler = asyncio.current_task()
        assert handler is not None

        def give_up() -> None:
            error = _stalled("answers not read", patience_s)
            _LOGGER.warning("%s: ending its stream: %s", producer, error)
            # The handler waits for the client, so it is cancelled; the status goes out behind the answers.
            ending = asyncio.create_task(_end(context, error))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            handler.cancel()

        timer = asyncio.get_running_loop().call_later(patience_s, give_up)
        try:
            yield
        finally:
            timer.cancel()

    async def _engine(self, request: ingest_service_pb2.IngestOpen) -> tuple[SceneEngine, bool]:
        scene_id = parse_scene_name(request.scene)
        try:
            return await self._registry.get(scene_id), False
        except NotFoundError:
            if not request.create_if_missing:
                raise
        try:
            config = SceneConfig.from_dict(config_from_proto(request.config))
            return await self._registry.create(scene_id, config), True
        except AlreadyExistsError:  # another producer was faster
            return await self._registry.get(scene_id), False


def _stalled(got: str, patience_s: float) -> ServerUnavailableError:
    return ServerUnavailableError(
        "a client that goes on with what it began",
        f"{got} within {patience_s:g} s",
        "Open the stream again and go on where the server stands.",
    )


async def _end(context: _Context, error: ServerUnavailableError) -> None:
    with suppress(grpc.aio.AbortError):
        await abort(context, error)


async def _read(session: IngestSession, requests: _Requests, patience_s: float) -> None:
    """Hand over what the client sends, in order, until it half-closes.

    It may be silent for ever (a robot that stands still), but not in the middle of a frame.
    """
    while True:
        try:
            async with asyncio.timeout(patience_s if session.is_frame_half_sent else None):
                request = await anext(requests, None)
        except TimeoutError as error:
            raise _stalled("half a frame, and no more", patience_s) from error
        if request is None:
            return
        session.require_current()
        match request.WhichOneof("request"):
            case "frames":
                for count, frame in enumerate(request.frames.frames, 1):
                    await session.take_frame(frame)
                    if count % _FRAMES_IN_A_ROW == 0:
                        await asyncio.sleep(0)  # millions of empty frames fit into a message
            case "part":
                await session.take_part(request.part)
            case other:
                raise InvalidInputError(
                    "frames or a part after the open",
                    str(other),
                    "Open a stream only once; send frames then.",
                )
