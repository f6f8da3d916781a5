"""Frames that the server has not made durable yet, in memory."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from streamdgp.v1 import frame_pb2

__all__ = ["DEFAULT_BUFFER_BYTES", "Backlog", "MemoryBacklog"]

DEFAULT_BUFFER_BYTES: Final = 64 * 2**20


class Backlog(Protocol):
    """Frames in order, with numbers. The server says what the first one is; until then they count from 1."""

    @property
    def is_bound(self) -> bool:
        """Whether the numbers are those of the server."""

    @property
    def oldest_number(self) -> int:
        """Number of the oldest frame that is kept, or would be."""

    @property
    def next_number(self) -> int:
        """Number that the next frame gets."""

    def bind(self, next_number: int) -> None:
        """Give the oldest frame this number, and those after it the next ones; once."""

    def has_room(self, frame_bytes: int) -> bool:
        """Whether a frame of this size may come; always when there is none."""

    def append(self, frame: frame_pb2.Frame) -> int:
        """Take a frame in; returns its number, which it is given."""

    def read(self, first_number: int, stop_number: int, max_bytes: int) -> list[frame_pb2.Frame]:
        """Frames from a number on, before another; at least one, and no more once they have ``max_bytes``."""

    def discard(self, last_number: int) -> None:
        """Forget the frames up to this number: they are durable."""

    def close(self) -> None:
        """The stream has ended."""


class MemoryBacklog:
    """Frames in memory; they are lost with the process."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: deque[tuple[frame_pb2.Frame, int]] = deque()
        self._next_number = 1
        self._is_bound = False

    @property
    def is_bound(self) -> bool:
        return self._is_bound

    @property
    def oldest_number(self) -> int:
        return self._next_number - len(self._frames)

    @property
    def next_number(self) -> int:
        return self._next_number

    def bind(self, next_number: int) -> None:
        self._next_number = next_number + len(self._frames)
        self._is_bound = True

    def has_room(self, frame_bytes: int) -> bool:
        return not self._frames or self._bytes + frame_bytes <= self._max_bytes

    def append(self, frame: frame_pb2.Frame) -> int:
        frame.sequence_number = self._next_number
        size = frame.ByteSize()
        self._frames.append((frame, size))
        self._bytes += size
        self._next_number += 1
        return frame.sequence_number

    def read(self, first_number: int, stop_number: int, max_bytes: int) -> list[frame_pb2.Frame]:
        frames: list[frame_pb2.Frame] = []
        oldest = self.oldest_number
        for number in range(first_number, stop_number):
            frame, size = self._frames[number - oldest]
            frames.append(frame)
            max_bytes -= size
            if max_bytes <= 0:
                break
        return frames

    def discard(self, last_number: int) -> None:
        while self._frames and self._frames[0][0].sequence_number <= last_number:
            self._bytes -= self._frames.popleft()[1]

    def close(self) -> None:
        """Nothing is held."""
