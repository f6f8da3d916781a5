"""Free space: what rays pass through loses its evidence, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

import streamdgp.parts
from benchmarks.inside import snapshot_state, state_bytes
from streamdgp.config import EvidenceConfig, SceneConfig
from streamdgp.frames import DepthFrame, Frame, Intrinsics
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import Mesh, weld_tiles
from tests.reference.scans import VOXEL_M, scan, scan_frames
from tests.reference.shapes import (
    Box,
    Plane,
    Shape,
    Union,
    depth_frame,
    look_at,
    range_frame,
    scattered_lidar,
)

_CAMERA = Intrinsics(110.0, 110.0, 47.5, 35.5)
_WALL_M, _BOX_M, _HALF_M = 1.2, 0.9, 0.12
_CONFIG = SceneConfig(evidence_voxel_m=0.01, resolution_m=0.01, evidence=EvidenceConfig(free_space=True))


def _frame(k: int, *, has_box: bool, phantoms: int = 0, rng: np.random.Generator) -> DepthFrame:
    """A wall at z = 0 seen from z = 1.2 by a camera that moves sideways, a box of front z = 0.3 before it."""
    pose = look_at((0.02 * np.sin(k), 0.02 * np.cos(k), _WALL_M), (0.0, 0.0, 0.0))
    v, u = np.mgrid[0:72, 0:96].astype(np.float64)
    rays = np.stack([(u - _CAMERA.cx) / _CAMERA.fx, (v - _CAMERA.cy) / _CAMERA.fy, np.ones_like(u)], -1)
    world = rays @ pose[:3, :3].T
    depth = -pose[2, 3] / world[..., 2]
    front = (_WALL_M - _BOX_M - pose[2, 3]) / world[..., 2]
    hit = pose[:3, 3] + front[..., None] * world
    if has_box:
        depth = np.where((np.abs(hit[..., :2]) < _HALF_M).all(-1), front, depth)
    depth = depth + rng.normal(size=depth.shape) * (0.0012 + 0.0019 * (depth - 0.4) ** 2)
    for _ in range(phantoms):
        # As large as a window of the normals, or it would not become evidence at all.
        i, j = rng.integers(0, 72 - 9), rng.integers(0, 96 - 9)
        depth[i : i + 9, j : j + 9] = rng.uniform(0.5, 0.8)
    return DepthFrame(depth.astype(np.float32), _CAMERA, pose)


def _run(count: int, box_until: int, *, is_on: bool = True, phantoms_until: int = 0) -> Reconstructor:
    rng = np.random.default_rng(0)
    config = SceneConfig(evidence_voxel_m=0.01, resolution_m=0.01, evidence=EvidenceConfig(free_space=is_on))
    r = Reconstructor(config)
    for k in range(count):
        r.integrate(_frame(k, has_box=k < box_until, phantoms=2 if k < phantoms_until else 0, rng=rng))
    return r


def _vertices(r: Reconstructor) -> npt.NDArray[np.float64]:
    return np.asarray(weld_tiles(r.surface().tiles()).vertices, np.float64)


def _in_front(points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return points[:, 2] > 0.05


def test_a_box_that_was_taken_away_is_gone_after_thirty_frames() -> None:
    before = _vertices(_run(30, 30))
    front = before[(np.abs(before[:, 2] - (_WALL_M - _BOX_M)) < 0.02)]
    assert len(front) > 300, "the box must have been there"
    after = _vertices(_run(60, 30))
    assert not _in_front(after).any()
    # Where it stood the wall is whole now.
    behind = after[(np.abs(after[:, :2]) < 0.1).all(1)]
    grid = np.round(behind[:, :2] / 0.02).astype(int)
    assert len(np.unique(grid, axis=0)) >= 100
    assert np.abs(behind[:, 2]).mean() < 0.003


def test_a_box_that_stood_for_sixty_frames_is_gone_after_thirty() -> None:
    assert not _in_front(_vertices(_run(90, 60))).any()


def _comes_back(away: int, *, is_still: bool) -> npt.NDArray[np.float64]:
    """How far vertices about a box's front are off it: it stood, was away, is back for thirty frames."""
    rng = np.random.default_rng(0)
    r = Reconstructor(_CONFIG)
    for k in range(8 + away + 30):
        r.integrate(_frame(0 if is_still else k, has_box=not 8 <= k < 8 + away, rng=rng))
    off_m = np.abs(_vertices(r)[:, 2] - (_WALL_M - _BOX_M))
    return np.asarray(off_m[off_m < 0.02])


