"""Ray casting and closest points on a mesh (open3d, loaded when a scene is made)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.meshes._files import MeshLike

__all__ = ["RayHits", "RayScene"]


@dataclass(frozen=True)
class RayHits:
    """First hits of rays of shape (...): ``t`` in units of the ray's direction, infinity = miss.

    ``normals`` (..., 3) are the triangles'; ``triangles`` (...) and ``uvs`` (..., 2) say where.
    """

    t: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.uint32]
    uvs: npt.NDArray[np.float32]


class RayScene:
    """A mesh to shoot at. Coordinates are kept relative to its centre, so float32 loses nothing."""

    def __init__(self, mesh: MeshLike) -> None:
        import open3d as o3d

        self._tensor: Any = o3d.core.Tensor
        vertices = np.asarray(mesh.vertices, np.float64)
        self._centre_m = (vertices.min(axis=0) + vertices.max(axis=0)) / 2 if len(vertices) else np.zeros(3)
        self._scene: Any = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            self._tensor(np.ascontiguousarray(vertices - self._centre_m, np.float32)),
            self._tensor(np.ascontiguousarray(mesh.triangles, np.uint32)),
        )

    def _local(self, points_m: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(points_m - self._centre_m, np.float32)

    def cast(self, origins_m: npt.NDArray[Any], directions: npt.NDArray[Any]) -> RayHits:
        """First hits of rays; ``origins_m`` and ``directions`` are (..., 3) and broadcast."""
        origins, ways = np.broadcast_arrays(self._local(origins_m), np.asarray(directions, np.float32))
        hit = self._scene.cast_rays(self._tensor(np.concatenate([origins, ways], axis=-1)))
        names = ("t_hit", "primitive_normals", "primitive_ids", "primitive_uvs")
        return RayHits(*(hit[name].numpy() for name in names))

    def closest(self, points_m: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """Distances (N,) in metres from points (N, 3) to the mesh, and the unit normals (N, 3) there."""
        local = self._local(points_m)
        near = self._scene.compute_closest_points(self._tensor(local))
        distances = np.linalg.norm(near["points"].numpy().astype(np.float64) - local, axis=-1)
        return distances, near["primitive_normals"].numpy()
