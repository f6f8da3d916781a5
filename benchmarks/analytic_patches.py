"""Noisy patches of surfaces whose exact distance is known, in chart coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from streamdgp.fitting.types import PatchBatch

__all__ = ["SURFACES", "AnalyticPatches", "bent_sheet_patches", "make_patches"]

Points = NDArray[np.float64]
SPHERE_RADIUS = 1.5
TORUS_MAJOR, TORUS_MINOR = 2.0, 0.9
SADDLE_BEND = 0.35
CREASE_SLOPE = 0.7
NORMAL_ERROR_RAD = 0.1


@dataclass(frozen=True)
class AnalyticPatches:
    """C patches of N points of one surface; lengths in chart units (1 = the radius of the ball).

    clean, noisy (C, N, 3) chart frame; sigma: standard deviation of the noise per axis;
    distance_to_surface: (C, K, 3) chart frame to exact distances (C, K).
    """

    name: str
    clean: torch.Tensor
    noisy: torch.Tensor
    sigma: float
    distance_to_surface: Callable[[torch.Tensor], torch.Tensor]

    @property
    def evidence(self) -> PatchBatch:
        """What a regime is given."""
        weights = torch.full(self.noisy.shape[:2], 1.0 / self.sigma**2)
        return PatchBatch(self.noisy, weights)

    def first(self, charts: int) -> AnalyticPatches:
        """Only the first patches."""
        padding = len(self.clean) - charts

        def distance(x: torch.Tensor) -> torch.Tensor:
            return self.distance_to_surface(torch.cat([x, x[:1].expand(padding, -1, -1)]))[:charts]

        return replace(
            self, clean=self.clean[:charts], noisy=self.noisy[:charts], distance_to_surface=distance
        )


def _sphere(rng: np.random.Generator, count: int) -> tuple[Points, Points]:
    normal = rng.normal(size=(count, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return SPHERE_RADIUS * normal, normal


def _sphere_distance(x: Points) -> Points:
    gap: Points = np.abs(np.linalg.norm(x, axis=-1) - SPHERE_RADIUS)
    return gap


def _torus(rng: np.random.Generator, count: int) -> tuple[Points, Points]:
    around, tube = rng.uniform(0, 2 * np.pi, (2, 4 * count))
    # Area is proportional to the distance from the axis: rejection.
    keep = rng.uniform(size=4 * count) * (TORUS_MAJOR + TORUS_MINOR) < TORUS_MAJOR + TORUS_MINOR * np.cos(
        tube
    )
    around, tube = around[keep][:count], tube[keep][:count]
    normal = np.stack([np.cos(tube) * np.cos(around), np.cos(tube) * np.sin(around), np.sin(tube)], axis=1)
    ring = np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], axis=1)
    return TORUS_MAJOR * ring + TORUS_MINOR * normal, normal


def _torus_distance(x: Points) -> Points:
    ring = np.hypot(x[..., 0], x[..., 1]) - TORUS_MAJOR
    gap: Points = np.abs(np.hypot(ring, x[..., 2]) - TORUS_MINOR)
    return gap


def _saddle(rng: np.random.Generator, count: int) -> tuple[Points, Points]:
    u = rng.uniform(-2.0, 2.0, (4 * count, 2))
    slope = 2.0 * SADDLE_BEND * u * [1.0, -1.0]
    area = np.sqrt(1.0 + (slope**2).sum(axis=1))
    keep = rng.uniform(size=len(u)) * area.max() < area
    u, slope, area = u[keep][:count], slope[keep][:count], area[keep][:count, None]
    points = np.concatenate([u, SADDLE_BEND * (u[:, :1] ** 2 - u[:, 1:] ** 2)], axis=1)
    return points, np.concatenate([-slope, np.ones_like(area)], axis=1) / area


def _saddle_distance(x: Points) -> Points:
    """Foot point by damped Gauss-Newton; ten steps reach rounding for points near the surface."""
    u = x[..., :2].copy()
    for _ in range(10):
        slope = 2.0 * SADDLE_BEND * u * [1.0, -1.0]
        height = SADDLE_BEND * (u[..., 0] ** 2 - u[..., 1] ** 2)
        gap = x[..., 2] - height
        gradient = x[..., :2] - u + gap[..., None] * slope
        # (I + s s^T)^-1 by Sherman-Morrison.
        along = (slope * gradient).sum(axis=-1, keepdims=True) / (
            1.0 + (slope**2).sum(axis=-1, keepdims=True)
        )
        u += gradient - slope * along
    height = SADDLE_BEND * (u[..., 0] ** 2 - u[..., 1] ** 2)
    squared: Points = ((x[..., :2] - u) ** 2).sum(axis=-1) + (x[..., 2] - height) ** 2
    return np.sqrt(squared)


def _crease(rng: np.random.Generator, count: int) -> tuple[Points, Points]:
    u = rng.uniform(-2.0, 2.0, (count, 2))
    points = np.stack([u[:, 0], u[:, 1], -CREASE_SLOPE * np.abs(u[:, 0])], axis=1)
    normal = np.stack([CREASE_SLOPE * np.sign(u[:, 0]), np.zeros(count), np.ones(count)], axis=1)
    return points, normal / np.sqrt(1.0 + CREASE_SLOPE**2)


def _crease_distance(x: Points) -> Points:
    """Distance to the half-plane on the point's own side."""
    across, height = np.abs(x[..., 0]), x[..., 2]
    unit = np.array([1.0, -CREASE_SLOPE]) / np.sqrt(1.0 + CREASE_SLOPE**2)
    along = np.maximum(across * unit[0] + height * unit[1], 0.0)
    gap: Points = np.hypot(across - along * unit[0], height - along * unit[1])
    return gap