def test_what_comes_into_space_that_was_free_for_long_shows_after_thirty_frames() -> None:
    """Nothing ever stood there: the whole front, as if the space had not been seen before."""
    rng = np.random.default_rng(0)
    r = Reconstructor(_CONFIG)
    for k in range(130):
        r.integrate(_frame(k, has_box=k >= 100, rng=rng))
    vertices = _vertices(r)
    assert (np.abs(vertices[:, 2] - (_WALL_M - _BOX_M)) < 0.02).sum() > 400


@pytest.mark.parametrize(
    "away",
    [40, 41, 42, 43, 150],
)
@pytest.mark.parametrize("is_still", [False, True])
def test_what_comes_back_after_a_while_shows_after_thirty_frames(away: int, is_still: bool) -> None:
    """Before a camera that sways, and before one that stands still, whose looks are few."""
    off_m = _comes_back(away, is_still=is_still)
    assert len(off_m) > 600
    # Its charts had lost everything: they start anew, and not from what a fit to nothing left.
    assert np.median(off_m) < 0.001


def test_without_free_space_the_box_stays() -> None:
    assert _in_front(_vertices(_run(60, 30, is_on=False))).any()


def test_phantoms_of_single_frames_disappear() -> None:
    noisy = _run(4, 0, phantoms_until=4)
    position = noisy._map.evidence.positions_m(np.arange(noisy.surfel_count))  # type: ignore[union-attr]
    assert _in_front(position).sum() > 30
    cleaned = _run(12, 0, phantoms_until=4)
    evidence = cleaned._map.evidence  # type: ignore[union-attr]
    alive = evidence.column("weight") > 0
    position = evidence.positions_m(np.flatnonzero(alive))
    assert not _in_front(position).any()


def test_a_scene_at_rest_loses_nothing() -> None:
    """Noise alone takes no evidence away: wall and box keep every observation they would have had."""
    on, off = _run(20, 20), _run(20, 20, is_on=False)
    counts = [r._map.evidence.column("count").sum() for r in (on, off)]  # type: ignore[union-attr]
    assert counts[0] >= 0.999 * counts[1]
    assert (on._map.evidence.column("weight") > 0).mean() > 0.999  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["sphere", "torus"])
def test_a_closed_surface_without_noise_loses_nothing(name: str) -> None:
    """No ray passes through it: every observation stays, and every cell that was surface still is."""
    config = SceneConfig(
        evidence_voxel_m=VOXEL_M, resolution_m=VOXEL_M, evidence=EvidenceConfig(free_space=False)
    )
    off = Reconstructor(config)
    for frame in scan_frames(name, False):
        off.integrate(frame)
    maps = [r._map for r in (scan(name, False).reconstructor, off)]
    assert maps[0] is not None
    assert maps[1] is not None
    for column in ("count", "weight", "streak"):
        one, other = (m.evidence.column(column) for m in maps)
        np.testing.assert_array_equal(one, other)
    assert not maps[0].evidence.column("streak").any()
    assert maps[0].evidence.passes.any(), "there is free space about it"
    shown, whole = (m.atlas.column("support") for m in maps)
    assert (shown[whole > 0] > 0).all()
    # Charts bend away from the surface a little at their rims: 141 of 51665 cells of the torus.
    assert (shown[whole > 0] == 255).mean() > 0.995


_PLATE = Union((Box((-0.25, -0.2, 0.29), (-0.015, 0.2, 0.3)), Box((0.015, -0.2, 0.29), (0.25, 0.2, 0.3))))


def _first_height(mesh: Mesh, x: float) -> npt.NDArray[np.float64]:
    """The height that rays straight down along the line x hit first; -1 where they hit nothing."""
    corners = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.triangles)]
    heights = []
    for y in np.linspace(-0.12, 0.12, 49):
        edge = np.roll(corners, -1, 1)[..., :2] - corners[..., :2]
        to = np.array([x, y]) - corners[..., :2]
        side = edge[..., 0] * to[..., 1] - edge[..., 1] * to[..., 0]
        hit = (side >= 0).all(1) | (side <= 0).all(1)
        heights.append(corners[hit].mean(1)[:, 2].max(initial=-1.0))
    return np.array(heights)


