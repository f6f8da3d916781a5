"""Depth images to oriented points, against analytic surfaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamdgp.frames import DepthFrame, Intrinsics
from streamdgp.frames.noise import depth_camera_sigma_m
from streamdgp.frames.orient import orient
from tests.reference.shapes import (
    Box,
    Plane,
    Sphere,
    Torus,
    Union,
    depth_frame,
    kinect_sigma_m,
    look_at,
    orbit,
    pixel_rays,
)

_MIN_COS = 0.1


def _tilted(degrees: float, axis: str) -> Plane:
    """A plane through (0, 0, 1.5) in front of a camera at the origin, tilted by ``degrees``."""
    a = np.deg2rad(degrees)
    sideways = np.sin(a)
    normal = (sideways, 0.0, -np.cos(a)) if axis == "x" else (0.0, sideways, -np.cos(a))
    return Plane((0.0, 0.0, 1.5), normal)


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("degrees", [-70.0, -45.0, 0.0, 20.0, 60.0, 75.0])
def test_slanted_planes_are_exact(degrees: float, axis: str) -> None:
    plane = _tilted(degrees, axis)
    points = orient(depth_frame(plane, np.eye(4)), _MIN_COS)
    # 1/z is affine in the pixel: only float32 rounding (6e-8 relative over a window of 0.05 rad) is left.
    assert (points.normals @ plane.normal(np.zeros((1, 3)))[0]).min() > 1 - 1e-6
    assert plane.distance(points.positions_m).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(points.normals, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 60.0])
def test_a_plane_keeps_every_pixel(degrees: float) -> None:
    frame = depth_frame(_tilted(degrees, "x"), np.eye(4))
    seen = int(((frame.depth_m > 0.1) & (frame.depth_m < 10)).sum())
    assert len(orient(frame, 0.0)) == seen


@hypothesis_settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([Sphere(radius=0.4), Torus(0.4, 0.15)]))
def test_rigid_motion(seed: int, shape: Sphere | Torus) -> None:
    """Moving sensor and world together moves points and normals, and nothing else."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=3)
    local = depth_frame(shape, look_at(1.2 * direction / np.linalg.norm(direction), (0, 0, 0)))
    motion = np.eye(4)
    motion[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    motion[:3, 0] *= np.sign(np.linalg.det(motion[:3, :3]))
    motion[:3, 3] = rng.uniform(-100, 100, 3)
    moved = DepthFrame(local.depth_m, local.intrinsics, motion @ local.world_T_sensor)
    a, b = orient(local, _MIN_COS), orient(moved, _MIN_COS)
    np.testing.assert_allclose(b.positions_m, a.positions_m @ motion[:3, :3].T + motion[:3, 3], atol=1e-9)
    np.testing.assert_allclose(b.normals, a.normals @ motion[:3, :3].T, atol=1e-5)
    np.testing.assert_array_equal(a.sigma_m, b.sigma_m)
    assert b.sensor_origin_m is not None
    np.testing.assert_allclose(b.sensor_origin_m, moved.world_T_sensor[:3, 3])


@pytest.mark.parametrize("shape", [Sphere(radius=0.5), Torus(0.5, 0.25)])
def test_curved_normals_face_the_sensor_and_are_unbiased(shape: Sphere | Torus) -> None:
    for pose in orbit(6, 1.5):
        points = orient(depth_frame(shape, pose, focal=120.0), _MIN_COS)
        assert len(points) > 300
        to_sensor = pose[:3, 3] - points.positions_m
        to_sensor /= np.linalg.norm(to_sensor, axis=1, keepdims=True)
        cosine = (points.normals * to_sensor).sum(1)
        assert cosine.min() >= _MIN_COS - 1e-5
        np.testing.assert_allclose(points.incidence_cos, cosine, atol=1e-4)
        error = np.degrees(
            np.arccos(np.clip((points.normals * shape.normal(points.positions_m)).sum(1), -1, 1))
        )
        # A window spans some 5 px * 1.2 m / 120 = 5 cm on a 25 cm radius: 11 degrees end to end.
        # The centred fit cancels this except at the silhouette; a one-sided one would show 5 degrees.
        assert np.median(error) < 1.0
        # A bend is no plane within the noise: some cells take fewer neighbours, and more of the noise.
        assert np.quantile(error, 0.95) < 7.0


def test_noise_does_not_tilt_normals() -> None:
    """The mean normal of a noisy slanted plane is the plane's: bias well below the scatter."""
    plane = _tilted(40.0, "x")
    truth = plane.normal(np.zeros((1, 3)))[0]
    points = orient(
        depth_frame(plane, np.eye(4), width=160, height=120, focal=160.0, rng=np.random.default_rng(1)), 0.1
    )
    scatter = np.degrees(np.arccos(np.clip(points.normals @ truth, -1, 1)))
    mean = points.normals.mean(0)
    bias = np.degrees(np.arccos(mean @ truth / np.linalg.norm(mean)))
    assert np.median(scatter) < 15
    assert bias < 1.0


@pytest.mark.parametrize("distance", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("turn", [0.15, 0.5, 0.785])
def test_crease_normals_do_not_mix(turn: float, distance: float) -> None:
    """A convex right angle: normals are one face's or the other's, but for the two pixels on the crease."""
    faces = (Plane((0, 0, 0), (1, 0, 0)), Plane((0, 0, 0), (0, 1, 0)))
    box = Box((-4.0, -4.0, -4.0), (0.0, 0.0, 4.0))
    eye = distance * np.array([np.cos(turn), np.sin(turn), 0.0])
    frame = depth_frame(box, look_at(eye, (0, 0, 0)), width=160, height=120, focal=160.0)
    points = orient(frame, _MIN_COS)
    cosines = np.stack([(points.normals * f.normal(points.positions_m)).sum(1) for f in faces]).max(0)
    error = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    # The crease is in the middle column.
    ahead = (points.positions_m - eye) @ np.linalg.inv(frame.world_T_sensor[:3, :3]).T
    from_crease_px = np.abs(160.0 * ahead[:, 0] / ahead[:, 2])
    # A window straddles the crease within two pixels of it, and there the mixed plane may lie within the
    # sensor's noise; the robust passes must see to it that nothing is felt farther out.
    assert error[from_crease_px > 2.5].max() < 7.0
    assert (error > 10).mean() < 3 / 160
    assert np.quantile(error, 0.95) < 0.1
    seen = frame.depth_m.ravel() > 0
    rays = pixel_rays(160, 120, 160.0)[seen] @ frame.world_T_sensor[:3, :3].T
    hits = eye + frame.depth_m.ravel()[seen, None] * rays
    steep = -(box.normal(hits) * rays).sum(1) / np.linalg.norm(rays, axis=1) > 1.2 * _MIN_COS
    assert len(points) >= 0.98 * steep.sum()


def test_depth_step_normals_do_not_mix() -> None:
    """A card 0.5 m in front of a wall: normals never lean into the step."""
    scene = Union((Plane((0, 0, 2.0), (0, 0, -1)), Box((-0.2, -0.2, 1.5), (0.2, 0.2, 1.6))))
    points = orient(depth_frame(scene, np.eye(4), width=120, height=90, focal=120.0), _MIN_COS)
    error = np.degrees(np.arccos(np.clip(points.normals @ [0, 0, -1.0], -1, 1)))
    # Both faces look at the camera; the card's sides cannot be seen.
    assert error.max() < 1.0
    assert np.isin(np.round(points.positions_m[:, 2], 4), [1.5, 2.0]).all()


def test_flying_pixels_between_foreground_and_background_get_no_normal() -> None:
    depth = np.full((60, 80), 2.0, np.float32)
    depth[:, :40] = 1.0
    depth[:, 40] = 1.5
    frame = DepthFrame(depth, Intrinsics(80.0, 80.0, 39.5, 29.5), np.eye(4))
    points = orient(frame, _MIN_COS)
    assert not np.isclose(points.positions_m[:, 2], 1.5).any()
    assert len(points) >= 60 * 79 * 0.98


def test_bad_pixels_are_dropped_and_counted() -> None:
    plane = _tilted(0.0, "x")
    frame = depth_frame(plane, np.eye(4))
    depth = frame.depth_m.copy()
    bad = {(5, 5): np.nan, (10, 20): np.inf, (15, 30): 0.0, (20, 40): -1.0, (25, 50): 0.05, (30, 60): 50.0}
    for pixel, value in bad.items():
        depth[pixel] = value
    points = orient(DepthFrame(depth, frame.intrinsics, np.eye(4)), _MIN_COS)
    assert len(points) == depth.size - len(bad)
    assert plane.distance(points.positions_m).max() < 1e-5
    assert (points.normals @ [0, 0, -1.0]).min() > 1 - 1e-6, "a bad pixel reached its neighbours' normals"
    assert points.dropped == len(bad), "every measurement is either a point or counted as dropped"


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, -3.0, 99.0])
def test_frames_without_returns_are_empty(value: float) -> None:
    frame = DepthFrame(np.full((6, 8), value, np.float32), Intrinsics(8.0, 8.0, 3.5, 2.5), np.eye(4))
    points = orient(frame, _MIN_COS)
    assert len(points) == 0
    assert points.noise_m == 0.0
    assert points.spacing_m == 0.0
    assert points.dropped == 48


