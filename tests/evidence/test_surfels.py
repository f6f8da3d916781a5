"""The surfel map against a slow reference, far from the origin, and across a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import streamdgp.evidence.surfels
from streamdgp.config import EvidenceConfig
from streamdgp.errors import InvalidFrameError
from streamdgp.evidence import SurfelMap
from streamdgp.evidence.precision import OFFSET_STEP_VOX
from streamdgp.frames.orient import OrientedPoints, orient
from tests.reference.precision import steps_by_turns, to_bits_by_turns, turn_of
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


def _cells_of(places: Iterable[int]) -> list[tuple[tuple[float, float, float], list[int]]]:
    """Viewpoints of the test below, and the cells of 25 voxels about the origin that they lie in."""
    views = [(0.0, 3.0 * place, 4.2) for place in places]
    return [(v, np.floor(np.array(v) / (25 * _VOXEL) + 0.5).astype(int).tolist()) for v in views]


@hypothesis_settings(max_examples=8)
@given(seed=st.integers(0, 10**6), cap=st.sampled_from([1, 3, 32]))
def test_agrees_with_the_slow_reference(seed: int, cap: int) -> None:
    """To the step and to the bit: two frames from one place, then more viewpoints than are remembered."""
    rng = np.random.default_rng(seed)
    fast = SurfelMap(_VOXEL, EvidenceConfig(most_per_view=cap, pose_error_vox=0))
    slow = ReferenceSurfels(_VOXEL, cap)
    gained = np.zeros(0)
    for frame, place in enumerate([0, 0, 1, 2, 3, 1, 4, 5, 0]):
        view = (0.0, 3.0 * place, 4.2)
        points = _random_points(rng, 700 if frame < 3 else 250, view)
        touched = fast.integrate(points, frame)
        slow.integrate(points, frame, view)
        gained = np.concatenate([gained, np.zeros(len(fast) - len(gained))])
        gained[touched.index] += touched.gained
        assert len(np.unique(touched.index)) == len(touched.index)
    index = _by_voxel(fast)
    assert index.keys() == slow.voxels.keys()
    assert sum(len(s) for s in slow.voxels.values()) == len(fast)
    assert any(len(s) == 2 for s in slow.voxels.values()), "the case must contain two sheets in a voxel"
    position = fast.positions_m(np.arange(len(fast)))
    numbers = {view: fast.view_cells.tolist().index(cell) + 1 for view, cell in _cells_of(range(6))}
    for key, slots in slow.voxels.items():
        assert len(index[key]) == len(slots)
        for s, slot in zip(index[key], slots, strict=True):
            for name in ("offset", "normal", "color", "weight", "count"):
                np.testing.assert_array_equal(fast.column(name)[s], getattr(slot, name), name)
            want = np.array(key) + 0.5 + slot.offset / 2048
            np.testing.assert_allclose(position[s], want * _VOXEL, atol=1e-12)
            assert gained[s] == pytest.approx(slot.gained, rel=1e-9)
            views = [(numbers.get(view, 0), seen) for view, seen in slot.views]
            np.testing.assert_array_equal(fast.column("view_id")[s], [v for v, _ in views])
            np.testing.assert_array_equal(fast.column("view_seen")[s], [n for _, n in views])
            assert fast.column("first_frame")[s] == slot.first
            assert fast.column("last_frame")[s] == slot.last


def test_two_sheets_in_one_voxel_do_not_cancel() -> None:
    """A card thinner than a voxel: both faces keep their own mean and a full normal."""
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    front = [0.5 * _VOXEL, 0.5 * _VOXEL, 0.7 * _VOXEL]
    back = [0.5 * _VOXEL, 0.5 * _VOXEL, 0.3 * _VOXEL]
    for frame in range(4):
        surfels.integrate(_points(front, [0, 0, 1], origin=(0, 0, 5)), 2 * frame)
        surfels.integrate(_points(back, [0, 0, -1], origin=(0, 0, -5)), 2 * frame + 1)
    assert len(surfels) == 2
    # The same place again and again is kept to the step below or above; whole normals are whole steps.
    step_m = OFFSET_STEP_VOX * _VOXEL
    height = surfels.positions_m(np.arange(2))[:, 2]
    np.testing.assert_allclose(height, [front[2], back[2]], rtol=0, atol=1.001 * step_m)
    np.testing.assert_array_equal(surfels.column("normal"), [[0, 0, 127], [0, 0, -127]])
    np.testing.assert_array_equal(surfels.column("count"), [4, 4])


def test_weights_are_inverse_variances() -> None:
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    # Offsets of -512 and 256 steps: only their mean is rounded.
    low, high = [0.25 * _VOXEL] * 3, [0.625 * _VOXEL] * 3
    surfels.integrate(_points(low, [0, 0, 1], sigma_m=0.001, origin=(0, 0, 5)), 0)
    surfels.integrate(_points(high, [0, 0, 1], sigma_m=0.003, origin=(9, 0, 5)), 1)
    w = np.array([1e6, 1e6 / 9])
    # Nine bits: a unit in the last place is 2^-8 at most, once for either weight.
    assert surfels.column("weight")[0] == pytest.approx(w.sum(), rel=2 * 2.0**-8)
    # A step, and a tenth of the distance (768 steps) where the first weight is off by 2^-8.
    atol = (1 + 768 * 0.1 * 2.0**-8) * OFFSET_STEP_VOX * _VOXEL
    np.testing.assert_allclose(
        surfels.positions_m(np.array([0]))[0],
        (w[0] * np.array(low) + w[1] * np.array(high)) / w.sum(),
        rtol=0,
        atol=atol,
    )


def test_no_view_weighs_more_than_its_pose_deserves() -> None:
    """What is known of the pose adds to the variance along the normal, for exact and for noisy returns."""
    surfels = SurfelMap(0.01, EvidenceConfig(pose_error_vox=0.3))
    surfels.integrate(_points([0.005] * 3, [0, 0, 1], sigma_m=0.001, origin=(0, 0, 5)), 0)
    surfels.integrate(_points([0.055] * 3, [0, 0, 1], sigma_m=0.01, origin=(0, 0, 5)), 1)
    wanted = 1.0 / (np.array([0.001, 0.01]) ** 2 + 0.003**2)
    np.testing.assert_allclose(surfels.column("weight"), wanted, rtol=2.0**-8)


@pytest.mark.parametrize("cap", [1, 8, 32, 255])
def test_so_many_observations_from_one_viewpoint_and_no_more(cap: int) -> None:
    """The first ``cap`` of them at full weight, whatever they weigh; the rest moves nothing but the count."""
    surfels = SurfelMap(_VOXEL, EvidenceConfig(most_per_view=cap, pose_error_vox=0))
    rng = np.random.default_rng(0)
    weight = 0.0
    for k in range(cap + 40):
        place = rng.uniform(0, _VOXEL, 3)
        points = _points(place, [0, 0, 1], sigma_m=float(rng.uniform(0.001, 0.01)))
        before = {name: c[0].copy() for name, c in surfels.columns.items()}
        touched = surfels.integrate(points, k)
        np.testing.assert_array_equal(touched.index, [0])
        full = 1 / float(points.sigma_m[0]) ** 2
        if k < cap:
            assert touched.gained[0] == pytest.approx(full, rel=1e-12)
            weight = float(to_bits_by_turns(weight + full, 9, turn_of(k + 1, 0)))
        else:
            assert touched.gained[0] == 0
            for name in ("weight", "offset", "normal", "color", "view_id", "view_seen"):
                assert before[name].tobytes() == surfels.column(name)[0].tobytes(), name
        assert surfels.column("weight")[0] == weight
        assert surfels.column("view_seen")[0].tolist() == [min(k + 1, cap), 0, 0, 0]
        assert surfels.column("count")[0] == k + 1
        assert surfels.column("last_frame")[0] == k
    other = surfels.integrate(_points([0.5 * _VOXEL] * 3, [0, 0, 1], origin=(3, 0, 5)), cap + 40)
    assert other.gained[0] == pytest.approx(1 / 0.002**2), "another viewpoint counts"
    assert surfels.column("view_seen")[0].tolist() == [cap, 1, 0, 0]


@pytest.mark.parametrize("distance_m", [0.7, 1.1, 2.3, 2.5, 5.0])
def test_a_parked_camera_is_capped(distance_m: float) -> None:
    """Sixty noisy frames from one place weigh no more than the cap; another view then counts in full.

    2.5 m and 5 m are where a twentieth of the range is a power of two.
    """
    cap = 8
    surfels = SurfelMap(0.05, EvidenceConfig(most_per_view=cap, pose_error_vox=0))
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
    # Nine bits, rounded eight times: a unit, 2^-8, of sums that grow up to the last would be 1.8 % in all,
    # but turns that follow one another go up and down, and half of it is not reached.
    assert surfels.column("weight").max() <= cap * largest * 1.01
    assert surfels.column("view_seen").max() == cap
    before, count = surfels.column("weight").astype(np.float64), surfels.column("count").astype(int)
    side = orient(
        depth_frame(plane, look_at((1.0, 0.1, 1.0), (0.1, 0.1, 0)), width=24, height=18, focal=24.0), 0.1
    )
    touched = surfels.integrate(side, 60)
    s = touched.index
    old = np.concatenate([before, np.zeros(len(surfels) - len(before))])[s]
    seen = surfels.column("count")[s] - np.concatenate([count, np.zeros(len(surfels) - len(count), int)])[s]
    after = surfels.column("weight")[s].astype(np.float64)
    # What a surfel gained is what its weight rose by, but for a unit of nine bits per observation.
    assert (np.abs(after - old - touched.gained) <= seen * 2.0**-8 * after).all()
    assert touched.gained.sum() > 0.5 * (side.incidence_cos / side.sigma_m.astype(np.float64) ** 2).sum()


def test_a_parked_camera_with_a_trembling_pose_is_capped() -> None:
    """A robot that stands still at the world origin: its pose trembles by a tenth of a millimetre."""
    cap = 4
    surfels = SurfelMap(_VOXEL, EvidenceConfig(most_per_view=cap, pose_error_vox=0))
    rng = np.random.default_rng(0)
    for k in range(100):
        x, y, z = (float(v) for v in 1e-4 * rng.normal(size=3))
        surfels.integrate(
            _points([0.5 * _VOXEL, 0.5 * _VOXEL, 3.3], [0, 0, -1], sigma_m=0.01, origin=(x, y, z)), k
        )
    assert surfels.column("count")[0] == 100
    assert surfels.column("weight")[0] == pytest.approx(cap * 1e4, rel=0.01)
    assert surfels.column("view_seen")[0].tolist() == [cap, 0, 0, 0]


def test_two_parked_cameras_that_alternate_are_capped() -> None:
    """A rig of two cameras sends its frames in turn: each of them is still one viewpoint."""
    cap = 4
    surfels = SurfelMap(_VOXEL, EvidenceConfig(most_per_view=cap, pose_error_vox=0))
    p = [0.5 * _VOXEL] * 3
    for k in range(100):
        surfels.integrate(_points(p, [0, 0, 1], sigma_m=0.01, origin=(0, 0, 5) if k % 2 else (3, 0, 4)), k)
    assert surfels.column("weight")[0] == pytest.approx(2 * cap * 1e4, rel=0.01)
    assert surfels.column("view_seen")[0].tolist() == [cap, cap, 0, 0]


def test_the_count_halves_where_its_column_ends() -> None:
    """At 65535 observations both count and weight halve, so that one more still finds its own turn."""
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    points = _points(
        [[0.75 * _VOXEL, 0.5 * _VOXEL, 0.25 * _VOXEL]], [0, 0, 1], color=np.array([[200, 100, 0]], np.uint8)
    )
    surfels.integrate(points, 0)
    surfels.columns["count"][0], surfels.columns["weight"][0] = 65534, 384 * 2.0**20
    offset = np.array([100, -100, 7])
    surfels.columns["offset"][0] = offset
    w = 1 / float(points.sigma_m[0]) ** 2
    weight = 384 * 2.0**20
    for count in (65535, 32768, 32769):
        turns = np.array([turn_of(count, channel) for channel in range(3)])
        weight = weight / 2 if count == 32768 else weight
        share = w / (weight + w)
        old = offset * OFFSET_STEP_VOX
        offset = steps_by_turns(old + share * (np.array([0.25, 0, -0.25]) - old), OFFSET_STEP_VOX, turns)
        weight = float(to_bits_by_turns(weight + w, 9, turns[0]))
        surfels.integrate(points, count)
        assert surfels.column("count")[0] == count
        assert surfels.column("weight")[0] == weight
        np.testing.assert_array_equal(surfels.column("offset")[0], offset)
    assert surfels.column("normal")[0].tolist() == [0, 0, 127]
    assert surfels.column("color")[0].tolist() == [200, 100, 0]


def _numbers(surfels: SurfelMap) -> list[int]:
    return list(surfels._views.values())


def test_viewpoints_are_numbered_as_they_come() -> None:
    """A cell of 25 voxels about the origin is one viewpoint, no known place another; numbers stay."""
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    cell = 25 * _VOXEL
    near = [(0.0, 0.0, 0.0), (0.49 * cell, -0.49 * cell, 0.0), (0.51 * cell, 0.0, 0.0), None, (0.0, 0.0, 0.0)]
    want = [1, 1, 2, 3, 1]
    for k, (origin, number) in enumerate(zip(near, want, strict=True)):
        surfels.integrate(_points([(k + 0.5) * _VOXEL, 0, 0], [0, 0, 1], origin=origin), k)
        assert surfels.column("view_id")[k].tolist() == [number, 0, 0, 0]
    assert _numbers(surfels) == [1, 2, 3]
    assert surfels.view_cells.dtype == np.int32
    assert surfels.view_cells[:2].tolist() == [[0, 0, 0], [1, 0, 0]]


def test_more_viewpoints_than_numbers_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five numbers the sixth viewpoint has the first again, after a restart too; old ones keep theirs."""
    monkeypatch.setattr(streamdgp.evidence.surfels, "_MOST_VIEWS", 5)
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    for k in range(13):
        surfels.integrate(_points([(k + 0.5) * _VOXEL, 0, 0], [0, 0, 1], origin=(3.0 * k, 0, 5)), k)
    want = [k % 5 + 1 for k in range(13)]
    assert surfels.column("view_id")[:, 0].tolist() == want
    again = _restored(surfels)
    for m in (surfels, again):
        m.integrate(_points([13.5 * _VOXEL, 0, 0], [0, 0, 1], origin=(3.0 * 13, 0, 5)), 13)
        m.integrate(_points([14.5 * _VOXEL, 0, 0], [0, 0, 1], origin=(3.0 * 7, 0, 5)), 14)
        assert m.column("view_id")[13:, 0].tolist() == [4, 3]
        assert _numbers(m) == [*want, 4]
        assert len(m.view_cells) == 14


