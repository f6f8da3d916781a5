"""The page planner: whole pages, joined runs, new rows included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdgp.errors import InvalidInputError
from streamdgp.store._paging import page_rows, row_runs, touched_pages


def page_runs(changed: np.ndarray, rows_per_page: int, stored: int, count: int) -> list[tuple[int, int]]:
    return list(row_runs(touched_pages(changed, rows_per_page, stored, count), rows_per_page, count))


@pytest.mark.parametrize("row_bytes", [1, 8, 24, 100, 1000, 4096])
def test_a_page_is_128_to_256_kib_unless_rows_are_extreme(row_bytes: int) -> None:
    rows = page_rows(row_bytes)
    assert rows & (rows - 1) == 0
    assert 128 * 1024 <= rows * row_bytes <= 256 * 1024 or rows == 65536


def test_extreme_rows_are_clamped() -> None:
    assert page_rows(0) == page_rows(1) == 65536
    assert page_rows(10_000_000) == 16


def test_neighbouring_pages_are_joined() -> None:
    rows = np.array([0, 5, 16, 70], dtype=np.int64)
    assert page_runs(rows, 16, 100, 100) == [(0, 32), (64, 80)]


def test_no_change_touches_nothing() -> None:
    assert page_runs(np.zeros(0, dtype=np.int64), 16, 100, 100) == []


@given(st.data())
def test_runs_cover_exactly_the_touched_pages(data: st.DataObject) -> None:
    page = data.draw(st.sampled_from([1, 4, 16]))
    stored = data.draw(st.integers(0, 100))
    count = stored + data.draw(st.integers(0, 50))
    rows = np.array(
        sorted(data.draw(st.sets(st.integers(0, max(0, count - 1)), max_size=10 if count else 0))), np.int64
    )
    covered: set[int] = set()
    for start, stop in page_runs(rows, page, stored, count):
        assert start % page == 0
        assert stop % page == 0 or stop == count
        assert covered.isdisjoint(range(start, stop))
        covered.update(range(start, stop))
    touched = {int(r) // page for r in rows} | {r // page for r in range(stored, count)}
    assert covered == {r for r in range(count) if r // page in touched}


def test_a_table_never_shrinks_and_rows_exist() -> None:
    with pytest.raises(InvalidInputError, match="at least 10 rows"):
        page_runs(np.zeros(0, dtype=np.int64), 16, 10, 9)
    with pytest.raises(InvalidInputError, match=r"within 0\.\.9"):
        page_runs(np.array([10]), 16, 10, 10)
