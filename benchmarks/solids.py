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
_Box = tuple[tuple[float, float, float], tuple[float, float, float]]


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


def _united(boxes: list[_Box]) -> TriangleMesh:
    """The surface of a union of boxes (lowest corner, highest corner): of cells between all their sides."""
    bounds = np.array(boxes)
    planes = [np.unique(bounds[:, :, axis]) for axis in range(3)]
    is_full = np.zeros([len(values) + 1 for values in planes], np.bool_)
    for low, high in boxes:
        first, last = (
            [int(np.searchsorted(planes[k], corner[k])) + 1 for k in range(3)] for corner in (low, high)
        )
        is_full[first[0] : last[0], first[1] : last[1], first[2] : last[2]] = True
    quads = []
    for axis in range(3):
        step = np.diff(is_full.astype(np.int8), axis=axis)
        for sign in (-1, 1):
            at = np.argwhere(step == sign)
            # From the cell's place to its corner in the planes: what follows the plane keeps its number.
            corner = at - (np.arange(3) != axis)
            u, v = np.eye(3, dtype=np.int64)[[(axis + 1) % 3, (axis + 2) % 3]]
            around = (0 * u, u, u + v, v) if sign < 0 else (0 * u, v, u + v, u)
            quads.append(np.stack([corner + one for one in around], 1))
    places = np.concatenate(quads)
    used, number = np.unique(places.reshape(-1, 3), axis=0, return_inverse=True)
    vertices = np.stack([planes[k][used[:, k]] for k in range(3)], 1)
    a, b, c, d = number.reshape(-1, 4).T
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return TriangleMesh(vertices, triangles.astype(np.int32))


def chair() -> TriangleMesh:
    """With thin parts: legs of 4 cm, a seat of 3 cm, bars of 2.4 cm."""
    legs: list[_Box] = [((x, y, 0.0), (x + 0.04, y + 0.04, 0.44)) for x in (0.0, 0.41) for y in (0.0, 0.41)]
    posts: list[_Box] = [((0.0, y, 0.44), (0.04, y + 0.04, 1.0)) for y in (0.0, 0.41)]
    bars: list[_Box] = [((0.008, y, 0.44), (0.032, y + 0.024, 0.95)) for y in (0.12, 0.213, 0.306)]
    boxes: list[_Box] = [
        ((-0.01, -0.01, 0.43), (0.46, 0.46, 0.46)),
        ((0.004, 0.02, 0.92), (0.036, 0.43, 0.99)),
    ]
    return _united([*boxes, *legs, *posts, *bars])


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
"""By name; about a metre long, triangles outwards."""
