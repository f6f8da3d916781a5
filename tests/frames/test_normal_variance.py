"""The variance of points along the normal, against points that really wander."""

from __future__ import annotations

import numpy as np
import pytest

from streamdgp.frames.noise import normal_variance_m2


@pytest.mark.parametrize("angle_deg", [0.0, 20.0, 45.0, 60.0, 75.0, 85.0])
@pytest.mark.parametrize("sigma_m", [0.001, 0.02])
def test_against_points_that_wander(angle_deg: float, sigma_m: float) -> None:
    """Along the ray by sigma, across by half of that: what is left along the normal of a slanted plane."""
    rng = np.random.default_rng(3)
    slant = np.deg2rad(angle_deg)
    # The ray comes down the z axis; the plane's normal leans by the slant.
    normal = np.array([np.sin(slant), 0.0, np.cos(slant)])
    wander = rng.normal(size=(200_000, 3)) * sigma_m * np.array([0.5, 0.5, 1.0])
    found = float((wander @ normal).var())
    told = normal_variance_m2(np.array([sigma_m]), np.array([np.cos(slant)]))
    assert found == pytest.approx(told[0], rel=0.02)


def test_slanted_views_never_count_for_less() -> None:
    cosine = np.linspace(0.0, 1.0, 101)
    variance = normal_variance_m2(np.full(101, 0.01), cosine)
    assert (np.diff(variance) >= 0).all()
    assert variance[-1] == pytest.approx(1e-4)
    assert variance[0] == pytest.approx(0.25e-4)
