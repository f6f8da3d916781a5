"""Errors beside the creases of a mesh: edges between faces that differ by more than 30 degrees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from streamdgp.evaluation import sample_surface
from streamdgp.meshes import MeshLike, RayScene

__all__ = ["crease_points_m", "mean_beside_creases_m"]

_SHARP_DEG = 30.0
_WELD_M = 1e-6
_STEP_M = 1e-3


def crease_points_m(mesh: MeshLike) -> npt.NDArray[np.float64]:
    """Points (K, 3) along the creases, at most a millimetre apart; vertices in one place are one."""
    vertices, triangles = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.triangles, np.int64)
    _, first, same = np.unique(np.rint(vertices / _WELD_M), axis=0, return_index=True, return_inverse=True)
    faces = same.ravel()[triangles]
    corners = vertices[first][faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    faces, normal = faces[area > 0], normal[area > 0] / area[area > 0, None]
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    face = np.tile(np.arange(len(faces)), 3)
    order = np.lexsort((edges[:, 0], edges[:, 1]))
    edges, face = edges[order], face[order]
    pair = np.flatnonzero((edges[1:] == edges[:-1]).all(axis=1))
    cosine = (normal[face[pair]] * normal[face[pair + 1]]).sum(axis=1)
    sharp = edges[pair[cosine < np.cos(np.deg2rad(_SHARP_DEG))]]
    begin, end = vertices[first][sharp[:, 0]], vertices[first][sharp[:, 1]]
    count = np.ceil(np.linalg.norm(end - begin, axis=1) / _STEP_M).astype(np.int64) + 1
    of = np.repeat(np.arange(len(sharp)), count)
    at = (np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)) / np.maximum(count[of] - 1, 1)
    return begin[of] + at[:, None] * (end - begin)[of]


def mean_beside_creases_m(
    mesh: MeshLike, truth: MeshLike, reach_m: float = 0.01, sample_count: int = 200_000, seed: int = 1
) -> float:
    """Mean distance to the truth of a mesh's area within ``reach_m`` of a crease; nan where there is none."""
    creases = crease_points_m(truth)
    if not len(creases):
        return float("nan")
    points, _ = sample_surface(mesh, sample_count, seed)
    near = np.isfinite(cKDTree(creases).query(points, distance_upper_bound=reach_m)[0])
    return float(RayScene(truth).closest(points[near])[0].mean()) if near.any() else float("nan")
