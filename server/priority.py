"""Answers go first: fitting and background extraction step aside while a query extracts tiles."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["QueryPriority"]

_LONGEST_PAUSE_S = 1.0
# While some tiles of an answer are sent nobody makes others: that is not its end.
_LINGER_S = 0.1


class QueryPriority:
    """Counts the queries being answered. Shared by all scenes of a server."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._active = 0
        self._last_s = -math.inf
        self._free_until_s = -math.inf

    @contextmanager
    def query(self) -> Iterator[None]:
        """Within this context a query is being answered."""
        with self._changed:
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._last_s = time.monotonic()
                self._changed.notify_all()

    @property
    def is_active(self) -> bool:
        """Whether a query is being answered."""
        return self._active > 0

    def was_active_within(self, seconds: float) -> bool:
        """Whether a query is being answered, or was so recently."""
        return self._active > 0 or time.monotonic() - self._last_s < seconds

    def give_way(self) -> None:
        """Wait until no query is being answered, but at most a second: queries must not stop fitting.

        After a whole second nobody waits for as long: of queries without end both have half of the time.
        """
        deadline_s = time.monotonic() + _LONGEST_PAUSE_S
        with self._changed:
            while True:
                now_s = time.monotonic()
                answered_s = math.inf if self._active else self._last_s + _LINGER_S
                if now_s >= answered_s or now_s < self._free_until_s:
                    return
                if now_s >= deadline_s:
                    self._free_until_s = now_s + _LONGEST_PAUSE_S
                    self._changed.notify_all()
                    return
                self._changed.wait(min(answered_s, deadline_s) - now_s)
