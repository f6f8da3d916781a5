"""Charts have their turn when the view moved, or after some frames; nothing that waits is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.inside import snapshot_state, state_bytes
from streamdgp.config import FitConfig, SceneConfig
from streamdgp.errors import StorageError
from streamdgp.evidence.surfels import SurfelMap, TouchedSurfels
from streamdgp.frames import Frame, PointFrame
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles
from tests.reference.scans import VOXEL_M
from tests.reference.shapes import Sphere, depth_frame, look_at

RADIUS_M = 4 * VOXEL_M


def _reconstructor(most_waiting: int) -> Reconstructor:
    config = SceneConfig(
        evidence_voxel_m=VOXEL_M, anchor_radius_m=RADIUS_M, fit=FitConfig(most_waiting=most_waiting)
    )
    return Reconstructor(config)


def _frame(seed: int, shift_m: float = 0.0, turn_rad: float = 0.0) -> Frame:
    """A sphere of 30 cm, its near side a metre away, as a camera sees it that was shifted and turned."""
    pose = look_at(np.array([0.0, shift_m, -1.3]), np.array([1.3 * np.tan(turn_rad), shift_m, 0.0]))
    return depth_frame(
        Sphere(radius=0.3), pose, width=160, height=120, focal=160.0, rng=np.random.default_rng(seed)
    )


def _large(shift_m: float = 0.0) -> Frame:
    pose = look_at(np.array([0.0, shift_m, -1.3]), np.array([0.0, shift_m, 0.0]))
    return depth_frame(
        Sphere(radius=0.3), pose, width=640, height=480, focal=640.0, rng=np.random.default_rng(0)
    )


def _had_turn(reconstructor: Reconstructor, frame: Frame) -> bool:
    return "fit" in reconstructor.integrate(frame).stages_s


@pytest.mark.parametrize("most_waiting", [1, 3, 4])
def test_a_camera_that_stands_still(most_waiting: int) -> None:
    one = _reconstructor(most_waiting)
    assert [_had_turn(one, _frame(k)) for k in range(10)] == [k % most_waiting == 0 for k in range(10)]


def test_a_view_that_moves_by_two_radii_has_its_turn_at_once() -> None:
    """In steps of less than one radius."""
    one = _reconstructor(30)
    places = [0.0, 0.9, 1.8, 1.99, 2.01, 2.9, 3.8, 4.1, 3.2, 2.3, 2.05]
    turns = [_had_turn(one, _frame(k, RADIUS_M * place)) for k, place in enumerate(places)]
    assert np.flatnonzero(turns).tolist() == [0, 4, 7, 10]


def test_a_view_that_moves_by_a_radius_in_one_frame_has_its_turn_at_once() -> None:
    one = _reconstructor(30)
    places = [0.0, 0.99, 0.0, 1.01, 2.0, 0.98, 0.0]
    turns = [_had_turn(one, _frame(k, RADIUS_M * place)) for k, place in enumerate(places)]
    assert np.flatnonzero(turns).tolist() == [0, 3, 5]


def test_turning_moves_what_is_seen() -> None:
    """By the angle times the distance of the surface, about a metre here."""
    one = _reconstructor(30)
    angles = [-1.2, -0.4, 0.3, 0.5, 0.9, 2.0, 2.2]
    turns = [_had_turn(one, _frame(k, turn_rad=RADIUS_M * angle)) for k, angle in enumerate(angles)]
    assert turns == [True, False, False, False, True, True, False]


def test_after_a_jump_the_turns_are_near_one_another() -> None:
    """One frame after it, then two, then as many as there may be; where nothing was before is no jump."""
    one = _reconstructor(4)
    places = 5 * [0.0] + 13 * [3.2 * RADIUS_M]
    turns = [_had_turn(one, _frame(k, place)) for k, place in enumerate(places)]
    assert np.flatnonzero(turns).tolist() == [0, 4, 5, 6, 8, 12, 16]


def test_of_a_large_image_that_repeats_another_every_fourth_pixel_counts() -> None:
    """Of those that wait, once two turns in a row came to a view that had not moved at once."""
    frame, one = _large(), _reconstructor(3)
    points = [one.integrate(frame).points for _ in range(11)]
    few = {k for k, n in enumerate(points) if n < points[0] / 2}
    assert few == {7, 8, 10}
    assert {points[k] for k in range(11) if k not in few} == {points[0]}
    assert points[0] > 50_000
    assert points[7] == points[8] == points[10] == pytest.approx(points[0] / 16, rel=0.02)
    whole, sparse = (one.prepare(frame).points(is_sparse=is_sparse) for is_sparse in (False, True))
    # Each of them is one of all, but for what the shadow's width is rounded to.
    place = {tuple(x): k for k, x in enumerate(whole.positions_m.tolist())}
    found = [place[x] for x in map(tuple, sparse.positions_m.tolist()) if x in place]
    assert len(found) > 0.99 * len(sparse)
    assert sparse.view is not None
    assert sparse.view.seen_m.shape == (480, 640)
    assert sparse.spacing_m == whole.spacing_m


def test_large_images_of_a_fast_view_count_whole() -> None:
    """Who moves fast shows something else each time: it takes two turns of a slow view again."""
    one = _reconstructor(2)
    places = [*(6 * [0.0]), *(7 * [1.1])]
    points = [one.integrate(_large(RADIUS_M * place)).points for place in places]
    # Turns: 0, 2, 4, 6 by the step, 8, 10, 12.
    assert [k for k, n in enumerate(points) if n < points[0] / 2] == [5, 11]


def test_points_without_a_view_have_their_turn_in_every_frame() -> None:
    one = _reconstructor(30)
    rng = np.random.default_rng(0)
    for _ in range(3):
        normals = rng.normal(size=(4000, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        normals = normals.astype(np.float32)
        frame = PointFrame(0.3 * normals, np.eye(4), has_origin=False, normals=normals)
        assert _had_turn(one, frame)


def test_looks_vote() -> None:
    """A chart counts what it shows when it has its turn, once for each look, not for each frame."""
    one, every = _reconstructor(4), _reconstructor(1)
    counts: dict[int, list[int]] = {1: [], 4: []}
    for k in range(9):
        for frames, engine in ((4, one), (1, every)):
            assert _had_turn(engine, _frame(k)) == (k % frames == 0)
            counts[frames].append(int(engine.changes().tables["charts"].columns["hits"].sum()))
    few = counts[4]
    assert few[0] == few[1] == few[3] < few[4] == few[5] == few[7] < few[8]
    # The same sphere from the same place: two more looks are a quarter of eight.
    assert few[8] - few[0] == pytest.approx((counts[1][8] - counts[1][0]) / 4, rel=0.03)


def test_evidence_does_not_wait() -> None:
    """Frame by frame the same surfels, to the bit; and when their turn comes, charts know of all of it."""
    waiting, every = _reconstructor(3), _reconstructor(1)
    for k in range(7):
        for one in (waiting, every):
            one.integrate(_frame(k))
        left, right = (one.changes().tables["surfels"].columns for one in (waiting, every))
        for name, values in left.items():
            assert values.tobytes() == right[name].tobytes(), (k, name)
    # What a chart knows by its fit and since: the same but for rounding, and for cells that moved with a fit.
    mass = [
        sum(one.changes().tables["charts"].columns[name].sum() for name in ("fit_mass", "fresh_mass"))
        for one in (waiting, every)
    ]
    assert mass[0] == pytest.approx(mass[1], rel=0.02)


def test_a_restart_while_surfels_wait_changes_nothing() -> None:
    """Also after a jump, when the next turns are near."""
    places = [*(0.2 * k for k in range(7)), *(5.0 + 0.2 * k for k in range(8))]
    frames = [_frame(k, RADIUS_M * place) for k, place in enumerate(places)]
    whole, again = _reconstructor(4), _reconstructor(4)
    waited = []
    for frame in frames:
        report = whole.integrate(frame)
        assert replace(again.integrate(frame), seconds=0, stages_s={}) == replace(
            report, seconds=0, stages_s={}
        )
        state = snapshot_state(whole)
        assert state_bytes(snapshot_state(again)) == state_bytes(state)
        waited.append(len(state.arrays["waiting_surfels"]))
        again = Reconstructor.restore(snapshot_state(again))
    assert np.flatnonzero([n == 0 for n in waited]).tolist() == [0, 4, 7, 8, 10, 14]
    assert waited[3] >= waited[2] >= waited[1]


def test_surfels_that_wait_are_joined_like_a_dictionary() -> None:
    rng = np.random.default_rng(1)
    evidence = SurfelMap(VOXEL_M, SceneConfig().evidence)
    one = _reconstructor(1)
    evidence.integrate(one.prepare(_frame(0)).points(), 0)
    size = len(evidence)
    parts = [
        TouchedSurfels(rng.permutation(size)[:n].astype(np.int64), rng.normal(size=n)) for n in (500, 700, 0)
    ]
    wanted: dict[int, float] = {}
    joined = TouchedSurfels(np.zeros(0, np.int64), np.zeros(0))
    for part in parts:
        for surfel, gained in zip(part.index.tolist(), part.gained.tolist(), strict=True):
            wanted[surfel] = wanted.get(surfel, 0.0) + gained
        joined = evidence.joined(joined, part)
        assert joined.index.tolist() == list(wanted)
        np.testing.assert_allclose(joined.gained, list(wanted.values()), rtol=1e-12)
    # A surfel seen and seen through by the same frame counts once, with the sum.
    twice = TouchedSurfels(np.array([7, 7], np.int64), np.array([2.0, -0.5]))
    assert evidence.joined(twice, parts[2]).gained.tolist() == [1.5]


def test_what_waits_must_belong_to_the_map() -> None:
    one = _reconstructor(4)
    for k in range(2):
        one.integrate(_frame(k))
    state = snapshot_state(one)
    for name, bad in (
        ("waiting_surfels", state.arrays["waiting_surfels"] + one.surfel_count),
        ("waiting_surfels", state.arrays["waiting_surfels"] - one.surfel_count),
        ("waiting_gained", state.arrays["waiting_gained"][1:]),
    ):
        with pytest.raises(StorageError, match="waiting surfels"):
            Reconstructor.restore(replace(state, arrays={**state.arrays, name: bad}))


def test_a_slow_camera_gives_as_good_a_surface() -> None:
    """Charts that are looked at in a quarter of the frames are as near the truth as with a look at all."""
    frames = [_frame(k, 0.25 * RADIUS_M * k) for k in range(13)]
    errors_m, areas = [], []
    default = FitConfig().most_waiting
    for most_waiting in (default, 1):
        one = _reconstructor(most_waiting)
        turns = [_had_turn(one, frame) for frame in frames]
        assert sum(turns) == (4 if most_waiting == default else 13)
        vertices = weld_tiles(one.surface().tiles()).vertices
        errors_m.append(float(np.abs(np.linalg.norm(vertices, axis=1) - 0.3).mean()))
        areas.append(len(vertices))
    assert errors_m[0] < 1.1 * errors_m[1]
    assert areas[0] == pytest.approx(areas[1], rel=0.02)
