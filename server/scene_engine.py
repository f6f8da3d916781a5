"""One open scene: its log, its atlas, its fit thread, and the revision that queries see."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamdgp.errors import (
    InvalidInputError,
    NotFoundError,
    ServerUnavailableError,
    StorageError,
    StreamdgpError,
)
from streamdgp.frames import Frame
from streamdgp.memory import ArrayMemory, MemoryBudget
from streamdgp.parts import cores
from streamdgp.reconstructor import Reconstructor
from streamdgp.store import (
    AtlasStore,
    FrameLog,
    LogRecord,
    RecordKind,
    RevisionInfo,
    StoredRevision,
    UnknownSchemaError,
    migrate,
)
from streamdgp.store._failpoints import reach
from streamdgp.surface import SurfaceSnapshot, TileCache
from streamdgp.v1 import frame_pb2
from streamdgp.wire import check_tag_name, frame_from_proto
from streamdgp_server.disk_guard import DiskGuard
from streamdgp_server.encoded_tiles import EncodedTiles
from streamdgp_server.fit_worker import FitCallbacks, FitWorker, PublishedRevision
from streamdgp_server.ledger import ProducerLedger
from streamdgp_server.log_writer import LogWriter
from streamdgp_server.migrating import migrate_newest
from streamdgp_server.options import ServerOptions
from streamdgp_server.priority import QueryPriority
from streamdgp_server.scene_files import SceneFile
from streamdgp_server.tile_backlog import TileBacklog

__all__ = ["IngestListener", "OpenedScene", "SceneEngine", "decode_frame", "open_scene"]

_LOGGER = logging.getLogger(__name__)
_OLD_REVISIONS_KEPT = 4
_WATCHED_S = 30.0
# What a query may find left to extract, in seconds of all cores, for the fitting steps aside.
_BACKLOG_S = 0.65
_TILES_AT_ONCE = 64
# Encoded tiles are two thirds as large as the tiles themselves.
_ENCODED_SHARE = 0.4


class IngestListener(Protocol):
    """What an engine tells an open ingest stream."""

    def advanced(self) -> None:
        """Something became durable or applied, or the scene is ending."""

    def refused(self, sequence: int, error: StreamdgpError, *, is_consumed: bool = True) -> None:
        """A frame was refused."""


def decode_frame(payload: bytes) -> Frame:
    """The frame in a log record; raises :class:`streamdgp.errors.InvalidFrameError`."""
    return frame_from_proto(frame_pb2.Frame.FromString(payload))


@dataclass(frozen=True)
class OpenedScene:
    """A scene's files, read and checked; made off the event loop."""

    scene_id: str
    directory: Path
    file: SceneFile
    log: FrameLog
    store: AtlasStore
    reconstructor: Reconstructor
    published: PublishedRevision
    ledgers: dict[str, ProducerLedger]

    def close(self) -> None:
        """Close the files of a scene that is not used after all."""
        self.log.close()
        self.store.close()


def open_scene(
    directory: Path, device: str, segment_bytes: int, budget: MemoryBudget | None = None
) -> OpenedScene:
    """Open a scene at its newest revision. Blocks; takes as long as reading the atlas does.

    Given a budget, its map shares that with the maps of other scenes.

    Raises
    ------
    StorageError
        Something is damaged, or the log ends before what the atlas includes.
    """
    file = SceneFile.read(directory)
    log = FrameLog(directory / "log", segment_bytes=segment_bytes)
    store: AtlasStore | None = None
    try:
        atlas = directory / "atlas"
        try:
            store = AtlasStore.open(atlas)
        except NotFoundError:
            store = AtlasStore.create(atlas)
        reconstructor, position = _restore(file, store, log, device, lambda: _memory(budget, directory))
        if position > log.end_position:
            raise StorageError(
                f"a log of at least {position} records in {log.directory}, which revision "
                f"{store.latest_revision} includes",
                str(log.end_position),
                "Restore the log from a copy.",
            )
        if position < log.dropped_before:
            raise StorageError(
                f"all frames from log record {position} on in {log.directory}, where revision "
                f"{store.latest_revision} ends",
                "some that were dropped, for later revisions included them",
                "Restore the atlas from a copy.",
            )
        ledgers = ProducerLedger.from_log(
            (record, log.read(record.position).payload.decode("utf-8", "replace"))
            if record.kind is RecordKind.REJECTION
            else (record, "")
            for record in log.records_without_payload()
        )
    except BaseException:
        log.close()
        if store is not None:
            store.close()
        raise
    published = PublishedRevision.of(reconstructor, store.latest_revision, position)
    return OpenedScene(directory.name, directory, file, log, store, reconstructor, published, ledgers)


