"""What the tests of crashes and damage came to, as one table at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_ROWS = pytest.StashKey[dict[str, dict[str, int]]]()
_COLUMNS = (
    *("cases", "acknowledged", "lost", "twice", "unreadable", "meshes_equal", "named", "harmless"),
    "resident_mb",
)
"""Cases tried; frames acknowledged before, lost, applied twice; stores that could not be opened; meshes equal
to those of an uninterrupted run; damages reported with their place, or without effect; most memory."""
_GREATEST = {"resident_mb"}


@pytest.fixture
def crash_report(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add to a row of the table: ``crash_report("random kills", cases=1, acknowledged=12, lost=0)``.

    Counts are added up over tests that name the same row. Call it before what is asserted of them.
    """
    rows = request.config.stash.setdefault(_ROWS, {})

    def report(name: str, **counts: int) -> None:
        assert set(counts) <= set(_COLUMNS), f"columns are {_COLUMNS}"
        row = rows.setdefault(name, {})
        for column, count in counts.items():
            before = row.get(column, 0)
            row[column] = max(before, count) if column in _GREATEST else before + count

    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    rows = config.stash.get(_ROWS, {})
    if not rows:
        return
    used = [column for column in _COLUMNS if any(column in row for row in rows.values())]
    width = max(map(len, rows)) + 2
    terminalreporter.section("crashes and damage")
    terminalreporter.write_line(" " * width + "  ".join(f"{column.replace('_', ' '):>12}" for column in used))
    for name, row in rows.items():
        cells = "  ".join(f"{row.get(column, '-'):>12}" for column in used)
        terminalreporter.write_line(f"{name:<{width}}{cells}")
