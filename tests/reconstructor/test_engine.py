"""The engine as a whole: deterministic, restartable, honest reports, unharmed by bad frames."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from streamdgp.atlas.changes import AtlasChanges, AtlasState
from streamdgp.config import SceneConfig
from streamdgp.consistency.sweep import make_consistent
from streamdgp.errors import InvalidFrameError, StorageError
from streamdgp.frames import DepthFrame, Frame, PointFrame
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import Mesh, weld_tiles
from tests.reference.scans import SHAPES, SIGMA_M, VOXEL_M, scan, scan_frames
from tests.reference.shapes import Plane, Sphere, Union, depth_frame, look_at, range_frame

_CONFIG = SceneConfig(evidence_voxel_m=VOXEL_M, resolution_m=VOXEL_M)


def _run(frames: Iterable[Frame], config: SceneConfig = _CONFIG) -> Reconstructor:
    r = Reconstructor(config)
    for frame in frames:
        r.integrate(frame)
    return r


def _state(changes: AtlasChanges) -> AtlasState:
    """What a reader of the store would get: copies of all rows."""
    return AtlasState(
        {n: {k: v.copy() for k, v in t.columns.items()} for n, t in changes.tables.items()},
        {n: a.copy() for n, a in changes.arrays.items()},
        dict(changes.metadata),
    )


def _mesh(r: Reconstructor) -> Mesh:
    return weld_tiles(r.surface().tiles())


def _assert_same(a: Reconstructor, b: Reconstructor) -> None:
    """Every byte of the state and of the mesh."""
    left, right = a.changes(), b.changes()
    assert left.metadata == right.metadata
    assert left.tables.keys() == right.tables.keys()
    for table in left.tables:
        for name, values in left.tables[table].columns.items():
            other = right.tables[table].columns[name]
            assert values.dtype == other.dtype
            assert values.tobytes() == other.tobytes(), f"{table}.{name}"
    for name in left.arrays:
        assert left.arrays[name].tobytes() == right.arrays[name].tobytes(), name
    m, n = _mesh(a), _mesh(b)
    for name in ("vertices", "normals", "triangles"):
        assert getattr(m, name).tobytes() == getattr(n, name).tobytes(), name


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return scan_frames("torus", True)[:6]


def test_two_runs_give_the_same_bytes(frames: list[Frame]) -> None:
    _assert_same(_run(frames), _run(frames))


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_restart_in_mid_stream_changes_nothing(frames: list[Frame], cut: int) -> None:
    """Restored and gone on equals never interrupted: parameters, evidence, mesh, to the byte."""
    whole = _run(frames)
    first = _run(frames[:cut])
    state = _state(first.changes())
    again = Reconstructor.restore(state)
    _assert_same(first, again)
    assert again.frame_count == cut
    assert again.config == first.config
    for k, frame in enumerate(frames[cut:], cut):
        assert replace(again.integrate(frame), seconds=0, stages_s={}) == replace(
            first.integrate(frame), seconds=0, stages_s={}
        ), k
    _assert_same(whole, again)


def test_restarting_after_every_frame_changes_nothing(frames: list[Frame]) -> None:
    r = Reconstructor(_CONFIG)
    for frame in frames[:4]:
        r.integrate(frame)
        r = Reconstructor.restore(_state(r.changes()))
    _assert_same(r, _run(frames[:4]))


def test_restoring_an_empty_scene(frames: list[Frame]) -> None:
    again = Reconstructor.restore(_state(Reconstructor(_CONFIG).changes()))
    assert again.frame_count == 0
    assert again.chart_count == 0
    for frame in frames[:2]:
        again.integrate(frame)
    _assert_same(again, _run(frames[:2]))


def test_a_restored_state_shares_no_memory_with_its_source(frames: list[Frame]) -> None:
    first = _run(frames[:2])
    state = _state(first.changes())
    kept = {n: v.copy() for n, v in state.tables["charts"].items()}
    again = Reconstructor.restore(state)
    again.integrate(frames[2])
    for name, values in kept.items():
        np.testing.assert_array_equal(state.tables["charts"][name], values)


def test_states_that_do_not_fit_are_refused(frames: list[Frame]) -> None:
    state = _state(_run(frames[:1]).changes())
    with pytest.raises(StorageError, match="schema 999"):
        Reconstructor.restore(replace(state, metadata={**state.metadata, "schema": 999}))
    arrays = {n: a.copy() for n, a in state.arrays.items()}
    next(iter(arrays.values())).flat[0] += 1
    with pytest.raises(StorageError, match="shared"):
        Reconstructor.restore(replace(state, arrays=arrays))


def test_features_of_another_processor_are_taken_as_they_are_stored(frames: list[Frame]) -> None:
    """Eigenvectors have the sign that a processor gives them; with the weights of the charts they are one."""
    r = _run(frames[:3])
    state = _state(r.changes())
    turned = np.where(np.arange(len(state.arrays["shared_penalty"])) % 3 == 0, -1, 1)
    arrays = {**state.arrays, "shared_mix": (state.arrays["shared_mix"] * turned).astype(np.float32)}
    charts = dict(state.tables["charts"])
    weights = charts["parameters"].reshape(len(charts["anchor"]), -1, 3).copy()
    weights[:, 3:] *= turned[:, None].astype(np.float16)
    charts["parameters"] = weights.reshape(len(weights), -1)
    again = Reconstructor.restore(replace(state, arrays=arrays, tables={**state.tables, "charts": charts}))
    _assert_same_surface(again, r)
    again.integrate(frames[3])
    r.integrate(frames[3])
    _assert_same_surface(again, r)


def _assert_same_surface(a: Reconstructor, b: Reconstructor) -> None:
    one, other = _mesh(a), _mesh(b)
    assert len(one.vertices) == len(other.vertices)
    np.testing.assert_allclose(one.vertices, other.vertices, atol=1e-4 * VOXEL_M)


def test_changes_name_every_row_that_changed(frames: list[Frame]) -> None:
    """A store that copies only the named rows ends with the same tables."""
    r = Reconstructor(_CONFIG)
    mirror: dict[str, dict[str, np.ndarray]] = {}
    for frame in frames:
        r.integrate(frame)
        changes = r.changes()
        for table, change in changes.tables.items():
            rows = change.changed_rows
            assert (np.diff(rows) > 0).all()
            for name, values in change.columns.items():
                old = mirror.setdefault(table, {}).get(name)
                new = np.zeros((change.row_count, *values.shape[1:]), values.dtype)
                if old is not None:
                    new[: len(old)] = old
                new[rows] = values[rows]
                mirror[table][name] = new
                assert new.tobytes() == values.tobytes(), f"{table}.{name}: a change was not reported"
        r.mark_committed()
        assert not any(len(t.changed_rows) for t in r.changes().tables.values())


def test_charts_that_no_ray_came_near_keep_every_bit() -> None:
    """Two places two metres apart: frames of one leave the other's charts, rasters and tiles alone."""
    floor = Plane((0, 0, 0.001), (0, 0, 1))
    rng = np.random.default_rng(0)

    def view(x: float) -> Frame:
        return depth_frame(floor, look_at((x, 0, 0.7), (x, 0.01, 0)), rng=rng)

    r = _run([view(0.0), view(2.0), view(2.02)])
    before = {n: v.copy() for n, v in r.changes().tables["charts"].columns.items()}
    rasters = [np.array(x) for x in r.surface().rasters]
    far = before["anchor"][:, 0] < 1.0
    assert far.sum() > 20
    touched = 0
    for k in range(5):
        touched += r.integrate(view(2.0 + 0.03 * k)).charts_warm
    assert touched > 0
    after = r.changes().tables["charts"].columns
    for name, values in before.items():
        assert after[name][: len(far)][far].tobytes() == values[far].tobytes(), name
    now = r.surface().rasters
    assert all(np.asarray(now[c]).tobytes() == rasters[c].tobytes() for c in np.flatnonzero(far))


