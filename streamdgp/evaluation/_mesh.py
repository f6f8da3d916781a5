"""A mesh against a reference mesh: accuracy, completeness, Chamfer, F-score, normal consistency."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidInputError
from streamdgp.meshes import MeshLike, RayScene

__all__ = ["MeshScores", "compare_meshes", "sample_surface", "vertices_within"]


@dataclass(frozen=True)
class MeshScores:
    """Scores of a mesh against a reference; lengths in metres, shares 0 to 1.

    Accuracy is the distance of the mesh's area to the reference, completeness that of the
    reference's area (of the part that was seen) to the mesh; the Chamfer distance is the mean of
    their two means. Precision and recall are the shares within ``threshold_m``, the F-score their
    harmonic mean. Normal consistency is the mean absolute cosine between the mesh's triangles and
    the nearest reference triangles.
    """

    threshold_m: float
    accuracy_mean_m: float
    accuracy_median_m: float
    accuracy_p95_m: float
    accuracy_p99_m: float
    completeness_mean_m: float
    completeness_median_m: float
    completeness_p95_m: float
    completeness_p99_m: float
    chamfer_distance_m: float
    precision: float
    recall: float
    f_score: float
    normal_consistency: float
    triangle_count: int
    edge_manifold: bool

    def as_dict(self) -> dict[str, float | int | bool]:
        """Scores by name, ready for JSON."""
        return dataclasses.asdict(self)


def sample_surface(
    mesh: MeshLike, count: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points (count, 3) spread evenly over a mesh's area, and the unit normals of their triangles.

    Raises
    ------
    InvalidInputError
        The mesh has no area.
    """
    corners = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.triangles)]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double_area = np.linalg.norm(cross, axis=1)
    total = np.cumsum(double_area)
    if not len(total) or not total[-1] > 0:
        raise InvalidInputError(
            "a mesh with triangles of some area", f"{len(total)} triangles", "Check the mesh."
        )
    rng = np.random.default_rng(seed)
    # One sample per equal slice of the area: the same mean as free sampling, less noise.
    at = (np.arange(count) + rng.random(count)) / count * total[-1]
    triangle = np.minimum(np.searchsorted(total, at, side="right"), len(total) - 1)
    root, v = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - root, root * (1 - v), root * v], axis=1)
    points = (corners[triangle] * weights[..., None]).sum(axis=1)
    return points, cross[triangle] / np.maximum(double_area[triangle, None], 1e-300)


def _is_edge_manifold(triangles: npt.NDArray[Any]) -> bool:
    """True where no edge belongs to more than two triangles."""
    faces = np.asarray(triangles, np.int64)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    _, counts = np.unique(edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1], return_counts=True)
    return bool(counts.max() <= 2)


def compare_meshes(
    mesh: MeshLike,
    reference: MeshLike,
    *,
    threshold_m: float = 0.004,
    seen_m: npt.NDArray[Any] | None = None,
    sample_count: int = 200_000,
    seed: int = 1,
) -> MeshScores:
    """Score a mesh against a reference.

    Parameters
    ----------
    mesh, reference
        In the same frame and unit.
    threshold_m
        Distance within which a point counts for precision, recall and F-score.
    seen_m
        Points (K, 3) that sensor rays reached: completeness counts only the reference within
        ``threshold_m`` of one. None counts all of it.
    sample_count, seed
        Points drawn on each mesh.

    Raises
    ------
    InvalidInputError
        A mesh without area, a threshold not above 0, or no reference near ``seen_m``.
    """
    if not threshold_m > 0:
        raise InvalidInputError("threshold_m > 0", str(threshold_m), "Give metres.")
    ours, our_normals = sample_surface(mesh, sample_count, seed)
    theirs, _ = sample_surface(reference, sample_count, seed + 1)
    if seen_m is not None:
        from scipy.spatial import cKDTree

        gap, _ = cKDTree(np.asarray(seen_m, np.float64)).query(theirs, distance_upper_bound=threshold_m)
        theirs = theirs[np.isfinite(gap)]
        if not len(theirs):
            raise InvalidInputError(
                f"seen points within {threshold_m:g} m of the reference",
                "none",
                "Check frame and unit of both.",
            )
    to_reference, reference_normals = RayScene(reference).closest(ours)
    to_mesh, _ = RayScene(mesh).closest(theirs)
    precision, recall = float((to_reference < threshold_m).mean()), float((to_mesh < threshold_m).mean())
    accuracy, completeness = _summary(to_reference), _summary(to_mesh)
    return MeshScores(
        threshold_m,
        *accuracy,
        *completeness,
        chamfer_distance_m=(accuracy[0] + completeness[0]) / 2,
        precision=precision,
        recall=recall,
        f_score=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        normal_consistency=_mean_cosine(our_normals, reference_normals),
        triangle_count=len(mesh.triangles),
        edge_manifold=_is_edge_manifold(mesh.triangles),
    )


def _mean_cosine(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float32]) -> float:
    """Mean of how far normals (N, 3) agree, but for places whose triangle has no area, and so no normal."""
    cosine = np.abs((ours * theirs).sum(axis=1))
    return float(cosine[np.isfinite(cosine)].mean())


def _summary(distances_m: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Mean, median, 95th and 99th percentile."""
    median, p95, p99 = (float(value) for value in np.quantile(distances_m, [0.5, 0.95, 0.99]))
    return float(distances_m.mean()), median, p95, p99


def vertices_within(mesh: MeshLike, reference: MeshLike, errors_m: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Share of the mesh's vertices (0 to 1) whose distance to the reference is below each error.

    The curve of the paper's figures (percentage of vertices over error).
    """
    distances, _ = RayScene(reference).closest(np.asarray(mesh.vertices, np.float64))
    distances.sort()
    return np.searchsorted(distances, np.asarray(errors_m, np.float64)) / max(len(distances), 1)
