"""From a frame to oriented, weighted points in the world: the only thing the evidence sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from streamdgp.frames.kernels import world_points
from streamdgp.frames.noise import DEPTH_CAMERA_NOISE, LIDAR_NOISE, depth_camera_sigma_m, lidar_sigma_m
from streamdgp.frames.normals import WindowPlanes, spread_normals
from streamdgp.frames.shadows import in_shadow
from streamdgp.frames.types import DepthFrame, Frame, PointFrame, RangeImageFrame
from streamdgp.frames.view import SensorView, SphereBins

__all__ = ["OrientedPoints", "PreparedFrame", "orient", "prepare_frame"]

_PINHOLE_WINDOW = 2
_SPHERE_WINDOW = 3


@dataclass(frozen=True)
class OrientedPoints:
    """Points with unit normals towards the sensor that saw them, world frame.

    positions_m (N, 3) float64, normals (N, 3) float32, sigma_m (N,) float32 along the ray,
    incidence_cos (N,) float32 between normal and direction to the sensor,
    color (N, 3) uint8 or None, sensor_origin_m (3,) float64 or None.
    ``spacing_m`` is the median distance between neighbouring measurements; ``dropped`` counts measurements
    that gave no oriented point;
    ``view`` is there for depth images and LiDAR scans from one place.
    """

    positions_m: npt.NDArray[np.float64]
    normals: npt.NDArray[np.float32]
    sigma_m: npt.NDArray[np.float32]
    incidence_cos: npt.NDArray[np.float32]
    color: npt.NDArray[np.uint8] | None
    sensor_origin_m: npt.NDArray[np.float64] | None
    spacing_m: float
    dropped: int
    view: SensorView | None = None

    def __len__(self) -> int:
        return len(self.positions_m)

    @cached_property
    def noise_m(self) -> float:
        """The sigma that four in five stay below, metres; 0 without points."""
        return float(np.quantile(self.sigma_m, 0.8)) if len(self) else 0.0


@dataclass(frozen=True)
class PreparedFrame:
    """A frame before it is known how many of its points count; view and spacing_m as those of all of them."""

    view: SensorView | None
    spacing_m: float
    _points: Callable[[bool], OrientedPoints]
    _found: dict[bool, OrientedPoints] = field(default_factory=dict)

    def find_points(self, *, is_sparse: bool) -> None:
        """Find what ``points`` is likely to be asked for."""
        self._found[is_sparse] = self._points(is_sparse)

    def points(self, *, is_sparse: bool = False) -> OrientedPoints:
        """All points; sparse, of a large depth image those of a grid of pixels, at least 160 wide."""
        found = self._found.get(is_sparse)
        return self._points(is_sparse) if found is None else found


def prepare_frame(frame: Frame, min_incidence_cos: float) -> PreparedFrame:
    """Do what is the same for all and for few points of a frame."""
    if isinstance(frame, DepthFrame):
        image = _DepthImage(frame, min_incidence_cos)
        return PreparedFrame(image.view, image.spacing_m, image.points)
    if isinstance(frame, RangeImageFrame):
        oriented = _orient_range_image(frame, min_incidence_cos)
    else:
        oriented = _orient_points(frame, min_incidence_cos)
    return PreparedFrame(oriented.view, oriented.spacing_m, lambda _: oriented)


def orient(frame: Frame, min_incidence_cos: float) -> OrientedPoints:
    """Turn a frame into oriented points (normals, noise, world frame).

    Measurements that are not finite, out of range, at a grazing angle or on a depth discontinuity
    are dropped and counted.
    """
    return prepare_frame(frame, min_incidence_cos).points()


def _usable(ranges: npt.NDArray[np.float32], minimum: float, maximum: float) -> npt.NDArray[np.float32]:
    """Zero everything that is not a finite range within the limits."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(ranges) & (ranges > 0) & (ranges >= minimum) & (ranges <= maximum)
    return np.where(good, ranges, np.float32(0)).astype(np.float32)


