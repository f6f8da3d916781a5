"""The rule of refits for many charts, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from streamdgp.atlas.refits import has_changed
from streamdgp.evidence.precision import rounded


@pytest.mark.parametrize("growth", [1.25, 2.0])
def test_against_numpy(growth: float) -> None:
    """Several parts, charts in any order; what the touched ones gained is rounded, others stay."""
    rng = np.random.default_rng(1)
    count = 6000
    backed = rng.uniform(size=(count, 64)) < rng.uniform(0, 1, (count, 1))
    fit = np.where(backed, np.exp(rng.normal(5, 0.7, (count, 64))), 0).astype(np.float32)
    gain = np.exp(rng.normal(-2, 1.5, (count, 1)) + rng.normal(0, 0.5, (count, 64)))
    fresh = np.where(rng.uniform(size=(count, 64)) < 0.9, gain * np.maximum(fit, 3), 0).astype(np.float32)
    is_lost = rng.uniform(size=(count, 1)) < 0.2
    lost = rng.choice([0.6, 0.9], (count, 1))
    fresh = np.where(is_lost & (rng.uniform(size=(count, 64)) < 0.02), -lost * fit, fresh)
    fits = rng.integers(0, 9, count).astype(np.int32) * (rng.uniform(size=count) < 0.99).astype(np.int32)
    touched = rng.permutation(count)[:5000]
    kept = fresh.copy()
    found = has_changed(touched, fit, fresh, fits, growth)
    others = np.setdiff1d(np.arange(count), touched)
    np.testing.assert_array_equal(fresh[others], kept[others])
    np.testing.assert_array_equal(fresh[touched], rounded(kept[touched], 8))
    had, now = fit[touched].astype(float), (fit + fresh)[touched].astype(float)
    is_backed = had > 0
    cells = is_backed.sum(1)
    typical = had.sum(1) / np.maximum(cells, 1)
    appeared = (~is_backed & (fresh[touched] > 0.05 * typical[:, None])).sum(1)
    asked = growth + 0.45 / np.maximum(fits[touched], 1)[:, None]
    grown = (is_backed & (now > asked * had)).sum(1)
    vanished = (is_backed & (now < 0.25 * had)).any(1)
    causes = (fits[touched] == 0, appeared >= np.maximum(0.08 * cells, 1), grown > 0.2 * cells, vanished)
    np.testing.assert_array_equal(found, np.any(causes, 0))
    for k in range(4):
        alone = causes[k] & ~np.any(causes[:k] + causes[k + 1 :], 0)
        assert alone.sum() > 5, f"cause {k} must decide"
    assert (~found).sum() > 100
