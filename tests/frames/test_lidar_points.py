"""Range images, unordered scans, submaps and points that bring their own normals."""

from __future__ import annotations

import numpy as np
import pytest

from streamdgp.frames import PointFrame, RangeImageFrame
from streamdgp.frames.orient import OrientedPoints, orient
from tests.reference.shapes import (
    Box,
    Plane,
    Shape,
    Sphere,
    Torus,
    Union,
    depth_frame,
    fibonacci_directions,
    look_at,
    range_frame,
    scattered_lidar,
)

_MIN_COS = 0.1
_GROUND = Plane((0, 0, -1.5), (0, 0, 1))
_CEILING = Plane((0, 0, 2.5), (0, 0, -1))
_ENDS = (Plane((6, 0, 0), (-1, 0, 0)), Plane((-6, 0, 0), (1, 0, 0)))
_SIDES = (Plane((0, 5, 0), (0, -1, 0)), Plane((0, -5, 0), (0, 1, 0)))
_ROOM = Union((_GROUND, _CEILING, *_ENDS, *_SIDES))


def _error_deg(points: OrientedPoints, shape: Shape) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((points.normals * shape.normal(points.positions_m)).sum(1), -1, 1)))


def _pose(x: float = 0.3, y: float = -0.7, yaw: float = 0.4) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:2, 3] = x, y
    return pose


def test_range_image_of_a_room() -> None:
    frame = range_frame(_ROOM, _pose())
    points = orient(frame, _MIN_COS)
    assert len(points) > 0.95 * frame.ranges_m.size
    assert _ROOM.distance(points.positions_m).max() < 1e-4
    error = _error_deg(points, _ROOM)
    # Only the cells on the room's edges may be torn between two walls.
    assert np.quantile(error, 0.9) < 0.5
    assert np.median(error) < 0.01
    assert points.incidence_cos.min() >= _MIN_COS - 1e-5
    np.testing.assert_allclose(points.sigma_m, 0.02, rtol=1e-5)


def test_range_image_wraps_around() -> None:
    """The first and the last column are neighbours: a wall behind the sensor has no seam."""
    frame = range_frame(_ROOM, _pose(yaw=0.0), beams=16, columns=180)
    points = orient(frame, _MIN_COS)
    behind = points.positions_m[:, 0] < -5.9
    near_seam = behind & (np.abs(points.positions_m[:, 1] + 0.7) < 0.3)
    assert near_seam.sum() >= 16
    assert _error_deg(points, _ROOM)[near_seam].max() < 0.1


def test_range_image_drops_what_is_no_return() -> None:
    frame = range_frame(_ROOM, _pose())
    ranges = frame.ranges_m.copy()
    ranges[3, 10], ranges[4, 20], ranges[5, 30], ranges[6, 40], ranges[7, 50] = np.nan, np.inf, 0, -1, 0.05
    bad = RangeImageFrame(ranges, frame.elevations_rad, frame.azimuths_rad, frame.world_T_sensor, 0.2, 100.0)
    points = orient(bad, 0.0)
    clean = orient(frame, 0.0)
    assert np.isfinite(points.positions_m).all()
    assert len(clean) - 5 - 10 <= len(points) < len(clean)
    assert len(points) + points.dropped == ranges.size


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 500.0])
def test_empty_range_image(value: float) -> None:
    ranges = np.full((8, 16), value, np.float32)
    frame = RangeImageFrame(ranges, np.linspace(-0.2, 0.2, 8), np.linspace(-3, 3, 16), np.eye(4))
    points = orient(frame, _MIN_COS)
    assert len(points) == 0
    assert points.dropped == 128


def test_single_beam_and_single_column_images_are_empty_not_errors() -> None:
    """Samples along one line say nothing across it: no normal, no point, no exception."""
    for shape in ((1, 64), (16, 1)):
        frame = RangeImageFrame(
            np.full(shape, 5.0, np.float32),
            np.linspace(-0.2, 0.2, shape[0]),
            np.linspace(-3, 3, shape[1]),
            np.eye(4),
        )
        points = orient(frame, _MIN_COS)
        assert len(points) == 0
        assert points.dropped == shape[0] * shape[1]


