"""Foot points of many points on one raster, side by side: ``foot_on_raster`` for the wide registers of a CPU.

A loop that looks up a raster where its own last step has led does not vectorise, so each step is two loops:
one copies the corners of every row's cell into a scratch, the other does the arithmetic there. All rows
of the scratch lie in one array at constant distances: from that the compiler knows that they
do not overlap, and does sixteen rows at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.fitting.raster import RASTER

__all__ = ["FOOT", "MOST", "PHI", "POINT", "feet_on_raster", "feet_scratch", "foot_normal"]

MOST = 256
"""Rows that a scratch holds."""
# What the scratch holds, as offsets of rows of MOST values: points (3), feet (2), place in the cell (2),
# corners of the cell (12), and in the end phi (3), dphi/dv0 (3), dphi/dv1 (3); the cell itself, and which
# cell's corners are there.
POINT, FOOT, _PLACE, _LOW, _HIGH, PHI, _DU, _DV, _CELL, _COPIED, _END = (
    MOST * k for k in (0, 3, 5, 7, 13, 19, 22, 25, 28, 29, 30)
)  # fmt: skip
_WHOLE = 32
_HALF = np.float32((RASTER - 1) / 2)
_ONE = np.float32(1)
_LAST_CELL = np.float32(RASTER - 2)
_ROW = 3 * RASTER
_LIMIT = np.float32(1.3)
_LONGEST = np.float32(0.25)
_RELATIVE_RIDGE, _RIDGE = np.float32(1e-6), np.float32(1e-12)


@njit(cache=True, nogil=True)
def feet_scratch() -> npt.NDArray[np.float32]:
    """What ``feet_on_raster`` works in: points at POINT, feet at FOOT, row r of axis k at + k * MOST + r."""
    return np.zeros(_END, np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _copy_corners(raster: Any, s: Any, count: int) -> None:
    """Places in their cells and the cells' corners, for every row; outside V the last cell goes on."""
    for r in range(count):
        a = (s[FOOT + r] + _ONE) * _HALF
        b = (s[FOOT + MOST + r] + _ONE) * _HALF
        i = np.float32(np.int32(min(max(a, np.float32(0)), _LAST_CELL)))
        j = np.float32(np.int32(min(max(b, np.float32(0)), _LAST_CELL)))
        s[_PLACE + r] = a - i
        s[_PLACE + MOST + r] = b - j
        s[_CELL + r] = np.float32(_ROW) * i + np.float32(3) * j
    for r in range(count):
        # Most steps end in the cell that they came from.
        if s[_CELL + r] == s[_COPIED + r]:
            continue
        s[_COPIED + r] = s[_CELL + r]
        corner = np.uint32(s[_CELL + r])
        for k in range(6):
            s[_LOW + k * MOST + r] = raster[corner + np.uint32(k)]
        for k in range(6):
            s[_HIGH + k * MOST + r] = raster[corner + np.uint32(_ROW + k)]


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _step(s: Any, count: int) -> None:
    """One Gauss-Newton step of every row."""
    for r in range(count):
        a, b = s[_PLACE + r], s[_PLACE + MOST + r]
        p, q = s[_LOW + r], s[_HIGH + r]
        t, z = s[_LOW + 3 * MOST + r] - p, s[_HIGH + 3 * MOST + r] - q
        low = p + b * t
        d00 = q + b * z - low
        e0 = s[POINT + r] - (low + a * d00)
        d00 *= _HALF
        d10 = (t + a * (z - t)) * _HALF
        p, q = s[_LOW + MOST + r], s[_HIGH + MOST + r]
        t, z = s[_LOW + 4 * MOST + r] - p, s[_HIGH + 4 * MOST + r] - q
        low = p + b * t
        d01 = q + b * z - low
        e1 = s[POINT + MOST + r] - (low + a * d01)
        d01 *= _HALF
        d11 = (t + a * (z - t)) * _HALF
        p, q = s[_LOW + 2 * MOST + r], s[_HIGH + 2 * MOST + r]
        t, z = s[_LOW + 5 * MOST + r] - p, s[_HIGH + 5 * MOST + r] - q
        low = p + b * t
        d02 = q + b * z - low
        e2 = s[POINT + 2 * MOST + r] - (low + a * d02)
        d02 *= _HALF
        d12 = (t + a * (z - t)) * _HALF
        g0 = d00 * e0 + d01 * e1 + d02 * e2
        g1 = d10 * e0 + d11 * e1 + d12 * e2
        h00 = d00 * d00 + d01 * d01 + d02 * d02
        h01 = d00 * d10 + d01 * d11 + d02 * d12
        h11 = d10 * d10 + d11 * d11 + d12 * d12
        ridge = _RELATIVE_RIDGE * (h00 + h11) + _RIDGE
        h00 += ridge
        h11 += ridge
        inverse = _ONE / (h00 * h11 - h01 * h01)
        s0 = (h11 * g0 - h01 * g1) * inverse
        s1 = (h00 * g1 - h01 * g0) * inverse
        length2 = s0 * s0 + s1 * s1
        shorter = _LONGEST / np.sqrt(max(length2, _LONGEST * _LONGEST))
        s[FOOT + r] = min(max(s[FOOT + r] + s0 * shorter, -_LIMIT), _LIMIT)
        s[FOOT + MOST + r] = min(max(s[FOOT + MOST + r] + s1 * shorter, -_LIMIT), _LIMIT)


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _look(s: Any, count: int) -> None:
    """phi and its derivatives at the feet."""
    for r in range(count):
        a, b = s[_PLACE + r], s[_PLACE + MOST + r]
        for k in range(3):
            p, q = s[_LOW + k * MOST + r], s[_HIGH + k * MOST + r]
            t, z = s[_LOW + (3 + k) * MOST + r] - p, s[_HIGH + (3 + k) * MOST + r] - q
            low = p + b * t
            along = q + b * z - low
            s[PHI + k * MOST + r] = low + a * along
            s[_DU + k * MOST + r] = along * _HALF
            s[_DV + k * MOST + r] = (t + a * (z - t)) * _HALF


@njit(cache=True, nogil=True, inline="always", error_model="numpy")
def foot_normal(s: Any, r: int) -> tuple[float, float, float]:
    """dphi/dv0 x dphi/dv1 at the foot of row r, not of unit length."""
    return (
        s[_DU + MOST + r] * s[_DV + 2 * MOST + r] - s[_DU + 2 * MOST + r] * s[_DV + MOST + r],
        s[_DU + 2 * MOST + r] * s[_DV + r] - s[_DU + r] * s[_DV + 2 * MOST + r],
        s[_DU + r] * s[_DV + MOST + r] - s[_DU + MOST + r] * s[_DV + r],
    )


@njit(cache=True, nogil=True, error_model="numpy")
def feet_on_raster(raster: Any, s: Any, count: int, steps: int) -> None:
    """Gauss-Newton foot points of ``count`` points on a raster (3267,), from the feet in the scratch ``s``.

    Fills FOOT and PHI of the scratch, and what ``foot_normal`` is made from. Outside V the chart continues
    along its last cell. Registers are filled to the end, with rows that nobody asked for: the bits of a
    row do not depend on its place.
    """
    count = (count + _WHOLE - 1) // _WHOLE * _WHOLE
    for r in range(count):
        s[_COPIED + r] = -_ONE
    for _ in range(steps):
        _copy_corners(raster, s, count)
        _step(s, count)
    _copy_corners(raster, s, count)
    _look(s, count)
