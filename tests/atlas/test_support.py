"""Which cells of a chart evidence backs, against numpy, one row at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_closing

from streamdgp.atlas.atlas import Atlas
from streamdgp.atlas.support import followed_cells, settle_cells, show_cells
from streamdgp.evidence.patches import SUPPORT_CELLS

_CELL = 2 / SUPPORT_CELLS


def _atlas(steepness: float) -> Atlas:
    """One chart that bends up to one side."""
    atlas = Atlas(0.04, 0.064, 12)
    new = atlas.appended(1, 0)
    atlas.face(new, np.array([[0.0, 0.0, 1.0]]))
    v = np.linspace(-1, 1, 33)
    x, y = np.meshgrid(v, v, indexing="ij")
    raster = np.stack([x, y, steepness * x * x + 0.1 * x * y], -1).astype(np.float32)
    atlas.store_weights(new, np.zeros((1, 12), np.float32), raster[None])
    return atlas


@pytest.mark.parametrize("steepness", [0.0, 0.9])
def test_against_numpy(steepness: float) -> None:
    rng = np.random.default_rng(3)
    atlas = _atlas(steepness)
    raster = np.asarray(atlas.rasters[0], np.float64)
    points = rng.uniform(-1, 1, (1, 200, 3)).astype(np.float32)
    points[..., 2] *= 0.4
    weights = (rng.uniform(20, 4000, (1, 200)) * (rng.uniform(size=(1, 200)) < 0.8)).astype(np.float32)
    wanted = np.zeros((SUPPORT_CELLS, SUPPORT_CELLS), np.bool_)
    for a in range(SUPPORT_CELLS):
        for b in range(SUPPORT_CELLS):
            x, y = 2 * a + 1, 2 * b + 1
            size = max(
                np.linalg.norm(raster[x + 1, y] - raster[x - 1, y]),
                np.linalg.norm(raster[x, y + 1] - raster[x, y - 1]),
                _CELL,
            )
            for point, weight in zip(points[0].astype(float), weights[0].astype(float), strict=True):
                over = np.abs(np.floor((point[:2] + 1) / _CELL) - (a, b)).max() <= 1
                gap = np.linalg.norm(point - raster[x, y])
                wanted[a, b] |= over and weight > 0 and gap <= np.hypot(size, 1 / np.sqrt(max(weight, 1e-9)))
    got = followed_cells(points, weights, atlas.rasters.addresses(np.array([0])))
    assert 20 < wanted.sum() < 236
    np.testing.assert_array_equal(got[0] > 0, wanted)


def test_another_sheet_backs_nothing() -> None:
    """Evidence three cells above a flat chart is none of its own; noise of that size would excuse it."""
    atlas = _atlas(0.0)
    center = (np.arange(SUPPORT_CELLS) + 0.5) * _CELL - 1
    x, y = np.meshgrid(center, center, indexing="ij")
    z = np.where(x < 0, 0.1 * x * y, 3 * _CELL)
    points = np.stack([x, y, z], -1).reshape(1, -1, 3).astype(np.float32)
    exact = np.full((1, points.shape[1]), 1e6, np.float32)
    addresses = atlas.rasters.addresses(np.array([0]))
    followed = followed_cells(points, exact, addresses)[0] > 0
    assert followed[: SUPPORT_CELLS // 2].all()
    assert not followed[SUPPORT_CELLS // 2 + 1 :].any()
    noisy = np.full_like(exact, 1 / (4 * _CELL) ** 2)
    assert followed_cells(points, noisy, addresses).all()


@pytest.mark.parametrize("share", [0.02, 0.15, 0.5])
def test_votes_settle_where_the_evidence_is(share: float) -> None:
    """By definition, with scipy's closing, for charts in any order; other charts stay as they are."""
    rng = np.random.default_rng(5)
    shape = (500, SUPPORT_CELLS, SUPPORT_CELLS)
    hits, passes = ((rng.uniform(size=shape) < 0.5) * rng.integers(1, 40, shape) for _ in range(2))
    hits, passes = hits.astype(np.uint8), passes.astype(np.uint8)
    support = (rng.uniform(size=shape) < 0.5).astype(np.uint8)
    charts = rng.permutation(500)[:450]
    observations = ((rng.uniform(size=(450, *shape[1:])) < share) * 3.0).astype(np.float32)
    before = hits.copy(), passes.copy()
    is_new = settle_cells(charts, observations, support, hits, passes)
    appeared = lost = 0
    for row, c in enumerate(charts):
        backed = observations[row] > 0
        settled = binary_closing(np.pad(backed, 8), iterations=2)[8:-8, 8:-8]
        np.testing.assert_array_equal(is_new[row], settled & (support[c] == 0) & (before[1][c] == 0))
        np.testing.assert_array_equal(
            hits[c], np.where(backed, np.maximum(before[0][c], 1), before[0][c] * settled)
        )
        np.testing.assert_array_equal(passes[c], before[1][c] * settled)
        appeared += int(is_new[row].sum())
        lost += int((before[0][c] > hits[c]).sum())
    others = np.setdiff1d(np.arange(500), charts)
    np.testing.assert_array_equal(hits[others], before[0][others])
    np.testing.assert_array_equal(passes[others], before[1][others])
    assert min(appeared, lost) > 100


def test_what_is_shown_is_what_is_kept() -> None:
    """For some charts, in any order: the kept support in 255ths, the shown one from 0 to 1."""
    rng = np.random.default_rng(6)
    shape = (500, SUPPORT_CELLS, SUPPORT_CELLS)
    hits, passes = (rng.integers(0, 6, shape).astype(np.uint8) for _ in range(2))
    support = np.full(shape, 77, np.uint8)
    charts = rng.permutation(500)[:450]
    shown = show_cells(charts, hits, passes, support)
    every = np.empty(shape, np.uint8)
    show_cells(np.arange(500), hits, passes, every)
    np.testing.assert_array_equal(support[charts], every[charts])
    np.testing.assert_array_equal(shown, support[charts].astype(np.float32) / np.float32(255))
    assert (support[np.setdiff1d(np.arange(500), charts)] == 77).all()
