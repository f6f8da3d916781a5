"""Prints what the tests of crashes and damage came to, as one table at the end of the run."""

from __future__ import annotations

import pytest

from tests.crash.report import COLUMNS, CrashReport

_REPORT = pytest.StashKey[CrashReport]()


@pytest.fixture(scope="session")
def crash_report(request: pytest.FixtureRequest) -> CrashReport:
    """The table; see :class:`tests.crash.report.CrashReport`."""
    return request.config.stash.setdefault(_REPORT, CrashReport())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    report = config.stash.get(_REPORT, None)
    if report is None or not report.rows:
        return
    used = [column for column in COLUMNS if any(column in row for row in report.rows.values())]
    width = max(map(len, report.rows)) + 2
    terminalreporter.section("crashes and damage")
    terminalreporter.write_line(" " * width + "  ".join(f"{column.replace('_', ' '):>12}" for column in used))
    for name, row in report.rows.items():
        cells = "  ".join(f"{row.get(column, '-'):>12}" for column in used)
        terminalreporter.write_line(f"{name:<{width}}{cells}")
