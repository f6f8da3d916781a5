"""Edge-aware resampling, our compact stand-in for EAR (Huang et al. 2013), and screened Poisson of points.

Three steps, each over nearest neighbours and without loops over points: bilateral filtering of normals, so
that they do not average over an edge; moving points onto the planes of neighbours with like normals; filling
the gap that then opens at edges with points between neighbours of unlike normals. EAR's pipeline (LOP-type
resampling away from edges, insertion ordered by priority) is richer; this plays its role, it is not its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.experiments.scans import Cloud
from streamdgp.meshes import TriangleMesh

__all__ = ["EdgeAwareConfig", "poisson_mesh", "resample"]


@dataclass(frozen=True)
class EdgeAwareConfig:
    """Settings of the stand-in."""

    neighbours: int = 12
    """Nearest neighbours of a point."""
    angle_deg: float = 20.0
    """Standard deviation of the angle between normals that count as alike."""
    normal_rounds: int = 3
    """Rounds of bilateral filtering of the normals."""
    point_rounds: int = 2
    """Rounds of moving points."""
    insert_rounds: int = 1
    """Rounds of inserting points between far neighbours."""


def _neighbours(points_m: np.ndarray, at_m: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (N, k) and Gaussian weights (N, k) by distance; the width: half the mean farthest distance."""
    distance, index = cKDTree(points_m).query(at_m, k=count)
    width = 0.5 * distance[:, -1:].mean()
    return index, np.exp(-0.5 * (distance / width) ** 2)


def _alike(normals: np.ndarray, others: np.ndarray, angle_deg: float) -> np.ndarray:
    """Weights (N, k) by how far the normals (N, k, 3) are from (N, 3)."""
    cosine = np.einsum("nkd,nd->nk", others, normals)
    likeness: np.ndarray = np.exp(-(((1.0 - cosine) / (1.0 - np.cos(np.deg2rad(angle_deg)))) ** 2))
    return likeness


def _filter_normals(cloud: Cloud, config: EdgeAwareConfig) -> Cloud:
    """Bilateral means of the normals: only alike neighbours count."""
    index, near = _neighbours(cloud.points_m, cloud.points_m, config.neighbours)
    normals = cloud.normals
    for _ in range(config.normal_rounds):
        others = normals[index]
        mean = np.einsum("ij,ijk->ik", near * _alike(normals, others, config.angle_deg), others)
        normals = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return Cloud(cloud.points_m, normals)


def _offset(points_m: np.ndarray, normals: np.ndarray, cloud: Cloud, config: EdgeAwareConfig) -> np.ndarray:
    """Signed distances (N,) along the normals to the mean plane of alike neighbours."""
    index, near = _neighbours(cloud.points_m, points_m, config.neighbours)
    others = cloud.normals[index]
    weights = near * _alike(normals, others, config.angle_deg)
    gap = np.einsum("nkd,nkd->nk", others, cloud.points_m[index] - points_m[:, None])
    offset: np.ndarray = (weights * gap).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-12)
    return offset


def _move_points(cloud: Cloud, config: EdgeAwareConfig) -> Cloud:
    points = cloud.points_m
    for _ in range(config.point_rounds):
        current = Cloud(points, cloud.normals)
        points = points + _offset(points, cloud.normals, current, config)[:, None] * cloud.normals
    return Cloud(points, cloud.normals)


def _insert(cloud: Cloud, config: EdgeAwareConfig) -> Cloud:
    """Two points, one with either side's normal, between neighbours whose normals are unlike."""
    distance, index = cKDTree(cloud.points_m).query(cloud.points_m, k=9)
    spacing = float(np.median(distance[:, 1]))
    row, column = np.nonzero(index[:, 1:] > np.arange(len(index))[:, None])
    i, j = row, index[row, column + 1]
    unlike = np.einsum("ij,ij->i", cloud.normals[i], cloud.normals[j]) < np.cos(
        np.deg2rad(2 * config.angle_deg)
    )
    i, j = i[unlike], j[unlike]
    middle = 0.5 * (cloud.points_m[i] + cloud.points_m[j])
    points = np.concatenate([middle, middle])
    normals = np.concatenate([cloud.normals[i], cloud.normals[j]])
    points = points + _offset(points, normals, cloud, config)[:, None] * normals
    # One of many candidates per cell, and none that jumped far off.
    moved = np.linalg.norm(points - np.concatenate([middle, middle]), axis=1) < 2.0 * spacing
    cell = np.floor(points / (0.7 * spacing)).astype(np.int64)
    side = np.repeat([0, 1], len(middle))
    _, first = np.unique(np.column_stack([cell, side]), axis=0, return_index=True)
    kept = first[moved[first]]
    return Cloud(
        np.concatenate([cloud.points_m, points[kept]]), np.concatenate([cloud.normals, normals[kept]])
    )


def resample(cloud: Cloud, config: EdgeAwareConfig | None = None) -> Cloud:
    """Filter normals, move points, fill edges."""
    settings = config or EdgeAwareConfig()
    moved = _move_points(_filter_normals(cloud, settings), settings)
    for _ in range(settings.insert_rounds):
        moved = _insert(moved, settings)
    return moved


def poisson_mesh(cloud: Cloud, depth: int, threads: int = 1) -> TriangleMesh:
    """Open3D's screened Poisson of oriented points."""
    import open3d as o3d

    points: Any = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(cloud.points_m))
    points.normals = o3d.utility.Vector3dVector(cloud.normals)
    mesh, _ = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
        points, depth=depth, n_threads=threads
    )
    return TriangleMesh(np.array(mesh.vertices), np.array(mesh.triangles, np.int32))
