"""The consistency step: charts agree where they overlap, and the surface is no worse for it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch

import streamdgp.reconstructor
from streamdgp.atlas.atlas import Atlas
from streamdgp.config import ConsistencyConfig, SceneConfig
from streamdgp.consistency.sweep import (
    _REACH,
    _TOLERANCE,
    consistency_samples,
    make_consistent,
    neighbour_predictions,
    seam_distances_m,
)
from streamdgp.fitting.batches import BATCH
from streamdgp.fitting.types import Regime
from streamdgp.frames import Frame
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles
from tests.reference.scans import SHAPES, SIGMA_M, VOXEL_M, scan_frames
from tests.reference.seams import chart_points, overlap_targets, seams_m
from tests.reference.shapes import Saddle, Shape, depth_frame, look_at


@dataclass(frozen=True)
class Before:
    """The state in which the last frame's consistency step found the atlas."""

    atlas: Atlas
    regime: Regime
    dirty: npt.NDArray[np.int64]

    def swept(self, sweeps: int, weight: float = 1.0) -> Atlas:
        """A copy of the atlas after so many sweeps."""
        atlas = copy.deepcopy(self.atlas)
        make_consistent(atlas, self.regime, self.dirty, ConsistencyConfig(sweeps=sweeps, weight=weight))
        return atlas


def _capture(frames: list[Frame], largest_radius_ratio: float = 4.0) -> Before:
    taken: list[tuple[Atlas, Regime, npt.NDArray[np.int64]]] = []

    def keep(atlas: Atlas, regime: Regime, dirty: npt.NDArray[np.int64], config: ConsistencyConfig) -> None:
        taken.append((copy.deepcopy(atlas), regime, dirty.copy()))
        make_consistent(atlas, regime, dirty, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamdgp.reconstructor, "make_consistent", keep)
        config = SceneConfig(
            evidence_voxel_m=VOXEL_M, resolution_m=VOXEL_M, largest_radius_ratio=largest_radius_ratio
        )
        r = Reconstructor(config)
        for frame in frames:
            r.integrate(frame)
    return Before(*taken[-1])


def _step_frames(shape: Shape, shift_m: float = 0.0) -> list[Frame]:
    """Many views of one side, then one view that adds the other side (optionally displaced along z)."""
    rng = np.random.default_rng(3)
    poses = [look_at((-0.25 + 0.03 * k, 0.02 * k, 0.6), (-0.2, 0, 0)) for k in range(4)]
    frames: list[Frame] = [depth_frame(shape, p, width=96, height=72, focal=110.0, rng=rng) for p in poses]
    last = look_at((0.2, 0.03, 0.6), (0.17, 0, 0))
    frame = depth_frame(shape, last, width=96, height=72, focal=110.0, rng=rng)
    moved = frame.world_T_sensor.copy()
    moved[2, 3] += shift_m
    return [*frames, type(frame)(frame.depth_m, frame.intrinsics, moved)]


@pytest.fixture(scope="module")
def first_fit() -> Before:
    """All charts of a noisy saddle, of one size, new at once: one frame."""
    pose = look_at((0.1, 0.05, 0.7), (0, 0, 0))
    rng = np.random.default_rng(0)
    frame = depth_frame(Saddle(2.0, 0.35), pose, width=120, height=90, focal=120.0, rng=rng)
    return _capture([frame], largest_radius_ratio=1.0)


@pytest.fixture(scope="module")
def step() -> Before:
    return _capture(_step_frames(Saddle(2.0, 0.45)), largest_radius_ratio=1.0)


@pytest.fixture(scope="module")
def mixed_step() -> Before:
    """Charts of several sizes."""
    return _capture(_step_frames(Saddle(2.0, 0.45)))


def _interior_error_m(atlas: Atlas, shape: Shape) -> float:
    """Mean distance of the charts' backed, central raster nodes to the true surface."""
    positions = np.concatenate([c.positions[c.backed & c.central] for c in chart_points(atlas)])
    return float(shape.distance(positions).mean())


def _all(atlas: Atlas) -> npt.NDArray[np.int64]:
    return np.arange(len(atlas))


def _reported_seam_m(before: Before, atlas: Atlas) -> float:
    """Mean distance of the dirty charts to their neighbours at the samples, as benchmarks print it."""
    return float(seam_distances_m(atlas, before.regime, before.dirty).mean())


