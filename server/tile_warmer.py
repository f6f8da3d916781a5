"""Keeps a scene's tile cache warm: after a revision, its stale tiles are extracted in the background.

So a query that comes while frames stream in finds nearly everything done. One pass at a time, for the
newest revision only, and after each pass the thread rests as long as the pass took: fitting goes first.
"""

from __future__ import annotations

import logging
import threading
import time

from streamdgp.surface import SurfaceSnapshot, TileCache
from streamdgp_server.priority import QueryPriority

__all__ = ["TileWarmer"]

_LOGGER = logging.getLogger(__name__)


class TileWarmer:
    """A background thread that extracts the default-resolution tiles of the newest surface."""

    def __init__(self, name: str, cache: TileCache, priority: QueryPriority) -> None:
        self._cache, self._priority = cache, priority
        self._newest: SurfaceSnapshot | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tiles-{name}", daemon=True)
        self._thread.start()

    def offer(self, surface: SurfaceSnapshot) -> None:
        """There is a newer surface; a pass that has not begun takes it."""
        self._newest = surface
        self._wake.set()

    def close(self) -> None:
        """End the thread, between two tiles."""
        self._stop.set()
        self._wake.set()
        self._thread.join()

    def _is_cancelled(self) -> bool:
        # A query extracts the same tiles: two at it would do everything twice.
        return self._stop.is_set() or self._priority.is_active

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if self._stop.is_set():
                return
            self._wake.clear()
            surface = self._newest
            if surface is None or not surface.chart_count:
                continue
            begin = time.monotonic()
            try:
                for _ in surface.tiles(cache=self._cache, cancelled=self._is_cancelled):
                    pass
            except Exception:
                # The cache is a convenience: a query extracts what is missing and reports its own error.
                _LOGGER.exception("tiles could not be extracted ahead of time")
            self._stop.wait(time.monotonic() - begin)