def test_reports_add_up(frames: list[Frame]) -> None:
    r = Reconstructor(_CONFIG)
    charts = 0
    for k, frame in enumerate(frames):
        assert isinstance(frame, DepthFrame)
        report = r.integrate(frame)
        assert report.frame_index == k
        assert r.frame_count == k + 1
        charts += report.charts_created
        assert r.chart_count == charts
        assert (
            report.charts_created + report.charts_warm + report.charts_cold + report.charts_untouched
            == charts
        )
        assert min(report.charts_warm, report.charts_cold, report.charts_untouched, report.dropped) >= 0
        assert report.points + report.dropped == frame.depth_m.size, (
            "every pixel is a point or counted as dropped"
        )
        assert 0 < report.surfels_touched <= report.points
        assert report.seconds >= sum(report.stages_s.values()) - 1e-6
    assert any(r > 0 for r in [report.charts_warm])


def test_a_repeated_view_soon_costs_nothing(frames: list[Frame]) -> None:
    """The dirty rule: refits follow the logarithm of the evidence, not the number of frames."""
    r = Reconstructor(_CONFIG)
    fits = []
    for _ in range(12):
        report = r.integrate(frames[0])
        fits.append(report.charts_created + report.charts_warm + report.charts_cold)
    assert fits[0] > 50
    # Its mass must grow by .7, then by .48, .4, .36, .34: a chart is due after 2, 3, 5, 7 and 10 frames.
    assert sum(f > 0.3 * fits[0] for f in fits[1:]) <= 5
    assert sum(fits[1:]) < 5.5 * fits[0]


