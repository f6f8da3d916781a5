"""What touched surfels mean to the charts, against numpy, one surfel and all charts at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.atlas.atlas import Atlas, tangent_frames
from streamdgp.config import EvidenceConfig
from streamdgp.evidence import SurfelMap
from streamdgp.evidence.patches import DIRTY_CELLS, survey_touched
from streamdgp.sampling.anchors import insert_chart

Array = npt.NDArray[Any]
_VOXEL, _RADIUS, _SCALE, _MIN_COS = 0.01, 0.04, 0.064, 0.5
_CELLS = DIRTY_CELLS**2


@dataclass(frozen=True)
class _Scene:
    """Random surfels with charts strewn among them, and the weights the surfels gained."""

    surfels: SurfelMap
    atlas: Atlas
    gained: Array


def _unit(rng: np.random.Generator, count: int) -> Array:
    n = rng.normal(size=(count, 3)) * 0.5 + [0, 0, 1]
    out: Array = n / np.linalg.norm(n, axis=1, keepdims=True)
    return out


def _scene(seed: int, half_m: float, charts: int, surfels: int = 900) -> _Scene:
    """Within +-half_m; a tenth of the surfels has normals that cancel, some are very noisy."""
    rng = np.random.default_rng(seed)
    m = SurfelMap(_VOXEL, EvidenceConfig())
    c = m.columns
    half = int(half_m / _VOXEL)
    c["key"][:surfels] = rng.integers(-half, half, (surfels, 3))
    c["offset_vox"][:surfels] = rng.uniform(-0.5, 0.5, (surfels, 3))
    length = np.where(rng.uniform(size=surfels) < 0.1, 0.2, rng.uniform(0.4, 1, surfels))
    c["normal"][:surfels] = _unit(rng, surfels) * length[:, None]
    c["count"][:surfels] = rng.integers(1, 9, surfels)
    sigma = np.where(rng.uniform(size=surfels) < 0.3, 0.02, 0.002)
    c["weight"][:surfels] = c["count"][:surfels] / sigma**2
    c["weight"][:5] = 0
    atlas = Atlas(_RADIUS, _SCALE, 12)
    while atlas.capacity <= charts:
        atlas.grow()
    near = m.positions_m(rng.integers(0, surfels, charts))
    atlas.columns["anchor"][:charts] = near + rng.normal(size=(charts, 3)) * 0.02
    for chart in range(charts):
        insert_chart(chart, atlas.columns["anchor"], _SCALE, atlas.grid)
    new = atlas.appended(charts, 0)
    atlas.columns["rotation"][new] = tangent_frames(_unit(rng, charts))
    return _Scene(m, atlas, rng.uniform(1, 100, surfels))


def _survey(s: _Scene, touched: Array) -> tuple[Array, Array, Array]:
    """Fresh mass, touched flags and covered flags from the kernel; what was there before is added to."""
    fresh = np.ones((s.atlas.capacity, _CELLS), np.float32)
    flags, covered = np.zeros(s.atlas.capacity, np.uint8), np.full(len(touched), 7, np.uint8)
    survey_touched(
        touched, s.gained[touched], s.atlas.columns["anchor"], s.atlas.columns["rotation"], _RADIUS, _SCALE,
        _MIN_COS, _VOXEL, s.surfels.look_up, s.atlas.grid, fresh, flags, covered,
    )  # fmt: skip
    return fresh, flags, covered


def _slowly(s: _Scene, touched: Array) -> tuple[Array, Array, Array]:
    """The same by definition, float64."""
    c = s.surfels.columns
    anchor, rotation = s.atlas.column("anchor"), s.atlas.column("rotation")
    fresh = np.ones((s.atlas.capacity, _CELLS))
    flags, covered = np.zeros(s.atlas.capacity, np.uint8), np.zeros(len(touched), np.uint8)
    for row, i in enumerate(touched):
        center = (c["key"][i] + 0.5) * _VOXEL
        n = c["normal"][i].astype(np.float64)
        length = np.linalg.norm(n)
        # No chart matters whose cell of the anchor grid is not the voxel's or one beside it.
        beside = np.abs(np.floor(anchor / _SCALE) - np.floor(center / _SCALE)).max(1) <= 1
        cosine = rotation[:, :, 2] @ n / length
        sees = beside & (np.linalg.norm(anchor - center, axis=1) <= _SCALE) & (cosine > _MIN_COS)
        local = np.einsum("ck,ckj->cj", s.surfels.positions_m(np.array([i])) - anchor, rotation)
        cell = np.clip(np.floor((local[:, :2] / _SCALE + 1) / 2 * DIRTY_CELLS), 0, DIRTY_CELLS - 1)
        number = (cell[:, 0] * DIRTY_CELLS + cell[:, 1]).astype(int)
        fresh[np.flatnonzero(sees), number[sees]] += s.gained[i]
        flags[np.flatnonzero(sees)] = 1
        noise = min(3 * np.sqrt(c["count"][i] / max(float(c["weight"][i]), 1e-30)), 2 * _RADIUS)
        beyond = np.maximum(np.abs(local[:, 2]) - noise, 0)
        within = (local[:, :2] ** 2).sum(1) + beyond**2 <= _RADIUS**2
        covered[row] = length <= 0.3 or c["weight"][i] <= 0 or (beside & (cosine >= _MIN_COS) & within).any()
    return fresh, flags, covered


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("half_m", "charts"), [(0.08, 5), (0.08, 400), (0.3, 200), (1.0, 300), (1.0, 0)])
def test_against_numpy(seed: int, half_m: float, charts: int) -> None:
    """In random order: the charts listed about one cell of the grid may not serve in another."""
    s = _scene(seed, half_m, charts)
    rng = np.random.default_rng(seed)
    touched = rng.permutation(900)[:700].astype(np.int64)
    fresh, flags, covered = _survey(s, touched)
    slow_fresh, slow_flags, slow_covered = _slowly(s, touched)
    np.testing.assert_array_equal(flags, slow_flags)
    np.testing.assert_array_equal(covered, slow_covered)
    np.testing.assert_allclose(fresh, slow_fresh, rtol=1e-5)
    if charts > 100:
        assert flags.sum() > 0.5 * charts, "charts must be seen"
        assert 0.1 < covered.mean(), "both answers must occur"
    assert covered.min() == 0


@pytest.mark.parametrize("half_m", [0.08, 1.0])
def test_the_order_does_not_matter(half_m: float) -> None:
    """Cell by cell, as frames come, and shuffled: the same answers."""
    s = _scene(3, half_m, 300)
    cell = np.floor((s.surfels.columns["key"][:900] + 0.5) * _VOXEL / _SCALE)
    by_cell = np.lexsort(cell.T).astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(by_cell)
    answers = []
    for touched in (by_cell, shuffled):
        fresh, flags, covered = _survey(s, touched)
        whole = np.empty(900, np.uint8)
        whole[touched] = covered
        answers.append((fresh, flags, whole))
    np.testing.assert_allclose(answers[0][0], answers[1][0], rtol=1e-5)
    for one, other in zip(answers[0][1:], answers[1][1:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_touched() -> None:
    fresh, flags, covered = _survey(_scene(0, 0.3, 50), np.zeros(0, np.int64))
    assert (fresh == 1).all()
    assert not flags.any()
    assert len(covered) == 0
