"""Compiled kernels over parts of an array, on all cores: they release the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

__all__ = ["cores", "in_parts", "one_ahead", "share_out"]

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


def in_parts(work: Callable[[int, int], _T], count: int, least: int = 1) -> list[_T]:
    """``work(begin, end)`` for consecutive parts of ``range(count)``, results in order.

    What the parts are depends on the number of cores: work must give the same whatever they are.

    Parameters
    ----------
    least
        Fewer than so many are not worth waking another thread.
    """
    parts = min(_PARTS_PER_CORE * cores(), -(-count // least))
    edges = [count * k // max(parts, 1) for k in range(parts + 1)]
    return share_out(lambda k: work(edges[k], edges[k + 1]), range(parts), _pool())


def share_out(work: Callable[[_S], _T], items: Sequence[_S], pool: ThreadPoolExecutor) -> list[_T]:
    """``work`` on every item, results in order, by the calling thread and others of a pool.

    Whoever is free takes the next one: on a busy machine the caller goes on alone instead of waiting for a
    thread to wake up.
    """
    results: list[Any] = [None] * len(items)
    coming = iter(range(len(items)))

    def help_out() -> None:
        for k in coming:
            results[k] = work(items[k])

    others = [pool.submit(help_out) for _ in range(min(cores(), len(items)) - 1)]
    try:
        help_out()
    finally:
        for other in others:
            if not other.cancel():
                other.result()
    return results


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