def _assert_seams_nearly_halve(before: Before, plain: Atlas, swept: Atlas) -> None:
    """A fifth of the samples lie at the rim, where a chart hardly counts and is hardly fitted."""
    without, with_step = _reported_seam_m(before, plain), _reported_seam_m(before, swept)
    assert with_step < 0.52 * without, f"seams {1e3 * without:.4f} -> {1e3 * with_step:.4f} mm"


def _by_default(before: Before) -> Atlas:
    config = ConsistencyConfig()
    return before.swept(config.sweeps, config.weight)


def test_seams_between_new_charts_nearly_halve_and_the_error_does_not_rise(first_fit: Before) -> None:
    shape = Saddle(2.0, 0.35)
    plain, swept = first_fit.swept(0), _by_default(first_fit)
    _assert_seams_nearly_halve(first_fit, plain, swept)
    # Also between the samples, where nothing was asked to agree.
    everywhere = [seams_m(chart_points(a), _all(a), _all(a)).mean() for a in (plain, swept)]
    assert everywhere[1] < 0.6 * everywhere[0]
    assert _interior_error_m(swept, shape) < _interior_error_m(plain, shape)


@pytest.mark.parametrize("shift_m", [0.0, 0.002])
def test_seams_between_old_and_new_charts_nearly_halve(shift_m: float) -> None:
    """Old charts are boundary values: the new ones come to them, also when the last pose is 2 mm off."""
    shape = Saddle(2.0, 0.45)
    before = _capture(_step_frames(shape, shift_m))
    plain, swept = before.swept(0), _by_default(before)
    old = np.setdiff1d(_all(plain), before.dirty)
    assert len(old) > 20
    assert len(before.dirty) > 20
    _assert_seams_nearly_halve(before, plain, swept)
    everywhere = [seams_m(chart_points(a), before.dirty, old).mean() for a in (plain, swept)]
    assert everywhere[1] < 0.85 * everywhere[0]
    if not shift_m:
        assert _interior_error_m(swept, shape) < _interior_error_m(plain, shape)


def test_stored_neighbours_keep_their_bits(step: Before) -> None:
    swept = step.swept(2)
    old = np.setdiff1d(_all(swept), step.dirty)
    assert len(old) > 20
    for chart in old:
        assert (
            swept.columns["parameters"][chart].tobytes() == step.atlas.columns["parameters"][chart].tobytes()
        )
        assert np.asarray(swept.rasters[chart]).tobytes() == np.asarray(step.atlas.rasters[chart]).tobytes()
    for name in swept.columns:
        if name != "parameters":
            assert swept.column(name).tobytes() == step.atlas.column(name).tobytes(), name
    moved = sum(
        swept.columns["parameters"][c].tobytes() != step.atlas.columns["parameters"][c].tobytes()
        for c in step.dirty
    )
    assert moved > 0.95 * len(step.dirty)


def _own(before: Before, atlas: Atlas) -> npt.NDArray[np.float32]:
    """The dirty charts' own points at the shared samples, chart units."""
    parameters = torch.from_numpy(atlas.parameters(before.dirty))
    own: npt.NDArray[np.float32] = before.regime.evaluate(parameters, consistency_samples()).numpy()
    return own


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("mu", [1e-3, 0.3, 1.0])
def test_targets_agree_with_the_slow_reference(
    mixed_step: Before, step: Before, mu: float, is_mixed: bool
) -> None:
    """Own points and neighbours' predictions combined sample by sample, also of charts of other sizes."""
    step = mixed_step if is_mixed else step
    atlas = step.atlas
    assert (len(np.unique(atlas.column("level")[step.dirty])) > 1) == is_mixed
    rows = np.arange(0, len(step.dirty), 5 if is_mixed else 9)
    own = _own(step, atlas)[rows]
    targets, overlap = neighbour_predictions(atlas, step.dirty[rows], own, mu)
    wrong = used = 0
    for k, chart in enumerate(step.dirty[rows]):
        want, share = overlap_targets(atlas, int(chart), own[k], mu, _REACH)
        valid = (share > 0) | (overlap[k] > 0)
        # Nearest node instead of Gauss-Newton foot: 1/128 of a radius tangentially; and on the border of a
        # neighbour's support the two may differ by that neighbour.
        close = np.isclose(overlap[k], share, atol=0.03) & (np.abs(targets[k] - want).max(1) < 0.008)
        wrong += int((~close & valid).sum())
        used += int(valid.sum())
        assert np.array_equal(targets[k][~valid], own[k][~valid])
    assert used > 500
    assert wrong < 0.02 * used


