"""Both ways to fit lazy charts: compiled chart by chart, and torch, which it is compared with."""

from __future__ import annotations

import pytest

from streamdgp.fitting.lazy import LazyRegime


@pytest.fixture(scope="session")
def fast() -> LazyRegime:
    return LazyRegime(seed=0)


@pytest.fixture(scope="session")
def slow() -> LazyRegime:
    return LazyRegime(seed=0, reference=True)
