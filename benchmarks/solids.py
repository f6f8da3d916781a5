"""Closed meshes made here, of the kinds that are scanned: mechanical, with thin parts, organic.

Nothing was ever tuned to them: they say whether the figures of the four shared meshes are luck.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from streamdgp.meshes import TriangleMesh

__all__ = ["SOLIDS"]

_TEETH = 14
# Corners of a box, and its triangles, outwards.
_CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
_SIDES = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])


def _closed_strips(points: npt.NDArray[np.float64]) -> TriangleMesh:
    """The torus of points (N, M, 3) that goes around in both directions."""
    n, m = points.shape[:2]
    i, j = np.meshgrid(np.arange(n), np.arange(m), indexing="ij")
    a, b = i * m + j, i * m + (j + 1) % m
    c, d = (i + 1) % n * m + j, (i + 1) % n * m + (j + 1) % m
    triangles = np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).reshape(-1, 3)
    return TriangleMesh(points.reshape(-1, 3), triangles.astype(np.int32))


def gear() -> TriangleMesh:
    """Mechanical: fourteen teeth about a bore, a metre across and 20 cm thick; all edges are sharp."""
    # A tooth: up its flank, along its top, down, along the foot.
    tooth = np.array([[0.0, 0.40], [0.18, 0.5], [0.42, 0.5], [0.6, 0.40]])
    turn = np.concatenate([(k + tooth[:, 0]) * 2 * np.pi / _TEETH for k in range(_TEETH)])
    outer, inner = np.tile(tooth[:, 1], _TEETH), np.full(len(turn), 0.18)
    around = np.stack([np.cos(turn), np.sin(turn)], -1)
    profile = [(inner, -0.1), (outer, -0.1), (outer, 0.1), (inner, 0.1)]
    rings = [
        np.concatenate([radius[:, None] * around, np.full((len(turn), 1), z)], 1) for radius, z in profile
    ]
    return _closed_strips(np.stack(rings, 1))


def chair() -> TriangleMesh:
    """With thin parts: legs of 4 cm, a seat of 3 cm, bars of 2.4 cm; boxes that reach into each other."""
    legs = [((x, y, 0.0), (x + 0.04, y + 0.04, 0.44)) for x in (0.0, 0.41) for y in (0.0, 0.41)]
    posts = [((0.001, y, 0.43), (0.041, y + 0.04, 1.0)) for y in (0.001, 0.409)]
    bars = [((0.008, y, 0.43), (0.032, y + 0.024, 0.95)) for y in (0.12, 0.213, 0.306)]
    boxes = [((-0.01, -0.01, 0.43), (0.46, 0.46, 0.46)), ((0.005, 0.02, 0.92), (0.035, 0.43, 0.99))]
    vertices, triangles = [], []
    for low, high in [*boxes, *legs, *posts, *bars]:
        for a, b, c, d in _SIDES + len(_CORNERS) * len(vertices):
            triangles += [(a, b, c), (a, c, d)]
        vertices.append(np.add(low, _CORNERS * np.subtract(high, low)))
    return TriangleMesh(np.concatenate(vertices), np.array(triangles, np.int32))


def knot() -> TriangleMesh:
    """Organic: a trefoil of a tube that swells and thins, 5 to 8 cm in radius."""
    t = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    waves = [np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -1.3 * np.sin(3 * t)]
    centre = np.stack(waves, 1) / 6
    along = np.roll(centre, -1, 0) - np.roll(centre, 1, 0)
    first = np.cross(along, [0.0, 0.0, 1.0])
    second = np.cross(along, first)
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)[None, :, None]
    radius = (0.065 + 0.015 * np.cos(5 * t))[:, None, None]
    return _closed_strips(
        centre[:, None] + radius * (np.cos(turn) * second[:, None] + np.sin(turn) * first[:, None])
    )


SOLIDS: dict[str, Callable[[], TriangleMesh]] = {"gear": gear, "chair": chair, "knot": knot}
"""By name; some metre long, triangles outwards."""
