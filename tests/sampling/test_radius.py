"""How large charts are: by bends, creases, borders, openings and the density of evidence."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.inside import snapshot_state, state_bytes
from streamdgp.config import ConsistencyConfig, FitConfig, SceneConfig
from streamdgp.errors import InvalidConfigError
from streamdgp.frames import DepthFrame, PointFrame
from streamdgp.levels import LEVELS, RATIOS, largest_level
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles
from tests.reference.mesh import area_normals
from tests.reference.shapes import Box, Plane, Shape, Sphere, depth_frame, look_at

_VOXEL = 0.01
_FIT = FitConfig(width=4, max_samples=64, transport_samples=16)


def _reconstructor(largest: float = 4.0, fit: FitConfig = _FIT) -> Reconstructor:
    return Reconstructor(
        SceneConfig(
            evidence_voxel_m=_VOXEL, anchor_radius_m=4 * _VOXEL, largest_radius_ratio=largest, fit=fit,
            consistency=ConsistencyConfig(sweeps=0),
        )
    )  # fmt: skip


def _charts(r: Reconstructor) -> tuple[np.ndarray, np.ndarray]:
    """Anchors (K, 3) and levels (K,)."""
    assert r._map is not None
    atlas = r._map.atlas
    return atlas.column("anchor").copy(), atlas.column("level").copy()


def _see(
    r: Reconstructor, shape: Shape, rng: np.random.Generator | None = None, height_m: float = 0.9
) -> None:
    pose = look_at((0.02, 0.01, 0.9), (0, 0, 0))
    r.integrate(depth_frame(shape, pose, width=160, height=120, focal=110.0, rng=rng))


@pytest.mark.parametrize(
    ("ratio", "level"), [(1.0, 0), (1.3, 0), (1.4, 1), (1.42, 1), (2.0, 2), (2.7, 2), (2.8, 3), (4.0, 4)]
)
def test_levels_are_steps_within_the_configured_bound(ratio: float, level: int) -> None:
    assert largest_level(ratio) == level
    assert RATIOS[0] == 1
    np.testing.assert_allclose(RATIOS[1:] / RATIOS[:-1], np.sqrt(2))
    assert len(RATIOS) == LEVELS


@pytest.mark.parametrize("ratio", [0.9, 4.1, float("nan")])
def test_a_bound_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(InvalidConfigError, match="largest_radius_ratio from 1 to 4"):
        SceneConfig(largest_radius_ratio=ratio)


@pytest.mark.parametrize(("largest", "level"), [(1.0, 0), (2.0, 2), (4.0, 4)])
def test_a_wall_takes_charts_as_large_as_allowed(largest: float, level: int) -> None:
    """Inside; along its border, and where that leaves no room, they are small."""
    r = _reconstructor(largest)
    _see(r, Plane((0, 0, 0.003), (0.02, 0.03, 1)), np.random.default_rng(0))
    anchor, levels = _charts(r)
    assert levels.max() == level
    reach_m = 1.6 * 4 * _VOXEL * RATIOS[levels]
    # The camera sees .49 by .65 m to each side; a cell of the ball's disk may stick out.
    inside = (np.abs(anchor[:, 0]) + 0.8 * reach_m < 0.52) & (np.abs(anchor[:, 1]) + 0.8 * reach_m < 0.69)
    assert inside[levels > 0].all()
    if level:
        area = (RATIOS[levels] ** 2)[(np.abs(anchor[:, :2]) < 0.3).all(1)]
        assert area[area > 1].sum() > 0.5 * area.sum()


def test_bent_surface_takes_smaller_charts() -> None:
    """A ball of radius s on a sphere of radius R bends by s / R: at most a quarter, up to noise."""
    found = []
    for radius in (0.15, 0.5):
        r = _reconstructor()
        _see(r, Sphere((0, 0, -radius), radius))
        found.append(_charts(r)[1].max())
    # s = .064, .091, .128, .181, .256 m; .091 / .5 = .18, .128 / .5 = .256.
    assert found == [0, 1]


def test_charts_keep_off_creases() -> None:
    """No large chart's ball reaches over the edge of a box by more than a cell of its disk."""
    r = _reconstructor()
    _see(r, Box((-0.35, -0.3, -0.3), (0.35, 0.3, 0.0)), np.random.default_rng(1))
    anchor, levels = _charts(r)
    top = (np.abs(anchor[:, 2]) < 0.01) & (levels > 0)
    assert top.sum() > 3
    reach_m = 1.6 * 4 * _VOXEL * RATIOS[levels[top]]
    over = np.maximum(np.abs(anchor[top, 0]) + reach_m - 0.35, np.abs(anchor[top, 1]) + reach_m - 0.3)
    assert (over <= 2 * reach_m / 8 + _VOXEL).all()


