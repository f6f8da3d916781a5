"""Returns beside something much nearer: a depth camera is often wrong there.

What stands in front hides the background from one of the two eyes of a depth camera (its projector, or its
second imager) in a strip beside the silhouette, and what is reported in the strip is interpolated, mixed or
carried over. Such returns may still confirm a surface, but found none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.parts import in_parts

__all__ = ["in_shadow"]

_STRIP_RAD = 0.0165
"""How wide the strip is, an angle: 9 or 10 pixels of a 640-wide image of 60 degrees."""
_NEARER = np.float32(0.8)
"""What is nearer than this share of a return's depth casts a shadow on it."""
_FAR = np.float32(np.inf)
_LEAST_ROWS = 32


def in_shadow(depth_m: npt.NDArray[np.float32], focal_px: float) -> npt.NDArray[np.bool_]:
    """Returns (H, W) that lie within a strip of something nearer than four fifths of their depth.

    The strip is taken along rows and along columns, a square about each return.

    Parameters
    ----------
    depth_m
        (H, W), 0 where there is no return.
    focal_px
        The focal length.
    """
    half = max(round(_STRIP_RAD * focal_px), 1)
    depth, shadowed = np.ascontiguousarray(depth_m), np.empty(depth_m.shape, np.bool_)
    in_parts(lambda begin, end: _mark_rows(depth, half, begin, end, shadowed), len(depth), _LEAST_ROWS)
    return shadowed


@njit(cache=True, nogil=True, error_model="numpy")
def _mark_rows(depth_m: Any, half: int, begin: int, end: int, shadowed: Any) -> None:
    """Set rows begin to end; the least of each square by doubling, down the columns, then along rows."""
    height, width = depth_m.shape
    wanted = 2 * half + 1
    rows = end - begin + 2 * half
    least = np.full((rows, width + 2 * half), _FAR, np.float32)
    for r in range(rows):
        i = begin - half + r
        if 0 <= i < height:
            for j in range(width):
                d = depth_m[i, j]
                least[r, half + j] = d if d > 0 else _FAR
    count = 1
    while count < wanted:
        step = min(count, wanted - count)
        rows -= step
        for r in range(rows):
            upper, lower = least[r], least[r + step]
            for j in range(width + 2 * half):
                upper[j] = min(upper[j], lower[j])
        count += step
    for r in range(end - begin):
        row = least[r]
        columns, count = width + 2 * half, 1
        while count < wanted:
            step = min(count, wanted - count)
            columns -= step
            for j in range(columns):
                row[j] = min(row[j], row[j + step])
            count += step
        for j in range(width):
            shadowed[begin + r, j] = row[j] < _NEARER * depth_m[begin + r, j]
