"""Frames validate themselves: what was wanted, what came, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from streamdgp.errors import InvalidFrameError
from streamdgp.frames import DepthFrame, Intrinsics, PointFrame, RangeImageFrame, validate_pose
from tests.reference.shapes import look_at

_K = Intrinsics(50.0, 50.0, 4.0, 3.0)
_DEPTH = np.ones((6, 8), np.float32)
_POINTS = np.ones((10, 3), np.float32)


def _scaled(factor: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] *= factor
    return pose


def _bad(row: int, column: int, value: float) -> np.ndarray:
    pose = np.eye(4)
    pose[row, column] = value
    return pose


@pytest.mark.parametrize(
    ("pose", "words"),
    [
        (_scaled(1.1), ["R @ R.T off by 0.21", "det R = 1.331", "scale"]),
        (_bad(0, 0, -1), ["det R = -1", "left-handed"]),
        (_bad(3, 0, 0.5), ["last row off by 0.5"]),
        (_bad(0, 3, np.nan), ["NaN or infinity", "tracking"]),
        (_bad(1, 1, np.inf), ["NaN or infinity"]),
        (_bad(2, 3, 2e7), ["1e+07 m", "2e+07 m", "unit"]),
        (np.eye(3), ["(4, 4)", "(3, 3)", "row-major"]),
        (np.zeros((4, 4)), ["det R = 0"]),
        ("pose", ["4x4 numbers", "'pose'"]),
        (None, ["(4, 4)"]),
        ([[1, 2], [3]], ["4x4 numbers"]),
    ],
)
def test_a_pose_that_is_no_rigid_transform_says_by_how_much(pose: Any, words: list[str]) -> None:
    with pytest.raises(InvalidFrameError) as caught:
        validate_pose(pose)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.wanted
    assert caught.value.remedy


def test_rounded_poses_are_made_exact() -> None:
    exact = look_at((0.3, 0.8, 1.7), (0, 0, 0))
    printed = np.round(exact, 4)
    got = validate_pose(printed)
    np.testing.assert_allclose(got[:3, :3] @ got[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(got, exact, atol=1e-4)
    np.testing.assert_array_equal(got[:3, 3], printed[:3, 3])
    np.testing.assert_array_equal(got[3], [0, 0, 0, 1])


def test_validation_does_not_write_to_its_argument() -> None:
    pose = np.round(look_at((1, 2, 3), (0, 0, 0)), 4)
    before = pose.copy()
    validate_pose(pose)
    np.testing.assert_array_equal(pose, before)


_BAD_FRAMES: dict[str, tuple[Callable[[], object], str]] = {
    "focal zero": (lambda: Intrinsics(0.0, 50.0, 1, 1), "positive focal"),
    "focal negative": (lambda: Intrinsics(50.0, -50.0, 1, 1), "fy=-50"),
    "principal point": (lambda: Intrinsics(50.0, 50.0, np.nan, 1), "finite intrinsics"),
    "depth 1d": (lambda: DepthFrame(np.ones(8, np.float32), _K, np.eye(4)), "shape (8,)"),
    "depth one row": (lambda: DepthFrame(np.ones((1, 8), np.float32), _K, np.eye(4)), "2x2"),
    "range order": (
        lambda: DepthFrame(_DEPTH, _K, np.eye(4), min_range_m=3.0, max_range_m=2.0),
        "min_range_m=3.0",
    ),
    "range equal": (
        lambda: DepthFrame(_DEPTH, _K, np.eye(4), min_range_m=2.0, max_range_m=2.0),
        "max_range_m=2.0",
    ),
    "range nan": (lambda: DepthFrame(_DEPTH, _K, np.eye(4), max_range_m=np.nan), "both finite"),
    "range negative": (lambda: DepthFrame(_DEPTH, _K, np.eye(4), min_range_m=-1.0), "min_range_m=-1.0"),
    "colour shape": (
        lambda: DepthFrame(_DEPTH, _K, np.eye(4), color=np.zeros((6, 9, 3), np.uint8)),
        "(6, 8, 3)",
    ),
    "colour type": (lambda: DepthFrame(_DEPTH, _K, np.eye(4), color=np.zeros((6, 8, 3))), "uint8"),  # type: ignore[arg-type]
    "points flat": (lambda: PointFrame(np.ones(9, np.float32), np.eye(4)), "(N, 3)"),
    "points 2d": (lambda: PointFrame(np.ones((9, 2), np.float32), np.eye(4)), "(9, 2)"),
    "normals shape": (lambda: PointFrame(_POINTS, np.eye(4), normals=np.ones((9, 3), np.float32)), "(10, 3)"),
    "no side": (lambda: PointFrame(_POINTS, np.eye(4), has_origin=False), "sensor origin or normals"),
    "origin": (
        lambda: PointFrame(_POINTS, np.eye(4), sensor_origin_m=(0, np.nan, 0)),
        "finite sensor origin",
    ),
    "range image": (
        lambda: RangeImageFrame(np.ones((4, 8), np.float32), np.zeros(4), np.zeros(9), np.eye(4)),
        "(4, 9)",
    ),
    "beam angles": (
        lambda: RangeImageFrame(np.ones((4, 8), np.float32), np.full(4, np.nan), np.zeros(8), np.eye(4)),
        "finite beam angles",
    ),
    "pose": (lambda: DepthFrame(_DEPTH, _K, _scaled(2.0)), "rigid"),
}


@pytest.mark.parametrize("name", _BAD_FRAMES)
def test_unusable_frames_are_refused(name: str) -> None:
    build, words = _BAD_FRAMES[name]
    with pytest.raises(InvalidFrameError) as caught:
        build()
    assert words in str(caught.value)
    assert caught.value.reason == "INVALID_FRAME"
    assert caught.value.remedy


def test_frames_convert_to_float32() -> None:
    frame = DepthFrame(np.ones((6, 8), np.float64), _K, np.eye(4, dtype=np.float32))  # type: ignore[arg-type]
    assert frame.depth_m.dtype == np.float32
    assert frame.world_T_sensor.dtype == np.float64
