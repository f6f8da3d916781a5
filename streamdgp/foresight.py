"""Which of the frames prepared ahead will be taken in part, so that nobody does the rest for nothing.

Nothing but time depends on it: whose turn it is, and what counts of a frame, is decided when it comes.
"""

from __future__ import annotations

import threading
from collections import deque

from streamdgp.frames.orient import PreparedFrame
from streamdgp.turns import Schedule

__all__ = ["Foresight"]


class Foresight:
    """The schedule of the last frame taken in, and the frames that are on their way to it. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._schedule: Schedule | None = None
        self._coming: deque[PreparedFrame] = deque()

    def expect(self, frame: PreparedFrame) -> bool:
        """A frame will be taken in after those before it; returns whether it is likely to repeat them."""
        with self._guard:
            schedule, before = self._schedule, tuple(self._coming)
            self._coming.append(frame)
        if schedule is None:
            return False
        for one in before:
            schedule = schedule.after(one, schedule.look_frames(one))
        return schedule.is_repetition(frame)

    def settle(self, frame: PreparedFrame, schedule: Schedule | None) -> None:
        """A frame was taken in, or refused; those that came before it and were not never will be."""
        with self._guard:
            self._schedule = schedule
            if any(one is frame for one in self._coming):
                while self._coming.popleft() is not frame:
                    pass