def test_samples_off_the_own_support_stay_where_they_are(step: Before) -> None:
    atlas = copy.deepcopy(step.atlas)
    row = int(np.argmax([np.asarray(atlas.supports[c]).sum() for c in step.dirty]))
    own = _own(step, atlas)[row : row + 1]
    chart = step.dirty[row : row + 1]
    _, whole = neighbour_predictions(atlas, chart, own, 1.0)
    support = np.asarray(atlas.supports[chart[0]]).copy()
    support[:8] = 0
    atlas.supports[chart[0]] = support
    targets, overlap = neighbour_predictions(atlas, chart, own, 1.0)
    # The mask is 16 cells wide and bilinear: half of it is left at u = 0.
    off = own[0, :, 0] < -1e-3
    assert (whole[0][off] > 0).sum() > 20, "these had neighbours"
    assert not overlap[0][off].any()
    assert np.array_equal(targets[0][off], own[0][off])
    assert (overlap[0][own[0, :, 0] > 1 / 16] > 0).sum() > 20


def test_a_neighbour_that_waits_for_its_refit_counts_for_less(step: Before) -> None:
    """Half of today's evidence seen: (1/2)^3 of its weight, so overlap odds fall by 8."""
    row = len(step.dirty) // 2
    chart, own = step.dirty[row : row + 1], _own(step, step.atlas)[row : row + 1]
    odds = []
    for fresh in (0.0, 1.0):
        atlas = copy.deepcopy(step.atlas)
        others = np.setdiff1d(_all(atlas), chart)
        atlas.columns["fresh_mass"][others] = fresh * atlas.columns["fit_mass"][others]
        share = neighbour_predictions(atlas, chart, own, 1.0)[1].astype(np.float64)
        odds.append(share / (1 - share))
    # Odds of a thousand to one leave single precision three digits.
    used = (odds[0] > 1e-3) & (odds[0] < 1e3)
    assert used.sum() > 30
    np.testing.assert_allclose(odds[1][used], odds[0][used] / 8, rtol=1e-3)


def test_a_block_reaches_its_consensus(step: Before) -> None:
    """Charts solved one at a time: what is left of the distance to the targets is a small part of it."""
    weight = ConsistencyConfig().weight
    left = []
    for row in range(0, len(step.dirty), 4):
        alone = Before(step.atlas, step.regime, step.dirty[row : row + 1])
        own = _own(alone, step.atlas)
        targets, overlap = neighbour_predictions(step.atlas, alone.dirty, own, weight, _TOLERANCE)
        used = overlap > 0.2
        if used.sum() > 50:
            after = _own(alone, alone.swept(1, weight))
            gaps = [np.linalg.norm((p - targets)[used].astype(np.float64), axis=1) for p in (own, after)]
            left.append(float(np.sqrt((gaps[1] ** 2).mean() / (gaps[0] ** 2).mean())))
    assert len(left) > 15, "charts must have neighbours"
    # What the features cannot follow is left.
    assert np.mean(left) < 0.6
    assert max(left) < 0.75


def test_sweeps_converge(step: Before) -> None:
    """Each sweep changes the charts less than the one before: the limit exists and is soon reached."""
    v = torch.from_numpy(np.random.default_rng(0).uniform(-0.6, 0.6, (200, 2)).astype(np.float32))
    charts = step.dirty
    surfaces = []
    for sweeps in (0, 1, 2, 3, 4):
        parameters = torch.from_numpy(step.swept(sweeps).parameters(charts))
        surfaces.append(step.regime.evaluate(parameters, v.expand(len(charts), -1, 2)))
    moved = [float((b - a).norm(dim=-1).mean()) for a, b in pairwise(surfaces)]
    assert moved[1] < 0.6 * moved[0]
    assert moved[2] < 0.8 * moved[1]
    assert moved[3] < 0.9 * moved[2]


