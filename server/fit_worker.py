"""The thread that turns logged frames into committed, published revisions.

It reads frames from the log, not from a queue: a backlog costs disk, not memory, and a restart
replays through the same code. Only this thread touches the reconstructor; it stages commits, and a thread
beside it writes them, one at a time and in order, and extracts stale tiles while the next frames are fitted.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from streamdgp.errors import InvalidInputError, StorageError
from streamdgp.frames import Frame
from streamdgp.frames.orient import PreparedFrame
from streamdgp.reconstructor import Reconstructor
from streamdgp.store import AtlasStore, FrameLog, LogRecord, RecordKind, StagedCommit, count_by_size
from streamdgp.surface import SurfaceSnapshot

__all__ = ["CommitPolicy", "FitCallbacks", "FitWorker", "PublishedRevision"]

_LOGGER = logging.getLogger(__name__)

# Parts of a fit run on one core, and leave the other to these.
_FRAMES_AHEAD = 2
# When nothing has come for so long a scan has ended, or pauses.
_SETTLED_S = 1.0


@dataclass(frozen=True)
class PublishedRevision:
    """What queries see: an immutable surface, and how far into the log it reaches.

    ``applied_position``: every log record before it is in this revision, or was rejected.
    """

    revision: int
    surface: SurfaceSnapshot
    applied_position: int
    frame_count: int
    surfel_count: int
    config: dict[str, Any]

    @classmethod
    def of(cls, reconstructor: Reconstructor, revision: int, applied_position: int) -> PublishedRevision:
        """What the reconstructor shows now."""
        return cls(
            revision,
            reconstructor.surface(),
            applied_position,
            reconstructor.frame_count,
            reconstructor.surfel_count,
            reconstructor.config.to_dict() if reconstructor.frame_count else {},
        )


@dataclass(frozen=True)
class CommitPolicy:
    """When to commit. The atlas after a frame does not depend on it, only how often it is seen."""

    idle_seconds: float = 0.15
    """Commit when no frame waits and the last commit is so long ago."""
    max_seconds: float = 3.0
    """Commit when the last commit is so long ago, frames waiting or not."""
    max_frames: int = 10
    """Commit when so many frames wait to be seen."""
    commit_share: float = 0.2
    """While frames wait, spend about this share of the time on commits (max_seconds goes first)."""
    keep_revisions: int | None = None
    """At least so many of the newest revisions stay readable; up to half as many more. None: 100, or fewer,
    but at least 20, where those before the newest would take more room than the newest itself."""
    keep_frames: bool = False
    """Whether the log keeps frames that two durable revisions include."""

    def pause_s(self, last_commit_s: float) -> float:
        """Time to let pass after a commit that took ``last_commit_s``, while frames wait."""
        return min(self.max_seconds, last_commit_s * (1 / self.commit_share - 1))


@dataclass(frozen=True)
class FitCallbacks:
    """Called from the fit thread, ``published`` also from the thread that commits."""

    published: Callable[[PublishedRevision], None]
    rejected: Callable[[LogRecord, InvalidInputError], None]
    failed: Callable[[Exception], None]


class FitWorker:
    """Applies a scene's log to its reconstructor.

    Parameters
    ----------
    published
        The revision to start from; its ``applied_position`` is where replay begins.
    decode
        Turns a log payload into a frame; raises :class:`InvalidInputError`.
    slot
        Held while a frame is integrated: scenes share the processors.
    give_way
        Called before a frame is integrated; returns when no query needs the processors.
    prepare
        Called with a surface before queries may see it: extracts its stale tiles into the cache, so that
        a query of the newest revision finds them there.
    settle
        Called in the fit thread when no frame has come for a moment, with the newest surface and with what
        says whether one has come since: extracts what ``prepare`` has left for later.
    """

    def __init__(
        self,
        name: str,
        log: FrameLog,
        store: AtlasStore,
        reconstructor: Reconstructor,
        published: PublishedRevision,
        *,
        decode: Callable[[bytes], Frame],
        slot: threading.Semaphore,
        give_way: Callable[[], None],
        prepare: Callable[[SurfaceSnapshot], None],
        settle: Callable[[SurfaceSnapshot, Callable[[], bool]], None],
        callbacks: FitCallbacks,
        policy: CommitPolicy | None = None,
    ) -> None:
        self._log, self._store, self._reconstructor = log, store, reconstructor
        self._published = published
        self._decode, self._slot, self._give_way, self._callbacks = decode, slot, give_way, callbacks
        self._prepare, self._settle = prepare, settle
        self._is_settled = True
        self._policy = policy or CommitPolicy()
        self._position = published.applied_position
        self._kept_position = published.applied_position
        self._uncommitted_frames = 0
        self._committed_at_s = 0.0
        self._commit_seconds = 0.0
        # The next frames are decoded and oriented while this one is fitted, by log position.
        self._ahead: dict[int, Future[PreparedFrame]] = {}
        self._reader = ThreadPoolExecutor(1, f"decode-{name}")
        self._committer = ThreadPoolExecutor(1, f"commit-{name}")
        self._committing: Future[PublishedRevision] | None = None
        self._more = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"fit-{name}")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notify(self) -> None:
        """There are new records in the log."""
        with self._more:
            self._more.notify()

    def stop(self) -> None:
        """Finish the frame in hand, commit, end the thread; blocks until it has ended."""
        with self._more:
            self._stopping = True
            self._more.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._committer.submit(self._prepare, self._published.surface)
            while not self._stopping:
                if self._position < self._log.end_position:
                    self._apply(self._log.read(self._position))
                    if self._is_commit_due():
                        self._start_publishing()
                else:
                    self._rest()
            self._publish()
        except Exception as error:
            _LOGGER.exception("fitting stopped at log record %d", self._position)
            self._callbacks.failed(error)
        finally:
            self._reader.shutdown(cancel_futures=True)
            self._committer.shutdown()

    def _apply(self, record: LogRecord) -> None:
        """Integrate one record of the log, in order."""
        if record.kind is RecordKind.FRAME:
            try:
                frame = self._frame_of(record)
                self._give_way()
                with self._slot:
                    report = self._reconstructor.integrate(frame)
                self._uncommitted_frames += 1
                _LOGGER.debug("frame %s/%d: %s", record.producer, record.sequence, report)
            except InvalidInputError as error:
                self._callbacks.rejected(record, error)
        self._position = record.position + 1

    def _frame_of(self, record: LogRecord) -> PreparedFrame:
        """The record's frame, prepared; starts on the next ones, if they are there already."""
        mine = self._ahead.pop(record.position, None) or self._start_on(record)
        end = min(record.position + 1 + _FRAMES_AHEAD, self._log.end_position)
        for position in range(record.position + 1, end):
            # A record that cannot be read is met when its turn comes.
            with contextlib.suppress(StorageError):
                if position not in self._ahead:
                    coming = self._log.read(position)
                    if coming.kind is RecordKind.FRAME:
                        self._ahead[position] = self._start_on(coming)
        return mine.result()

    def _start_on(self, record: LogRecord) -> Future[PreparedFrame]:
        return self._reader.submit(lambda: self._reconstructor.prepare(self._decode(record.payload)))

    def _is_commit_due(self) -> bool:
        if self._committing is not None and self._committing.done():
            self._finish_publishing()
        if self._uncommitted_frames >= self._policy.max_frames:
            return True
        if self._committing is not None:
            return False
        return time.monotonic() - self._committed_at_s >= self._policy.pause_s(self._commit_seconds)

    def _rest(self) -> None:
        """No frame waits: commit if it is time, else wait for a frame or for that time."""
        self._finish_publishing()
        remaining = self._policy.idle_seconds - (time.monotonic() - self._committed_at_s)
        if self._position > self._published.applied_position and remaining <= 0:
            self._publish()
        with self._more:
            if self._has_work():
                return
            is_published = self._position == self._published.applied_position
            may_settle = is_published and not self._is_settled
            pause_s = None if is_published else max(remaining, 0.001)
            if self._more.wait(_SETTLED_S if may_settle else pause_s) or not may_settle:
                return
        self._is_settled = True
        self._settle(self._published.surface, self._has_work)

    def _has_work(self) -> bool:
        return self._stopping or self._position < self._log.end_position

    def _publish(self) -> None:
        """Commit what changed, if anything did, and let queries see it; returns when that is done."""
        self._start_publishing()
        self._finish_publishing()

    def _start_publishing(self) -> None:
        """Copy what changed; the rest of a commit goes on beside the fitting of the next frames."""
        self._finish_publishing()
        if self._position == self._published.applied_position:
            return
        self._committed_at_s = time.monotonic()
        if not self._uncommitted_frames:
            self._published = replace(self._published, applied_position=self._position)
            self._callbacks.published(self._published)
            return
        engine = self._reconstructor
        staged = self._store.stage(
            engine.changes(),
            {"next": self._position},
            frames=engine.frame_count,
            charts=engine.chart_count,
        )
        engine.mark_committed()
        self._is_settled = False
        coming = PublishedRevision.of(engine, staged.revision, self._position)
        self._uncommitted_frames = 0
        self._committing = self._committer.submit(self._commit, staged, coming)

    def _commit(self, staged: StagedCommit, coming: PublishedRevision) -> PublishedRevision:
        """In the committing thread: make a revision durable, then let queries see it."""
        start_s = time.monotonic()
        self._store.write(staged)
        if not self._stopping:
            self._prepare(coming.surface)
        self._drop_old_revisions()
        self._drop_old_frames(coming.applied_position)
        self._commit_seconds = time.monotonic() - start_s
        self._callbacks.published(coming)
        return coming

    def _finish_publishing(self) -> None:
        """Wait for the commit that is under way, if there is one; raises what ended it."""
        committing, self._committing = self._committing, None
        if committing is not None:
            self._published = committing.result()
            self._committed_at_s = time.monotonic()

    def _drop_old_frames(self, applied_position: int) -> None:
        """Drop frames that the revision before this one includes, so that falling back to it works."""
        before, self._kept_position = self._kept_position, applied_position
        if not self._policy.keep_frames:
            try:
                freed = self._log.drop_payloads(before, self._store.prove)
            except StorageError as error:
                _LOGGER.warning("%s. The frames stay until the next commit", error)
                return
            if freed:
                _LOGGER.info("dropped frames before log record %d, %d MB", before, freed // 2**20)

    def _drop_old_revisions(self) -> None:
        revisions, keep = self._store.revisions(), self._policy.keep_revisions
        if keep is None:
            keep = count_by_size(revisions)
        if len(revisions) > keep + keep // 2:
            freed = self._store.drop_before(revisions[-keep].revision)
            _LOGGER.info("dropped revisions before %d, %d MB", revisions[-keep].revision, freed // 2**20)