def test_streaming_costs_no_accuracy(frames: list[Frame]) -> None:
    """Against an independent cold fit of all charts from the same final evidence, anchors given: 1.05."""
    s = scan("torus", True)
    state = _state(s.reconstructor.changes())
    charts = state.tables["charts"]
    charts["fits"][:] = 0
    charts["fit_mass"][:] = 0
    charts["fresh_mass"][:] = 0
    batch = Reconstructor.restore(state)
    m = batch._map
    assert m is not None
    every = np.arange(len(charts["fits"]))
    patches = batch._gather(m, every)
    batch._fit(m, every, patches, np.ones(len(every), np.bool_), 99)
    make_consistent(m.atlas, m.regime, every, m.config.consistency)
    streamed = s.error_m()
    independent = s.shape.distance(_mesh(batch).vertices)
    assert streamed.mean() < 1.05 * independent.mean()
    assert np.quantile(streamed, 0.95) < 1.08 * np.quantile(independent, 0.95)


def test_more_frames_lower_the_error() -> None:
    """No floor of bias above a tenth of sigma: the plane's error goes on falling."""
    rng = np.random.default_rng(1)
    plane = SHAPES["plane"]
    r = Reconstructor(_CONFIG)
    errors = []
    for k in range(24):
        x, y = 0.15 * np.cos(2.4 * k), 0.15 * np.sin(2.4 * k)
        r.integrate(depth_frame(plane, look_at((x, y, 0.65), (0.3 * x, 0.3 * y, 0)), rng=rng))
        if k in (1, 5, 23):
            v = _mesh(r).vertices
            middle = np.hypot(v[:, 0], v[:, 1]) < 0.2
            errors.append(float(plane.distance(v[middle]).mean()))
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.8 * errors[1]
    assert errors[2] < 0.08 * SIGMA_M


def _empty(value: float = 0.0) -> DepthFrame:
    frame = scan_frames("plane", False)[0]
    assert isinstance(frame, DepthFrame)
    return DepthFrame(np.full_like(frame.depth_m, value), frame.intrinsics, frame.world_T_sensor)


def test_empty_frames_are_accepted_without_effect(frames: list[Frame]) -> None:
    """First, in between and last: they count, and change nothing else."""
    r = Reconstructor(_CONFIG)
    # An even number: blocks of free space are judged in every second frame.
    for value in (0.0, np.nan, np.inf, 0.0):
        report = r.integrate(_empty(value))
        assert (report.points, report.charts_created, report.charts_untouched) == (0, 0, 0)
    assert r.frame_count == 4
    assert r.config == _CONFIG, "no scale is chosen from a frame without points"
    assert list(r.surface().tiles()) == []
    assert not r.changes().tables
    r.integrate(frames[0])
    charts = r.chart_count
    before = {n: v.copy() for n, v in r.changes().tables["charts"].columns.items()}
    report = r.integrate(_empty())
    assert report.frame_index == 5
    assert report.charts_untouched == charts
    for name, values in before.items():
        assert r.changes().tables["charts"].columns[name].tobytes() == values.tobytes()
    other = _run(frames[:1])
    a, b = _mesh(r), _mesh(other)
    assert a.vertices.tobytes() == b.vertices.tobytes()


def test_a_frame_ten_kilometres_away() -> None:
    """The map near the origin keeps its bits; the far patch is as good as a near one."""
    floor = Plane((0, 0, 0.001), (0, 0, 1))
    far_x = 10_000.0
    near = look_at((0, 0, 0.7), (0, 0.01, 0))
    away = near.copy()
    away[0, 3] += far_x
    local = depth_frame(floor, near, rng=np.random.default_rng(0))
    r = _run([local])
    before = {n: v.copy() for n, v in r.changes().tables["charts"].columns.items()}
    r.integrate(DepthFrame(local.depth_m, local.intrinsics, away))
    after = r.changes().tables["charts"].columns
    count = len(before["fits"])
    for name, values in before.items():
        assert after[name][:count].tobytes() == values.tobytes()
    vertices = _mesh(r).vertices
    here = np.abs(vertices[:, 0]) < 5
    there = np.abs(vertices[:, 0] - far_x) < 5
    assert (here | there).all()
    assert there.sum() > 0.9 * here.sum()
    error = [floor.distance(vertices[part]).mean() for part in (here, there)]
    assert error[1] < 1.15 * error[0]
    bounds = r.surface().bounds_m
    assert bounds is not None
    assert bounds[3] - bounds[0] > far_x
    cells = r.surface().estimate_cells(VOXEL_M)
    assert cells < 1e7, "the cost follows the surface, not the box around it"


