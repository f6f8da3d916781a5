"""Work done one item ahead of who takes the results."""

from __future__ import annotations

import threading

import pytest

from streamdgp.parts import one_ahead


def test_results_come_in_order_and_nothing_runs_farther_ahead_than_one() -> None:
    started: list[int] = []
    gate = threading.Semaphore(0)

    def work(k: int) -> int:
        started.append(k)
        gate.release()
        return k * k

    taken = []
    for k, future in enumerate(one_ahead(work, range(6))):
        taken.append(future.result(timeout=10))
        assert len(started) <= k + 2
        if k < 5:
            # The next one is worked on while this one is in use.
            for _ in range(1 if k else 2):
                assert gate.acquire(timeout=10)
            assert started[k + 1] == k + 1
    assert taken == [0, 1, 4, 9, 16, 25]


def test_an_item_that_fails_fails_alone() -> None:
    def work(k: int) -> int:
        if k == 1:
            raise ValueError("one")
        return k

    futures = one_ahead(work, range(3))
    assert next(futures).result() == 0
    with pytest.raises(ValueError, match="one"):
        next(futures).result()
    assert [future.result() for future in futures] == [2]


def test_no_items_and_leaving_early() -> None:
    assert list(one_ahead(str, [])) == []
    before = threading.active_count()
    futures = one_ahead(str, range(1000))
    assert next(futures).result() == "0"
    futures.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.startswith("streamdgp-ahead"):
            thread.join(timeout=10)
    assert threading.active_count() <= before
