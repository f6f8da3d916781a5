"""What touched surfels mean to the charts, against numpy, one surfel and all charts at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.atlas.atlas import Atlas
from streamdgp.config import EvidenceConfig
from streamdgp.evidence import SurfelMap, survey
from streamdgp.evidence.patches import DIRTY_CELLS
from streamdgp.evidence.precision import NORMAL_STEP, OFFSET_STEP_VOX
from streamdgp.evidence.survey import survey_touched
from streamdgp.levels import LEVELS
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


@dataclass(frozen=True)
class _Answer:
    """Fresh mass, touched flags, covered flags."""

    fresh: Array
    flags: Array
    covered: Array


def _unit(rng: np.random.Generator, count: int) -> Array:
    n = rng.normal(size=(count, 3)) * 0.5 + [0, 0, 1]
    out: Array = n / np.linalg.norm(n, axis=1, keepdims=True)
    return out


def _scene(seed: int, half_m: float, charts: int, surfels: int = 900, *, mixed: bool = False) -> _Scene:
    """Within +-half_m; a tenth of the surfels has normals that cancel, some are very noisy."""
    rng = np.random.default_rng(seed)
    m = SurfelMap(_VOXEL, EvidenceConfig())
    c = m.columns
    half = int(half_m / _VOXEL)
    c["key"][:surfels] = rng.integers(-half, half, (surfels, 3))
    c["offset"][:surfels] = np.rint(rng.uniform(-0.5, 0.5, (surfels, 3)) / OFFSET_STEP_VOX)
    length = np.where(rng.uniform(size=surfels) < 0.1, 0.2, rng.uniform(0.4, 1, surfels))
    c["normal"][:surfels] = np.rint(_unit(rng, surfels) * length[:, None] / NORMAL_STEP)
    c["count"][:surfels] = rng.integers(1, 9, surfels)
    sigma = np.where(rng.uniform(size=surfels) < 0.3, 0.02, 0.002)
    c["weight"][:surfels] = c["count"][:surfels] / sigma**2
    c["weight"][:5] = 0
    atlas = Atlas(_RADIUS, _SCALE, 12)
    while atlas.capacity <= charts:
        atlas.grow()
    near = m.positions_m(rng.integers(0, surfels, charts))
    atlas.columns["anchor"][:charts] = near + rng.normal(size=(charts, 3)) * 0.02
    atlas.columns["level"][:charts] = rng.integers(0, LEVELS, charts) if mixed else 0
    for chart in range(charts):
        level = atlas.columns["level"][chart]
        insert_chart(chart, atlas.columns["anchor"], level, atlas.scales_m[level], atlas.grid)
    new = atlas.appended(charts, 0)
    atlas.face(new, _unit(rng, charts))
    # A quarter was seen through.
    gained = rng.uniform(1, 100, surfels) * np.where(rng.uniform(size=surfels) < 0.25, -1, 1)
    gained[10:20] = 0
    return _Scene(m, atlas, gained)


def _survey(s: _Scene, touched: Array) -> _Answer:
    """What the kernel says; what was there before is added to."""
    fresh, flags = np.ones((s.atlas.capacity, _CELLS), np.float32), np.zeros(s.atlas.capacity, np.uint8)
    charts, covered = survey_touched(
        touched, s.gained[touched], {**s.atlas.columns, "fresh_mass": fresh}, s.atlas.radii_m,
        s.atlas.scales_m, _MIN_COS, _VOXEL, s.surfels.look_up, s.atlas.grid,
    )  # fmt: skip
    flags[charts] = 1
    return _Answer(fresh, flags, covered)


def _cell(tangential: Array, cells: int) -> tuple[Array, Array]:
    """Rows and columns of the cells that points (C, 2), in ball radii, lie in."""
    cell = np.clip(np.floor((tangential + 1) / 2 * cells), 0, cells - 1).astype(int)
    return cell[:, 0], cell[:, 1]


def _slowly(s: _Scene, touched: Array) -> _Answer:
    """The same by definition, float64."""
    c = s.surfels.columns
    anchor, rotation = s.atlas.column("anchor"), s.atlas.column("rotation")
    scale = s.atlas.scale_of(np.arange(len(anchor)))
    radius = scale * _RADIUS / _SCALE
    fresh = np.ones((s.atlas.capacity, _CELLS))
    flags, covered = np.zeros(s.atlas.capacity, np.uint8), np.zeros(len(touched), np.uint8)
    for row, i in enumerate(touched):
        center = (c["key"][i] + 0.5) * _VOXEL
        n = c["normal"][i].astype(np.float64)
        length = np.linalg.norm(n)
        # No chart matters whose cell of the anchor grid is not the voxel's or one beside it.
        cells = np.floor(anchor / scale[:, None]) - np.floor(center / scale[:, None])
        beside = np.abs(cells).max(1) <= 1
        cosine = rotation[:, :, 2] @ n / length
        sees = np.flatnonzero(
            beside & (np.linalg.norm(anchor - center, axis=1) <= scale) & (cosine > _MIN_COS)
        )
        local = np.einsum("ck,ckj->cj", s.surfels.positions_m(np.array([i])) - anchor, rotation)
        a, b = _cell(local[sees, :2] / scale[sees, None], DIRTY_CELLS)
        fresh[sees, a * DIRTY_CELLS + b] += s.gained[i]
        flags[sees] = 1
        noise = np.minimum(3 * np.sqrt(c["count"][i] / max(float(c["weight"][i]), 1e-30)), 2 * radius)
        beyond = np.maximum(np.abs(local[:, 2]) - noise, 0)
        within = (local[:, :2] ** 2).sum(1) + beyond**2 <= radius**2
        covered[row] = (
            length * NORMAL_STEP <= 0.3
            or c["weight"][i] <= 0
            or (beside & (cosine >= _MIN_COS) & within).any()
        )
    return _Answer(fresh, flags, covered)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("half_m", "charts"), [(0.08, 5), (0.08, 400), (0.3, 200), (1.0, 300), (1.0, 0)])
def test_against_numpy(seed: int, mixed: bool, half_m: float, charts: int) -> None:
    """In random order: the charts listed about one cell of the grid may not serve in another.

    With charts of one level, and of all.
    """
    s = _scene(seed, half_m, charts, mixed=mixed)
    rng = np.random.default_rng(seed)
    touched = rng.permutation(900)[:700].astype(np.int64)
    fast, slow = _survey(s, touched), _slowly(s, touched)
    np.testing.assert_array_equal(fast.flags, slow.flags)
    np.testing.assert_array_equal(fast.covered, slow.covered)
    np.testing.assert_allclose(fast.fresh, slow.fresh, rtol=1e-5, atol=1e-3)
    if charts > 100:
        assert fast.flags.sum() > 0.5 * charts, "charts must be seen"
        assert 0.1 < fast.covered.mean(), "both answers must occur"
    assert fast.covered.min() == 0 or (mixed and half_m < 0.1)


@pytest.mark.parametrize("half_m", [0.08, 1.0])
def test_the_order_does_not_matter(half_m: float) -> None:
    """Cell by cell, as frames come, and shuffled: the same answers."""
    s = _scene(3, half_m, 300)
    cell = np.floor((s.surfels.columns["key"][:900] + 0.5) * _VOXEL / _SCALE)
    by_cell = np.lexsort(cell.T).astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(by_cell)
    answers = []
    for touched in (by_cell, shuffled):
        answer = _survey(s, touched)
        whole = np.empty(900, np.uint8)
        whole[touched] = answer.covered
        answers.append((answer.fresh, answer.flags, whole))
    np.testing.assert_allclose(answers[0][0], answers[1][0], rtol=1e-5, atol=1e-3)
    for one, other in zip(answers[0][1:], answers[1][1:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_touched() -> None:
    s = _scene(0, 0.3, 50)
    answer = _survey(s, np.zeros(0, np.int64))
    assert (answer.fresh == 1).all()
    assert not answer.flags.any()
    assert len(answer.covered) == 0


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("half_m", [0.08, 1.0])
def test_parts_make_the_whole(parts: int, half_m: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the surfels are shared out among threads, also where most see nothing: the same bits."""
    s = _scene(5, half_m, 300)
    touched = np.arange(900, dtype=np.int64)
    together = _survey(s, touched)

    def in_parts(work: Callable[[int, int], Any], count: int, least: int) -> list[Any]:
        edges = [count * k // parts for k in range(parts + 1)]
        return [work(edges[k], edges[k + 1]) for k in range(parts)]

    monkeypatch.setattr(survey, "in_parts", in_parts)
    apart = _survey(s, touched)
    for name in ("fresh", "flags", "covered"):
        np.testing.assert_array_equal(getattr(apart, name), getattr(together, name))