@pytest.mark.parametrize("beams", [16, 64])
def test_unordered_scan_agrees_with_the_range_image(beams: int) -> None:
    image = orient(range_frame(_ROOM, _pose(), beams=beams), _MIN_COS)
    loose = orient(scattered_lidar(_ROOM, _pose(), beams=beams, rng=np.random.default_rng(0)), _MIN_COS)
    assert len(loose) > 0.9 * len(image)
    assert _ROOM.distance(loose.positions_m).max() < 1e-4
    error = _error_deg(loose, _ROOM)
    assert np.median(error) < 1.0
    assert np.quantile(error, 0.85) < 5.0
    assert loose.spacing_m == pytest.approx(image.spacing_m, rel=0.35)


def test_order_of_unordered_points_does_not_matter() -> None:
    scan = scattered_lidar(_ROOM, _pose(), rng=np.random.default_rng(0), sigma_m=0.02)
    order = np.random.default_rng(1).permutation(len(scan.points_m))
    other = PointFrame(scan.points_m[order], scan.world_T_sensor, is_lidar=True)
    a, b = orient(scan, _MIN_COS), orient(other, _MIN_COS)
    assert len(a) == len(b)
    np.testing.assert_allclose(
        a.normals[np.lexsort(a.positions_m.T)], b.normals[np.lexsort(b.positions_m.T)], atol=1e-4
    )


def test_unordered_scan_with_bad_points() -> None:
    scan = scattered_lidar(_ROOM, _pose())
    points = scan.points_m.copy()
    points[:4] = [[np.nan, 0, 0], [np.inf, 1, 2], [0, 0, 0], [3e4, 0, 0]]
    clean = orient(scan, 0.0)
    got = orient(PointFrame(points, scan.world_T_sensor, is_lidar=True), 0.0)
    assert np.isfinite(got.positions_m).all()
    assert abs(len(got) - (len(clean) - 4)) < 30
    assert len(got) + got.dropped == len(points)


@pytest.mark.parametrize("field_of_view_deg", [60.0, 120.0, 360.0])
def test_spacing_of_a_narrow_scan(field_of_view_deg: float) -> None:
    """Spacing sets every automatic length: a sensor that sees only forwards must not look sparser."""
    step = np.deg2rad(1.0)
    azimuth, elevation = np.meshgrid(
        np.arange(-np.deg2rad(field_of_view_deg) / 2, np.deg2rad(field_of_view_deg) / 2, step),
        np.arange(-0.3, 0.3, step),
    )
    rays = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], -1
    ).reshape(-1, 3)
    points = orient(PointFrame((10.0 * rays).astype(np.float32), np.eye(4), is_lidar=True), _MIN_COS)
    assert points.spacing_m == pytest.approx(10.0 * step, rel=0.3)


def _submap(noise_m: float = 0.0) -> tuple[PointFrame, Union]:
    """Several scans of a pillared street joined in the frame of the last: no single viewpoint."""
    shape = Union(
        (
            _GROUND,
            Box((4, -0.5, -1.5), (4.6, 0.5, 3)),
            Box((-5, 2, -1.5), (-3, 3, 3)),
            Plane((0, -6, 0), (0, 1, 0)),
        )
    )
    rng = np.random.default_rng(2)
    clouds = []
    for x in (-6.0, -3.0, 0.0, 2.0):
        pose = _pose(x, 0.0, 0.0)
        scan = scattered_lidar(shape, pose, columns=180)
        world = scan.points_m @ pose[:3, :3].T + pose[:3, 3]
        clouds.append(world + noise_m * rng.normal(size=world.shape))
    points = np.concatenate(clouds)
    points = points[np.linalg.norm(points, axis=1) < 25]
    return PointFrame(points.astype(np.float32), np.eye(4), is_lidar=True), shape