def test_the_number_after_65535_is_one() -> None:
    """Seventy thousand viewpoints: the 16-bit column holds every number, and none is zero."""
    x = np.arange(70_000, dtype=np.int32)
    cells = np.stack([x, x // 7, -x], 1)
    empty = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    columns = {name: c[:0] for name, c in empty.columns.items()}
    surfels = SurfelMap.restore(
        _VOXEL, EvidenceConfig(pose_error_vox=0), columns, np.zeros((0, 64), np.uint8), cells
    )
    assert surfels.view_cells.tobytes() == cells.tobytes()
    numbers = np.array(_numbers(surfels))
    assert (numbers[:65535] == np.arange(1, 65536)).all()
    assert (numbers[65535:] == np.arange(1, len(x) - 65535 + 1)).all()
    cell = 25 * _VOXEL
    for k, (row, number) in enumerate([(65534, 65535), (65535, 1), (69_999, 4465)]):
        surfels.integrate(_points([(k + 0.5) * _VOXEL, 0, 0], [0, 0, 1], origin=tuple(cell * cells[row])), k)
        assert surfels.column("view_id")[k].tolist() == [number, 0, 0, 0]
    surfels.integrate(_points([3.5 * _VOXEL, 0, 0], [0, 0, 1], origin=(0.0, 0.0, 1e3)), 3)
    assert surfels.column("view_id")[3].tolist() == [4466, 0, 0, 0]


@pytest.mark.parametrize("shift_voxels", [(2**20, 0, 0), (-(2**20), 2**19, -(2**19)), (0, 8, -8)])
def test_far_from_the_origin_is_the_same(shift_voxels: tuple[int, int, int]) -> None:
    """16 km out: a shift by whole voxels changes the keys and nothing else, to the bit.

    The voxel is a power of two and the points lie on a 2^-30 m grid, so that the shift is exact.
    """
    shift = np.array(shift_voxels) * _VOXEL
    near, far = (
        SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0)),
        SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0)),
    )
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
    for name in ("weight", "offset", "normal", "count", "first_frame", "last_frame", "streak"):
        assert near.column(name).tobytes() == far.column(name).tobytes(), name
    assert near.passes.tobytes() == far.passes.tobytes()
    assert near.passes.any()


