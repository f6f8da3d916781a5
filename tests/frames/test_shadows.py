"""Returns beside something much nearer found no surface: against scipy, on a scene, and through orient."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import minimum_filter

from streamdgp.frames import DepthFrame, Intrinsics
from streamdgp.frames.orient import orient
from streamdgp.frames.shadows import in_shadow

_FOCAL_PX = 290.0
_STRIP_PX = 5


@pytest.mark.parametrize("shape", [(60, 80), (5, 7), (1, 1), (3, 200)])
@pytest.mark.parametrize("focal_px", [10.0, 290.0, 585.0])
def test_against_a_filter_of_scipy(shape: tuple[int, int], focal_px: float) -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 2, shape).astype(np.float32) * (rng.uniform(size=shape) < 0.1)
    half = max(round(0.0165 * focal_px), 1)
    # Beyond the image there is nothing: more of its border changes no minimum.
    least = minimum_filter(np.where(depth > 0, depth, np.inf), 2 * half + 1, mode="nearest")
    want = (depth > 0) & (least < np.float32(0.8) * depth)
    np.testing.assert_array_equal(in_shadow(depth.astype(np.float32), focal_px), want)


def _board(front_m: float) -> npt.NDArray[np.float32]:
    """A wall at 2 m, and before it a board in columns 60 to 99 of 160."""
    depth = np.full((120, 160), 2.0, np.float32)
    depth[:, 60:100] = front_m
    return depth


def test_a_strip_of_the_wall_beside_a_board_and_no_more() -> None:
    shadow = in_shadow(_board(1.0), _FOCAL_PX)
    assert shadow[:, 60 - _STRIP_PX : 60].all()
    assert shadow[:, 100 : 100 + _STRIP_PX].all()
    assert shadow.sum() == 2 * _STRIP_PX * 120
    assert not in_shadow(_board(1.7), _FOCAL_PX).any(), "a step of less than a fifth casts none"


def test_a_slanted_floor_casts_no_shadow_on_itself() -> None:
    """Seen from 1 m above, down to five degrees."""
    v = np.arange(30, 240)[:, None] + np.zeros((1, 320))
    depth = (_FOCAL_PX / v).astype(np.float32)
    assert not in_shadow(depth, _FOCAL_PX)[15:].any()


def test_what_lies_in_a_shadow_founds_no_surface() -> None:
    """The wall has points up to the strip; the board has them up to where normals end, as ever."""
    k = Intrinsics(_FOCAL_PX, _FOCAL_PX, 80.0, 60.0)
    columns = {}
    for front_m in (1.0, 1.9):
        frame = DepthFrame(_board(front_m), k, np.eye(4))
        points = orient(frame, 0.1).positions_m
        u = np.rint(points[:, 0] / points[:, 2] * _FOCAL_PX + 80).astype(int)
        wall = points[:, 2] > 1.95
        columns[front_m] = set(u[wall].tolist()), set(u[~wall].tolist())
    assert columns[1.0][0] == columns[1.9][0] - {*range(60 - _STRIP_PX, 60), *range(100, 100 + _STRIP_PX)}
    assert {59, 100} & columns[1.9][0], "or the strip had no points anyway"
    assert columns[1.0][1] >= set(range(64, 96))
    assert orient(DepthFrame(_board(1.0), k, np.eye(4)), 0.1).dropped > 2 * _STRIP_PX * 100