def test_submaps_get_neighbourhood_normals() -> None:
    frame, shape = _submap()
    points = orient(frame, _MIN_COS)
    assert len(points) > 0.3 * len(frame.points_m)
    assert shape.distance(points.positions_m).max() < 1e-3
    error = _error_deg(points, shape)
    assert np.median(error) < 1.0
    assert (error > 90).mean() < 0.02, "some normals point away from the sensor"
    assert np.quantile(error, 0.8) < 10


def _sphere_points(count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    normals = fibonacci_directions(count).astype(np.float32)
    return 0.3 * normals, normals


def test_points_with_normals_and_no_origin_keep_them() -> None:
    points, normals = _sphere_points()
    pose = look_at((1, 2, 3), (0, 0, 0))
    got = orient(PointFrame(points, pose, has_origin=False, normals=3.0 * normals), _MIN_COS)
    assert len(got) == len(points)
    assert got.sensor_origin_m is None
    np.testing.assert_allclose(got.normals, normals @ pose[:3, :3].T, atol=1e-5)
    np.testing.assert_allclose(got.positions_m, points @ pose[:3, :3].T + pose[:3, 3], atol=1e-6)
    spacing = 0.3 * np.sqrt(4 * np.pi / len(points))
    assert got.spacing_m == pytest.approx(spacing, rel=0.25)
    assert 0 < got.noise_m <= spacing


def test_points_with_normals_and_an_origin_face_it() -> None:
    points, normals = _sphere_points()
    got = orient(PointFrame(points, np.eye(4), sensor_origin_m=(1.0, 0, 0), normals=normals), _MIN_COS)
    to_sensor = np.array([1.0, 0, 0]) - got.positions_m
    cosine = (to_sensor * got.normals).sum(1) / np.linalg.norm(to_sensor, axis=1)
    assert cosine.min() >= _MIN_COS - 1e-5
    # What a sensor at distance 1 sees of a sphere of radius 0.3 at incidence cosine above 0.1.
    assert 0.25 < len(got) / len(points) < 0.4


def test_unusable_normals_are_dropped() -> None:
    points, normals = _sphere_points()
    normals = normals.copy()
    normals[:5] = np.nan
    normals[5:10] = 0
    normals[10:12] = np.inf
    got = orient(PointFrame(points, np.eye(4), has_origin=False, normals=normals), _MIN_COS)
    assert len(got) == len(points) - 12
    assert got.dropped == 12
    np.testing.assert_allclose(np.linalg.norm(got.normals, axis=1), 1, atol=1e-5)


def test_scan_grid_with_missing_cells() -> None:
    """An organised (H, W, 3) grid: normals like those of the depth image it came from."""
    shape = Torus(0.4, 0.15)
    pose = look_at((0.3, 0.9, 0.8), (0, 0, 0))
    frame = depth_frame(shape, pose, width=120, height=90, focal=120.0)
    v, u = np.indices(frame.depth_m.shape)
    k = frame.intrinsics
    grid = np.stack([(u - k.cx) / k.fx, (v - k.cy) / k.fy, np.ones_like(u)], -1) * frame.depth_m[..., None]
    grid[frame.depth_m == 0] = np.nan
    points = orient(PointFrame(grid.astype(np.float32), pose), _MIN_COS)
    assert len(points) > 0.85 * (frame.depth_m > 0).sum()
    error = _error_deg(points, shape)
    assert np.median(error) < 2.0
    assert np.quantile(error, 0.95) < 12
    assert len(points) + points.dropped == frame.depth_m.size


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_points_are_an_empty_frame(count: int) -> None:
    points = np.ones((count, 3), np.float32)
    got = orient(PointFrame(points, np.eye(4)), _MIN_COS)
    assert len(got) == 0
    assert got.dropped == count


def test_sensor_origin_is_moved_with_the_pose() -> None:
    pose = look_at((5, 6, 7), (0, 0, 0))
    scan = scattered_lidar(Sphere(radius=3.0), np.eye(4))
    got = orient(PointFrame(scan.points_m, pose, sensor_origin_m=(0.1, 0.2, 0.3)), _MIN_COS)
    assert got.sensor_origin_m is not None
    np.testing.assert_allclose(got.sensor_origin_m, pose[:3, :3] @ [0.1, 0.2, 0.3] + pose[:3, 3])
