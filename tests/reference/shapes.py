"""Analytic surfaces and the exact images that ideal sensors take of them.

Everything is plain numpy in float64: ray-plane, ray-sphere, ray-box and ray-quadric intersections are
closed forms, the torus is sphere-traced to 1e-10 m. Distances are unsigned unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamdgp.frames import DepthFrame, Intrinsics, PointFrame, RangeImageFrame

__all__ = [
    "Box",
    "Plane",
    "Saddle",
    "Shape",
    "Sphere",
    "Torus",
    "Union",
    "depth_frame",
    "fibonacci_directions",
    "kinect_sigma_m",
    "look_at",
    "orbit",
    "pixel_rays",
    "range_frame",
    "scattered_lidar",
]

Array = npt.NDArray[np.float64]


class Shape(Protocol):
    """A surface that rays can hit."""

    def intersect(self, origin: Array, directions: Array) -> Array:
        """Distance along unit ``directions`` (N, 3) from ``origin`` (3,); infinity where they miss."""
        ...

    def distance(self, points: Array) -> Array:
        """Unsigned distance (N,) of ``points`` (N, 3) to the surface."""
        ...

    def normal(self, points: Array) -> Array:
        """Outward unit normal (N, 3) at the surface point nearest to ``points``."""
        ...


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Plane:
    """An infinite plane, optionally kept to points within ``extent_m`` of ``point``."""

    point: tuple[float, float, float]
    direction: tuple[float, float, float]
    extent_m: float = np.inf

    def intersect(self, origin: Array, directions: Array) -> Array:
        n = _unit(np.array(self.direction))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = ((np.array(self.point) - origin) @ n) / (directions @ n)
        t = np.where(np.isfinite(t) & (t > 0), t, np.inf)
        hit = origin + np.where(np.isfinite(t), t, 0)[:, None] * directions
        return np.where(np.linalg.norm(hit - self.point, axis=1) <= self.extent_m, t, np.inf)

    def distance(self, points: Array) -> Array:
        return np.abs((points - np.array(self.point)) @ _unit(np.array(self.direction)))

    def normal(self, points: Array) -> Array:
        return np.broadcast_to(_unit(np.array(self.direction)), points.shape)


@dataclass(frozen=True)
class Sphere:
    """A sphere; ``inside`` turns the normals inwards."""

    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: float = 0.2

    def intersect(self, origin: Array, directions: Array) -> Array:
        o = origin - np.array(self.center)
        b = directions @ o
        c = o @ o - self.radius**2
        root = b * b - c
        s = np.sqrt(np.maximum(root, 0))
        near, far = -b - s, -b + s
        t = np.where(near > 0, near, far)
        return np.where((root >= 0) & (t > 0), t, np.inf)

    def distance(self, points: Array) -> Array:
        return np.abs(self.signed(points))

    def signed(self, points: Array) -> Array:
        """Signed distance, positive outside."""
        return np.linalg.norm(points - np.array(self.center), axis=1) - self.radius

    def normal(self, points: Array) -> Array:
        return _unit(points - np.array(self.center))


@dataclass(frozen=True)
class Torus:
    """A torus around the z axis: ``ring`` radius of the centre circle, ``tube`` radius of the tube."""

    ring: float = 0.2
    tube: float = 0.08

    def signed(self, points: Array) -> Array:
        """Signed distance, positive outside."""
        return np.hypot(np.hypot(points[:, 0], points[:, 1]) - self.ring, points[:, 2]) - self.tube

    def intersect(self, origin: Array, directions: Array) -> Array:
        t = np.zeros(len(directions))
        alive = np.arange(len(directions))
        hit = np.zeros(len(directions), np.bool_)
        for _ in range(400):
            d = self.signed(origin + t[alive, None] * directions[alive])
            done = d < 1e-10
            hit[alive[done]] = True
            t[alive] += np.where(done, 0, d)
            alive = alive[~done & (t[alive] < 20)]
            if not len(alive):
                break
        return np.where(hit, t, np.inf)

    def distance(self, points: Array) -> Array:
        return np.abs(self.signed(points))

    def normal(self, points: Array) -> Array:
        out = np.array(points, dtype=np.float64)
        flat = out[:, :2]
        out[:, :2] = flat - self.ring * _unit(flat)
        return _unit(out)


@dataclass(frozen=True)
class Saddle:
    """z = bend (x^2 - y^2) / 2 over a disk of radius ``extent_m``; outward is +z."""

    bend: float = 2.0
    extent_m: float = 0.4

    def intersect(self, origin: Array, directions: Array) -> Array:
        k = self.bend / 2
        q = np.array([k, -k, 0.0])
        a = (directions**2) @ q
        b = 2 * (directions * origin) @ q - directions[:, 2]
        c = (origin**2) @ q - origin[2]
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(b * b - 4 * a * c)
            h = -0.5 * (b + np.where(b < 0, -root, root))
            both = np.stack([h / a, c / h], 1)
        both = np.where(np.isfinite(both) & (both > 0), both, np.inf)
        hit = origin + np.where(np.isfinite(both), both, 0)[..., None] * directions[:, None, :]
        both[np.hypot(hit[..., 0], hit[..., 1]) > self.extent_m] = np.inf
        best: Array = both.min(1)
        return best

    def distance(self, points: Array) -> Array:
        """Newton on the foot's (x, y): exact well inside the radius of curvature."""
        u = np.array(points[:, :2], dtype=np.float64)
        k = self.bend / 2
        for _ in range(20):
            height = k * (u[:, 0] ** 2 - u[:, 1] ** 2) - points[:, 2]
            grad = np.stack([2 * k * u[:, 0], -2 * k * u[:, 1]], 1)
            g = u - points[:, :2] + height[:, None] * grad
            h00 = 1 + grad[:, 0] ** 2 + height * 2 * k
            h11 = 1 + grad[:, 1] ** 2 - height * 2 * k
            h01 = grad[:, 0] * grad[:, 1]
            det = h00 * h11 - h01 * h01
            u -= np.stack([(h11 * g[:, 0] - h01 * g[:, 1]) / det, (h00 * g[:, 1] - h01 * g[:, 0]) / det], 1)
        foot = np.column_stack([u, k * (u[:, 0] ** 2 - u[:, 1] ** 2)])
        gap: Array = np.linalg.norm(points - foot, axis=1)
        return gap

    def normal(self, points: Array) -> Array:
        return _unit(np.stack([-self.bend * points[:, 0], self.bend * points[:, 1], np.ones(len(points))], 1))


