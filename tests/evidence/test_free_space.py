"""Free space: what rays pass through loses its evidence, and nothing else does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.inside import snapshot_state, state_bytes
from streamdgp.config import EvidenceConfig, SceneConfig
from streamdgp.frames import DepthFrame, Intrinsics
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles
from tests.reference.shapes import look_at

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
