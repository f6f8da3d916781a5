"""What the tests of crashes and damage came to, by rows of one table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["COLUMNS", "REPORT", "CrashReport"]

COLUMNS = (
    *("cases", "acknowledged", "lost", "twice", "unreadable", "meshes_equal", "named", "harmless"),
    "resident_mb",
)
"""Cases tried; frames acknowledged before, lost, applied twice; stores that could not be opened; meshes equal
to those of an uninterrupted run; damages reported with their place, or without effect; most memory."""
_GREATEST = {"resident_mb"}


class CrashReport:
    """Call it to add to a row: ``crash_report("random kills", cases=1, acknowledged=12, lost=0)``.

    Counts are added up over tests that name the same row. Call it before what is asserted of them.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, int]] = {}

    def __call__(self, name: str, **counts: int) -> None:
        assert set(counts) <= set(COLUMNS), f"columns are {COLUMNS}"
        row = self.rows.setdefault(name, {})
        for column, count in counts.items():
            before = row.get(column, 0)
            row[column] = max(before, count) if column in _GREATEST else before + count

    @contextmanager
    def opening(self, name: str) -> Iterator[None]:
        """Counts a store as unreadable if opening or checking it fails within."""
        try:
            yield
        except BaseException:
            self(name, unreadable=1)
            raise
        self(name, unreadable=0)

    def take_in(self, rows: dict[str, dict[str, int]]) -> None:
        """Add what another process counted."""
        for name, counts in rows.items():
            self(name, **counts)


REPORT = pytest.StashKey[CrashReport]()
"""Where a run keeps its table."""