def test_beyond_the_integer_range_is_refused_and_changes_nothing() -> None:
    surfels = SurfelMap(1e-4, EvidenceConfig(pose_error_vox=0))
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
    passes = surfels.passes[: surfels.block_count].copy()
    return SurfelMap.restore(
        _VOXEL, EvidenceConfig(pose_error_vox=0), columns, passes, surfels.view_cells.copy()
    )


def test_restore_continues_with_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    frames = [_random_points(rng, 3000, (0.0, 3.0 * k, 5.0)) for k in range(6)]
    whole = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    for k, points in enumerate(frames[:3]):
        whole.integrate(points, k)
    again = _restored(whole)
    for k, points in enumerate(frames[3:], 3):
        a, b = whole.integrate(points, k), again.integrate(points, k)
        assert a.index.tobytes() == b.index.tobytes()
        assert a.gained.tobytes() == b.gained.tobytes()
    assert len(whole) == len(again)
    assert whole.view_cells.tobytes() == again.view_cells.tobytes()
    for name in whole.columns:
        assert whole.column(name).tobytes() == again.column(name).tobytes(), name
        assert whole.column(name).dtype == again.column(name).dtype


def test_restore_of_nothing() -> None:
    empty = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    again = _restored(empty)
    assert len(again) == 0
    again.integrate(_points([0.1, 0.1, 0.1], [0, 0, 1]), 0)
    assert len(again) == 1


