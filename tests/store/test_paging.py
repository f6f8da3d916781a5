"""The page planner: whole pages, new rows included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdgp.errors import InvalidInputError
from streamdgp.store._paging import page_rows, touched_pages


@pytest.mark.parametrize("row_bytes", [1, 8, 24, 100, 1000, 4096])
def test_a_page_is_128_to_256_kib_unless_rows_are_extreme(row_bytes: int) -> None:
    rows = page_rows(row_bytes)
    assert rows & (rows - 1) == 0
    assert 128 * 1024 <= rows * row_bytes <= 256 * 1024 or rows == 65536


def test_extreme_rows_are_clamped() -> None:
    assert page_rows(0) == page_rows(1) == 65536
    assert page_rows(10_000_000) == 16


def test_pages_of_rows() -> None:
    rows = np.array([0, 5, 16, 70], dtype=np.int64)
    assert touched_pages(rows, 16, 100, 100).tolist() == [0, 1, 4]


def test_no_change_touches_nothing() -> None:
    assert not len(touched_pages(np.zeros(0, dtype=np.int64), 16, 100, 100))


@given(st.data())
def test_pages_are_those_of_changed_and_new_rows(data: st.DataObject) -> None:
    page = data.draw(st.sampled_from([1, 4, 16]))
    stored = data.draw(st.integers(0, 100))
    count = stored + data.draw(st.integers(0, 50))
    rows = np.array(
        sorted(data.draw(st.sets(st.integers(0, max(0, count - 1)), max_size=10 if count else 0))), np.int64
    )
    wanted = {int(r) // page for r in rows} | {r // page for r in range(stored, count)}
    assert touched_pages(rows, page, stored, count).tolist() == sorted(wanted)


def test_a_table_never_shrinks_and_rows_exist() -> None:
    with pytest.raises(InvalidInputError, match="at least 10 rows"):
        touched_pages(np.zeros(0, dtype=np.int64), 16, 10, 9)
    with pytest.raises(InvalidInputError, match=r"within 0\.\.9"):
        touched_pages(np.array([10]), 16, 10, 10)
