"""The surfel map against a slow reference, far from the origin, and across a restart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamdgp.config import EvidenceConfig
from streamdgp.errors import InvalidFrameError
from streamdgp.evidence import SurfelMap
from streamdgp.frames.orient import OrientedPoints, orient
from tests.reference.shapes import Plane, Torus, depth_frame, look_at, orbit
from tests.reference.surfels import ReferenceSurfels

_VOXEL = 2.0**-6


def _points(
    positions: npt.ArrayLike,
    normals: npt.ArrayLike,
    *,
    sigma_m: float = 0.002,
    origin: tuple[float, float, float] | None = (0.0, 0.0, 5.0),
    cosine: float = 1.0,
    color: npt.NDArray[np.uint8] | None = None,
) -> OrientedPoints:
    p = np.atleast_2d(np.asarray(positions, np.float64))
    n = np.broadcast_to(np.asarray(normals, np.float32), p.shape)
    return OrientedPoints(
        positions_m=p,
        normals=np.ascontiguousarray(n),
        sigma_m=np.full(len(p), sigma_m, np.float32),
        incidence_cos=np.full(len(p), cosine, np.float32),
        color=color,
        sensor_origin_m=None if origin is None else np.asarray(origin, np.float64),
        spacing_m=0.01,
        noise_m=sigma_m,
        dropped=0,
    )


def _random_points(
    rng: np.random.Generator, count: int, origin: tuple[float, float, float]
) -> OrientedPoints:
    """Crowded voxels on both sides of zero, normals of two opposing sheets, varied weights and colours."""
    normals = rng.normal(size=(count, 3)) * 0.4 + np.where(rng.uniform(size=(count, 1)) < 0.5, 1, -1) * [
        0,
        0,
        1.0,
    ]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    p = _points(
        rng.uniform(-4 * _VOXEL, 4 * _VOXEL, (count, 3)),
        normals,
        origin=origin,
        color=rng.integers(0, 256, (count, 3)).astype(np.uint8),
    )
    return replace(
        p,
        sigma_m=rng.uniform(0.001, 0.01, count).astype(np.float32),
        incidence_cos=rng.uniform(0.1, 1, count).astype(np.float32),
    )


def _by_voxel(surfels: SurfelMap) -> dict[tuple[int, int, int], list[int]]:
    found: dict[tuple[int, int, int], list[int]] = {}
    for s, (x, y, z) in enumerate(surfels.column("key").tolist()):
        found.setdefault((x, y, z), []).append(s)
    return found


@hypothesis_settings(max_examples=8)
@given(seed=st.integers(0, 10**6), cap=st.sampled_from([1.0, 2.5, 32.0]))
def test_agrees_with_the_slow_reference(seed: int, cap: float) -> None:
    rng = np.random.default_rng(seed)
    fast = SurfelMap(_VOXEL, EvidenceConfig(view_mass_cap=cap))
    slow = ReferenceSurfels(_VOXEL, cap)
    for frame in range(3):
        view = (0.0, 3.0 * (frame // 2), 4.2)
        points = _random_points(rng, 700, view)
        before = dict.fromkeys(range(len(fast)), 0.0)
        before.update(enumerate(fast.column("weight").tolist()))
        touched = fast.integrate(points, frame)
        slow.integrate(points, frame, view)
        after = fast.column("weight")
        gained = np.array([after[s] - before.get(int(s), 0.0) for s in touched.index])
        np.testing.assert_allclose(touched.gained, gained, rtol=1e-6, atol=1e-6 * float(after.max()))
        assert len(np.unique(touched.index)) == len(touched.index)
    index = _by_voxel(fast)
    assert index.keys() == slow.voxels.keys()
    assert sum(len(s) for s in slow.voxels.values()) == len(fast)
    assert any(len(s) == 2 for s in slow.voxels.values()), "the case must contain two sheets in a voxel"
    position = fast.positions_m(np.arange(len(fast)))
    for key, slots in slow.voxels.items():
        assert len(index[key]) == len(slots)
        for s, slot in zip(index[key], slots, strict=True):
            # Running float32 means over some ten points: relative error of a few ulp (6e-8) each.
            np.testing.assert_allclose(position[s], slot.position_m, atol=1e-6 * _VOXEL * 10)
            np.testing.assert_allclose(fast.column("normal")[s], slot.normal, atol=3e-6)
            np.testing.assert_allclose(fast.column("color")[s], slot.color, atol=2e-3)
            assert fast.column("weight")[s] == pytest.approx(slot.weight, rel=1e-5)
            assert fast.column("count")[s] == slot.count
            assert fast.column("first_frame")[s] == slot.first
            assert fast.column("last_frame")[s] == slot.last


def test_two_sheets_in_one_voxel_do_not_cancel() -> None:
    """A card thinner than a voxel: both faces keep their own mean and a full normal."""
    surfels = SurfelMap(_VOXEL, EvidenceConfig())
    front = [0.5 * _VOXEL, 0.5 * _VOXEL, 0.7 * _VOXEL]
    back = [0.5 * _VOXEL, 0.5 * _VOXEL, 0.3 * _VOXEL]
    for frame in range(4):
        surfels.integrate(_points(front, [0, 0, 1], origin=(0, 0, 5)), 2 * frame)
        surfels.integrate(_points(back, [0, 0, -1], origin=(0, 0, -5)), 2 * frame + 1)
    assert len(surfels) == 2
    np.testing.assert_allclose(surfels.positions_m(np.arange(2))[:, 2], [front[2], back[2]], rtol=1e-6)
    np.testing.assert_allclose(surfels.column("normal"), [[0, 0, 1], [0, 0, -1]])
    np.testing.assert_array_equal(surfels.column("count"), [4, 4])


def test_weights_are_inverse_variances() -> None:
    surfels = SurfelMap(_VOXEL, EvidenceConfig())
    low, high = [0.2 * _VOXEL] * 3, [0.6 * _VOXEL] * 3
    surfels.integrate(_points(low, [0, 0, 1], sigma_m=0.001, origin=(0, 0, 5)), 0)
    surfels.integrate(_points(high, [0, 0, 1], sigma_m=0.003, origin=(9, 0, 5)), 1)
    w = np.array([1e6, 1e6 / 9])
    assert surfels.column("weight")[0] == pytest.approx(w.sum(), rel=1e-6)
    np.testing.assert_allclose(
        surfels.positions_m(np.array([0]))[0],
        (w[0] * np.array(low) + w[1] * np.array(high)) / w.sum(),
        rtol=1e-6,
    )


@pytest.mark.parametrize("distance_m", [0.7, 1.1, 2.3, 2.5, 5.0])
def test_a_parked_camera_is_capped(distance_m: float) -> None:
    """Hundred noisy frames from one place weigh no more than the cap; another view then counts in full.

    2.5 m and 5 m are where a twentieth of the range is a power of two.
    """
    cap = 8.0
    surfels = SurfelMap(0.05, EvidenceConfig(view_mass_cap=cap))
    plane = Plane((0.025, 0.025, 0.025), (0, 0, 1), 0.3)
    rng = np.random.default_rng(0)
    pose = look_at((0.1, 0.1, 0.025 + distance_m), (0.1, 0.1, 0))
    frames = [
        orient(depth_frame(plane, pose, width=24, height=18, focal=24.0, rng=rng), 0.1) for _ in range(60)
    ]
    for k, points in enumerate(frames):
        surfels.integrate(points, k)
    largest = float(
        max((p.incidence_cos / p.sigma_m.astype(np.float64) ** 2).max() for p in frames if len(p))
    )
    assert surfels.column("count").max() > 3 * cap
    assert surfels.column("weight").max() <= cap * largest * 1.01
    before = surfels.column("weight").sum()
    side = orient(
        depth_frame(plane, look_at((1.0, 0.1, 1.0), (0.1, 0.1, 0)), width=24, height=18, focal=24.0), 0.1
    )
    touched = surfels.integrate(side, 60)
    assert surfels.column("weight").sum() - before == pytest.approx(touched.gained.sum())
    assert touched.gained.sum() > 0.5 * (side.incidence_cos / side.sigma_m.astype(np.float64) ** 2).sum()


def test_a_parked_camera_with_a_trembling_pose_is_capped() -> None:
    """A robot that stands still at the world origin: its pose trembles by a tenth of a millimetre."""
    cap = 4.0
    surfels = SurfelMap(_VOXEL, EvidenceConfig(view_mass_cap=cap))
    rng = np.random.default_rng(0)
    for k in range(100):
        x, y, z = (float(v) for v in 1e-4 * rng.normal(size=3))
        surfels.integrate(
            _points([0.5 * _VOXEL, 0.5 * _VOXEL, 3.3], [0, 0, -1], sigma_m=0.01, origin=(x, y, z)), k
        )
    assert surfels.column("count")[0] == 100
    assert surfels.column("weight")[0] <= cap * 1e4 * 1.01


def test_two_parked_cameras_that_alternate_are_capped() -> None:
    """A rig of two cameras sends its frames in turn: each of them is still one viewpoint."""
    cap = 4.0
    surfels = SurfelMap(_VOXEL, EvidenceConfig(view_mass_cap=cap))
    p = [0.5 * _VOXEL] * 3
    for k in range(100):
        surfels.integrate(_points(p, [0, 0, 1], sigma_m=0.01, origin=(0, 0, 5) if k % 2 else (3, 0, 4)), k)
    assert surfels.column("weight")[0] <= 2 * cap * 1e4 * 1.01


@pytest.mark.parametrize("shift_voxels", [(2**20, 0, 0), (-(2**20), 2**19, -(2**19)), (0, 8, -8)])
def test_far_from_the_origin_is_the_same(shift_voxels: tuple[int, int, int]) -> None:
    """16 km out: a shift by whole voxels changes the keys and nothing else, to the bit.

    The voxel is a power of two and the points lie on a 2^-30 m grid, so that the shift is exact.
    """
    shift = np.array(shift_voxels) * _VOXEL
    near, far = SurfelMap(_VOXEL, EvidenceConfig()), SurfelMap(_VOXEL, EvidenceConfig())
    for frame, pose in enumerate(orbit(4, 0.8)):
        points = orient(depth_frame(Torus(), pose), 0.1)
        snapped = replace(points, positions_m=np.round(points.positions_m * 2**30) / 2**30)
        origin = np.asarray(snapped.sensor_origin_m)
        assert snapped.view is not None
        moved = replace(
            snapped,
            positions_m=snapped.positions_m + shift,
            sensor_origin_m=origin + shift,
            view=replace(snapped.view, origin_m=snapped.view.origin_m + shift),
        )
        a, b = near.integrate(snapped, frame), far.integrate(moved, frame)
        assert a.index.tobytes() == b.index.tobytes()
        assert a.gained.tobytes() == b.gained.tobytes()
    assert len(near) > 500
    np.testing.assert_array_equal(
        far.column("key") - near.column("key"), np.broadcast_to(shift_voxels, (len(near), 3))
    )
    for name in ("weight", "offset_vox", "normal", "count", "first_frame", "last_frame", "streak"):
        assert near.column(name).tobytes() == far.column(name).tobytes(), name
    assert near.passes.tobytes() == far.passes.tobytes()
    assert near.passes.any()


def test_beyond_the_integer_range_is_refused_and_changes_nothing() -> None:
    surfels = SurfelMap(1e-4, EvidenceConfig())
    surfels.integrate(_points([[0.5, 0.5, 0.5]], [0, 0, 1]), 0)
    weight = surfels.column("weight").copy()
    with pytest.raises(InvalidFrameError, match="world origin") as caught:
        surfels.integrate(_points([[0.5, 0.5, 0.5], [5e5, 0, 0]], [0, 0, 1]), 1)
    assert "unit" in caught.value.remedy
    assert len(surfels) == 1
    np.testing.assert_array_equal(surfels.column("weight"), weight)


def _restored(surfels: SurfelMap) -> SurfelMap:
    """From a copy of what a commit holds."""
    columns = {n: surfels.column(n).copy() for n in surfels.columns}
    return SurfelMap.restore(_VOXEL, EvidenceConfig(), columns, surfels.passes[: surfels.block_count].copy())


def test_restore_continues_with_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    frames = [_random_points(rng, 3000, (0.0, 3.0 * k, 5.0)) for k in range(6)]
    whole = SurfelMap(_VOXEL, EvidenceConfig())
    for k, points in enumerate(frames[:3]):
        whole.integrate(points, k)
    again = _restored(whole)
    for k, points in enumerate(frames[3:], 3):
        a, b = whole.integrate(points, k), again.integrate(points, k)
        assert a.index.tobytes() == b.index.tobytes()
        assert a.gained.tobytes() == b.gained.tobytes()
    assert len(whole) == len(again)
    for name in whole.columns:
        assert whole.column(name).tobytes() == again.column(name).tobytes(), name
        assert whole.column(name).dtype == again.column(name).dtype


def test_restore_of_nothing() -> None:
    empty = SurfelMap(_VOXEL, EvidenceConfig())
    again = _restored(empty)
    assert len(again) == 0
    again.integrate(_points([0.1, 0.1, 0.1], [0, 0, 1]), 0)
    assert len(again) == 1


def test_buffers_grow() -> None:
    """More surfels, blocks and table entries than the first buffers hold, in one frame and in many."""
    rng = np.random.default_rng(9)
    positions = rng.uniform(-20, 20, (6000, 3))
    at_once, in_parts = SurfelMap(_VOXEL, EvidenceConfig()), SurfelMap(_VOXEL, EvidenceConfig())
    at_once.integrate(_points(positions, [0, 0, 1]), 0)
    for part in np.array_split(positions, 50):
        in_parts.integrate(_points(part, [0, 0, 1], origin=(0, 0, 500)), 0)
    assert len(at_once) == len({tuple(k) for k in np.floor(positions / _VOXEL).astype(int).tolist()})
    for name in ("key", "weight", "offset_vox", "count"):
        assert at_once.column(name).tobytes() == in_parts.column(name).tobytes(), name


def test_memory_follows_the_area_not_the_time() -> None:
    plane = Plane((0, 0, 0), (0, 0, 1), 0.4)
    surfels = SurfelMap(_VOXEL, EvidenceConfig())
    sizes = []
    for k in range(12):
        angle = 0.5 * k
        pose = look_at((0.2 * np.cos(angle), 0.2 * np.sin(angle), 0.8), (0, 0, 0))
        surfels.integrate(orient(depth_frame(plane, pose), 0.1), k)
        sizes.append(len(surfels))
    assert sizes[-1] <= 1.15 * sizes[5]


def test_many_noisy_views_average_out_without_bias() -> None:
    """Surfels of a plane: the mean height error falls below sigma/10 and is not one-sided."""
    plane = Plane((0, 0, 0.3 * _VOXEL), (0, 0, 1), 0.4)
    surfels = SurfelMap(_VOXEL, EvidenceConfig())
    rng = np.random.default_rng(11)
    for k in range(24):
        angle = 0.26 * k
        pose = look_at((0.3 * np.cos(angle), 0.3 * np.sin(angle), 0.7), (0, 0, 0))
        surfels.integrate(orient(depth_frame(plane, pose, rng=rng), 0.1), k)
    height = surfels.positions_m(np.arange(len(surfels)))[:, 2] - 0.3 * _VOXEL
    weight = surfels.column("weight")
    sigma = 0.0012 + 0.0019 * 0.3**2
    # 24 views of 4800 pixels: the mean's own scatter is sigma / 300.
    assert abs(np.average(height, weights=weight)) < sigma / 30