def test_a_whole_scene_shifted_by_kilometres_is_the_same_surface(frames: list[Frame]) -> None:
    """8,192 m = a whole number of voxels of 2^-7 m: same charts, same error, to rounding."""
    config = SceneConfig(evidence_voxel_m=2.0**-7, resolution_m=2.0**-7)
    shift = np.array([8192.0, -8192.0, 4096.0])
    near, far = Reconstructor(config), Reconstructor(config)
    for frame in frames[:3]:
        assert isinstance(frame, DepthFrame)
        pose = frame.world_T_sensor.copy()
        pose[:3, 3] += shift
        a, b = near.integrate(frame), far.integrate(DepthFrame(frame.depth_m, frame.intrinsics, pose))
        assert abs(a.charts_created - b.charts_created) <= 2
        assert abs(a.surfels_touched - b.surfels_touched) <= 3
    shape = SHAPES["torus"]
    error = [
        float(shape.distance(_mesh(r).vertices - o).mean()) for r, o in ((near, 0 * shift), (far, shift))
    ]
    assert error[1] == pytest.approx(error[0], rel=0.05)


def _too_far() -> Frame:
    """Within what a frame may say, beyond what the voxel index can hold (2^30 voxels of 1 mm)."""
    frame = scan_frames("plane", False)[0]
    assert isinstance(frame, DepthFrame)
    pose = frame.world_T_sensor.copy()
    pose[0, 3] = 9e6
    return DepthFrame(frame.depth_m, frame.intrinsics, pose)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_invalid_frame_leaves_the_state_as_it_was(frames: list[Frame], after: int) -> None:
    config = SceneConfig(evidence_voxel_m=0.008)
    r = _run(frames[:after], config)
    state = _state(r.changes())
    with pytest.raises(InvalidFrameError, match="world origin"):
        r.integrate(_too_far())
    assert r.frame_count == after
    again = _state(r.changes())
    assert again.metadata == state.metadata
    assert again.tables.keys() == state.tables.keys()
    for table, columns in state.tables.items():
        for name, values in columns.items():
            assert values.tobytes() == again.tables[table][name].tobytes(), f"{table}.{name}"
    r.integrate(frames[after])
    _assert_same(r, _run(frames[: after + 1], config))


@pytest.mark.parametrize("after", [0, 1])
def test_points_all_at_one_place_do_no_harm(frames: list[Frame], after: int) -> None:
    """No spacing, no thickness, so no noise level: refused or without effect, but never a broken map."""
    r = _run(frames[:after], SceneConfig())
    normals = np.tile(np.float32([0, 0, 1]), (100, 1))
    same = PointFrame(np.ones((100, 3), np.float32), np.eye(4), has_origin=False, normals=normals)
    try:
        r.integrate(same)
    except InvalidFrameError:
        assert r.frame_count == after
    for frame in frames[:2]:
        r.integrate(frame)
    for table in r.changes().tables.values():
        for name, values in table.columns.items():
            if values.dtype.kind == "f":
                assert np.isfinite(values).all(), name
    vertices = _mesh(r).vertices
    assert np.isfinite(vertices).all()
    assert len(vertices) > 1000


def test_mixed_sensors() -> None:
    """A depth camera, a LiDAR image and bare points of one room go into one map."""
    room = Union((Plane((0, 0, 0), (0, 0, 1)), Plane((2, 0, 0), (-1, 0, 0)), Sphere((0, 0, 0.5), 6.0)))
    r = Reconstructor(SceneConfig(evidence_voxel_m=0.05))
    pose = np.eye(4)
    pose[2, 3] = 1.0
    r.integrate(range_frame(room, pose, beams=48, columns=360))
    charts = r.chart_count
    assert charts > 50
    r.integrate(depth_frame(room, look_at((0, 0, 1.2), (2, 0.3, 0.4)), rng=np.random.default_rng(0)))
    mesh = _mesh(r)
    assert np.quantile(room.distance(mesh.vertices), 0.95) < 0.02
    assert r.chart_count >= charts


def test_integrate_reads_like_the_paper() -> None:
    source = inspect.getsource(Reconstructor.integrate).splitlines()
    assert len(source) <= 60


def test_the_order_of_frames_matters_only_a_little(frames: list[Frame]) -> None:
    """Anchors differ, so vertices differ; the error does not."""
    a, b = _mesh(_run(frames)), _mesh(_run(frames[::-1]))
    shape = SHAPES["torus"]
    first, second = shape.distance(a.vertices), shape.distance(b.vertices)
    assert first.mean() == pytest.approx(second.mean(), rel=0.15)


def test_the_seed_decides_the_features(frames: list[Frame]) -> None:
    a = _run(frames[:1])
    b = _run(frames[:1], replace(_CONFIG, seed=1))
    assert a.changes().arrays["shared_w1"].tobytes() != b.changes().arrays["shared_w1"].tobytes()
    shape = SHAPES["torus"]
    assert shape.distance(_mesh(b).vertices).mean() == pytest.approx(
        shape.distance(_mesh(a).vertices).mean(), rel=0.2
    )
