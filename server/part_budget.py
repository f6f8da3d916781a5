"""Memory for frames that arrive in parts, shared by all streams."""

from __future__ import annotations

import asyncio

__all__ = ["PartBudget"]


class PartBudget:
    """Bytes that unfinished frames may take; for the event loop.

    A stream waits while all is taken, but never the one whose frame was begun first: that one becomes whole,
    so streams with half a frame each do not wait for one another for ever.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken_bytes: dict[object, int] = {}  # in the order in which the frames were begun
        self._freed = asyncio.Event()

    async def take(self, owner: object, count: int) -> None:
        """Wait for room for so many bytes more; nothing is taken when this is cancelled."""
        while not self._may_take(owner, count):
            self._freed.clear()
            await self._freed.wait()
        self._taken_bytes[owner] = self._taken_bytes.get(owner, 0) + count

    def give_back(self, owner: object) -> None:
        """All that the owner has taken is free again."""
        if self._taken_bytes.pop(owner, 0):
            self._freed.set()

    def _may_take(self, owner: object, count: int) -> bool:
        is_first = next(iter(self._taken_bytes), owner) is owner
        return is_first or sum(self._taken_bytes.values()) + count <= self._max_bytes
