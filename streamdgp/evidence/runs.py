"""Rows of a growing table that a sensor may see, found without a look at every row.

What is made in one frame lies together, so runs of consecutive rows have small boxes. A frame looks at
the boxes, and then at the rows of those that reach into what it sees: in a map of hours nearly none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.frames.view import SensorView

__all__ = ["Runs"]

_ROWS = 32
# Windows of pixels reach beyond the image.
_PIXELS_BESIDE = 4.0


class Runs:
    """Boxes around runs of consecutive rows, which are balls that never move nor grow."""

    def __init__(self) -> None:
        self._low, self._high = np.empty((0, 3)), np.empty((0, 3))
        self._count = 0

    def __len__(self) -> int:
        """Rows so far."""
        return self._count

    def extend(self, centre_m: npt.NDArray[np.float64], radius_m: npt.NDArray[np.float64] | float) -> None:
        """Append balls about ``centre_m`` (K, 3) of ``radius_m``, one or (K,)."""
        count = self._count + len(centre_m)
        runs = -(-count // _ROWS)
        if runs > len(self._low):
            more = np.full((max(64, runs, len(self._low)), 3), np.inf)
            self._low, self._high = np.concatenate([self._low, more]), np.concatenate([self._high, -more])
        radii_m = np.broadcast_to(np.asarray(radius_m, np.float64), len(centre_m))
        _widen(self._count, centre_m, radii_m, self._low, self._high)
        self._count = count

    def in_view(self, view: SensorView, farthest_m: float) -> npt.NDArray[np.int64]:
        """Rows (R,), ascending, among which are all that reach into what a sensor sees up to a distance."""
        count = -(-self._count // _ROWS)
        is_near = np.empty(count, np.bool_)
        if view.is_pinhole:
            normals, offsets_m = _frustum(view, farthest_m)
            _reach_inside(self._low[:count], self._high[:count], normals, offsets_m, is_near)
        else:
            _come_near(self._low[:count], self._high[:count], view.origin_m, farthest_m, is_near)
        rows = np.flatnonzero(is_near)[:, None] * _ROWS + np.arange(_ROWS)
        found: npt.NDArray[np.int64] = rows[rows < self._count]
        return found


def _frustum(view: SensorView, farthest_m: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Planes n . x + d >= 0 (6) around what a camera sees, in the world frame: normals (6, 3) and d (6,)."""
    fu, fv, cu, cv = view.camera
    height, width = view.seen_m.shape
    w = _PIXELS_BESIDE
    normals = np.array(
        [
            (0.0, 0.0, 1.0),
            (0.0, 0.0, -1.0),
            (fu, 0.0, cu + w),
            (-fu, 0.0, width + w - cu),
            (0.0, fv, cv + w),
            (0.0, -fv, height + w - cv),
        ]
    )
    offsets_m = np.array([0.0, farthest_m, 0.0, 0.0, 0.0, 0.0])
    normals = normals @ view.rotation.T
    return normals, offsets_m - normals @ view.origin_m


@njit(cache=True, nogil=True, error_model="numpy")
def _widen(begin: int, centre: Any, radius: Any, low: Any, high: Any) -> None:
    for k in range(centre.shape[0]):
        run = (begin + k) // _ROWS
        for a in range(3):
            low[run, a] = min(low[run, a], centre[k, a] - radius[k])
            high[run, a] = max(high[run, a], centre[k, a] + radius[k])


@njit(cache=True, nogil=True, error_model="numpy")
def _reach_inside(low: Any, high: Any, normals: Any, offsets: Any, is_inside: Any) -> None:
    """Which boxes are wholly outside of none of the planes."""
    for run in range(low.shape[0]):
        is_inside[run] = True
        for p in range(normals.shape[0]):
            most = offsets[p]
            for a in range(3):
                most += normals[p, a] * (high[run, a] if normals[p, a] > 0.0 else low[run, a])
            if most < 0.0:
                is_inside[run] = False
                break


@njit(cache=True, nogil=True, error_model="numpy")
def _come_near(low: Any, high: Any, origin: Any, farthest: float, is_near: Any) -> None:
    """Which boxes come within a distance of a point."""
    for run in range(low.shape[0]):
        square = 0.0
        for a in range(3):
            beside = max(low[run, a] - origin[a], origin[a] - high[run, a], 0.0)
            square += beside * beside
        is_near[run] = square <= farthest * farthest
