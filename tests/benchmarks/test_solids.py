"""The meshes that are made for benchmarks are what they are said to be."""

from __future__ import annotations

import numpy as np
import open3d as o3d
import pytest

from benchmarks.solids import SOLIDS

# By hand: polygons of 0.40 and 0.50 m less the bore, 20 cm high; seat, legs, posts, bars, rail; and
# pi (.065^2 + .015^2 / 2) times 5.1 m of tube.
VOLUMES_M3 = {"gear": 0.1025, "chair": 0.012731, "knot": 0.0698}


@pytest.mark.parametrize("name", SOLIDS)
def test_a_solid_is_closed_and_faces_outwards(name: str) -> None:
    mesh = SOLIDS[name]()
    seen = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.triangles)
    )
    assert seen.is_edge_manifold(allow_boundary_edges=False)
    assert seen.is_orientable()
    a, b, c = mesh.vertices[mesh.triangles].transpose(1, 0, 2)
    volume_m3 = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert volume_m3 == pytest.approx(VOLUMES_M3[name], rel=0.01)
    assert 0.95 < np.ptp(mesh.vertices, axis=0).max() < 1.05
