"""Many points at once against one after another: feet on rasters, and the blend."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.fitting.feet import FOOT, MOST, PHI, POINT, feet_on_raster, feet_scratch, foot_normal
from streamdgp.fitting.raster import RASTER, foot_on_raster
from streamdgp.surface import weld_tiles
from streamdgp.surface.blend import blend_points
from tests.reference.blend import blend_at
from tests.reference.scans import VOXEL_M, scan

Array = npt.NDArray[Any]


def _raster(kind: str) -> npt.NDArray[np.float32]:
    axis = np.linspace(-1, 1, RASTER)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    height = {
        "plane": 0.2 * u - 0.1 * v,
        "saddle": 0.3 * (u * u - v * v),
        "bumps": 0.1 * np.sin(5 * u) * np.cos(4 * v),
        "fold": 0.8 * np.abs(u),
    }[kind]
    return np.stack([u + 0.05 * v, v - 0.1 * u * u, height], -1).astype(np.float32)


@pytest.mark.parametrize("kind", ["plane", "saddle", "bumps", "fold"])
@pytest.mark.parametrize("count", [1, 15, 33, 200, MOST])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_feet_side_by_side_are_those_one_by_one(kind: str, count: int, steps: int) -> None:
    raster = _raster(kind)
    rng = np.random.default_rng(count)
    points = rng.uniform(-1.1, 1.1, (count, 3)) * [1, 1, 0.3]
    scratch = feet_scratch()
    for k in range(3):
        scratch[POINT + k * MOST :][:count] = points[:, k]
    for k in range(2):
        scratch[FOOT + k * MOST :][:count] = points[:, k]
    feet_on_raster(raster.reshape(-1), scratch, count, steps)
    elsewhere = 0
    for r in range(count):
        v, out = points[r, :2].copy(), np.empty(9)
        foot_on_raster(raster, points[r], v, out, steps)
        found = np.array([scratch[FOOT + r], scratch[FOOT + MOST + r]])
        # In single precision a foot on the border of two cells of a fold may end on either side of it.
        if np.abs(found - v).max() > 2e-5 and kind == "fold":
            elsewhere += 1
            continue
        np.testing.assert_allclose(found, v, atol=2e-5)
        shown = np.array([scratch[PHI + k * MOST + r] for k in range(3)])
        cell = np.abs(((v + 1) * (RASTER - 1) / 2 + 0.5) % 1 - 0.5)
        np.testing.assert_allclose(shown, out[:3], atol=4e-5)
        if cell.min() > 1e-3:
            np.testing.assert_allclose(foot_normal(scratch, r), np.cross(out[3:6], out[6:]), atol=1e-3)
    assert elsewhere <= 0.02 * count


def test_a_foot_does_not_depend_on_its_place_among_the_others() -> None:
    raster = _raster("bumps").reshape(-1)
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (MOST, 3)).astype(np.float32) * np.float32(0.8)

    def feet(order: Array) -> Array:
        scratch = feet_scratch()
        for k in range(3):
            scratch[POINT + k * MOST :][: len(order)] = points[order, k]
        for k in range(2):
            scratch[FOOT + k * MOST :][: len(order)] = points[order, k]
        feet_on_raster(raster, scratch, len(order), 3)
        rows = scratch.reshape(-1, MOST)[:, : len(order)]
        return np.concatenate([rows[FOOT // MOST :][:2], rows[PHI // MOST :][:9]]).T

    together = feet(np.arange(MOST))
    turned = rng.permutation(MOST)
    np.testing.assert_array_equal(feet(turned), together[turned])
    for few in (1, 7, 16, 31, 100):
        np.testing.assert_array_equal(feet(np.arange(few)), together[:few])


@pytest.mark.parametrize("kind", ["torus", "slab", "crease"])
@pytest.mark.parametrize("band", [0.5, 3.0])
def test_blend_of_many_is_that_of_each(kind: str, band: float) -> None:
    surface = scan(kind, True).reconstructor.surface()
    charts = surface._gather(np.arange(surface.chart_count))
    rng = np.random.default_rng(3)
    shown = weld_tiles(surface.tiles()).vertices
    points = shown[rng.integers(0, len(shown), 1500)] + rng.normal(0, VOXEL_M, (1500, 3))
    band_m = band * VOXEL_M
    result, reached = np.zeros((len(points), 5)), np.zeros(len(points), np.uint8)
    blend_points(points, band_m, surface.blend_radius, charts, result, reached)
    charts = (*charts[:3], np.stack(list(surface.rasters)), np.stack(list(surface.supports)))
    scratch, wanted = np.empty((96, 12)), np.empty(5)
    differ = 0
    for p, point in enumerate(points):
        found = blend_at(point, band_m, surface.blend_radius, charts, scratch, wanted)
        differ += bool(reached[p]) != found
        if not (found and reached[p]):
            continue
        close = abs(result[p, 0] - wanted[0]) < 1e-5 * VOXEL_M and np.abs(result[p] - wanted)[1:].max() < 1e-3
        differ += not close
    # A foot on the border of two cells of a raster, or a distance at the edge of the band, may go either way.
    assert differ <= 0.002 * len(points)
    assert 0.2 * len(points) < reached.sum()


def test_blend_does_not_depend_on_the_company() -> None:
    surface = scan("torus", True).reconstructor.surface()
    charts = surface._gather(np.arange(surface.chart_count))
    shown = weld_tiles(surface.tiles()).vertices
    points = shown[:: max(len(shown) // 700, 1)] + 0.2 * VOXEL_M

    def blended(order: Array) -> Array:
        result, reached = np.zeros((len(order), 5)), np.zeros(len(order), np.uint8)
        blend_points(points[order], 2 * VOXEL_M, surface.blend_radius, charts, result, reached)
        return np.column_stack([result * reached[:, None], reached])

    together = blended(np.arange(len(points)))
    turned = np.random.default_rng(0).permutation(len(points))
    np.testing.assert_array_equal(blended(turned), together[turned])
    np.testing.assert_array_equal(blended(np.arange(5)), together[:5])
    assert blended(np.zeros(0, np.int64)).shape == (0, 6)
