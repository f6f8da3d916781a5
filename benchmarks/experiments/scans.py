"""The two benchmark scans: points that are fitted, points that are held out, patches around an anchor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial import cKDTree

from benchmarks.inputs import shared_data
from streamdgp.atlas.atlas import tangent_frames
from streamdgp.datasets import open_dataset
from streamdgp.fitting.types import PatchBatch
from streamdgp.frames import PointFrame

__all__ = ["SCANS", "Cloud", "Patch", "bumpy_anchor", "load_scan", "patch_at", "plane_noise_m", "split"]

SCANS = ("anchor", "gargoyle")
_SAME_SHEET_COS = 0.5
_NOISE_NEIGHBOURS = 12


@dataclass(frozen=True)
class Cloud:
    """Oriented points: points_m (N, 3) float64, normals (N, 3) float64."""

    points_m: np.ndarray
    normals: np.ndarray

    def __len__(self) -> int:
        return len(self.points_m)

    def part(self, chosen: np.ndarray) -> Cloud:
        """Some of the points, by mask or number."""
        return Cloud(self.points_m[chosen], self.normals[chosen])

    def frame(self) -> PointFrame:
        """The points as the engine takes them: oriented by their normals, of no known sensor."""
        return PointFrame(
            self.points_m.astype(np.float32),
            np.eye(4),
            has_origin=False,
            normals=self.normals.astype(np.float32),
        )


@lru_cache(maxsize=2)
def load_scan(name: str) -> Cloud:
    """One of ``SCANS``, in metres; points without a normal are left out."""
    frame = open_dataset(shared_data("scans", "srb", f"{name}.ply"), unit="mm").read(0)
    assert isinstance(frame, PointFrame)
    assert frame.normals is not None
    points, normals = frame.points_m.astype(np.float64), frame.normals.astype(np.float64)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    good = np.isfinite(points).all(1) & (lengths[:, 0] > 0)
    return Cloud(points[good], normals[good] / lengths[good])


def split(cloud: Cloud, share: float = 0.2, seed: int = 0) -> tuple[Cloud, Cloud]:
    """The points to fit and the points held out, drawn at random."""
    held_out = np.random.default_rng(seed).random(len(cloud)) < share
    return cloud.part(~held_out), cloud.part(held_out)


@dataclass(frozen=True)
class Patch:
    """Evidence of one chart: y = R^T (x - anchor) / scale."""

    points: np.ndarray
    anchor_m: np.ndarray
    rotation: np.ndarray
    scale_m: float

    def local(self, points_m: np.ndarray) -> np.ndarray:
        """World points (N, 3) in chart coordinates."""
        chart: np.ndarray = (points_m - self.anchor_m) @ self.rotation / self.scale_m
        return chart

    def evidence(self, noise_m: float) -> PatchBatch:
        """What a regime is given: one patch, all points of equal weight."""
        points = torch.from_numpy(self.points[None]).float()
        return PatchBatch(points, torch.full(points.shape[:2], (self.scale_m / noise_m) ** 2))


def patch_at(cloud: Cloud, anchor: int, scale_m: float) -> Patch:
    """The points of one sheet in the ball of ``scale_m`` around a point; frame by their mean normal."""
    near = np.array(cKDTree(cloud.points_m).query_ball_point(cloud.points_m[anchor], scale_m))
    same = near[cloud.normals[near] @ cloud.normals[anchor] > _SAME_SHEET_COS]
    core = same[np.linalg.norm(cloud.points_m[same] - cloud.points_m[anchor], axis=1) < 0.5 * scale_m]
    normal = cloud.normals[core].mean(axis=0)
    rotation = tangent_frames((normal / np.linalg.norm(normal))[None])[0]
    patch = Patch(np.empty((0, 3)), cloud.points_m[anchor], rotation, scale_m)
    points = patch.local(cloud.points_m[same])
    # Regimes expect rows sorted in space: in columns of a coarse grid.
    cell = np.floor(8.0 * points[:, :2])
    return Patch(points[np.lexsort((points[:, 1], cell[:, 0]))], patch.anchor_m, rotation, scale_m)


def bumpy_anchor(
    cloud: Cloud, scale_m: float, quantile: float, candidates: int = 200, seed: int = 0, rows: int = 120
) -> int:
    """A point whose ball is bumpier than a given share of others: by the spread off its best plane.

    Balls with fewer than ``rows`` points are passed over, and those that hold two sheets.
    """
    drawn = np.random.default_rng(seed).choice(len(cloud), candidates, replace=False)
    balls = cKDTree(cloud.points_m).query_ball_point(cloud.points_m[drawn], scale_m)
    usable = [
        (
            float(np.linalg.svd(cloud.points_m[b] - cloud.points_m[b].mean(0), compute_uv=False)[2] ** 2),
            int(i),
        )
        for i, b in zip(drawn, balls, strict=True)
        if len(b) >= rows and (cloud.normals[b] @ cloud.normals[i]).min() > 0.0
    ]
    usable.sort()
    return usable[int(quantile * (len(usable) - 1))][1]


def plane_noise_m(cloud: Cloud) -> float:
    """Standard deviation of the noise: median distance of points from the plane of their neighbours."""
    some = np.random.default_rng(0).choice(len(cloud), min(len(cloud), 4000), replace=False)
    near = cKDTree(cloud.points_m).query(cloud.points_m[some], k=_NOISE_NEIGHBOURS)[1]
    around = cloud.points_m[near]
    centred = around - around.mean(axis=1, keepdims=True)
    normal = np.linalg.svd(centred, full_matrices=False)[2][:, 2]
    distance = np.abs((centred[:, 0] * normal).sum(axis=1))
    # Three of the plane's numbers follow the points.
    return float(1.4826 * np.median(distance) * np.sqrt(_NOISE_NEIGHBOURS / (_NOISE_NEIGHBOURS - 3)))