@pytest.mark.parametrize("shape", [(2, 2), (2, 50), (3, 3), (40, 2)])
def test_tiny_images_do_not_fail(shape: tuple[int, int]) -> None:
    frame = DepthFrame(np.ones(shape, np.float32), Intrinsics(50.0, 50.0, 1.0, 1.0), np.eye(4))
    points = orient(frame, _MIN_COS)
    assert np.isfinite(points.normals).all()
    assert len(points) + points.dropped == shape[0] * shape[1]


def test_isolated_pixels_have_no_normal() -> None:
    depth = np.zeros((60, 80), np.float32)
    depth[10::20, 10::20] = 1.0
    frame = DepthFrame(depth, Intrinsics(80.0, 80.0, 39.5, 29.5), np.eye(4))
    assert len(orient(frame, _MIN_COS)) == 0


def test_grazing_measurements_are_dropped() -> None:
    """A floor seen to the horizon: kept exactly where the incidence cosine reaches the limit."""
    floor = Plane((0, 0, 0), (0, 0, 1))
    frame = depth_frame(floor, look_at((0, 0, 1.0), (10.0, 0, 0.0)), max_range_m=50.0)
    points = orient(frame, 0.2)
    world = (pixel_rays(80, 60, 80.0) / np.linalg.norm(pixel_rays(80, 60, 80.0), axis=1)[:, None]) @ (
        frame.world_T_sensor[:3, :3].T
    )
    steep = (-world[:, 2] >= 0.2) & (frame.depth_m.ravel() > 0.1) & (frame.depth_m.ravel() < 50)
    # One row of pixels lies within rounding of the limit.
    assert abs(len(points) - int(steep.sum())) <= 80
    assert points.incidence_cos.min() >= 0.2 - 1e-5
    assert len(orient(frame, 0.9)) == 0


