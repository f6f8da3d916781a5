"""Virtual scans: reproducible, in real formats, with noise as stated and truth that fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamdgp.datasets import open_dataset
from streamdgp.errors import AlreadyExistsError, DatasetError, InvalidInputError
from streamdgp.frames import DepthFrame, PointFrame
from streamdgp.meshes import RayScene, TriangleMesh, read_mesh
from streamdgp.simulate import DepthSensor, LidarSensor, make_room, make_street, simulate_scan
from streamdgp.simulate._paths import in_room
from streamdgp.simulate._shapes import box, sphere
from streamdgp.simulate._worlds import ROOM_SIZE_M, street_height_m

_SMALL = DepthSensor(width=64, height=48, focal_px=58.0)


def _wall_ahead(z_m: float, edge_m: float = -50.0) -> RayScene:
    x, y = [edge_m, 50, 50, edge_m], [-50, -50, 50, 50]
    near = TriangleMesh(np.column_stack([x, y, [z_m] * 4]), np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    return RayScene(near)


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("world", "sensor"), [("room", "depth"), ("street", "lidar"), ("room", "lidar"), ("street", "depth")]
)
def test_same_seed_same_bytes(tmp_path: Path, world: str, sensor: str) -> None:
    small = _SMALL if sensor == "depth" else LidarSensor(beams=8, columns=64)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate_scan(world, tmp_path / name, small, frames=2, seed=seed)
    first = _bytes_of(tmp_path / "a")
    assert first == _bytes_of(tmp_path / "b")
    other = _bytes_of(tmp_path / "c")
    assert first.keys() == other.keys()
    assert first["truth.ply"] != other["truth.ply"]


def test_object_scan_opens_and_fits_its_truth(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    summary = simulate_scan(
        sphere((5, 5, 5), 7.0),
        tmp_path / "scan",
        _SMALL,
        frames=6,
        size_m=0.8,
        progress=lambda *step: done.append(step),
    )
    assert (summary.format, summary.frame_count) == ("7scenes", 6)
    assert done == [(k, 6) for k in range(1, 7)]
    truth = read_mesh(summary.truth)
    np.testing.assert_allclose(np.abs(truth.vertices).max(axis=0), 0.4, atol=1e-6)
    scene = RayScene(truth)
    assert scene.closest(np.load(summary.seen))[0].max() < 1e-5
    dataset = open_dataset(summary.path)
    for frame in dataset:
        assert isinstance(frame, DepthFrame)
        k = frame.intrinsics
        v, u = np.nonzero(frame.depth_m)
        z = frame.depth_m[v, u]
        points = np.stack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z], axis=-1)
        world = points @ frame.world_T_sensor[:3, :3].T + frame.world_T_sensor[:3, 3]
        distance, _ = scene.closest(world)
        assert np.median(distance) < 0.003  # sigma is 1.9 mm at 1 m


def test_lidar_scan_opens_and_fits_its_truth(tmp_path: Path) -> None:
    summary = simulate_scan("street", tmp_path / "scan", LidarSensor(beams=16, columns=128), frames=3)
    dataset = open_dataset(summary.path)
    assert (dataset.format, len(dataset)) == ("kitti", 3)
    scene = RayScene(read_mesh(summary.truth))
    for frame in dataset:
        assert isinstance(frame, PointFrame)
        world = frame.points_m @ frame.world_T_sensor[:3, :3].T + frame.world_T_sensor[:3, 3]
        distance, _ = scene.closest(world)
        assert distance.mean() < 0.02
        assert np.quantile(distance, 0.99) < 0.08


def test_depth_noise_grows_with_the_square_of_the_depth() -> None:
    sensor = DepthSensor(dropout_share=0.1)
    for z in (0.4, 2.0, 4.0):
        depth, seen = sensor.measure(_wall_ahead(z), np.eye(4), np.random.default_rng(0))
        hit = depth > 0
        assert hit.mean() == pytest.approx(0.9, abs=0.01)
        assert depth[hit].mean() == pytest.approx(z, abs=4e-4)
        assert depth[hit].std() == pytest.approx(0.0012 + 0.0019 * (z - 0.4) ** 2, rel=0.02)
        np.testing.assert_allclose(seen[:, 2], z, rtol=1e-6)


def test_depth_beyond_range_and_quantisation() -> None:
    far, _ = DepthSensor(max_range_m=2.0).measure(_wall_ahead(2.5), np.eye(4), np.random.default_rng(0))
    assert not far.any()
    coarse, _ = DepthSensor(quantisation_m=0.05).measure(
        _wall_ahead(1.005), np.eye(4), np.random.default_rng(0)
    )
    assert set(np.round(coarse[coarse > 0], 6)) == {1.0}


def test_flying_pixels_lie_between_both_sides_of_an_edge() -> None:
    near, far = box((1.0, 0.0, 1.0), (2.0, 9.0, 0.01)), box((0, 0, 3.0), (20.0, 20.0, 0.01))
    scene = RayScene(
        TriangleMesh(np.vstack([near.vertices, far.vertices]), np.vstack([near.triangles, far.triangles + 8]))
    )
    quiet = {"sigma_m": 0.0, "sigma_per_m2": 0.0, "dropout_share": 0.0}
    clean, _ = DepthSensor(**quiet).measure(scene, np.eye(4), np.random.default_rng(0))  # type: ignore[arg-type]
    dirty, _ = DepthSensor(flying_share=0.5, **quiet).measure(scene, np.eye(4), np.random.default_rng(0))  # type: ignore[arg-type]
    assert set(np.round(np.unique(clean), 3)) == {0.995, 2.995}
    changed = np.abs(dirty - clean) > 1e-9
    assert np.unique(np.nonzero(changed)[1]).tolist() == [160]
    assert 0.3 < changed[:, 160].mean() < 0.7
    assert 0.995 < dirty[changed].min() < dirty[changed].max() < 2.995


def test_lidar_noise_and_dropouts() -> None:
    sensor = LidarSensor(beams=32, columns=512, lowest_deg=-10, highest_deg=10, dropout_share=0.2)
    points, _ = sensor.measure(RayScene(sphere((0, 0, 0), 10.0, 96)), np.eye(4), np.random.default_rng(0))
    ranges = np.linalg.norm(points[:, :3], axis=1)
    assert len(points) / (32 * 512) == pytest.approx(0.8, abs=0.01)
    assert ranges.mean() == pytest.approx(10.0, abs=0.005)
    assert ranges.std() == pytest.approx(0.02, rel=0.05)
    assert points[:, 3].min() > 0.99  # the intensity is the cosine of incidence


def test_room_is_closed_and_cameras_stay_inside() -> None:
    room = make_room(7)
    scene = RayScene(room)
    directions = np.random.default_rng(0).normal(size=(500, 3))
    for pose in in_room(20, "depth"):
        position = pose[:3, 3]
        assert (position > 0.3).all()
        assert (position < np.array(ROOM_SIZE_M) - 0.3).all()
        assert np.isfinite(scene.cast(position, directions).t).all()
    assert len(room.triangles) > 500


def test_street_slopes_and_has_thin_poles() -> None:
    assert street_height_m([0.0, 12.0, 32.0]) == pytest.approx([0.0, 0.0, 1.0])
    scene = RayScene(make_street(7))
    down = scene.cast(np.array([[30.0, 0.0, 50.0]]), np.array([[0.0, 0, -1]]))
    assert 50.0 - down.t[0] == pytest.approx(street_height_m(30.0), abs=1e-4)
    pole = scene.cast(np.array([[9.0, 0.0, 4.0]]), np.array([[0.0, 1.0, 0.0]]))
    assert 5.8 < pole.t[0] < 6.0


def test_what_cannot_be_simulated(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="castle"):
        simulate_scan("castle", tmp_path / "a")
    with pytest.raises(InvalidInputError, match="depth or lidar"):
        simulate_scan("room", tmp_path / "a", "radar")
    with pytest.raises(InvalidInputError, match="frames >= 1"):
        simulate_scan("room", tmp_path / "a", frames=0)
    with pytest.raises(InvalidInputError, match="size_m > 0"):
        simulate_scan(box((0, 0, 0), (1, 1, 1)), tmp_path / "a", size_m=0.0)
    with pytest.raises(InvalidInputError, match="dropout_share from 0 to 1"):
        DepthSensor(dropout_share=1.5)
    assert not (tmp_path / "a").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "frame-000000.depth.png").touch()
    with pytest.raises(AlreadyExistsError, match="new or empty"):
        simulate_scan("room", tmp_path / "full", frames=1)