def _world(
    frame: Frame,
    points: npt.NDArray[np.float32],
    normals: npt.NDArray[np.float32],
    sigma: npt.NDArray[np.float32],
    origin: npt.NDArray[np.float64] | None,
    color: npt.NDArray[np.uint8] | None,
    spacing: float,
    samples: int,
    min_cos: float,
    width: int = 0,
) -> OrientedPoints:
    """Keep points (N, 3) that have a normal and face the sensor; move them to the world.

    Those of an image of ``width`` pixels come in blocks, others in the order given.
    """
    rotation, translation = frame.world_T_sensor[:3, :3], frame.world_T_sensor[:3, 3]
    positions, turned, noise, incidence, row = world_points(
        np.ascontiguousarray(points, np.float32), np.ascontiguousarray(normals, np.float32),
        np.ascontiguousarray(sigma, np.float32),
        np.zeros(3) if origin is None else origin, origin is not None,
        np.ascontiguousarray(rotation, np.float64), np.ascontiguousarray(translation, np.float64), min_cos,
        width or len(points),
    )  # fmt: skip
    return OrientedPoints(
        positions_m=positions,
        normals=turned,
        sigma_m=noise,
        incidence_cos=incidence,
        color=None if color is None else np.ascontiguousarray(color[row]),
        sensor_origin_m=None if origin is None else rotation @ origin + translation,
        spacing_m=spacing,
        dropped=samples - len(row),
    )


