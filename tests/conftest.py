"""Settings of the whole suite, and the table that the tests of crashes and damage leave."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from tests.crash.report import COLUMNS, REPORT, CrashReport

# The suite gives the same answer every time; no test depends on how fast the machine is.
settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked ``gpu`` on a machine without CUDA."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of several hands its part of the table to who started it."""
    told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if told is not None and REPORT in session.config.stash:
        told["crash_rows"] = session.config.stash[REPORT].rows


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take it from a worker that is done."""
    rows = getattr(node, "workeroutput", {}).get("crash_rows", {})
    node.config.stash.setdefault(REPORT, CrashReport()).take_in(rows)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    report = config.stash.get(REPORT, None)
    if report is None or not report.rows:
        return
    used = [column for column in COLUMNS if any(column in row for row in report.rows.values())]
    width = max(map(len, report.rows)) + 2
    terminalreporter.section("crashes and damage")
    terminalreporter.write_line(" " * width + "  ".join(f"{column.replace('_', ' '):>12}" for column in used))
    for name, row in sorted(report.rows.items()):
        cells = "  ".join(f"{row.get(column, '-'):>12}" for column in used)
        terminalreporter.write_line(f"{name:<{width}}{cells}")
