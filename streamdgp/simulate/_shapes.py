"""Solids that rooms and streets are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streamdgp.meshes import TriangleMesh

__all__ = ["box", "cylinder", "height_field", "join", "sphere"]

_Vector = Sequence[float] | npt.NDArray[np.float64]

_BOX_TRIANGLES = np.array(
    [[0, 2, 1], [1, 2, 3], [4, 5, 6], [5, 7, 6], [0, 1, 4], [1, 5, 4],
     [2, 6, 3], [3, 6, 7], [0, 4, 2], [2, 4, 6], [1, 3, 5], [3, 7, 5]]
)  # fmt: skip


def box(centre_m: _Vector, size_m: _Vector, yaw_rad: float = 0.0) -> TriangleMesh:
    """A box with outward triangles, turned about the vertical through its centre."""
    corners = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    return TriangleMesh(
        (corners * np.asarray(size_m)) @ turn.T + np.asarray(centre_m), _BOX_TRIANGLES.astype(np.int32)
    )


def cylinder(foot_m: _Vector, radius_m: float, height_m: float, sides: int = 32) -> TriangleMesh:
    """An upright closed cylinder that stands on ``foot_m``."""
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = np.stack([radius_m * np.cos(angle), radius_m * np.sin(angle), np.zeros(sides)], axis=1)
    up = np.array([0, 0, height_m])
    vertices = np.concatenate([ring, ring + up, [[0, 0, 0]], [up]]) + np.asarray(foot_m)
    a, b = np.arange(sides), (np.arange(sides) + 1) % sides
    low, top = np.full(sides, 2 * sides), np.full(sides, 2 * sides + 1)
    parts = [(a, b, a + sides), (b, b + sides, a + sides), (low, b, a), (top, a + sides, b + sides)]
    return TriangleMesh(vertices, np.concatenate([np.stack(part, axis=1) for part in parts]).astype(np.int32))


def sphere(centre_m: _Vector, radius_m: float, rings: int = 24) -> TriangleMesh:
    """A sphere of latitude and longitude triangles."""
    polar, turn = np.meshgrid(
        np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings + 1), indexing="ij"
    )
    surface = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=-1)
    mesh = height_field(surface * radius_m + np.asarray(centre_m))
    keep = (
        np.linalg.norm(np.cross(*np.diff(mesh.vertices[mesh.triangles], axis=1).transpose(1, 0, 2)), axis=1)
        > 1e-12
    )
    return TriangleMesh(mesh.vertices, mesh.triangles[keep])


def height_field(points_m: npt.NDArray[np.float64]) -> TriangleMesh:
    """The grid of points (H, W, 3) as triangles, facing rows × columns (+z for rows x, columns y)."""
    rows, columns = points_m.shape[:2]
    k = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = k[:-1, :-1].ravel(), k[1:, :-1].ravel(), k[:-1, 1:].ravel(), k[1:, 1:].ravel()
    triangles = np.concatenate([np.stack([a, b, d], axis=1), np.stack([a, d, c], axis=1)])
    return TriangleMesh(points_m.reshape(-1, 3), triangles.astype(np.int32))


def join(parts: Sequence[TriangleMesh]) -> TriangleMesh:
    """One mesh of several; they are not cut against each other."""
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return TriangleMesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=True)]).astype(
            np.int32
        ),
    )
