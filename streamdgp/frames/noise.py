"""Sensor noise: the standard deviation along the ray, from which every measurement gets its weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["DEPTH_CAMERA_NOISE", "LIDAR_NOISE", "depth_camera_sigma_m", "lidar_sigma_m", "normal_variance_m2"]

_ACROSS_TO_ALONG = 0.5

DEPTH_CAMERA_NOISE = (0.0012, 0.0019, 0.4)
"""a, b, c of sigma(z) = a + b (z - c)^2, metres."""
LIDAR_NOISE = (0.02, 0.0, 0.0)
"""The same of a LiDAR."""


def depth_camera_sigma_m(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Axial noise of a structured-light depth camera: 0.0012 + 0.0019 (z - 0.4)^2 metres.

    Nguyen, Izadi and Lovell, "Modeling Kinect sensor noise", 3DIMPVT 2012, equation 3.
    """
    a, b, c = DEPTH_CAMERA_NOISE
    return (a + b * (depth_m - c) ** 2).astype(np.float32)


def lidar_sigma_m(range_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Range noise of a time-of-flight LiDAR: constant 2 cm."""
    return np.full_like(range_m, LIDAR_NOISE[0])


@njit(cache=True, nogil=True)
def normal_variance_m2(sigma_m: Any, incidence_cos: Any) -> Any:
    """Variance of points (numbers or arrays) along the surface normal, from their noise along the ray.

    A point that wanders along its ray by sigma moves along the normal by sigma * cos(incidence) only: views
    at a slant tell more of the height of a surface than frontal ones. Across the ray it wanders too, about
    half as much between 1 and 2.5 m (Nguyen, Izadi and Lovell 2012, section 4: 0.8 pixels); that counts by
    the sine.
    """
    along = incidence_cos**2
    return sigma_m**2 * (along + _ACROSS_TO_ALONG**2 * (1.0 - along))
