"""Sensor noise: the standard deviation along the ray, from which every measurement gets its weight."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["depth_camera_sigma_m", "lidar_sigma_m"]


def depth_camera_sigma_m(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Axial noise of a structured-light depth camera: 0.0012 + 0.0019 (z - 0.4)^2 metres.

    Nguyen, Izadi and Lovell, "Modeling Kinect sensor noise", 3DIMPVT 2012, equation 3.
    """
    return (0.0012 + 0.0019 * (depth_m - 0.4) ** 2).astype(np.float32)


def lidar_sigma_m(range_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Range noise of a time-of-flight LiDAR: constant 2 cm."""
    return np.full_like(range_m, 0.02)
