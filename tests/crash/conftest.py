"""The table of the tests of crashes and damage; ``tests/conftest.py`` prints it at the end of the run."""

from __future__ import annotations

import pytest

from tests.crash.report import REPORT, CrashReport


@pytest.fixture(scope="session")
def crash_report(request: pytest.FixtureRequest) -> CrashReport:
    """The table; see :class:`tests.crash.report.CrashReport`."""
    return request.config.stash.setdefault(REPORT, CrashReport())