def _slot(first: int, *, is_on: bool = True) -> tuple[float, float]:
    """A plate with a slit of three voxels, first seen without anything behind it, then before a wall.

    Returns the shares of rays through the slit that it lets pass: after those first frames, at the end.
    """
    rng = np.random.default_rng(0)
    config = SceneConfig(evidence_voxel_m=0.01, resolution_m=0.01, evidence=EvidenceConfig(free_space=is_on))
    r = Reconstructor(config)

    def see(shape: Shape, count: int) -> Mesh:
        for k in range(count):
            pose = look_at((0.06 * np.sin(k), 0.06 * np.cos(k), 1.1), (0, 0, 0))
            r.integrate(depth_frame(shape, pose, width=128, height=96, focal=128.0, rng=rng))
        return weld_tiles(r.surface().tiles())

    def openness(mesh: Mesh) -> float:
        return float(np.mean([np.abs(_first_height(mesh, x)) < 0.02 for x in (-0.005, 0.0, 0.005)]))

    before = see(_PLATE, first)
    closed = float(np.mean(_first_height(before, 0.0) > 0.2)) if first else 0.0
    after = see(Union((_PLATE, Plane((0, 0, 0), (0, 0, 1)))), 16)
    for x in (-0.1, 0.1):
        assert (np.abs(_first_height(after, x) - 0.3) < 0.02).all(), "the plate is whole beside the slit"
    return 1 - closed, openness(after)


def test_a_slit_of_three_voxels_stays_open() -> None:
    assert _slot(0)[1] > 0.9


def test_a_slit_that_a_first_view_closed_opens() -> None:
    """Without a wall behind, support is closed over the slit; rays to the wall open it again."""
    before, after = _slot(3)
    assert before < 0.1
    assert after > 0.9
    assert _slot(3, is_on=False)[1] < 0.7, "it is free space that opens it"


@pytest.mark.parametrize("scanner", [range_frame, scattered_lidar])
def test_a_box_before_a_lidar_is_gone_after_thirty_frames(scanner: Callable[..., Frame]) -> None:
    room, box = Box((-3, -3, -1.2), (3, 3, 1.4)), Box((1.2, -0.4, -1.2), (1.8, 0.4, 0.0))
    rng = np.random.default_rng(0)
    r = Reconstructor(SceneConfig(evidence_voxel_m=0.07, resolution_m=0.07))

    def box_vertices() -> int:
        near = np.abs(_vertices(r) - (1.5, 0.0, -0.4))
        return int((near < (0.45, 0.55, 0.55)).all(1).sum())

    for k in range(40):
        pose = np.eye(4)
        pose[:2, 3] = 0.15 * np.sin(0.7 * k), 0.15 * np.cos(0.9 * k)
        shape = Union((room, box)) if k < 10 else room
        r.integrate(
            scanner(shape, pose, beams=32, columns=300, low_deg=-30, high_deg=25, sigma_m=0.01, rng=rng)
        )
        if k == 9:
            assert box_vertices() > 60, "the box must have been there"
    assert box_vertices() == 0
    wall = _vertices(r)
    behind = wall[(np.abs(wall[:, 1]) < 0.6) & (np.abs(wall[:, 2] + 0.3) < 0.5) & (wall[:, 0] > 0)]
    assert np.abs(behind[:, 0] - 3).max() < 0.05, "the wall behind it is whole"
    assert len(behind) > 100


@pytest.mark.parametrize(("cores", "parts_per_core"), [(1, 1), (3, 7)])
def test_the_number_of_parts_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, cores: int, parts_per_core: int
) -> None:
    want = state_bytes(snapshot_state(_run(12, 6)))
    monkeypatch.setattr(streamdgp.parts, "cores", lambda: cores)
    monkeypatch.setattr(streamdgp.parts, "_PARTS_PER_CORE", parts_per_core)
    edges = streamdgp.parts.in_parts(lambda begin, end: (begin, end), 100)
    assert len(edges) == cores * parts_per_core
    assert state_bytes(snapshot_state(_run(12, 6))) == want


def test_without_free_space_nothing_is_counted() -> None:
    off, on = (_run(12, 6, is_on=is_on)._map for is_on in (False, True))
    assert off is not None
    assert on is not None
    for m, counts in ((off, False), (on, True)):
        assert m.evidence.passes.any() == counts
        assert m.evidence.column("streak").any() == counts
        assert m.atlas.column("passes").any() == counts
    assert off.atlas.column("hits").any()


def test_what_was_carved_is_the_same_after_a_restart() -> None:
    rng = np.random.default_rng(0)
    frames = [_frame(k, has_box=k < 6, rng=rng) for k in range(14)]
    whole = Reconstructor(_CONFIG)
    for frame in frames:
        whole.integrate(frame)
    first = Reconstructor(_CONFIG)
    for frame in frames[:9]:
        first.integrate(frame)
    again = Reconstructor.restore(snapshot_state(first))
    for frame in frames[9:]:
        again.integrate(frame)
    assert state_bytes(snapshot_state(again)) == state_bytes(snapshot_state(whole))


@pytest.mark.parametrize("value", [1, "yes", None])
def test_the_setting_is_a_truth_value(value: object) -> None:
    from streamdgp.errors import InvalidConfigError

    with pytest.raises(InvalidConfigError, match="free_space"):
        EvidenceConfig(free_space=value)  # type: ignore[arg-type]
