"""Returns beside something much nearer: a depth camera is often wrong there.

What stands in front hides the background from one of the two eyes of a depth camera (its projector, or its
second imager) in a strip beside the silhouette, and what is reported in the strip is interpolated, mixed or
carried over. Such returns may still confirm a surface, but found none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["in_shadow"]

_STRIP_RAD = 0.0165
"""How wide the strip is, an angle: 9 or 10 pixels of a 640-wide image of 60 degrees."""
_NEARER = np.float32(0.8)
"""What is nearer than this share of a return's depth casts a shadow on it."""


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
    least = np.where(depth_m > 0, depth_m, np.float32(np.inf))
    for axis in (0, 1):
        least = _running_least(least, half, axis)
    shadowed: npt.NDArray[np.bool_] = least < _NEARER * depth_m
    return shadowed


def _running_least(values: npt.NDArray[np.float32], half: int, axis: int) -> npt.NDArray[np.float32]:
    """The least of each value and ``half`` on either side of it along an axis, by doubling."""
    wanted, count = 2 * half + 1, 1
    pad = [(half, half) if a == axis else (0, 0) for a in range(2)]
    least = np.moveaxis(np.pad(values, pad, constant_values=np.inf), axis, 0)
    while count < wanted:
        step = min(count, wanted - count)
        least = np.minimum(least[:-step], least[step:])
        count += step
    return np.moveaxis(least, 0, axis)
