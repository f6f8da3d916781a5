"""A cache that is bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["BoundedCache"]

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class BoundedCache(Generic[_K, _V]):
    """The values used last, as far as they have room; the newest always has. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: OrderedDict[_K, tuple[_V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _K) -> _V | None:
        """The value, if it is still held."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            self._held.move_to_end(key)
            return held[0]

    @property
    def is_full(self) -> bool:
        """Whether another value would cost one that is held."""
        return self._bytes > 0.9 * self._max_bytes

    def put(self, key: _K, value: _V, byte_count: int) -> None:
        """Hold a value of so many bytes; the least recently used ones make room."""
        with self._lock:
            if key in self._held:
                return
            self._held[key] = value, byte_count
            self._bytes += byte_count
            while self._bytes > self._max_bytes and len(self._held) > 1:
                _, (_, freed) = self._held.popitem(last=False)
                self._bytes -= freed
