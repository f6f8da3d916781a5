"""Compiled kernels over parts of an array, on all cores: they release the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

__all__ = ["cores", "in_parts"]

_PARTS_PER_CORE = 4
_T = TypeVar("_T")


@lru_cache(maxsize=1)
def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "streamdgp-parts")


def in_parts(work: Callable[[int, int], _T], count: int) -> list[_T]:
    """``work(begin, end)`` for consecutive parts of ``range(count)``, results in order.

    What the parts are depends on the number of cores: work must give the same whatever they are.
    """
    parts = min(_PARTS_PER_CORE * cores(), count)
    edges = [count * k // max(parts, 1) for k in range(parts + 1)]
    return list(_pool().map(work, edges[:-1], edges[1:]))
