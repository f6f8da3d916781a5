"""Which of the frames prepared ahead will be taken in part, so that nobody does the rest for nothing.

Nothing but time depends on it: whose turn it is, and what counts of a frame, is decided when it comes.
"""

from __future__ import annotations

import threading
import weakref

from streamdgp.frames.orient import PreparedFrame
from streamdgp.turns import Schedule

__all__ = ["Foresight"]


class Foresight:
    """The schedule of the last frame taken in, and the frames that are on their way. Thread-safe.

    Frames that nobody has any more are not on their way.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._schedule: Schedule | None = None
        self._coming: list[weakref.ref[PreparedFrame]] = []

    def expect(self, frame: PreparedFrame) -> bool:
        """A frame will be taken in after those before it; returns whether it is likely to repeat them."""
        with self._guard:
            schedule, before = self._schedule, self._frames()
            self._coming = [weakref.ref(one) for one in (*before, frame)]
        if schedule is None:
            return False
        for one in before:
            schedule = schedule.after(one, schedule.look_frames(one))
        return schedule.is_repetition(frame)

    def settle(self, frame: PreparedFrame, schedule: Schedule | None) -> None:
        """A frame was taken in, or refused; those that came before it and were not never will be."""
        with self._guard:
            self._schedule = schedule
            coming = self._frames()
            place = next((k for k, one in enumerate(coming) if one is frame), -1)
            self._coming = [weakref.ref(one) for one in coming[place + 1 :]]

    def _frames(self) -> list[PreparedFrame]:
        return [frame for one in self._coming if (frame := one()) is not None]