@dataclass(frozen=True)
class Box:
    """An axis-aligned box; a thin one is a slab, an edge of a large one is a 90-degree crease."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def intersect(self, origin: Array, directions: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            a = (np.array(self.low) - origin) / directions
            b = (np.array(self.high) - origin) / directions
        near = np.nanmax(np.minimum(a, b), axis=1)
        far = np.nanmin(np.maximum(a, b), axis=1)
        t = np.where(near > 0, near, far)
        return np.where((near <= far) & (far > 0), t, np.inf)

    def signed(self, points: Array) -> Array:
        """Signed distance, positive outside."""
        center = (np.array(self.low) + self.high) / 2
        half = (np.array(self.high) - self.low) / 2
        q = np.abs(points - center) - half
        outside: Array = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)
        return outside

    def distance(self, points: Array) -> Array:
        return np.abs(self.signed(points))

    def normal(self, points: Array) -> Array:
        center = (np.array(self.low) + self.high) / 2
        half = (np.array(self.high) - self.low) / 2
        q = np.abs(points - center) - half
        out = np.zeros_like(points)
        axis = q.argmax(1)
        rows = np.arange(len(points))
        out[rows, axis] = np.sign((points - center)[rows, axis])
        return out


@dataclass(frozen=True)
class Union:
    """The nearest hit of several shapes."""

    parts: tuple[Shape, ...]

    def intersect(self, origin: Array, directions: Array) -> Array:
        best: Array = np.min([p.intersect(origin, directions) for p in self.parts], axis=0)
        return best

    def distance(self, points: Array) -> Array:
        best: Array = np.min([p.distance(points) for p in self.parts], axis=0)
        return best

    def normal(self, points: Array) -> Array:
        nearest = np.argmin([p.distance(points) for p in self.parts], axis=0)
        normals = np.stack([p.normal(points) for p in self.parts])
        picked: Array = normals[nearest, np.arange(len(points))]
        return picked


def kinect_sigma_m(depth_m: npt.ArrayLike) -> Array:
    """Axial noise of a structured-light camera (Nguyen et al. 2012), written out independently."""
    return 0.0012 + 0.0019 * (np.asarray(depth_m, dtype=np.float64) - 0.4) ** 2


def look_at(
    eye: Sequence[float] | Array, target: Sequence[float] | Array, up: Sequence[float] = (0.0, 0.0, 1.0)
) -> Array:
    """Pose world_T_camera of a camera at ``eye`` (z forward, x right, y down)."""
    forward = _unit(np.asarray(target, np.float64) - np.asarray(eye, np.float64))
    vertical = np.asarray(up, np.float64)
    if abs(forward @ vertical) > 0.99:
        vertical = np.array([1.0, 0.0, 0.0])
    right = _unit(np.cross(forward, vertical))
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return pose


def fibonacci_directions(count: int) -> Array:
    """``count`` unit vectors spread evenly over the sphere."""
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    angle = np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], 1)


def orbit(count: int, distance_m: float, target: Sequence[float] = (0.0, 0.0, 0.0)) -> list[Array]:
    """Cameras all around ``target``, looking at it."""
    center = np.asarray(target, np.float64)
    return [look_at(center + distance_m * d, center) for d in fibonacci_directions(count)]


def pixel_rays(width: int, height: int, focal: float) -> Array:
    """Directions (H * W, 3) with z = 1 through the pixel centres."""
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack(
        [(u - (width - 1) / 2) / focal, (v - (height - 1) / 2) / focal, np.ones_like(u, np.float64)], -1
    ).reshape(-1, 3)


def depth_frame(
    shape: Shape,
    world_T_camera: Array,
    *,
    width: int = 80,
    height: int = 60,
    focal: float = 80.0,
    rng: np.random.Generator | None = None,
    max_range_m: float = 10.0,
) -> DepthFrame:
    """Exact depth image of ``shape``; with ``rng``, the axial noise of a structured-light camera."""
    rays = pixel_rays(width, height, focal)
    length = np.linalg.norm(rays, axis=1)
    world = (rays / length[:, None]) @ world_T_camera[:3, :3].T
    depth = shape.intersect(world_T_camera[:3, 3], world) / length
    if rng is not None:
        noise = rng.normal(size=depth.shape)
        depth = np.where(
            np.isfinite(depth), depth + kinect_sigma_m(np.where(np.isfinite(depth), depth, 0)) * noise, 0
        )
    depth = np.where(np.isfinite(depth), depth, 0).reshape(height, width).astype(np.float32)
    intrinsics = Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2)
    return DepthFrame(depth, intrinsics, world_T_camera, max_range_m=max_range_m)


def _beams(beams: int, columns: int, low_deg: float, high_deg: float) -> tuple[Array, Array, Array]:
    elevations = np.deg2rad(np.linspace(low_deg, high_deg, beams))
    azimuths = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    e, a = np.meshgrid(elevations, azimuths, indexing="ij")
    rays = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1).reshape(-1, 3)
    return elevations, azimuths, rays


def range_frame(
    shape: Shape,
    world_T_sensor: Array,
    *,
    beams: int = 32,
    columns: int = 360,
    low_deg: float = -25.0,
    high_deg: float = 15.0,
    sigma_m: float = 0.0,
    rng: np.random.Generator | None = None,
    max_range_m: float = 100.0,
) -> RangeImageFrame:
    """Range image of a spinning LiDAR."""
    elevations, azimuths, rays = _beams(beams, columns, low_deg, high_deg)
    t = shape.intersect(world_T_sensor[:3, 3], rays @ world_T_sensor[:3, :3].T)
    if rng is not None:
        t = t + sigma_m * rng.normal(size=t.shape)
    t = np.where(np.isfinite(t) & (t <= max_range_m), t, 0)
    return RangeImageFrame(
        t.reshape(beams, columns).astype(np.float32),
        elevations.astype(np.float32),
        azimuths.astype(np.float32),
        world_T_sensor,
        min_range_m=0.2,
        max_range_m=max_range_m,
    )


def scattered_lidar(
    shape: Shape,
    world_T_sensor: Array,
    *,
    beams: int = 32,
    columns: int = 360,
    low_deg: float = -25.0,
    high_deg: float = 15.0,
    rng: np.random.Generator | None = None,
    sigma_m: float = 0.0,
) -> PointFrame:
    """The same scan as unordered points (shuffled when ``rng`` is given)."""
    _, _, rays = _beams(beams, columns, low_deg, high_deg)
    t = shape.intersect(world_T_sensor[:3, 3], rays @ world_T_sensor[:3, :3].T)
    keep = np.isfinite(t) & (t < 100)
    t = t[keep]
    if rng is not None:
        t = t + sigma_m * rng.normal(size=t.shape)
    points = t[:, None] * rays[keep]
    if rng is not None:
        points = points[rng.permutation(len(points))]
    return PointFrame(points.astype(np.float32), world_T_sensor, is_lidar=True)
