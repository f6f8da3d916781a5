"""Which rows of a table go into which stored page. Pure planning; no input or output.

A page is one zarr chunk of whole rows. A commit writes whole pages, so a page must be small (a few
changed rows should not rewrite megabytes), and large enough that the cost per chunk (about a
millisecond) does not dominate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidInputError

__all__ = ["page_rows", "touched_pages"]

_TARGET_PAGE_BYTES = 256 * 1024
_MIN_ROWS = 16
_MAX_ROWS = 65536


def page_rows(row_bytes: int) -> int:
    """Rows per page: the power of two that makes a page 128 to 256 KiB, within 16 to 65536 rows."""
    wanted = max(1, _TARGET_PAGE_BYTES // max(1, row_bytes))
    return max(_MIN_ROWS, min(_MAX_ROWS, 1 << (wanted.bit_length() - 1)))


def touched_pages(
    changed_rows: npt.NDArray[np.int64], rows_per_page: int, stored_rows: int, row_count: int
) -> npt.NDArray[np.int64]:
    """The pages (sorted) that a commit may have to write.

    Parameters
    ----------
    changed_rows
        (K,) row numbers. Rows from ``stored_rows`` on count as changed whether listed or not.
    stored_rows, row_count
        Rows before and after this commit.

    Raises
    ------
    InvalidInputError
        A row number lies outside the table, or the table shrank.
    """
    if row_count < stored_rows:
        raise InvalidInputError(
            f"a table of at least {stored_rows} rows (rows keep their numbers)",
            f"{row_count} rows",
            "Mark rows as unused instead of removing them.",
        )
    rows = np.asarray(changed_rows, dtype=np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= row_count):
        raise InvalidInputError(
            f"changed rows within 0..{row_count - 1}",
            f"{rows.min()}..{rows.max()}",
            "This is a fault of the caller.",
        )
    is_touched = np.zeros(-(-row_count // rows_per_page), np.bool_)
    is_touched[rows // rows_per_page] = True
    if row_count > stored_rows:
        is_touched[stored_rows // rows_per_page :] = True
    return np.flatnonzero(is_touched)