@lru_cache(maxsize=8)
def _pinhole_rays(
    fx: float, fy: float, cx: float, cy: float, height: int, width: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rays of depth 1 (H, W, 3), their lengths (H, W), and the unit rays."""
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1).astype(np.float32)
    length = np.linalg.norm(rays, axis=-1).astype(np.float32)
    return rays, length, rays / length[..., None]


class _DepthImage:
    """A depth image with planes: those of nodes at once, the others when all points are asked for.

    Small ones, whose every pixel has its plane, have few points and are always taken whole.
    """

    def __init__(self, frame: DepthFrame, min_cos: float) -> None:
        depth = _usable(frame.depth_m, frame.min_range_m, frame.max_range_m)
        k = frame.intrinsics
        _, length, unit = _pinhole_rays(k.fx, k.fy, k.cx, k.cy, *depth.shape)
        self._frame, self._min_cos = frame, min_cos
        # The noise model is axial; along the ray it is longer by the same factor as the ray.
        self._sigma_m = depth_camera_sigma_m(depth) * length
        # A window of at least 7x7 pixels of a 320-wide image: the same angle at every resolution.
        self._stride = max(1, depth.shape[1] // 320)
        self._ranges_m = depth * length
        self._planes = WindowPlanes(
            self._ranges_m,
            unit,
            self._sigma_m,
            radius=3 * self._stride,
            cell_rad=1.0 / k.fx,
            stride=self._stride,
            slopes=(6.0, 1.5, 0.6),
        )
        self._planes.fit_nodes()
        self._is_complete = False
        if self._stride == 1:
            self._complete()
        seen = depth[depth > 0]
        self.spacing_m = float(np.median(seen) / np.sqrt(k.fx * k.fy)) if len(seen) else 0.0
        self.view = _pinhole_view(frame, depth)

    def _complete(self) -> None:
        """Fit the other planes."""
        if not self._is_complete:
            self._planes.fit_others()
            self._is_complete = True

    def points(self, is_sparse: bool) -> OrientedPoints:
        """Points of all pixels; sparse, of nodes."""
        k, depth, sigma = self._frame.intrinsics, self.view.seen_m, self._sigma_m
        rays, _, unit = _pinhole_rays(k.fx, k.fy, k.cx, k.cy, *depth.shape)
        color, step = self._frame.color, 1
        if is_sparse and self._stride > 1:
            step = 2 * self._stride
            depth, sigma, rays = (x[::step, ::step] for x in (depth, sigma, rays))
            normals = self._planes.normals[::step, ::step].copy()
            color = None if color is None else color[::step, ::step]
        else:
            self._complete()
            normals = spread_normals(self._ranges_m, unit, sigma, self._planes.normals, self._stride)
        normals[in_shadow(depth, k.fx / step)] = 0
        oriented = _world(
            self._frame,
            (rays * depth[..., None]).reshape(-1, 3),
            normals.reshape(-1, 3),
            sigma.reshape(-1),
            np.zeros(3),
            None if color is None else color.reshape(-1, 3),
            self.spacing_m,
            depth.size,
            self._min_cos,
            depth.shape[1],
        )
        return replace(oriented, view=self.view)


def _pinhole_view(frame: DepthFrame, depth: npt.NDArray[np.float32]) -> SensorView:
    k, pose = frame.intrinsics, np.asarray(frame.world_T_sensor, np.float64)
    return SensorView(
        seen_m=depth,
        is_pinhole=True,
        camera=(k.fx, k.fy, k.cx, k.cy),
        window=_PINHOLE_WINDOW,
        noise=DEPTH_CAMERA_NOISE,
        rotation=np.ascontiguousarray(pose[:3, :3]),
        origin_m=np.ascontiguousarray(pose[:3, 3]),
    )


def _sphere_view(frame: Frame, bins: SphereBins, origin: npt.NDArray[np.float64]) -> SensorView:
    pose = np.asarray(frame.world_T_sensor, np.float64)
    rotation = np.ascontiguousarray(pose[:3, :3])
    return bins.view(rotation, rotation @ origin + pose[:3, 3], LIDAR_NOISE, _SPHERE_WINDOW)


def _orient_range_image(frame: RangeImageFrame, min_cos: float) -> OrientedPoints:
    ranges = _usable(frame.ranges_m, frame.min_range_m, frame.max_range_m)
    e, a = np.meshgrid(frame.elevations_rad, frame.azimuths_rad, indexing="ij")
    rays = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1).astype(np.float32)
    span = float(np.ptp(frame.azimuths_rad)) * (1 + 1 / max(frame.azimuths_rad.size - 1, 1))
    normals, _ = WindowPlanes(
        ranges, rays, lidar_sigma_m(ranges), radius=2, slopes=(2.0, 20.0), wrap=span > 6.2
    ).fit_all()
    mask = ranges > 0
    cell = np.sqrt(span / ranges.shape[1] * np.ptp(frame.elevations_rad) / max(ranges.shape[0] - 1, 1))
    spacing = float(np.median(ranges[mask]) * cell) if mask.any() else 0.0
    sigma = lidar_sigma_m(ranges)[mask]
    points = (rays * ranges[..., None])[mask]
    oriented = _world(frame, points, normals[mask], sigma, np.zeros(3), None, spacing, ranges.size, min_cos)
    if not len(points):
        return oriented
    return replace(oriented, view=_sphere_view(frame, SphereBins.of(points, ranges[mask]), np.zeros(3)))


def _orient_points(frame: PointFrame, min_cos: float) -> OrientedPoints:
    origin = np.asarray(frame.sensor_origin_m, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        offset = frame.points_m - origin.astype(np.float32)
        ranges = np.linalg.norm(offset.astype(np.float64), axis=-1).astype(np.float32)
    minimum = frame.min_range_m if frame.has_origin else 0.0
    finite = np.isfinite(frame.points_m).all(-1)
    good = finite & (ranges >= minimum) & (ranges <= frame.max_range_m)
    if frame.has_origin:
        good &= ranges > 0
    if frame.normals is not None:
        good &= np.isfinite(frame.normals).all(-1)
    returns = int(good.sum())
    color = None if frame.color is None else frame.color[good]
    points = frame.points_m[good]
    anchor = origin if frame.has_origin else None
    view: SensorView | None = None
    if returns < 8:
        return _world(
            frame,
            points,
            np.zeros_like(points),
            np.ones(returns, np.float32),
            anchor,
            color,
            0.0,
            good.size,
            min_cos,
        )
    if frame.normals is not None:
        normals = frame.normals[good].astype(np.float64)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = (normals / np.maximum(length, 1e-12) * (length > 0.1)).astype(np.float32)
        spacing, sigma_m = _cloud_scale(points)
    elif frame.points_m.ndim == 3:
        spacing = _grid_spacing(frame.points_m, good)
        rays = np.where(good[..., None], offset / np.maximum(ranges, 1e-12)[..., None], 0).astype(np.float32)
        image = np.where(good, ranges, 0).astype(np.float32)
        grid, sigma_m = _grid_normals(image, rays, spacing)
        normals = grid[good]
    else:
        bins = SphereBins.of(offset[good], ranges[good])
        normals, spacing, sigma_m, is_one_place = _scattered_normals(points, offset[good], ranges[good], bins)
        if is_one_place and frame.is_lidar:
            view = _sphere_view(frame, bins, origin)
    if frame.is_lidar:
        sigma_m = max(float(lidar_sigma_m(np.ones(1, np.float32))[0]), 0.0)
    sigma = np.full(returns, sigma_m, np.float32)
    oriented = _world(frame, points, normals, sigma, anchor, color, spacing, good.size, min_cos)
    return replace(oriented, view=view)


def _grid_spacing(points: npt.NDArray[np.float32], good: npt.NDArray[np.bool_]) -> float:
    """Median distance between horizontally or vertically adjacent returns of a scan grid."""
    steps = []
    for axis in (0, 1):
        a = np.take(points, range(points.shape[axis] - 1), axis)
        b = np.take(points, range(1, points.shape[axis]), axis)
        both = np.take(good, range(points.shape[axis] - 1), axis) & np.take(
            good, range(1, points.shape[axis]), axis
        )
        if both.any():
            steps.append(float(np.median(np.linalg.norm((b - a)[both], axis=-1))))
    return float(np.mean(steps)) if steps else 0.0


def _grid_normals(
    ranges: npt.NDArray[np.float32], rays: npt.NDArray[np.float32], spacing: float
) -> tuple[npt.NDArray[np.float32], float]:
    """Normals of a scan grid of unknown noise: fit with a guess, measure the residual, fit again."""
    sigma_m = 0.25 * spacing
    for _ in range(2):
        normals, residual = WindowPlanes(
            ranges, rays, np.full(ranges.shape, sigma_m, np.float32), radius=2, slopes=(6.0,)
        ).fit_all()
        fitted = residual[residual > 0]
        if fitted.size:
            sigma_m = float(np.clip(np.median(fitted), 0.02 * spacing, spacing))
    return normals, sigma_m


def _cloud_scale(points: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Median neighbour spacing and noise of a cloud that comes with normals, from a sample of it."""
    tree = cKDTree(points)
    sample = points[:: max(1, len(points) // 4000)]
    distance, index = tree.query(sample, k=min(9, len(points)))
    spacing = float(np.median(distance[:, 1:5].mean(1)))
    patch = points[index] - points[index].mean(1, keepdims=True)
    thickness = np.sqrt(np.maximum(np.linalg.eigvalsh(np.einsum("nki,nkj->nij", patch, patch))[:, 0], 0) / 6)
    return spacing, float(np.clip(np.median(thickness), 0.02 * spacing, spacing))


def _scattered_normals(
    points: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    ranges: npt.NDArray[np.float32],
    bins: SphereBins,
) -> tuple[npt.NDArray[np.float32], float, float, bool]:
    """Normals, spacing, sigma of unordered points; as a range image if seen from one place (then True)."""
    flat, first = bins.bins, bins.first
    height, width = bins.nearest_m.shape
    image = bins.nearest_m.reshape(-1)
    behind = ranges > 1.1 * image[flat] + 0.1
    spacing = float(np.median(ranges) * bins.cell_rad)
    if behind.mean() > 0.1:  # not one viewpoint: a submap
        return *_neighbour_normals(points, offset), False
    direction = np.zeros((height * width, 3), np.float32)
    direction[flat[first]] = offset[first] / ranges[first, None]
    sigma = lidar_sigma_m(image).reshape(height, width)
    normals, _ = WindowPlanes(
        image.reshape(height, width),
        direction.reshape(height, width, 3),
        sigma,
        radius=2,
        slopes=(2.0, 20.0),
        wrap=True,
    ).fit_all()
    taken = normals.reshape(-1, 3)[flat]
    representative = direction[flat] * image[flat][:, None]
    off_plane = np.abs(((offset - representative) * taken).sum(1))
    taken[off_plane > 4 * float(sigma.flat[0])] = 0
    return taken.astype(np.float32), spacing, float(sigma.flat[0]), True


def _neighbour_normals(
    points: npt.NDArray[np.float32], offset: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], float, float]:
    """Normals by principal components of 12 neighbours, oriented towards the sensor."""
    tree = cKDTree(points)
    distance, index = tree.query(points, k=min(12, len(points)))
    patch = points[index] - points[index].mean(1, keepdims=True)
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", patch, patch))
    normals = vectors[:, :, 0]
    normals *= np.where((normals * offset).sum(1) > 0, -1, 1)[:, None]
    flat_enough = (values[:, 0] < 0.2 * values[:, 1]) & (values[:, 1] > 0.02 * values[:, 2])
    normals[~flat_enough] = 0
    thickness = np.sqrt(np.maximum(values[:, 0], 0) / max(index.shape[1] - 3, 1))
    spacing = float(np.median(distance[:, 1:5].mean(1)))
    noise = float(np.clip(np.median(thickness), 0.02 * spacing, spacing))
    return normals.astype(np.float32), spacing, noise
