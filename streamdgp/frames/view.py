"""What one sensor pose saw, as an image of distances: for free space and for normals of scattered points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SensorView", "SphereBins"]


@dataclass(frozen=True)
class SensorView:
    """Distances that a sensor saw: everything in front of them is free.

    seen_m (H, W) float32, depth along the optical axis (pinhole) or range (sphere), 0 where the pixel has no
    return. camera = (scale_u, scale_v, offset_u, offset_v): column = scale_u * x / z + offset_u and
    row = scale_v * y / z + offset_v (pinhole), of azimuth and elevation in radians (sphere); integers
    are pixel centres. window: least of how many pixels squared counts. noise = (a, b, c): sigma of a
    distance d is a + b (d - c)^2 metres. rotation (3, 3) and origin (3,) of world_T_sensor.
    """

    seen_m: npt.NDArray[np.float32]
    is_pinhole: bool
    camera: tuple[float, float, float, float]
    window: int
    noise: tuple[float, float, float]
    rotation: npt.NDArray[np.float64]
    origin_m: npt.NDArray[np.float64]


@dataclass(frozen=True)
class SphereBins:
    """Scattered returns sorted into bins of azimuth and elevation; the nearest of a bin stands for it.

    nearest_m (H, W) float32, 0 where a bin is empty; bins (N,) bin of each return; first, the
    returns that stand for the occupied bins; cell_rad, the bins' edge; lowest_rad, elevation of the
    lower edge of row 0; column 0 starts at azimuth -pi.
    """

    nearest_m: npt.NDArray[np.float32]
    bins: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    cell_rad: float
    lowest_rad: float

    @classmethod
    def of(cls, offset: npt.NDArray[np.float32], ranges: npt.NDArray[np.float32]) -> SphereBins:
        """Sort returns (N, 3), as offsets from the sensor, with their lengths (N,) > 0."""
        azimuth = np.arctan2(offset[:, 1], offset[:, 0])
        elevation = np.arcsin(np.clip(offset[:, 2] / ranges, -1, 1))
        lo, hi = np.quantile(elevation, [0.001, 0.999])
        # Only the azimuths that were scanned count: a forward-looking sensor covers a sector.
        scanned = np.unique(np.floor(azimuth * (180 / np.pi))).size / 360
        solid = 2 * np.pi * scanned * max(hi - lo, 1e-3)
        cell = float(np.sqrt(solid / len(ranges)))
        width = max(round(2 * np.pi / cell), 8)
        height = max(int(np.ceil((hi - lo) / cell)), 2) + 1
        column = np.floor((azimuth + np.pi) / (2 * np.pi) * width).astype(np.int64) % width
        row = np.clip(np.floor((elevation - lo) / cell), 0, height - 1).astype(np.int64)
        flat = row * width + column
        order = np.lexsort((ranges, flat))
        first = order[np.concatenate([[True], np.diff(flat[order]) > 0])]
        image = np.zeros(height * width, np.float32)
        image[flat[first]] = ranges[first]
        return cls(image.reshape(height, width), flat, first, cell, float(lo))

    def view(
        self,
        rotation: npt.NDArray[np.float64],
        origin_m: npt.NDArray[np.float64],
        noise: tuple[float, float, float],
        window: int,
    ) -> SensorView:
        """What the sensor at this pose saw."""
        per_turn = self.nearest_m.shape[1] / (2 * np.pi)
        return SensorView(
            seen_m=self.nearest_m,
            is_pinhole=False,
            camera=(
                per_turn,
                1 / self.cell_rad,
                np.pi * per_turn - 0.5,
                -self.lowest_rad / self.cell_rad - 0.5,
            ),
            window=window,
            noise=noise,
            rotation=rotation,
            origin_m=origin_m,
        )
