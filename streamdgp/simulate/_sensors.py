"""Virtual sensors: what they see of a mesh, and how badly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidInputError
from streamdgp.meshes import RayScene

__all__ = ["DepthSensor", "LidarSensor"]

_FLYING_JUMP_M = 0.05


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidInputError(f"{name} from 0 to 1", str(value), "It is a share of the pixels.")


@dataclass(frozen=True)
class DepthSensor:
    """A depth camera with noise sigma(z) = sigma_m + sigma_per_m2 (z - 0.4)².

    Parameters
    ----------
    width, height, focal_px
        Image size and focal length; the principal point is (width / 2, height / 2).
    max_range_m
        Nothing is seen beyond.
    sigma_m, sigma_per_m2
        The noise's two parts. ``dropout_share`` of the pixels return nothing.
    flying_share
        Share of the pixels at a depth edge (a jump of 5 cm) that lie between both sides of it.
    quantisation_m
        Step of the measured depth; files hold millimetres in any case. 0 adds none.
    """

    width: int = 320
    height: int = 240
    focal_px: float = 290.0
    max_range_m: float = 8.0
    sigma_m: float = 0.0012
    sigma_per_m2: float = 0.0019
    dropout_share: float = 0.01
    flying_share: float = 0.0
    quantisation_m: float = 0.0

    def __post_init__(self) -> None:
        _check_share("dropout_share", self.dropout_share)
        _check_share("flying_share", self.flying_share)
        if min(self.width, self.height) < 2 or not self.focal_px > 0:
            raise InvalidInputError(
                "an image of at least 2x2 with a positive focal length",
                f"{self.width}x{self.height}, {self.focal_px} px",
                "Give pixels.",
            )

    def camera_matrix(self) -> npt.NDArray[np.float64]:
        """The 3x3 camera matrix."""
        f = self.focal_px
        return np.array([[f, 0, self.width / 2], [0, f, self.height / 2], [0, 0, 1.0]])

    def measure(
        self, scene: RayScene, world_T_camera: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """Noisy depth (H, W) in metres, 0 = no return, and the true world points seen (K, 3)."""
        u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
        directions = np.stack(
            [(u - self.width / 2) / self.focal_px, (v - self.height / 2) / self.focal_px, np.ones(u.shape)],
            axis=-1,
        )
        directions = directions @ world_T_camera[:3, :3].T
        eye = world_T_camera[:3, 3]
        depth = scene.cast(eye, directions).t.astype(np.float64)
        hit = depth < self.max_range_m
        seen = (eye + directions[hit] * depth[hit, None]).astype(np.float32)
        noise = rng.normal(size=depth.shape)
        depth = np.where(hit, depth, 0.0)
        if self.flying_share:
            depth = self._fly(depth, rng)
        depth += noise * (self.sigma_m + self.sigma_per_m2 * (depth - 0.4) ** 2)
        if self.quantisation_m:
            depth = np.round(depth / self.quantisation_m) * self.quantisation_m
        if self.dropout_share:
            hit &= rng.random(depth.shape) >= self.dropout_share
        return np.where(hit & (depth > 0), depth, 0.0), seen

    def _fly(self, depth_m: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Pixels at depth edges, moved to somewhere between their two sides."""
        neighbour = np.roll(depth_m, 1, axis=1)
        neighbour[:, 0] = depth_m[:, 0]
        edge = (np.abs(depth_m - neighbour) > _FLYING_JUMP_M) & (depth_m > 0) & (neighbour > 0)
        edge &= rng.random(depth_m.shape) < self.flying_share
        between = depth_m + rng.random(depth_m.shape) * (neighbour - depth_m)
        return np.where(edge, between, depth_m)


@dataclass(frozen=True)
class LidarSensor:
    """A spinning LiDAR with Gaussian range noise.

    Parameters
    ----------
    beams, columns
        Rays: elevations evenly from ``lowest_deg`` to ``highest_deg``, azimuths all around.
    max_range_m
        Nothing is returned beyond; what lies within ``seen_range_m`` counts as seen.
    sigma_m
        Range noise. ``dropout_share`` of the rays return nothing.
    """

    beams: int = 64
    columns: int = 1024
    lowest_deg: float = -24.8
    highest_deg: float = 2.0
    max_range_m: float = 60.0
    seen_range_m: float = 25.0
    sigma_m: float = 0.02
    dropout_share: float = 0.03

    def __post_init__(self) -> None:
        _check_share("dropout_share", self.dropout_share)
        if min(self.beams, self.columns) < 1:
            raise InvalidInputError(
                "at least one beam and column", f"{self.beams}, {self.columns}", "Give counts."
            )

    def measure(
        self, scene: RayScene, world_T_lidar: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """Noisy points with intensity (N, 4) in the sensor's frame, and true world points seen (K, 3)."""
        elevation, azimuth = np.meshgrid(
            np.deg2rad(np.linspace(self.lowest_deg, self.highest_deg, self.beams)),
            np.linspace(-np.pi, np.pi, self.columns, endpoint=False),
            indexing="ij",
        )
        flat = np.cos(elevation)
        rays = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)
        directions = rays @ world_T_lidar[:3, :3].T
        origin = world_T_lidar[:3, 3]
        hits = scene.cast(origin, directions)
        ranges = hits.t.astype(np.float64)
        returned = (ranges < self.max_range_m) & (rng.random(ranges.shape) >= self.dropout_share)
        near = returned & (ranges < self.seen_range_m)
        seen = (origin + directions[near] * ranges[near, None]).astype(np.float32)
        noisy = np.where(returned, ranges, 0.0) + rng.normal(size=ranges.shape) * self.sigma_m
        intensity = np.abs((hits.normals * directions).sum(axis=-1))
        points = np.concatenate([rays * noisy[..., None], intensity[..., None]], axis=-1)
        return points[returned], seen
