"""Normals in wide registers and single precision against one cell at a time in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from streamdgp.frames.normals import organised_normals
from tests.reference.normals import window_normals

_HEIGHT, _WIDTH, _SPAN_RAD = 16, 30, 0.9


def _steps_and_slopes(seed: int, lost: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranges with noise, jumps and lost returns; unit rays; sigma of the noise."""
    rng = np.random.default_rng(seed)
    azimuth = _SPAN_RAD * ((np.arange(_WIDTH) + 0.5) / _WIDTH - 0.5)
    elevation = np.linspace(-0.3, 0.3, _HEIGHT)
    e, a = np.meshgrid(elevation, azimuth, indexing="ij")
    rays = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1).astype(np.float32)
    ranges = 2 + 0.3 * np.sin(3 * a) + 0.5 * e
    ranges[5:11, 8:17] -= 0.4
    ranges[:, 23] += 0.03
    sigma = np.full(ranges.shape, 0.004, np.float32) * ranges.astype(np.float32)
    ranges += rng.normal(size=ranges.shape) * sigma
    ranges[rng.uniform(size=ranges.shape) < lost] = 0
    return ranges.astype(np.float32), rays, sigma


@pytest.mark.parametrize("slopes", [(6.0, 1.5, 0.6), (2.0, 20.0)])
@pytest.mark.parametrize("radius", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_against_one_cell_at_a_time(slopes: tuple[float, ...], radius: int, wrap: bool, lost: float) -> None:
    ranges, rays, sigma = _steps_and_slopes(radius, lost)
    normals, residual = organised_normals(ranges, rays, sigma, radius=radius, slopes=slopes, wrap=wrap)
    slow, rms = window_normals(*(x.astype(np.float64) for x in (ranges, rays, sigma)), radius, slopes, wrap)
    has, should = (normals != 0).any(-1), (slow != 0).any(-1)
    assert should.sum() > 20
    # A neighbour on the very border of a gate may fall on either side of it: one cell in two hundred.
    both = has & should
    turned = np.linalg.norm(normals - slow, axis=-1)[both] > 1e-3
    assert (has != should).sum() + turned.sum() <= ranges.size / 200
    np.testing.assert_allclose(np.median(residual[both] / rms[both]), 1, rtol=1e-4)
