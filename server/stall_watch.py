"""Notices a client that leaves something half done: a frame half sent, answers not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["StallWatch"]

_LOOKS = 4


class StallWatch:
    """Times what a stream waits for its client to do; for the event loop.

    A client that does nothing at all, with nothing half done, may do so for ever: a robot that stands still.

    Parameters
    ----------
    patience_s
        How long each thing may take.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._since_s: dict[str, float] = {}

    def begin(self, what: str) -> None:
        """The client is to do something from now on; again: it has done a part of it."""
        self._since_s[what] = asyncio.get_running_loop().time()

    def end(self, what: str) -> None:
        """It has done it."""
        self._since_s.pop(what, None)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Between :meth:`begin` and :meth:`end`."""
        self.begin(what)
        try:
            yield
        finally:
            self.end(what)

    async def run(self, on_stall: Callable[[str], None]) -> None:
        """Call ``on_stall`` with the first thing that takes too long, and return."""
        while True:
            await asyncio.sleep(self.patience_s / _LOOKS)
            late_s = asyncio.get_running_loop().time() - self.patience_s
            for what, since_s in self._since_s.items():
                if since_s < late_s:
                    on_stall(what)
                    return
