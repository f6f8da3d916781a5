"""Memory for frames that arrive in parts, shared by all streams."""

from __future__ import annotations

import asyncio

__all__ = ["PartBudget"]


class PartBudget:
    """Bytes that unfinished frames may take; a stream that wants more waits. For the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._changed = asyncio.Condition()

    async def take(self, count: int) -> None:
        """Reserve bytes, once others have given back enough; alone, as many as one likes."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: not self._used_bytes or self._used_bytes + count <= self._max_bytes
            )
            self._used_bytes += count

    async def give_back(self, count: int) -> None:
        """What was reserved is free again."""
        async with self._changed:
            self._used_bytes -= count
            self._changed.notify_all()
