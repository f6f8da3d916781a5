"""What a sensor delivers: depth images, range images and points, each with a pose.

numpy only: the robot's client builds these without torch. All constructors validate; a frame that
exists is usable. Lengths are metres, angles radians, poses are ``world_T_sensor`` (right-handed,
``p_world = R @ p_sensor + t``). Depth cameras look along +z with x right and y down. In every
measurement 0, NaN or infinity means *no return*.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidFrameError

__all__ = [
    "DepthFrame",
    "Frame",
    "Intrinsics",
    "PointFrame",
    "RangeImageFrame",
    "validate_pose",
]

_POSE_TOLERANCE = 1e-3
_MAX_COORDINATE_M = 1e7
MAX_SAMPLES_PER_FRAME = 16_000_000


def validate_pose(world_T_sensor: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the pose as a (4, 4) float64 array, or raise with the size of the fault.

    A rotation off orthonormal by less than 1e-3 (printed poses are rounded) is projected to the
    nearest rotation; anything worse is refused.

    Raises
    ------
    InvalidFrameError
        Wrong shape, not finite, not a rigid transform, or a translation beyond 1e7 m.
    """
    try:
        pose = np.array(world_T_sensor, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidFrameError(
            "a pose world_T_sensor of 4x4 numbers", repr(world_T_sensor)[:80], "Send a rigid transform."
        ) from error
    if pose.shape != (4, 4):
        raise InvalidFrameError(
            "a pose world_T_sensor of shape (4, 4)", f"shape {pose.shape}", "Send 16 numbers, row-major."
        )
    if not np.isfinite(pose).all():
        raise InvalidFrameError(
            "a finite pose world_T_sensor", "NaN or infinity in it", "Drop frames whose tracking failed."
        )
    rotation = pose[:3, :3]
    deviation = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    determinant = float(np.linalg.det(rotation))
    bottom = float(np.abs(pose[3] - (0.0, 0.0, 0.0, 1.0)).max())
    if deviation > _POSE_TOLERANCE or determinant <= 0 or bottom > _POSE_TOLERANCE:
        raise InvalidFrameError(
            f"a rigid world_T_sensor (R @ R.T = I to {_POSE_TOLERANCE:g}, det R = 1, last row 0 0 0 1)",
            f"R @ R.T off by {deviation:.3g}, det R = {determinant:.4g}, last row off by {bottom:.3g}",
            "Check for scale, a transposed or a left-handed pose.",
        )
    largest = float(np.abs(pose[:3, 3]).max())
    if largest > _MAX_COORDINATE_M:
        raise InvalidFrameError(
            f"a translation within {_MAX_COORDINATE_M:g} m", f"{largest:.3g} m", "Check the pose's unit."
        )
    u, _, vt = np.linalg.svd(rotation)
    exact = np.eye(4)
    exact[:3, :3] = u @ vt
    exact[:3, 3] = pose[:3, 3]
    return exact


def _validate_range(minimum_m: float, maximum_m: float) -> None:
    if not (np.isfinite(minimum_m) and np.isfinite(maximum_m) and 0 <= minimum_m < maximum_m):
        raise InvalidFrameError(
            "0 <= min_range_m < max_range_m, both finite",
            f"min_range_m={minimum_m}, max_range_m={maximum_m}",
            "Send the sensor's usable range in metres.",
        )


def _validate_color(color: npt.NDArray[np.uint8] | None, shape: tuple[int, ...]) -> None:
    if color is not None and (color.dtype != np.uint8 or color.shape != (*shape, 3)):
        raise InvalidFrameError(
            f"colour of dtype uint8 and shape {(*shape, 3)}",
            f"{color.dtype} {color.shape}",
            "Resample colour to the measurement, or leave it out.",
        )


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera: focal lengths and principal point, pixels (pixel centres at integers)."""

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy)
        if not np.isfinite(values).all() or self.fx <= 0 or self.fy <= 0:
            raise InvalidFrameError(
                "finite intrinsics with positive focal lengths",
                f"fx={self.fx}, fy={self.fy}, cx={self.cx}, cy={self.cy}",
                "Check the calibration file.",
            )


@dataclass(frozen=True)
class DepthFrame:
    """A depth image.

    ``depth_m`` is (H, W) float32 along the optical axis. ``color`` is (H, W, 3) uint8 or None.
    """

    depth_m: npt.NDArray[np.float32]
    intrinsics: Intrinsics
    world_T_sensor: npt.NDArray[np.float64]
    min_range_m: float = 0.1
    max_range_m: float = 10.0
    color: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        depth = np.asarray(self.depth_m, dtype=np.float32)
        if depth.ndim != 2 or min(depth.shape) < 2 or depth.size > MAX_SAMPLES_PER_FRAME:
            raise InvalidFrameError(
                f"a depth image (H, W) of at least 2x2 and at most {MAX_SAMPLES_PER_FRAME} pixels",
                f"shape {depth.shape}",
                "Send one image per frame.",
            )
        _validate_range(self.min_range_m, self.max_range_m)
        _validate_color(self.color, depth.shape)
        object.__setattr__(self, "depth_m", depth)
        object.__setattr__(self, "world_T_sensor", validate_pose(self.world_T_sensor))


@dataclass(frozen=True)
class PointFrame:
    """Points seen from one place, in the sensor frame.

    ``points_m`` is (N, 3), or (H, W, 3) for an organised scan grid whose missing cells are NaN.
    ``sensor_origin_m`` is where the rays start, in the sensor frame. ``normals``, where given, have
    the shape of the points; ``has_origin`` False says that no sensor position is known and the
    given normals orient the surface.
    """

    points_m: npt.NDArray[np.float32]
    world_T_sensor: npt.NDArray[np.float64]
    sensor_origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    has_origin: bool = True
    normals: npt.NDArray[np.float32] | None = None
    color: npt.NDArray[np.uint8] | None = None
    min_range_m: float = 0.0
    max_range_m: float = 1e4
    is_lidar: bool = False

    def __post_init__(self) -> None:
        points = np.asarray(self.points_m, dtype=np.float32)
        if points.ndim not in (2, 3) or points.shape[-1] != 3 or points.size > 3 * MAX_SAMPLES_PER_FRAME:
            raise InvalidFrameError(
                f"points (N, 3) or (H, W, 3), at most {MAX_SAMPLES_PER_FRAME}",
                f"shape {points.shape}",
                "Send metres in the sensor frame.",
            )
        normals = self.normals
        if normals is not None:
            normals = np.asarray(normals, dtype=np.float32)
            if normals.shape != points.shape:
                raise InvalidFrameError(
                    f"one normal per point, shape {points.shape}",
                    f"shape {normals.shape}",
                    "Leave normals out.",
                )
        elif not self.has_origin:
            raise InvalidFrameError(
                "a sensor origin or normals", "neither", "Send one of them: without it no side is outside."
            )
        if not np.isfinite(self.sensor_origin_m).all():
            raise InvalidFrameError("a finite sensor origin", str(self.sensor_origin_m), "Send metres.")
        _validate_range(self.min_range_m, self.max_range_m)
        _validate_color(self.color, points.shape[:-1])
        object.__setattr__(self, "points_m", points)
        object.__setattr__(self, "normals", normals)
        object.__setattr__(self, "world_T_sensor", validate_pose(self.world_T_sensor))


@dataclass(frozen=True)
class RangeImageFrame:
    """A spinning LiDAR's range image: (beams, columns) ranges along rays.

    ``elevations_rad`` is (H,), ``azimuths_rad`` is (W,); the ray of cell (i, j) is
    ``(cos e_i cos a_j, cos e_i sin a_j, sin e_i)`` in the sensor frame (x forward, z up).
    """

    ranges_m: npt.NDArray[np.float32]
    elevations_rad: npt.NDArray[np.float32]
    azimuths_rad: npt.NDArray[np.float32]
    world_T_sensor: npt.NDArray[np.float64]
    min_range_m: float = 0.5
    max_range_m: float = 200.0

    def __post_init__(self) -> None:
        ranges = np.asarray(self.ranges_m, dtype=np.float32)
        elevations = np.asarray(self.elevations_rad, dtype=np.float32)
        azimuths = np.asarray(self.azimuths_rad, dtype=np.float32)
        shape = (elevations.size, azimuths.size)
        if ranges.ndim != 2 or ranges.shape != shape or ranges.size > MAX_SAMPLES_PER_FRAME:
            raise InvalidFrameError(
                f"ranges of shape (elevations, azimuths) = {shape}, at most {MAX_SAMPLES_PER_FRAME}",
                f"shape {ranges.shape}",
                "Send one elevation per row and one azimuth per column.",
            )
        if not (np.isfinite(elevations).all() and np.isfinite(azimuths).all()):
            raise InvalidFrameError("finite beam angles", "NaN or infinity in them", "Send radians.")
        _validate_range(self.min_range_m, self.max_range_m)
        object.__setattr__(self, "ranges_m", ranges)
        object.__setattr__(self, "elevations_rad", elevations)
        object.__setattr__(self, "azimuths_rad", azimuths)
        object.__setattr__(self, "world_T_sensor", validate_pose(self.world_T_sensor))


Frame = DepthFrame | PointFrame | RangeImageFrame


@dataclass(frozen=True)
class FrameReport:
    """What one frame did to the atlas (all counts; times in seconds)."""

    frame_index: int
    points: int = 0
    dropped: int = 0
    surfels_touched: int = 0
    charts_created: int = 0
    charts_warm: int = 0
    charts_cold: int = 0
    charts_untouched: int = 0
    seconds: float = 0.0
    stages_s: dict[str, float] = field(default_factory=dict)
