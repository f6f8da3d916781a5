"""What ``make demo`` scans: a teapot on two books, round and flat, thick and thin, with sharp edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streamdgp.meshes import TriangleMesh
from streamdgp.simulate._shapes import box, height_field, join

__all__ = ["make_teapot"]

_Points = npt.NDArray[np.float64]

# (radius, height) of the body and the lid from the foot to the tip of the knob; a corner where two agree.
_PROFILE = (
    (0.0, 0.0), (0.0, 0.0), (0.15, 0.0), (0.15, 0.0), (0.158, 0.012), (0.2, 0.055), (0.247, 0.13),
    (0.252, 0.19), (0.225, 0.26), (0.18, 0.31), (0.168, 0.325), (0.177, 0.334), (0.176, 0.345), (0.168, 0.35),
    (0.145, 0.365), (0.09, 0.388), (0.04, 0.398), (0.024, 0.41), (0.036, 0.43), (0.036, 0.448), (0.02, 0.461),
    (0.0, 0.464), (0.0, 0.464),
)  # fmt: skip
_SPOUT = ((0.18, 0.1), (0.27, 0.125), (0.34, 0.19), (0.375, 0.27), (0.43, 0.325))
_SPOUT_RADII = (0.075, 0.066, 0.046, 0.033, 0.029)
_HANDLE = (
    (-0.17, 0.285),
    (-0.25, 0.3),
    (-0.345, 0.29),
    (-0.385, 0.23),
    (-0.35, 0.15),
    (-0.275, 0.095),
    (-0.2, 0.075),
)
_HANDLE_RADII = (0.03, 0.026, 0.026, 0.026, 0.026, 0.028, 0.03)
_BOOKS = ((0.68, 0.52, 0.07, 0.12), (0.6, 0.44, 0.055, -0.2))  # length, width, thickness, yaw


def make_teapot() -> TriangleMesh:
    """A teapot on two books; the parts go through one another and are not cut."""
    parts, z = [], 0.0
    for length, width, thick, yaw in _BOOKS:
        parts.append(box((0.0, 0.0, z + thick / 2), (length, width, thick), yaw))
        z += thick
    pot = [
        _revolved(_curve(_PROFILE, 8)),
        _tube(_in_plane(_SPOUT), _SPOUT_RADII),
        _tube(_in_plane(_HANDLE), _HANDLE_RADII),
    ]
    parts += [TriangleMesh(part.vertices + np.array([0.0, 0.0, z]), part.triangles) for part in pot]
    whole = join(parts)
    # At poles and caps triangles shrink to a line: they have no normal to compare with.
    sides = np.diff(whole.vertices[whole.triangles], axis=1)
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    return TriangleMesh(whole.vertices, whole.triangles[area > 1e-9])


def _curve(points: Sequence[Sequence[float]] | _Points, steps: int) -> _Points:
    """A Catmull-Rom curve through points (N, D), ``steps`` samples per piece; a doubled point is a corner."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([p[:1], p, p[-1:]])
    t = np.arange(steps)[:, None] / steps
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True)
    ]
    return np.concatenate([*pieces, p[-1:]])


def _revolved(profile: _Points, sides: int = 96) -> TriangleMesh:
    """The surface that a profile (N, 2) of radius and height sweeps about the z axis."""
    turn = np.linspace(0, 2 * np.pi, sides + 1)[:, None]
    radius, z = np.maximum(profile[:, 0], 0.0), np.broadcast_to(profile[:, 1], (sides + 1, len(profile)))
    return height_field(np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=-1))


def _in_plane(points: Sequence[Sequence[float]]) -> _Points:
    """Points (N, 2) of x and z as points (N, 3) with y = 0."""
    p = np.asarray(points, np.float64)
    return np.stack([p[:, 0], np.zeros(len(p)), p[:, 1]], axis=1)


def _tube(path: _Points, radii: Sequence[float], sides: int = 48) -> TriangleMesh:
    """A closed round tube along a path (N, 3) in the plane y = 0, with a radius at each point."""
    line = _curve(np.column_stack([path, radii]), 12)
    centre, radius = line[:, :3], line[:, 3]
    along = np.gradient(centre, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.array([0.0, 1.0, 0.0])
    up = np.cross(along, across)
    turn = np.linspace(0, 2 * np.pi, sides + 1)[:, None, None]
    # Rings at both ends shrink to a point: flat caps.
    centre, up = np.concatenate([centre[:1], centre, centre[-1:]]), np.concatenate([up[:1], up, up[-1:]])
    radius = np.concatenate([[0.0], radius, [0.0]])[:, None]
    return height_field(centre + radius * (np.cos(turn) * across + np.sin(turn) * up))
