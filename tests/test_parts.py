"""Work done one item ahead of who takes the results, and work shared out among threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamdgp import parts as parts_module
from streamdgp.parts import in_parts, one_ahead, share_out


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


def test_shares_come_in_order() -> None:
    pool = ThreadPoolExecutor(2)
    for count in (0, 1, 2, 50):
        assert share_out(lambda k: k * k, range(count), pool) == [k * k for k in range(count)]
    for count in (0, 1, 7, 1000):
        parts = in_parts(lambda begin, end: list(range(begin, end)), count)
        assert [k for part in parts for k in part] == list(range(count))
        assert all(parts)
    assert in_parts(lambda begin, end: (begin, end), 99, least=100) == [(0, 99)]


def test_the_caller_goes_on_alone_while_the_others_are_busy() -> None:
    pool, gate = ThreadPoolExecutor(1), threading.Event()
    busy = pool.submit(gate.wait)
    assert share_out(lambda k: k, range(20), pool) == list(range(20))
    assert not busy.done()
    gate.set()
    assert pool.submit(lambda: "free").result(timeout=10) == "free"


@pytest.mark.parametrize("fails_in_caller", [True, False])
def test_a_share_that_fails_fails_all_after_the_others_have_ended(
    fails_in_caller: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "cores", lambda: 2)
    caller, running = threading.get_ident(), []
    both = threading.Barrier(2, timeout=10)

    def work(k: int) -> int:
        running.append(k)
        try:
            if k < 2:
                both.wait()
            if (threading.get_ident() == caller) == fails_in_caller:
                raise ValueError("one")
            return k
        finally:
            running.remove(k)

    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="one"):
        share_out(work, range(6), pool)
    assert running == []
