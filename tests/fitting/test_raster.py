"""Rasters and foot points, against the network itself and against scipy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.raster import RASTER, foot_on_raster, project_on_rasters, raster_lattice


def _bumps(charts: int = 4, seed: int = 0, height: float = 0.25) -> npt.NDArray[np.float32]:
    """Smooth height-field charts with a slightly sheared parametrisation, as rasters."""
    rng = np.random.default_rng(seed)
    v = raster_lattice().numpy().astype(np.float64)
    out = []
    for _ in range(charts):
        a = rng.uniform(-1, 1, 4)
        z = height * (np.sin(1.5 * v[:, 0] + a[0]) * np.cos(1.3 * v[:, 1] + a[1]))
        x = v[:, 0] + 0.1 * a[2] * v[:, 1]
        y = v[:, 1] + 0.1 * a[3] * v[:, 0] ** 2
        out.append(np.stack([x, y, z], 1).reshape(RASTER, RASTER, 3))
    return np.array(out, np.float32)


def _bilinear(raster: npt.NDArray[np.float32], v: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """phi(v) by bilinear interpolation, written out independently: v (2,) or (2, N)."""
    t = (np.asarray(v) + 1) * (RASTER - 1) / 2
    i = np.clip(np.floor(t).astype(int), 0, RASTER - 2)
    a, b = (t - i)[..., None]
    r = raster.astype(np.float64)
    return (
        (1 - a) * (1 - b) * r[i[0], i[1]]
        + (1 - a) * b * r[i[0], i[1] + 1]
        + a * (1 - b) * r[i[0] + 1, i[1]]
        + a * b * r[i[0] + 1, i[1] + 1]
    )


def _regime_and_charts(charts: int = 70) -> tuple[LazyRegime, torch.Tensor]:
    regime = LazyRegime(seed=0)
    generator = torch.Generator().manual_seed(0)
    b = torch.zeros(charts, 3 + regime.features.count, 3)
    b[:, 0, 0] = b[:, 1, 1] = 1
    size = 0.05 / regime.features.penalty.sqrt()
    b[:, 3:] = size[None, :, None] * torch.randn(charts, regime.features.count, 3, generator=generator)
    return regime, b.reshape(charts, -1)


def test_raster_nodes_are_the_network() -> None:
    regime, parameters = _regime_and_charts(5)
    v = raster_lattice()
    assert v.shape == (RASTER * RASTER, 2)
    got = regime.rasters(parameters)
    assert got.shape == (5, RASTER, RASTER, 3)
    wanted = regime.evaluate(parameters, v.expand(5, -1, 2)).reshape(got.shape)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    # The first parameter is the slow raster axis: phi(v) = (v, 0) up to the bends.
    np.testing.assert_allclose(v.reshape(RASTER, RASTER, 2)[:, 0, 0], np.linspace(-1, 1, RASTER), atol=1e-6)


def test_jacobian_of_a_chart() -> None:
    regime, parameters = _regime_and_charts(3)
    v = torch.from_numpy(np.random.default_rng(0).uniform(-0.9, 0.9, (3, 50, 2)).astype(np.float32))
    value, jacobian = regime.evaluate_with_jacobian(parameters, v)
    torch.testing.assert_close(value, regime.evaluate(parameters, v), rtol=0, atol=1e-6)
    assert jacobian.shape == (3, 50, 3, 2)
    step = 1e-3
    for axis in range(2):
        shift = torch.zeros(2)
        shift[axis] = step
        numeric = (regime.evaluate(parameters, v + shift) - regime.evaluate(parameters, v - shift)) / (
            2 * step
        )
        wrong = ((numeric - jacobian[..., axis]).abs() > 5e-3).any(-1)
        # 64 + 64 creases, steps of 2e-3: about one point in ten straddles one.
        assert float(wrong.float().mean()) < 0.3


def test_bilinear_error_is_second_order_in_the_lattice() -> None:
    """Between the nodes a chart of curvature k is off by at most k h^2 / 8 per axis, h = 1/16."""
    raster = _bumps(1)[0]
    rng = np.random.default_rng(1)
    out, v = np.empty(9), np.empty(2)
    a = np.random.default_rng(0).uniform(-1, 1, 4)
    for _ in range(200):
        v[:] = rng.uniform(-0.95, 0.95, 2)
        u = v.copy()
        foot_on_raster(raster, np.zeros(3), v, out, 0)
        exact = 0.25 * np.sin(1.5 * u[0] + a[0]) * np.cos(1.3 * u[1] + a[1])
        bound = (0.25 * 1.5**2 + 0.25 * 1.3**2) / 16**2 / 8
        assert abs(out[2] - exact) < bound + 1e-6
        np.testing.assert_array_equal(u, v)


@pytest.mark.parametrize("offset", [0.0, 0.05, -0.2])
def test_feet_are_the_closest_points(offset: float) -> None:
    """Squared distance within 1e-5 of what scipy finds from many starts; feet within 1e-2."""
    rasters = _bumps(3)
    rng = np.random.default_rng(2)
    v = rng.uniform(-0.8, 0.8, (3, 25, 2))
    points = np.array([[_bilinear(r, u) for u in vs] for r, vs in zip(rasters, v, strict=True)])
    points[..., 2] += offset
    weights = np.ones(points.shape[:2], np.float32)
    feet = np.empty((3, 25, 2), np.float32)
    distance = np.empty((3, 25), np.float32)
    project_on_rasters(rasters, points.astype(np.float32), weights, feet, distance)
    for c in range(3):
        for i in range(25):

            def cost(u: npt.NDArray[np.float64], c: int = c, i: int = i) -> float:
                return float(((_bilinear(rasters[c], u) - points[c, i]) ** 2).sum())

            best = min(
                (minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
                 for start in (v[c, i], feet[c, i].astype(np.float64))),
                key=lambda r: r.fun,
            )  # fmt: skip
            assert cost(feet[c, i].astype(np.float64)) <= best.fun + 1e-5
            # The sign is the side; the size is the distance to the tangent plane at the foot.
            assert abs(abs(distance[c, i]) - np.sqrt(best.fun)) < 3e-3
            if abs(offset) > 0.01:
                assert np.sign(distance[c, i]) == np.sign(offset)
    if offset == 0.0:
        np.testing.assert_allclose(feet, v, atol=1e-3)


def test_foot_search_is_global_on_a_fold() -> None:
    """A chart bent into half a cylinder: points near either lip find their own side."""
    v = raster_lattice().numpy().astype(np.float64)
    angle = 0.5 * np.pi * v[:, 0]
    raster = np.stack([0.6 * np.sin(angle), v[:, 1], 0.6 - 0.6 * np.cos(angle)], 1).reshape(
        1, RASTER, RASTER, 3
    )
    target = np.array([[[0.59, 0.0, 0.55], [-0.59, 0.0, 0.55], [0.0, 0.3, 0.02]]], np.float32)
    feet, distance = np.empty((1, 3, 2), np.float32), np.empty((1, 3), np.float32)
    project_on_rasters(raster.astype(np.float32), target, np.ones((1, 3), np.float32), feet, distance)
    assert feet[0, 0, 0] > 0.85
    assert feet[0, 1, 0] < -0.85
    assert abs(feet[0, 2, 0]) < 0.05
    assert np.abs(distance).max() < 0.03


@pytest.mark.parametrize(("lift", "limit"), [(0.0, 1e-5), (0.05, 1e-5), (0.3, 3e-4)])
def test_foot_on_raster_against_brute_force(lift: float, limit: float) -> None:
    """The nearest of all nodes of a 16 times finer lattice, also beyond the border of V.

    Far off the chart, Gauss-Newton may step back and forth across the crease between two cells.
    """
    axis = np.linspace(-1.3, 1.3, 665)
    fine = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    spacing = axis[1] - axis[0]
    rng = np.random.default_rng(5)
    out, v = np.empty(9), np.empty(2)
    for raster in _bumps(3, seed=4):
        tree = cKDTree(_bilinear(raster, fine.T))
        for start in rng.uniform(-1.2, 1.2, (60, 2)):
            y = _bilinear(raster, start) + lift * np.array([0.1, -0.2, 1.0])
            distance, _ = tree.query(y)
            v[:] = np.clip(y[:2], -1.3, 1.3)
            distance2 = foot_on_raster(raster, y, v, out, 12)
            assert np.sqrt(distance2) < distance + limit
            # A node lies half a spacing off the foot at most.
            assert np.sqrt(distance2) > distance - spacing
            assert np.abs(v).max() <= 1.3
            # What is handed back belongs to the foot that is handed back.
            np.testing.assert_allclose(out[:3], _bilinear(raster, v), atol=1e-6)
            assert distance2 == pytest.approx(((y - out[:3]) ** 2).sum(), abs=1e-12)
            for axis_of_v in range(2):
                # Bilinear: along one axis within a cell the difference quotient is the derivative.
                cell = np.clip(np.floor((v + 1) * (RASTER - 1) / 2), 0, RASTER - 2)
                low, high = v.copy(), v.copy()
                low[axis_of_v] = cell[axis_of_v] * 2 / (RASTER - 1) - 1 + 1e-4
                high[axis_of_v] = low[axis_of_v] + 0.06
                slope = (_bilinear(raster, high) - _bilinear(raster, low)) / 0.06
                np.testing.assert_allclose(out[3 + 3 * axis_of_v : 6 + 3 * axis_of_v], slope, atol=1e-4)


def test_padding_rows_are_zero() -> None:
    rasters = _bumps(1)
    points = np.ones((1, 4, 3), np.float32)
    weights = np.array([[1, 0, 1, 0]], np.float32)
    feet, distance = np.full((1, 4, 2), 9, np.float32), np.full((1, 4), 9, np.float32)
    project_on_rasters(rasters, points, weights, feet, distance)
    assert (feet[0, 1::2] == 0).all()
    assert (distance[0, 1::2] == 0).all()


def test_degenerate_charts_do_not_hang_or_give_nan() -> None:
    rasters = np.zeros((1, RASTER, RASTER, 3), np.float32)
    points = np.random.default_rng(0).normal(size=(1, 8, 3)).astype(np.float32)
    feet, distance = np.empty((1, 8, 2), np.float32), np.empty((1, 8), np.float32)
    project_on_rasters(rasters, points, np.ones((1, 8), np.float32), feet, distance)
    assert np.isfinite(feet).all()
    assert np.isfinite(distance).all()
    assert np.abs(feet).max() <= 1.3
