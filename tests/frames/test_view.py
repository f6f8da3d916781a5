"""Which frames tell what they saw, and that the image they tell it with is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.frames import PointFrame
from streamdgp.frames.orient import orient
from streamdgp.frames.view import SphereBins
from tests.reference.shapes import Box, Shape, Union, depth_frame, look_at, range_frame, scattered_lidar

_ROOM = Union((Box((-3, -2.5, -1.2), (3, 2.5, 1.4)), Box((1.2, -0.4, -1.2), (1.8, 0.4, 0.0))))


def _pose(x: float = 0.1, y: float = -0.2) -> npt.NDArray[np.float64]:
    c, s = np.cos(0.4), np.sin(0.4)
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, 0.1], [0, 0, 0, 1]])


_YARD = Union(
    (
        Box((-9, -9, -1.2), (9, 9, 3)),
        *(Box((x - 0.7, y - 0.7, -1.2), (x + 0.7, y + 0.7, 2)) for x in (-4, 0.5, 4) for y in (-3.5, 3)),
    )
)


def _submap(shape: Shape) -> PointFrame:
    """Scans from eight places, as points in one frame whose origin is the first of them."""
    places = [(0, 0), (7, 0), (-7, 0), (0, 7), (0, -7), (7, 7), (-7, -7), (7, -7)]
    points = []
    for x, y in places:
        frame = scattered_lidar(shape, _pose(x, y), columns=180)
        points.append(frame.points_m @ frame.world_T_sensor[:3, :3].T + frame.world_T_sensor[:3, 3])
    return PointFrame(np.concatenate(points).astype(np.float32), np.eye(4), is_lidar=True)


def test_a_scan_from_one_place_has_a_view() -> None:
    rng = np.random.default_rng(0)
    for frame in (range_frame(_ROOM, _pose()), scattered_lidar(_ROOM, _pose(), rng=rng)):
        view = orient(frame, 0.1).view
        assert view is not None
        assert not view.is_pinhole
        np.testing.assert_allclose(view.origin_m, _pose()[:3, 3], atol=1e-9)
    camera = orient(depth_frame(_ROOM, look_at((0, 0, 0), (1, 0, 0))), 0.1).view
    assert camera is not None
    assert camera.is_pinhole


def test_a_submap_has_no_view() -> None:
    """From its origin, some of its points lie behind others: rays to them would pass through these."""
    points = orient(_submap(_YARD), 0.1)
    assert len(points) > 5000
    assert points.view is None
    assert orient(scattered_lidar(_YARD, _pose(0, 0)), 0.1).view is not None


def test_points_of_no_lidar_or_with_normals_have_no_view() -> None:
    frame = scattered_lidar(_ROOM, _pose())
    assert orient(replace(frame, is_lidar=False), 0.1).view is None
    towards = -frame.points_m / np.linalg.norm(frame.points_m, axis=1, keepdims=True)
    assert orient(replace(frame, normals=towards.astype(np.float32)), 0.1).view is None


def test_a_scan_without_returns_has_no_view() -> None:
    frame = range_frame(_ROOM, _pose(), beams=4, columns=16)
    nothing = replace(frame, ranges_m=np.zeros_like(frame.ranges_m))
    assert orient(nothing, 0.1).view is None


@pytest.mark.parametrize("columns", [90, 361])
@pytest.mark.parametrize("sensor_origin_m", [(0.0, 0.0, 0.0), (0.02, -0.03, 0.5)])
def test_every_return_is_in_the_image_at_its_direction(
    columns: int, sensor_origin_m: tuple[float, float, float]
) -> None:
    """Projected with the view's own numbers, each lies in a pixel whose return is no farther."""
    scanned = scattered_lidar(_ROOM, _pose(), columns=columns, rng=np.random.default_rng(1))
    origin = np.array(sensor_origin_m)
    frame = PointFrame(
        (scanned.points_m + origin).astype(np.float32), _pose(), sensor_origin_m, is_lidar=True
    )
    view = orient(frame, 0.1).view
    assert view is not None
    world = frame.points_m @ _pose()[:3, :3].T + _pose()[:3, 3]
    x, y, z = ((world - view.origin_m) @ view.rotation).T
    ranges = np.sqrt(x**2 + y**2 + z**2)
    scale_u, scale_v, offset_u, offset_v = view.camera
    u, v = scale_u * np.arctan2(y, x) + offset_u, scale_v * np.arcsin(z / ranges) + offset_v
    # The topmost and lowest thousandth are clipped into the outermost rows.
    v = np.clip(v, 0, view.seen_m.shape[0] - 1)
    # On the border of two pixels a return may be in either.
    clear = (np.abs(u - np.round(u)) < 0.499) & (np.abs(v - np.round(v)) < 0.499)
    assert clear.mean() > 0.8
    seen = view.seen_m[np.round(v).astype(int), np.round(u).astype(int) % view.seen_m.shape[1]][clear]
    assert (seen > 0).all()
    assert (seen <= ranges[clear] * (1 + 1e-6)).all()
    np.testing.assert_allclose(ranges.min(), view.seen_m[view.seen_m > 0].min(), rtol=1e-5)


def test_the_nearest_of_a_bin_stands_for_it() -> None:
    rng = np.random.default_rng(2)
    offset = rng.normal(size=(5000, 3)) * [1, 1, 0.3]
    offset = (offset * rng.uniform(0.5, 2, (5000, 1))).astype(np.float32)
    ranges = np.linalg.norm(offset, axis=1).astype(np.float32)
    bins = SphereBins.of(offset, ranges)
    nearest = bins.nearest_m.reshape(-1)
    for number in np.unique(bins.bins):
        inside = np.flatnonzero(bins.bins == number)
        assert nearest[number] == ranges[inside].min()
        assert np.isin(inside[np.argmin(ranges[inside])], bins.first)
    assert (nearest > 0).sum() == len(np.unique(bins.bins)) == len(bins.first)