def test_buffers_grow() -> None:
    """More surfels, blocks and table entries than the first buffers hold, in one frame and in many."""
    rng = np.random.default_rng(9)
    positions = rng.uniform(-20, 20, (6000, 3))
    at_once, in_parts = (
        SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0)),
        SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0)),
    )
    at_once.integrate(_points(positions, [0, 0, 1]), 0)
    for part in np.array_split(positions, 50):
        in_parts.integrate(_points(part, [0, 0, 1], origin=(0, 0, 500)), 0)
    assert len(at_once) == len({tuple(k) for k in np.floor(positions / _VOXEL).astype(int).tolist()})
    for name in ("key", "weight", "offset", "count"):
        assert at_once.column(name).tobytes() == in_parts.column(name).tobytes(), name


def test_memory_follows_the_area_not_the_time() -> None:
    plane = Plane((0, 0, 0), (0, 0, 1), 0.4)
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
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
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
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


def test_a_full_count_loses_nothing_to_observations_without_weight() -> None:
    """A camera parked for hours: past its cap it adds nothing, and takes nothing away."""
    m = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    points = _points(np.tile([[0.5 * _VOXEL] * 3], (32768, 1)), [0, 0, 1])
    m.integrate(points, 0)
    weight = m.column("weight").copy()
    for k in range(1, 6):
        m.integrate(points, k)
    assert m.column("count")[0] == 65535
    assert m.column("weight").tobytes() == weight.tobytes()
