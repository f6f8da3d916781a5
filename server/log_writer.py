"""Group commit: what waits while the disk syncs goes to disk together with the next sync."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from streamdgp.errors import StorageError
from streamdgp.store import FrameLog, LogRecord
from streamdgp_server.disk_guard import DiskGuard

__all__ = ["LogWriter"]

_MAX_BATCH_BYTES = 32 * 1024 * 1024
_LOOK_AGAIN_S = 0.5


class LogWriter:
    """Appends records to the log in the order of :meth:`submit`, off the event loop.

    Parameters
    ----------
    max_pending_bytes
        :meth:`room` waits while more than this waits to be written.
    guard
        While it sees no room on the disk nothing is written, and nothing acknowledged.
    on_room_changed
        Called when the disk is full, and when it is not any more.
    """

    def __init__(
        self,
        log: FrameLog,
        executor: Executor,
        *,
        max_pending_bytes: int,
        guard: DiskGuard,
        on_room_changed: Callable[[], None],
    ) -> None:
        self._log = log
        self._guard = guard
        self._on_room_changed = on_room_changed
        self._is_closing = asyncio.Event()
        self._executor = executor
        self._max_pending_bytes = max_pending_bytes
        self._pending: deque[tuple[LogRecord, asyncio.Future[LogRecord]]] = deque()
        self._pending_bytes = 0
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self.failure: StorageError | None = None

    def submit(self, record: LogRecord) -> asyncio.Future[LogRecord]:
        """Queue a record. The future holds it with its position once it is durable.

        The future fails with :class:`StorageError` when the disk refuses; then so does every later one.
        """
        future: asyncio.Future[LogRecord] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            future.set_exception(self.failure)
            return future
        self._pending.append((record, future))
        self._pending_bytes += len(record.payload)
        self._wake.set()
        return future

    async def room(self) -> None:
        """Wait until there is room for more."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._pending_bytes <= self._max_pending_bytes or self.failure
            )

    async def close(self) -> None:
        """Write what is pending, if there is room for it, and stop."""
        self._is_closing.set()
        async with self._changed:
            await self._changed.wait_for(
                lambda: (not self._pending_bytes and not self._pending) or self.failure
            )
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            if not await self._wait_for_space():
                await self._fail([], _no_space())
                return
            batch = self._take_batch()
            records = [record for record, _ in batch]
            try:
                placed = await loop.run_in_executor(self._executor, self._log.append, records)
            except StorageError as error:
                await self._fail(batch, error)
                return
            for (_, future), record in zip(batch, placed, strict=True):
                if not future.done():
                    future.set_result(record)
            async with self._changed:
                self._pending_bytes -= sum(len(record.payload) for record in records)
                self._changed.notify_all()

    async def _wait_for_space(self) -> bool:
        """Until the disk has room; False when the writer is closed before."""
        if self._guard.has_room():
            return True
        self._on_room_changed()
        while not self._guard.has_room():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_closing.wait(), _LOOK_AGAIN_S)
                return False
        self._on_room_changed()
        return True

    def _take_batch(self) -> list[tuple[LogRecord, asyncio.Future[LogRecord]]]:
        batch, size = [], 0
        while self._pending and size < _MAX_BATCH_BYTES:
            batch.append(self._pending.popleft())
            size += len(batch[-1][0].payload)
        if not self._pending:
            self._wake.clear()
        return batch

    async def _fail(
        self, batch: list[tuple[LogRecord, asyncio.Future[LogRecord]]], error: StorageError
    ) -> None:
        self.failure = error
        for _, future in (*batch, *self._pending):
            if not future.done():
                future.set_exception(error)
        self._pending.clear()
        async with self._changed:
            self._changed.notify_all()


def _no_space() -> StorageError:
    return StorageError(
        "room on the disk for the frames in hand",
        "none when the server was stopped; they were not acknowledged",
        "Free some space and start it again; clients send them again.",
    )
