"""Fitting steps aside for answers: for the whole of each, but never for longer than a second at once."""

from __future__ import annotations

import threading
import time

import pytest

from streamdgp_server import priority as module
from streamdgp_server.priority import QueryPriority


def test_nothing_waits_when_nobody_asks() -> None:
    priority = QueryPriority()
    priority.give_way()
    assert not priority.is_active
    assert not priority.was_active_within(1e9)


def test_fitting_waits_from_one_part_of_an_answer_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is made in parts; while one is sent no query is active, and fitting must not start yet."""
    monkeypatch.setattr(module, "_LINGER_S", 2.0)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 60.0)
    priority, parts, order = QueryPriority(), threading.Barrier(2), []

    def fit() -> None:
        parts.wait()
        priority.give_way()
        order.append("fitted")

    fitting = threading.Thread(target=fit)
    fitting.start()
    with priority.query():
        parts.wait()
    for k in range(3):
        fitting.join(0.1)  # long enough for what does not wait
        with priority.query():
            order.append(f"part {k}")
    fitting.join(10)
    assert order == ["part 0", "part 1", "part 2", "fitted"]
    assert priority.was_active_within(60)


def test_an_answer_that_never_ends_does_not_stop_fitting() -> None:
    priority = QueryPriority()
    with priority.query():
        started_s = time.monotonic()
        priority.give_way()
        assert time.monotonic() - started_s >= 0.9
        assert priority.is_active


def test_queries_without_end_leave_fitting_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit steps aside at every tile: were each to wait for a second, nothing would ever be committed."""
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.5)
    priority = QueryPriority()
    with priority.query():
        priority.give_way()
        # The time after a pause is free, and ends in another one.
        passed, paused_s = 0, 0.0
        while paused_s < 0.5:
            started_s = time.monotonic()
            priority.give_way()
            paused_s = time.monotonic() - started_s
            passed += 1
    assert passed > 1