def _memory(budget: MemoryBudget | None, directory: Path) -> ArrayMemory | None:
    return None if budget is None else budget.memory(directory)


def _restore(
    file: SceneFile,
    store: AtlasStore,
    log: FrameLog,
    device: str,
    new_memory: Callable[[], ArrayMemory | None],
) -> tuple[Reconstructor, int]:
    """The reconstructor of the newest revision that can be read, and the log position after it."""
    if store.latest_revision == 0:
        return Reconstructor(file.config, device=device, memory=new_memory()), 0
    try:
        stored = store.read(memory=new_memory())
    except UnknownSchemaError:
        raise
    except StorageError as damage:
        stored = _newest_readable(store, log, damage, new_memory)
        while store.latest_revision > stored.revision:
            store.fall_back()
        _LOGGER.error(
            "%s. Going on from revision %d, and fitting again what came after it: log records from %d on",
            damage,
            stored.revision,
            stored.log_position["next"],
        )
    return Reconstructor.restore(migrate_newest(store, stored), device=device, memory=new_memory()), int(
        stored.log_position["next"]
    )


def _newest_readable(
    store: AtlasStore, log: FrameLog, damage: StorageError, new_memory: Callable[[], ArrayMemory | None]
) -> StoredRevision:
    """The newest revision before a damaged one after which the log has all frames; else raises the damage."""
    for info in reversed(store.revisions()[:-1]):
        try:
            stored = store.read(info.revision, new_memory())
        except StorageError:
            continue
        if int(stored.log_position["next"]) < log.dropped_before:
            break
        return stored
    raise damage