def test_the_disagreement_falls(step: Before) -> None:
    """Squared distance between the dirty charts and what they should agree on, sweep by sweep."""

    def disagreement(atlas: Atlas) -> float:
        own = _own(step, atlas)
        targets, _ = neighbour_predictions(atlas, step.dirty, own, 1.0)
        return float(((own - targets).astype(np.float64) ** 2).sum())

    values = [disagreement(step.swept(k)) for k in (0, 1, 2, 3)]
    assert values[1] < 0.4 * values[0]
    # All blocks move at once: later sweeps find next to nothing left to agree on.
    assert max(values[2:]) < 1.1 * values[1]


def test_without_sweeps_or_weight_nothing_moves(step: Before) -> None:
    for config in (ConsistencyConfig(sweeps=0), ConsistencyConfig(weight=0.0)):
        atlas = copy.deepcopy(step.atlas)
        make_consistent(atlas, step.regime, step.dirty, config)
        assert atlas.column("parameters").tobytes() == step.atlas.column("parameters").tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("flush", [False, True])
def test_a_chart_comes_to_the_same_bits_in_any_company_and_under_any_settings(
    first_fit: Before, threads: int, flush: bool
) -> None:
    """All are solved from one state: alone, or in some company, a chart moves as it does with all others."""
    charts = first_fit.dirty
    assert len(charts) > 2 * BATCH
    whole = _by_default(first_fit)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)
    try:
        order = np.random.default_rng(0).permutation(charts)
        for some in (order, order[: BATCH + 9], order[:15], *(order[k : k + 1] for k in range(5))):
            swept = _by_default(Before(first_fit.atlas, first_fit.regime, some))
            assert swept.parameters(some).tobytes() == whole.parameters(some).tobytes()
            for chart in some:
                assert (
                    np.asarray(swept.rasters[chart]).tobytes() == np.asarray(whole.rasters[chart]).tobytes()
                )
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


def test_charts_of_opposite_sheets_do_not_attract_each_other() -> None:
    """On a 1 cm slab the neighbours' predictions come from the own sheet alone."""
    before = _capture(scan_frames("slab", True))
    atlas = before.atlas
    own = _own(before, atlas)
    targets, overlap = neighbour_predictions(atlas, before.dirty, own, 1.0)
    used = overlap > 0.01
    assert used.sum() > 100
    # The other sheet lies 10 mm below; a fifth of its pull would show as 2 mm.
    scale = np.broadcast_to(atlas.scale_of(before.dirty)[:, None], used.shape)
    pulled = (targets - own)[used][:, 2] * scale[used]
    assert np.quantile(np.abs(pulled), 0.99) < 1.5 * SIGMA_M
    assert abs(pulled.mean()) < 0.1 * SIGMA_M


def test_the_reported_seam_distance_is_the_true_one(first_fit: Before) -> None:
    """What benchmarks print agrees with the slow measure to a quarter (samples against raster nodes)."""
    ratios = []
    for sweeps in (0, 1):
        atlas = first_fit.swept(sweeps)
        reported = seam_distances_m(atlas, first_fit.regime, first_fit.dirty)
        assert len(reported) > 1000
        ratios.append(float(reported.mean() / seams_m(chart_points(atlas), _all(atlas), _all(atlas)).mean()))
    assert 0.8 < ratios[0] < 1.25
    assert 0.8 < ratios[1] / ratios[0] < 1.25


@pytest.mark.parametrize(("name", "limit"), [("plane", 1.03), ("saddle", 1.03), ("torus", 1.10)])
def test_the_mesh_is_no_worse_with_the_step(name: str, limit: float) -> None:
    """Whole runs with and without it, under noise.

    The torus' tube is 1.4 chart radii wide: there the charts' own approximation dominates, the blend
    averages it away, and charts that agree have less to average. That price must stay small.
    """
    errors = {}
    for consistency in (ConsistencyConfig(sweeps=0), ConsistencyConfig()):
        r = Reconstructor(
            SceneConfig(evidence_voxel_m=VOXEL_M, resolution_m=VOXEL_M, consistency=consistency)
        )
        for frame in scan_frames(name, True)[:6]:
            r.integrate(frame)
        mesh = weld_tiles(r.surface().tiles())
        errors[consistency.sweeps] = float(SHAPES[name].distance(mesh.vertices).mean())
    assert errors[ConsistencyConfig().sweeps] < limit * errors[0]
