"""The meshes that are made for benchmarks are what they are said to be."""

from __future__ import annotations

import numpy as np
import open3d as o3d
import pytest

from benchmarks.solids import SOLIDS

# By hand: fourteen times the triangles between the axis and a tooth's four sides, less those of the bore,
# 20 cm high; seat, legs, posts, bars, rail; and the integral of pi r^2 along the curve.
_TURN = 2 * np.pi / 14 * np.array([0.18, 0.24, 0.18, 0.4])
_SIDES_M2 = np.array([0.4 * 0.5, 0.5 * 0.5, 0.5 * 0.4, 0.4 * 0.4]) - 0.18**2
_T = np.linspace(0, 2 * np.pi, 10_000, endpoint=False)
_SPEED_M = np.sqrt(17 + 8 * np.cos(3 * _T) + (3.9 * np.cos(3 * _T)) ** 2) / 6
VOLUMES_M3 = {
    "gear": 14 * 0.2 * (0.5 * _SIDES_M2 * np.sin(_TURN)).sum(),
    "chair": 0.012731,
    "knot": 2 * np.pi * (np.pi * (0.065 + 0.015 * np.cos(5 * _T)) ** 2 * _SPEED_M).mean(),
}


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
