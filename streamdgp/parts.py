"""Compiled kernels over parts of an array, on all cores: they release the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

__all__ = ["cores", "in_parts", "one_ahead"]

_PARTS_PER_CORE = 4
_T = TypeVar("_T")
_S = TypeVar("_S")


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


def one_ahead(work: Callable[[_S], _T], items: Iterable[_S]) -> Iterator[Future[_T]]:
    """``work`` on every item, in order, done in a thread one item ahead of who takes the results."""
    reader = ThreadPoolExecutor(1, "streamdgp-ahead")
    coming: Future[_T] | None = None
    try:
        for item in items:
            mine, coming = coming, reader.submit(work, item)
            if mine is not None:
                yield mine
        if coming is not None:
            yield coming
    finally:
        reader.shutdown(cancel_futures=True)
