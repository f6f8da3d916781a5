"""Only evidence of the anchor's sheet makes a chart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.config import ConsistencyConfig, FitConfig, SceneConfig
from streamdgp.evidence.sheets import ALL_CELLS, BRIDGED_CELLS, follow_sheet, sheet_scratch
from streamdgp.reconstructor import Reconstructor
from tests.reference.shapes import Box, Plane, Union, depth_frame, look_at

_SIDE, _LAYERS = 16, 9
_VOXEL_M, _STEP_M = 0.01, 0.04


def _follow(occupied: npt.NDArray[np.uint32]) -> tuple[bool, npt.NDArray[Any]]:
    allowed = np.full((_LAYERS, _SIDE), ALL_CELLS)
    scratch = sheet_scratch(_LAYERS, _SIDE)
    scratch[:] = ALL_CELLS
    is_mixed = follow_sheet(occupied, scratch, allowed)
    return is_mixed, allowed


def _bits(bins: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    return (bins.transpose(2, 0, 1) * (1 << np.arange(_SIDE))).sum(-1).astype(np.uint32)


def _slowly(bins: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Bins (16, 16, 9) that belong to the sheet: a walk over grown bins, one after another."""
    grown = {
        (i + a, j + b, layer)
        for i, j, layer in np.argwhere(bins)
        for a in range(-BRIDGED_CELLS, BRIDGED_CELLS + 1)
        for b in range(-BRIDGED_CELLS, BRIDGED_CELLS + 1)
    }
    open_ = [(i, j, k) for i, j, k in np.argwhere(bins) if 5 <= i <= 10 and 5 <= j <= 10 and 3 <= k <= 5]
    done = set(open_)
    while open_:
        i, j, layer = open_.pop()
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                for c in (-1, 0, 1):
                    other = (i + a, j + b, layer + c)
                    if other in grown and other not in done:
                        done.add(other)
                        open_.append(other)
    sheet = np.zeros_like(bins)
    for i, j, layer in done:
        if 0 <= i < _SIDE and 0 <= j < _SIDE:
            sheet[i, j, layer] = bins[i, j, layer]
    return sheet


@pytest.mark.parametrize(
    ("share", "least_mixed", "least_whole"), [(0.004, 10, 10), (0.01, 20, 10), (0.1, 0, 60)]
)
def test_against_a_slow_walk(share: float, least_mixed: int, least_whole: int) -> None:
    rng = np.random.default_rng(int(1e4 * share))
    mixed = 0
    for _ in range(60):
        bins = rng.uniform(size=(_SIDE, _SIDE, _LAYERS)) < share
        sheet = _slowly(bins)
        layers = np.flatnonzero(bins.any((0, 1)))
        is_whole = not sheet.any() or not len(layers) or np.ptp(layers) < 2
        is_mixed, allowed = _follow(_bits(bins))
        if is_whole or (sheet == bins).all():
            assert not is_mixed
            assert (allowed == ALL_CELLS).all()
            continue
        mixed += 1
        assert is_mixed
        np.testing.assert_array_equal(_bits(bins) & allowed, _bits(sheet))
    assert mixed >= least_mixed
    assert 60 - mixed >= least_whole


def test_a_fold_stays_whole() -> None:
    """A sheet that turns back over itself is one sheet: it is followed round the bend."""
    angle = np.linspace(-1.6, 1.6, 400)
    bins = np.zeros((_SIDE, _SIDE, _LAYERS), np.bool_)
    i = np.floor(8 + 6 * np.cos(angle) - 4).astype(int)
    layer = np.round(4 + 3.4 * np.sin(angle)).astype(int)
    for j in range(_SIDE):
        bins[i, j, layer] = True
    # Over most cells it lies twice.
    assert (bins.sum(-1) >= 2).sum() > 40
    assert not _follow(_bits(bins))[0]


def _step() -> Reconstructor:
    """A floor with a plate on it, seen from above: two sheets that face the same way."""
    shape = Union((Plane((0, 0, 0), (0, 0, 1)), Box((-0.12, -0.12, 0.0), (0.12, 0.12, _STEP_M))))
    r = Reconstructor(
        SceneConfig(
            evidence_voxel_m=_VOXEL_M,
            anchor_radius_m=4 * _VOXEL_M,
            fit=FitConfig(width=8, transport_samples=16),
            consistency=ConsistencyConfig(sweeps=0),
        )
    )
    rng = np.random.default_rng(0)
    for k in range(6):
        pose = look_at((0.01 * np.sin(k), 0.01 * np.cos(k), 1.2), (0, 0, 0))
        r.integrate(depth_frame(shape, pose, width=160, height=120, focal=150.0, rng=rng))
    return r


def test_a_chart_beside_a_step_takes_one_side_of_it() -> None:
    r = _step()
    m = r._map
    assert m is not None
    charts = np.arange(r.chart_count)
    patches = r._gather(m, charts)
    anchor, scales = m.atlas.column("anchor"), m.atlas.scale_of(charts)
    positions = m.evidence.positions_m(np.arange(len(m.evidence)))
    beside, both = 0, 0
    for chart in charts:
        height_m = anchor[chart, 2]
        is_floor = abs(height_m) < 0.005
        if not is_floor and abs(height_m - _STEP_M) > 0.005:
            continue
        scale = scales[chart]
        near = np.linalg.norm(positions - anchor[chart], axis=1) < 0.8 * scale
        other = np.abs(positions[near, 2] - (_STEP_M if is_floor else 0.0)) < 0.005
        if other.sum() <= 10:
            continue
        beside += 1
        rows = patches.points[chart][patches.weights[chart] > 0]
        world = anchor[chart] + scale * rows @ m.atlas.column("rotation")[chart].T
        both += bool((np.abs(world[:, 2] - (0.0 if is_floor else _STEP_M)) > 0.6 * _STEP_M).any())
    # There are many charts whose balls hold both; a stray surfel on the edge may still join the two.
    assert beside > 10
    assert both <= 0.1 * beside


def test_what_is_left_out_still_counts_as_seen() -> None:
    """The dirty rule counts every surfel of the ball; what it compares with must do so too."""
    r = _step()
    m = r._map
    assert m is not None
    patches = r._gather(m, np.arange(r.chart_count))
    heavier = patches.mass.sum(1) * m.atlas.scale_of(
        np.arange(r.chart_count)
    ) ** 2 > 1.05 * patches.weights.sum(1)
    assert heavier.sum() > 10
