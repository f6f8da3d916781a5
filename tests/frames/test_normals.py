"""Normals in wide registers and single precision against one cell at a time in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from streamdgp.frames.normals import WindowPlanes
from tests.reference.normals import window_normals

_HEIGHT, _WIDTH, _SPAN_RAD = 16, 30, 0.9


def _steps_and_slopes(seed: int, lost: float, finer: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranges with noise, jumps and lost returns; unit rays; sigma of the noise. ``finer``: smaller cells."""
    rng = np.random.default_rng(seed)
    azimuth = _SPAN_RAD / finer * ((np.arange(_WIDTH) + 0.5) / _WIDTH - 0.5)
    elevation = np.linspace(-0.3, 0.3, _HEIGHT) / finer
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
    planes = WindowPlanes(ranges, rays, sigma, radius=radius, slopes=slopes, wrap=wrap)
    normals, residual = planes.fit_all()
    slow, rms = window_normals(*(x.astype(np.float64) for x in (ranges, rays, sigma)), radius, slopes, wrap)
    has, should = (normals != 0).any(-1), (slow != 0).any(-1)
    assert should.sum() > 20
    # A neighbour on the very border of a gate may fall on either side of it: one cell in two hundred.
    both = has & should
    turned = np.linalg.norm(normals - slow, axis=-1)[both] > 1e-3
    assert (has != should).sum() + turned.sum() <= ranges.size / 200
    np.testing.assert_allclose(np.median(residual[both] / rms[both]), 1, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("lost", "least"), [(0.0, 0.1), (0.05, 0.05)])
def test_shared_planes_are_those_of_the_cells_about(stride: int, lost: float, least: float) -> None:
    """Between fitted cells: the mean of these if the cell lies on all their planes, else its own."""
    ranges, rays, sigma = _steps_and_slopes(3, lost, finer=10)
    window = {"radius": 3 * stride, "stride": stride, "slopes": (6.0, 1.5, 0.6)}
    own, rms = (x[::stride, ::stride] for x in WindowPlanes(ranges, rays, sigma, **window).fit_all())
    planes = WindowPlanes(ranges, rays, sigma, **window)
    planes.fit_nodes()
    nodes_alone = planes.normals.copy()
    planes.fit_others()
    normals, residual = (x[::stride, ::stride] for x in (planes.normals, planes.residual))
    # Nodes are fitted first, by themselves, and nothing else is.
    np.testing.assert_array_equal(
        nodes_alone[:: 2 * stride, :: 2 * stride], planes.normals[:: 2 * stride, :: 2 * stride]
    )
    assert (nodes_alone != 0).any(-1).sum() == (normals[::2, ::2] != 0).any(-1).sum()
    ranges, rays, sigma = (x[::stride, ::stride] for x in (ranges, rays, sigma))
    points = ranges[..., None].astype(np.float64) * rays
    is_flat = (rms > 0) & (rms**2 <= 1.2 * sigma**2)
    height, width = ranges.shape
    shares = border = 0
    for i, j in np.argwhere(ranges > 0):
        nodes = [
            (a, b)
            for a in ({i} if i % 2 == 0 else {i - 1, i + 1})
            for b in ({j} if j % 2 == 0 else {j - 1, j + 1})
        ]
        expected, spread = own[i, j], rms[i, j]
        if nodes != [(i, j)] and all(a < height and b < width and is_flat[a, b] for a, b in nodes):
            off = max(abs((points[i, j] - points[node]) @ own[node]) for node in nodes) / sigma[i, j]
            if abs(off - 3) < 1e-3:
                border += 1
                continue
            if off < 3:
                mean = np.mean([own[node] for node in nodes], 0)
                expected, spread = mean / np.linalg.norm(mean), max(rms[node] for node in nodes)
                shares += 1
        np.testing.assert_allclose(normals[i, j], expected, atol=1e-6)
        np.testing.assert_allclose(residual[i, j], spread, rtol=1e-6)
    assert border < 5
    assert least < shares / ranges.size < 0.75


def test_shared_planes_are_as_good_on_a_sphere() -> None:
    """A sphere of 0.3 m at 1 m with the noise of a depth camera: no bias, hardly more scatter."""
    height, width, focal = 120, 160, 260.0
    u, v = np.meshgrid(np.arange(width) - width / 2, np.arange(height) - height / 2)
    rays = np.stack([u / focal, v / focal, np.ones_like(u)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    along = rays[..., 2]
    inside = along**2 - (1 - 0.3**2)
    ranges = np.where(inside > 0.02, along - np.sqrt(np.maximum(inside, 0)), 0)
    truth = (ranges[..., None] * rays - np.array([0, 0, 1])) / 0.3
    sigma = np.full(ranges.shape, 0.002)
    ranges += np.where(ranges > 0, np.random.default_rng(4).normal(0, 0.002, ranges.shape), 0)
    error_deg = {}
    for shared in (False, True):
        planes = WindowPlanes(
            *(x.astype(np.float32) for x in (ranges, rays, sigma)),
            radius=3, cell_rad=1 / focal, slopes=(6.0, 1.5, 0.6),
        )  # fmt: skip
        if shared:
            planes.fit_nodes()
            planes.fit_others()
        else:
            planes.fit_all()
        normals = planes.normals
        has = (normals != 0).any(-1)
        assert has.sum() > 0.95 * (ranges > 0).sum()
        turned = (normals[has] - truth[has]).astype(np.float64)
        error_deg[shared] = np.degrees(np.linalg.norm(turned, axis=-1))
        assert np.degrees(np.linalg.norm(turned.mean(0))) < 0.3
    assert np.median(error_deg[True]) < 1.05 * np.median(error_deg[False])
    assert np.quantile(error_deg[True], 0.9) < 1.1 * np.quantile(error_deg[False], 0.9)