SURFACES = {
    "sphere": (_sphere, _sphere_distance),
    "torus": (_torus, _torus_distance),
    "saddle": (_saddle, _saddle_distance),
    "crease": (_crease, _crease_distance),
}


def make_patches(name: str, charts: int, points: int, sigma: float, seed: int = 0) -> AnalyticPatches:
    """Patches around random anchors of one of ``SURFACES``; frames tilted by an estimated normal's error.

    The crease's anchors lie within 0.5 of the edge, so that every patch has it.
    """
    sample, distance = SURFACES[name]
    rng = np.random.default_rng([seed, list(SURFACES).index(name)])
    surface, normals = sample(rng, 400 * points)
    limit = {"sphere": np.inf, "torus": np.inf, "saddle": 1.0, "crease": 0.5}[name]
    eligible = np.flatnonzero((np.abs(surface[:, 0]) < limit) & (np.abs(surface[:, 1]) < max(limit, 1.0)))
    chosen = rng.choice(eligible, charts, replace=False)
    anchors = surface[chosen]
    frames = np.stack([_frame(normals[i] + NORMAL_ERROR_RAD * rng.normal(size=3), rng) for i in chosen])
    clean = np.empty((charts, points, 3))
    for chart in range(charts):
        local = (surface - anchors[chart]) @ frames[chart]
        inside = np.flatnonzero((local**2).sum(axis=1) < 1.0)
        clean[chart] = local[rng.choice(inside, points, replace=False)]
    noisy = clean + sigma * rng.normal(size=clean.shape)

    def distance_to_surface(x: torch.Tensor) -> torch.Tensor:
        world = x.double().numpy() @ frames.transpose(0, 2, 1) + anchors[:, None]
        return torch.from_numpy(distance(world))

    return AnalyticPatches(
        name, torch.from_numpy(clean).float(), torch.from_numpy(noisy).float(), sigma, distance_to_surface
    )


def bent_sheet_patches(
    angle_rad: float, charts: int, points: int, sigma: float, seed: int = 0
) -> AnalyticPatches:
    """A sheet of half-length 0.9 that is flat on one side and rolls up by ``angle_rad`` on the other.

    Beyond 90 degrees the tangent plane at the anchor sees the end of the sheet above its middle: it
    fails as a parametrisation.
    """
    rng = np.random.default_rng([seed, 7])
    start, length = -0.2, 1.1
    radius = length / angle_rad
    clean = np.empty((charts, points, 3))
    spins = np.empty((charts, 3, 3))
    for chart in range(charts):
        u = rng.uniform(-0.9, start + length, 20 * points)
        rolled = np.maximum(u - start, 0.0) / radius
        x = np.minimum(u, start) + radius * np.sin(rolled)
        sheet = np.stack([x, rng.uniform(-1, 1, len(u)), radius * (1.0 - np.cos(rolled))], axis=1)
        spins[chart] = _frame(np.array([0.0, 0.0, 1.0]), rng)
        sheet = sheet @ spins[chart]
        clean[chart] = sheet[(sheet**2).sum(axis=1) < 1.0][:points]
    noisy = clean + sigma * rng.normal(size=clean.shape)

    def distance_to_surface(x: torch.Tensor) -> torch.Tensor:
        sheet = x.double().numpy() @ spins.transpose(0, 2, 1)
        flat = np.hypot(np.maximum(sheet[..., 0] - start, 0.0), sheet[..., 2])
        turn = np.arctan2(sheet[..., 0] - start, radius - sheet[..., 2])
        turn = np.where(turn < -0.5 * (2.0 * np.pi - angle_rad), turn + 2.0 * np.pi, turn)
        turn = np.clip(turn, 0.0, angle_rad)
        arc = np.hypot(
            sheet[..., 0] - start - radius * np.sin(turn), sheet[..., 2] - radius * (1.0 - np.cos(turn))
        )
        return torch.from_numpy(np.minimum(flat, arc))

    return AnalyticPatches(
        f"bent {np.degrees(angle_rad):.0f} deg",
        torch.from_numpy(clean).float(),
        torch.from_numpy(noisy).float(),
        sigma,
        distance_to_surface,
    )


def _frame(normal: Points, rng: np.random.Generator) -> Points:
    """A rotation whose third column is the normal, the others turned at random, (3, 3)."""
    third = normal / np.linalg.norm(normal)
    first = np.cross(third, rng.normal(size=3))
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], axis=1)
