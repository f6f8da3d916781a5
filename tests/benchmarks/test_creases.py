"""Creases of shapes whose edges are known."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from benchmarks.creases import crease_points_m, mean_beside_creases_m
from streamdgp.meshes import TriangleMesh

_EDGE_M = 0.2


def _of(mesh: trimesh.Trimesh) -> TriangleMesh:
    """With three vertices of its own for every triangle, as many files have."""
    corners = np.asarray(mesh.vertices)[np.asarray(mesh.faces)].reshape(-1, 3)
    return TriangleMesh(corners, np.arange(len(corners)).reshape(-1, 3))


def test_the_creases_of_a_cube_are_its_edges_and_no_diagonals() -> None:
    points = crease_points_m(_of(trimesh.creation.box((_EDGE_M,) * 3)))
    on_face = np.isclose(np.abs(points), 0.5 * _EDGE_M)
    assert (on_face.sum(1) >= 2).all()
    # 12 edges, at most a millimetre apart.
    assert len(points) == 12 * 201


def test_a_smooth_surface_has_none() -> None:
    sphere = _of(trimesh.creation.icosphere(3, 0.3))
    assert not len(crease_points_m(sphere))
    assert np.isnan(mean_beside_creases_m(sphere, sphere))


def test_only_what_is_beside_a_crease_counts() -> None:
    """A smaller cube inside: its faces are a millimetre off, so are its edges but for the corners."""
    truth = _of(trimesh.creation.box((_EDGE_M,) * 3))
    inner = _of(trimesh.creation.box((_EDGE_M - 0.002,) * 3))
    assert mean_beside_creases_m(inner, truth) == pytest.approx(1e-3, rel=1e-3)
    far = np.array([[0.0, 0.0, 0.15], [0.05, 0.0, 0.15], [0.0, 0.05, 0.15]])
    corners = np.concatenate([truth.vertices, far])
    both = TriangleMesh(corners, np.arange(len(corners)).reshape(-1, 3))
    assert mean_beside_creases_m(both, truth) < 1e-6