def test_a_crease_that_noise_hid_makes_charts_smaller() -> None:
    """A crease of 16 degrees within the noise of a view: large charts at first, small ones in the end."""
    slope = np.tan(np.deg2rad(8.0))

    def frame(seed: int, sigma_m: float) -> PointFrame:
        rng = np.random.default_rng(seed)
        xy = rng.uniform(-0.5, 0.5, (40000, 2))
        z = -slope * np.abs(xy[:, 0]) + rng.normal(0, sigma_m, len(xy))
        normals = np.stack([slope * np.sign(xy[:, 0]), 0 * z, 1 + 0 * z], 1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        points = np.column_stack([xy, z]).astype(np.float32)
        return PointFrame(points, np.eye(4), has_origin=False, normals=normals.astype(np.float32))

    def near_crease(r: Reconstructor) -> float:
        """The mean radius of the charts whose balls it crosses."""
        anchor, levels = _charts(r)
        crossed = (np.abs(anchor[:, 0]) < 0.05) & (np.abs(anchor[:, 1]) < 0.35)
        return float(RATIOS[levels[crossed]].mean())

    r = _reconstructor()
    r.integrate(frame(0, 0.02))
    first = near_crease(r)
    for seed in range(1, 30):
        r.integrate(frame(seed, 0.02))
    assert first > 1.5
    assert near_crease(r) < 1.2


def test_what_a_smaller_chart_uncovers_gets_anchors_at_once() -> None:
    """Also where the frame that showed the crease has seen nothing."""
    rng = np.random.default_rng(3)
    slope = np.tan(np.deg2rad(20.0))

    def frame(xy: np.ndarray, z: np.ndarray) -> PointFrame:
        normals = np.tile(np.float32([0, 0, 1]), (len(xy), 1))
        return PointFrame(
            np.column_stack([xy, z]).astype(np.float32), np.eye(4), has_origin=False, normals=normals
        )

    r = _reconstructor()
    flat = rng.uniform(-0.5, 0.5, (40000, 2))
    r.integrate(frame(flat, np.zeros(len(flat))))
    before, levels = _charts(r)
    assert levels.max() == 4
    # A ridge along x = 0 rises within a strip.
    strip = np.column_stack([rng.uniform(-0.04, 0.04, 40000), rng.uniform(-0.5, 0.5, 40000)])
    for _ in range(4):
        r.integrate(frame(strip, slope * (0.04 - np.abs(strip[:, 0]))))
    anchor, after = _charts(r)
    shrunk = np.flatnonzero(after[: len(before)] < levels)
    assert len(shrunk)
    for chart in shrunk:
        beside = flat[np.linalg.norm(flat - before[chart, :2], axis=1) < 4 * _VOXEL * RATIOS[levels[chart]]]
        beside = beside[np.abs(beside[:, 0]) > 0.1]
        gap = np.linalg.norm(beside[:, None] - anchor[None, :, :2], axis=2)
        assert (gap < 1.3 * 4 * _VOXEL * RATIOS[after]).any(1).all()


def test_votes_stay_where_they_are_when_a_chart_becomes_smaller() -> None:
    """Half of the chart was passed through: the same half of the smaller one, cell by cell."""
    r = _reconstructor()
    _see(r, Plane((0, 0, 0.003), (0.02, 0.03, 1)), np.random.default_rng(0))
    assert r._map is not None
    atlas = r._map.atlas
    chart = np.flatnonzero(atlas.column("level") == 4)[:1]
    hits, passes = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)
    hits[:6], passes[6:] = 7, 5
    hits[0] = 9
    atlas.columns["hits"][chart], atlas.columns["passes"][chart] = hits, passes
    atlas.shrink(chart, np.array([2], np.uint8))
    # Half the radius: the middle 8 of 16 cells, each over two; the border of 6 is where it was.
    assert (atlas.columns["hits"][chart[0], :4] == 7).all()
    assert (atlas.columns["passes"][chart[0], 4:] == 5).all()
    assert (atlas.columns["passes"][chart[0], :4] == 0).all()
    assert atlas.columns["level"][chart[0]] == 2
    assert atlas.scale_of(chart)[0] == pytest.approx(1.6 * 4 * _VOXEL * 2)
    assert not atlas.columns["fits"][chart].any()


