"""Batches: every chart once, in parts that end together; who has the settings of a worker, and how long."""

from __future__ import annotations

import threading

import pytest
import torch

from streamdgp.fitting.batches import BATCH, CHARTWISE_BATCH, as_worker, map_batches


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100, 2 * CHARTWISE_BATCH, 2 * CHARTWISE_BATCH + 1, 1000])
def test_chart_by_chart_parts_are_even(count: int) -> None:
    parts = map_batches(lambda part: part, count, is_chartwise=True)
    assert [k for part in parts for k in range(part.start, part.stop)] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes, default=0) <= CHARTWISE_BATCH
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert len(parts) % 2 == 0 or len(parts) == 1


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 200])
def test_other_parts_are_full_but_the_last(count: int) -> None:
    parts = map_batches(lambda part: part.stop - part.start, count, is_chartwise=False)
    assert parts == [min(BATCH, count - k) for k in range(0, count, BATCH)]


def test_who_computes_as_a_worker_does_so_until_the_outermost_ends() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with as_worker():
            with as_worker():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
            assert _flushes()
            others: list[int] = []
            thread = threading.Thread(
                target=lambda: others.extend(
                    map_batches(lambda _: torch.get_num_threads(), 9, is_chartwise=True)
                )
            )
            thread.start()
            thread.join()
            assert set(others) == {1}
        assert torch.get_num_threads() == 2
        assert not _flushes()
    finally:
        torch.set_num_threads(before)


def test_settings_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError), as_worker():
            _ = 1 // 0
        assert torch.get_num_threads() == 2
        with as_worker():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def _flushes() -> bool:
    return float(torch.tensor(1e-40) * 1.0) == 0.0
