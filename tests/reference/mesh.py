"""What a mesh must be: every edge used once in each direction, no degenerate faces, the right way out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamdgp.surface import Mesh

__all__ = ["Topology", "area_normals", "topology", "triangle_set"]


@dataclass(frozen=True)
class Topology:
    """open_edges: used by one triangle; crowded_edges: by more than two; unpaired_edges: by two that run
    the same way; euler: V - E + F over the vertices in use."""

    open_edges: int
    crowded_edges: int
    unpaired_edges: int
    euler: int

    @property
    def closed(self) -> bool:
        return self.open_edges == self.crowded_edges == self.unpaired_edges == 0


def topology(mesh: Mesh) -> Topology:
    """Count edges by brute force."""
    t = mesh.triangles.astype(np.int64)
    directed = np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]])
    assert (directed[:, 0] != directed[:, 1]).all(), "a triangle uses a vertex twice"
    low, high = directed.min(1), directed.max(1)
    forward = np.where(directed[:, 0] == low, 1, -1)
    _, inverse, count = np.unique(
        low * (len(mesh.vertices) + 1) + high, return_inverse=True, return_counts=True
    )
    balance = np.bincount(inverse, forward, len(count))
    return Topology(
        open_edges=int((count == 1).sum()),
        crowded_edges=int((count > 2).sum()),
        unpaired_edges=int(((count == 2) & (balance != 0)).sum()),
        euler=len(np.unique(t)) - len(count) + len(t),
    )


def area_normals(
    mesh: Mesh,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centroids (T, 3), unit normals (T, 3) by the right-hand rule, and areas (T,)."""
    corners = mesh.vertices[mesh.triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1) / 2
    return corners.mean(1), cross / np.maximum(2 * area, 1e-300)[:, None], area


def triangle_set(mesh: Mesh, digits: int = 6) -> set[tuple[tuple[float, ...], ...]]:
    """Triangles by rounded coordinates, rotated to a fixed start: equal sets are equal meshes."""
    corners = np.round(mesh.vertices[mesh.triangles], digits) + 0.0
    out = set()
    for triangle in corners.tolist():
        points = [tuple(p) for p in triangle]
        start = points.index(min(points))
        out.add(tuple(points[start:] + points[:start]))
    return out


def border_vertices(mesh: Mesh) -> npt.NDArray[np.int64]:
    """Numbers of the vertices on edges that only one triangle has."""
    t = mesh.triangles
    edges, count = np.unique(
        np.sort(np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]]), axis=1),
        axis=0,
        return_counts=True,
    )
    border: npt.NDArray[np.int64] = np.unique(edges[count == 1]).astype(np.int64)
    return border