def test_the_anchor_grid_finds_every_chart_after_many_changes_of_size() -> None:
    """Each chart once, under its level and cell, and no more cells than there is room for."""
    r = _reconstructor()
    _see(r, Plane((0, 0, 0.003), (0.02, 0.03, 1)), np.random.default_rng(0))
    assert r._map is not None
    atlas = r._map.atlas
    rng = np.random.default_rng(1)
    for _ in range(60):
        large = np.flatnonzero(atlas.column("level") > 0)
        if not len(large):
            atlas.columns["level"][: len(atlas)] = rng.integers(0, LEVELS, len(atlas))
            atlas._fill_grid()
            large = np.flatnonzero(atlas.column("level") > 0)
        some = rng.permutation(large)[:20]
        atlas.shrink(some, (atlas.columns["level"][some] - 1).astype(np.uint8))
        _, keys, head, following, counters = atlas.grid
        assert counters[0] <= len(keys)
        found = []
        for cell in range(int(counters[0])):
            c = int(head[cell])
            while c >= 0:
                level = int(atlas.columns["level"][c])
                at = np.floor(atlas.columns["anchor"][c] / atlas.scales_m[level])
                assert keys[cell].tolist() == [at[0], at[1], at[2] * LEVELS + level]
                found.append(c)
                c = int(following[c])
        assert sorted(found) == list(range(len(atlas)))
        assert counters[1:].tolist() == np.bincount(atlas.column("level"), minlength=LEVELS).tolist()


def test_a_window_that_opens_before_a_near_camera_is_open() -> None:
    """Large charts also are asked from near by, and become small where something opens in them."""
    wall = Plane((0, 0, 0.003), (0, 0, 1))

    def view(height_m: float, seed: int, *, is_open: bool) -> DepthFrame:
        rng = np.random.default_rng(seed)
        pose = look_at((0.02, 0.01, height_m), (0, 0, 0))
        made = depth_frame(wall, pose, width=160, height=120, focal=110.0, rng=rng)
        rows, columns = np.mgrid[:120, :160]
        ray = np.stack([(columns - 79.5) / 110, (rows - 59.5) / 110, np.ones(rows.shape)], -1)
        point = made.depth_m[..., None] * ray @ pose[:3, :3].T + pose[:3, 3]
        depth_m = made.depth_m.copy()
        if is_open:
            depth_m[(np.abs(point[..., :2]) < 0.12).all(-1)] += 1.5
        return DepthFrame(depth_m, made.intrinsics, made.world_T_sensor)

    r = _reconstructor(fit=FitConfig())
    r.integrate(view(0.9, 0, is_open=False))
    assert _charts(r)[1].max() == 4
    for k in range(1, 5):
        r.integrate(view(0.45, k, is_open=True))
    vertices = weld_tiles(r.surface().tiles()).vertices
    near = vertices[np.abs(vertices[:, 2]) < 0.05]
    assert not (np.abs(near[:, :2]) < 0.09).all(1).any()
    assert (np.abs(near[:, :2]) < 0.25).all(1).sum() > 500


def test_sparse_evidence_takes_larger_charts() -> None:
    """Points five voxels apart, as far returns of a LiDAR are, on a wall: few charts, whole surface."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(-0.6, 0.6, 0.05), np.arange(-0.6, 0.6, 0.02), indexing="ij")
    points = np.column_stack([x.ravel(), y.ravel(), rng.normal(0, 0.002, x.size)]).astype(np.float32)
    normals = np.tile(np.float32([0, 0, 1]), (len(points), 1))
    counts = []
    for largest in (1.0, 4.0):
        r = _reconstructor(largest, FitConfig())
        r.integrate(PointFrame(points, np.eye(4), has_origin=False, normals=normals))
        counts.append(r.chart_count)
        _, _, area = area_normals(weld_tiles(r.surface().tiles()))
        if largest > 1:
            assert area.sum() > 0.9 * 1.2 * 1.2
    assert counts[1] < 0.4 * counts[0]


def test_charts_of_all_sizes_survive_a_restart_to_the_bit() -> None:
    shape = Plane((0, 0, 0.003), (0.02, 0.03, 1))
    frames = [
        depth_frame(shape, look_at((0.05 * k, 0.01, 0.9), (0.05 * k, 0, 0)), rng=np.random.default_rng(k))
        for k in range(6)
    ]
    whole, first = _reconstructor(), _reconstructor()
    for frame in frames:
        whole.integrate(frame)
    for frame in frames[:3]:
        first.integrate(frame)
    again = Reconstructor.restore(snapshot_state(first))
    for frame in frames[3:]:
        again.integrate(frame)
    assert len(np.unique(_charts(whole)[1])) > 1
    assert state_bytes(snapshot_state(again)) == state_bytes(snapshot_state(whole))