def test_sigma_is_the_published_model_along_the_ray() -> None:
    z = np.linspace(0.3, 5, 50)
    np.testing.assert_allclose(depth_camera_sigma_m(z.astype(np.float32)), kinect_sigma_m(z), rtol=1e-5)
    frame = depth_frame(_tilted(0.0, "x"), np.eye(4))
    points = orient(frame, _MIN_COS)
    length = np.linalg.norm(points.positions_m, axis=1) / points.positions_m[:, 2]
    np.testing.assert_allclose(points.sigma_m, kinect_sigma_m(points.positions_m[:, 2]) * length, rtol=1e-4)
    assert points.sigma_m.min() <= points.noise_m <= points.sigma_m.max()
    assert points.spacing_m == pytest.approx(1.5 / 80.0, rel=1e-3)


def test_colour_follows_its_pixel() -> None:
    frame = depth_frame(Sphere((0, 0, 1.5), 0.5), np.eye(4))
    v, u = np.indices(frame.depth_m.shape)
    color = np.stack([u, v, np.full_like(u, 7)], -1).astype(np.uint8)
    points = orient(DepthFrame(frame.depth_m, frame.intrinsics, np.eye(4), color=color), _MIN_COS)
    assert points.color is not None
    pixel = points.positions_m[:, :2] / points.positions_m[:, 2:] * 80.0 + [39.5, 29.5]
    np.testing.assert_allclose(points.color[:, :2], pixel, atol=1e-2)


def test_orientation_is_deterministic() -> None:
    frame = depth_frame(Torus(), look_at((0.5, 0.3, 0.4), (0, 0, 0)), rng=np.random.default_rng(3))
    a, b = orient(frame, _MIN_COS), orient(frame, _MIN_COS)
    assert a.normals.tobytes() == b.normals.tobytes()
    assert a.positions_m.tobytes() == b.positions_m.tobytes()