class SceneEngine:
    """An open scene. All methods are for the event loop unless they say otherwise.

    Parameters
    ----------
    io_executor
        For appending to the log.
    slot
        Shared by the fit threads of all scenes.
    priority
        Queries being answered, for which fitting steps aside.
    on_log_failure
        Called when the disk refused frames.
    budget
        What the maps of all scenes may take in memory; None: no limit.
    """

    def __init__(
        self,
        opened: OpenedScene,
        options: ServerOptions,
        io_executor: Executor,
        slot: threading.Semaphore,
        priority: QueryPriority,
        on_log_failure: Callable[[StorageError], None],
        budget: MemoryBudget | None = None,
    ) -> None:
        self._budget, self._directory = budget, opened.directory
        self.scene_id = opened.scene_id
        self.file = opened.file
        self.log = opened.log
        self.store = opened.store
        self.published = opened.published
        encoded_bytes = int(_ENCODED_SHARE * options.tile_cache_share)
        self.tile_cache = TileCache(options.tile_cache_share - encoded_bytes)
        self.encoded_tiles = EncodedTiles(encoded_bytes)
        self._priority = priority
        # Versions and scales of the charts when tiles were brought up to date last.
        self._extracted: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None = None
        self._backlog = TileBacklog()
        self._is_closing = threading.Event()
        self.failure: StreamdgpError | None = None
        self.closing: StreamdgpError | None = None
        self._ledgers = opened.ledgers
        self._options = options
        self._on_log_failure = on_log_failure
        self._listeners: dict[str, IngestListener] = {}
        self._old: OrderedDict[int, PublishedRevision] = OrderedDict()
        self._old_guard = threading.Lock()
        self.io_executor = io_executor
        self.disk = DiskGuard(opened.directory, options.min_free_bytes)
        self.writer = LogWriter(
            self.log,
            io_executor,
            max_pending_bytes=options.max_pending_bytes,
            guard=self.disk,
            on_room_changed=self._notify,
        )
        loop = asyncio.get_running_loop()
        self._worker = FitWorker(
            self.scene_id,
            self.log,
            self.store,
            opened.reconstructor,
            opened.published,
            decode=decode_frame,
            slot=slot,
            give_way=priority.give_way,
            prepare=self._extract_tiles,
            settle=self._extract_backlog,
            callbacks=FitCallbacks(
                published=lambda revision: _call(loop, self._on_published, revision),
                rejected=lambda record, error: _call(loop, self._on_rejected, record, error),
                failed=lambda error: _call(loop, self._on_failed, error),
            ),
            policy=options.commit,
        )
        self._worker.start()

    def ledger(self, producer: str) -> ProducerLedger:
        """A producer's numbers; an empty ledger for one never seen."""
        return self._ledgers.setdefault(producer, ProducerLedger())

    def rejected_count(self) -> int:
        """Frames refused so far, by all producers."""
        return sum(ledger.rejected_count for ledger in self._ledgers.values())

    def attach(self, producer: str, listener: IngestListener) -> None:
        """Make a stream the producer's current one; the one before ends."""
        former = self._listeners.get(producer)
        self._listeners[producer] = listener
        if former is not None:
            former.advanced()

    def detach(self, producer: str, listener: IngestListener) -> None:
        """A stream has ended."""
        if self.is_attached(producer, listener):
            del self._listeners[producer]

    def is_attached(self, producer: str, listener: IngestListener) -> bool:
        """Whether a stream is the producer's current one."""
        return self._listeners.get(producer) is listener

    def credit(self, frame_bytes: int) -> int:
        """How many frames of this size may be sent ahead of the durable ones; none while the disk is full."""
        if self.disk.is_full:
            return 0
        return max(1, min(self._options.max_credit, self._options.max_pending_bytes // frame_bytes))

    def require_usable(self) -> None:
        """Raise what keeps the scene from taking frames, if anything does."""
        for error in (self.closing, self.failure, self.writer.failure):
            if error is not None:
                raise error

    def require_room(self) -> None:
        """Raise :class:`ServerUnavailableError` while the disk has no room for frames."""
        if not self.disk.has_room():
            raise ServerUnavailableError(
                f"{self._options.min_free_bytes / 1e6:.0f} MB free on the server's disk",
                "less",
                "Free some space there; streams go on then.",
            )

    def append(self, record: LogRecord, ledger: ProducerLedger | None = None) -> asyncio.Future[LogRecord]:
        """Queue a record; when it is durable the ledger that took its number is told, and all who wait."""
        future = self.writer.submit(record)

        def on_durable(done: asyncio.Future[LogRecord]) -> None:
            if self.writer.failure is not None:
                done.exception()
                self._on_log_failure(self.writer.failure)
            elif not done.cancelled():
                reach("ack")
                if ledger is not None:
                    ledger.settle(record.sequence, done.result().position)
                self._worker.notify()
            self._notify()

        future.add_done_callback(on_durable)
        return future

    def revision_at(self, revision: int) -> PublishedRevision:
        """A revision (0: the newest). Blocks while an older one is read; any thread.

        Raises
        ------
        NotFoundError
            No such revision.
        StorageError
            The revision is damaged.
        """
        published = self.published
        if revision in (0, published.revision):
            return published
        if revision < 0:
            raise InvalidInputError("a revision of 0 (the newest) or more", str(revision), "Leave it out.")
        if revision > published.revision:
            raise NotFoundError(
                f"a revision up to {published.revision}",
                str(revision),
                "List the revisions, or leave it out.",
            )
        with self._old_guard:
            seen = self._old.get(revision)
            if seen is None:
                stored = self.store.read(revision, self._new_memory())
                reconstructor = Reconstructor.restore(
                    migrate(stored.state), device=self._options.device, memory=self._new_memory()
                )
                seen = PublishedRevision.of(reconstructor, revision, int(stored.log_position["next"]))
                self._old[revision] = seen
                if len(self._old) > (_OLD_REVISIONS_KEPT if self._budget is None else 1):
                    self._old.popitem(last=False)
            self._old.move_to_end(revision)
        return seen

    def revisions(self) -> list[RevisionInfo]:
        """Published revisions that can be read, oldest first."""
        recent = [info for info in self.store.revisions() if info.revision <= self.published.revision]
        return [*self.store.tagged_revisions(), *recent]

    def named_revision(self, revision: int, tag: str) -> int:
        """The number of a revision that is given by its number (0: the newest) or by its tag.

        Raises
        ------
        InvalidInputError
            By both.
        NotFoundError
            No such tag.
        """
        if revision and tag:
            raise InvalidInputError(
                "revision or revision_tag", "both", "Leave one out.", metadata={"field": "revision_tag"}
            )
        return self.store.resolve_tag(check_tag_name(tag)) if tag else revision

    async def close(self, reason: StreamdgpError) -> None:
        """End ingest streams with ``reason``, finish the frame in hand, commit, close the files."""
        self.closing = reason
        self._notify()
        self._is_closing.set()
        await asyncio.to_thread(self._worker.stop)
        await self.writer.close()
        self.log.close()
        self.store.close()

    def relieve_memory(self) -> None:
        """Put on disk what the memory budget has no room for. Any thread."""
        if self._budget is not None:
            self._budget.relieve()

    def _new_memory(self) -> ArrayMemory | None:
        return _memory(self._budget, self._directory)

    def _extract_tiles(self, surface: SurfaceSnapshot) -> None:
        """Bring the cache up to date at the default resolution; runs beside the fit thread.

        While nobody asks, tiles that a moving sensor changes again with every revision are left for the
        query that comes, as far as it can extract them in a moment.
        """
        before, self._extracted = self._extracted, (surface.version, surface.scale_m)
        if before is None:
            self._extract(surface, None)
            return
        self._backlog.add(surface.stale_tiles(*before))
        left = 0
        if not self._priority.was_active_within(_WATCHED_S):
            left = int(_BACKLOG_S * cores() / self.tile_cache.mean_extraction_s)
        self._extract(surface, self._backlog.take(left))

    def _extract_backlog(self, surface: SurfaceSnapshot, has_work: Callable[[], bool]) -> None:
        """Extract what was left for a query, until there are frames again. Runs in the fit thread."""
        while len(self._backlog) and not has_work():
            self._extract(surface, self._backlog.take(len(self._backlog) - _TILES_AT_ONCE))

    def _extract(self, surface: SurfaceSnapshot, only: npt.NDArray[np.int64] | None) -> None:
        """Put tiles into the cache; all of them (as far as there is room) or these."""
        for _ in surface.tiles(cache=self.tile_cache, cancelled=self._is_closing.is_set, only=only):
            if only is None and self.tile_cache.is_full:
                break
            self._priority.give_way()
            self.relieve_memory()

    def _on_published(self, published: PublishedRevision) -> None:
        self.published = published
        self._notify()

    def _on_rejected(self, record: LogRecord, error: InvalidInputError) -> None:
        """A frame that decoded could not be integrated: remember why, once."""
        ledger = self.ledger(record.producer)
        if ledger.entry(record.sequence).rejected_reason:
            return
        reason = f"{error.reason}: {error}"
        ledger.reject(record.sequence, reason)
        _LOGGER.info("%s: frame %s/%d refused: %s", self.scene_id, record.producer, record.sequence, error)
        self.append(
            LogRecord(
                RecordKind.REJECTION,
                record.producer,
                record.epoch,
                record.sequence,
                record.source,
                record.source_checksum,
                reason.encode(),
            )
        )
        listener = self._listeners.get(record.producer)
        if listener is not None:
            listener.refused(record.sequence, error)

    def _on_failed(self, error: Exception) -> None:
        self.failure = StorageError(
            f"scene {self.scene_id} fitting its frames",
            f"{type(error).__name__}: {error}",
            "Queries still show the last revision; see the server's log, then restart it.",
        )
        self._notify()

    def _notify(self) -> None:
        for listener in tuple(self._listeners.values()):
            listener.advanced()


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *arguments)
