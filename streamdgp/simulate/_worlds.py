"""What is scanned: a mesh, a furnished room, or a street."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidInputError
from streamdgp.meshes import MeshLike, TriangleMesh
from streamdgp.simulate._shapes import box, cylinder, height_field, join, sphere

__all__ = ["ROOM_SIZE_M", "STREET_LENGTH_M", "fit_to_size", "make_room", "make_street", "street_height_m"]

ROOM_SIZE_M = (6.0, 5.0, 2.6)
STREET_LENGTH_M = 60.0
_SLOPE_STEPS_M = ((12.0, 0.05), (36.0, -0.03))  # from this x on, rising by this much per metre


def fit_to_size(mesh: MeshLike, size_m: float) -> TriangleMesh:
    """The mesh centred at the origin, its longest side ``size_m``."""
    if not size_m > 0:
        raise InvalidInputError("size_m > 0", str(size_m), "Give metres.")
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    longest = float((high - low).max())
    if not longest > 0:
        raise InvalidInputError("a mesh with some extent", "all vertices at one point", "Check the mesh.")
    return TriangleMesh((mesh.vertices - (low + high) / 2) / longest * size_m, mesh.triangles)


def _table(x: float, y: float, yaw: float, size: tuple[float, float, float]) -> list[TriangleMesh]:
    """A top of 4 cm on four legs of 5 cm."""
    length, width, height = size
    parts = [box((x, y, height - 0.02), (length, width, 0.04), yaw)]
    c, s = np.cos(yaw), np.sin(yaw)
    for i in (-1, 1):
        for j in (-1, 1):
            u, v = i * (length / 2 - 0.06), j * (width / 2 - 0.06)
            parts.append(
                box(
                    (x + c * u - s * v, y + s * u + c * v, height / 2 - 0.02),
                    (0.05, 0.05, height - 0.04),
                    yaw,
                )
            )
    return parts


def _chair(x: float, y: float, yaw: float) -> list[TriangleMesh]:
    """A small table with a back."""
    c, s = np.cos(yaw), np.sin(yaw)
    back = box((x - 0.2 * c, y - 0.2 * s, 0.7), (0.03, 0.42, 0.5), yaw)
    return [*_table(x, y, yaw, (0.44, 0.44, 0.45)), back]


def _shelf(x: float, y: float, width: float, rng: np.random.Generator) -> list[TriangleMesh]:
    """Two sides, five boards, some books; open towards +y."""
    parts = [box((x + side * width / 2, y, 1.0), (0.03, 0.32, 2.0)) for side in (-1, 1)]
    for z in np.linspace(0.05, 1.98, 5):
        parts.append(box((x, y, z), (width, 0.32, 0.03)))
        if z > 1.9:
            continue
        at = -width / 2 + 0.05
        while at < width / 2 - 0.15:
            thick, tall = rng.uniform(0.03, 0.09), rng.uniform(0.18, 0.32)
            parts.append(box((x + at + thick / 2, y - 0.03, z + 0.015 + tall / 2), (thick, 0.2, tall)))
            at += thick + (0.2 if rng.random() < 0.15 else 0.0)
    return parts


def make_room(seed: int) -> TriangleMesh:
    """A closed room of 6 × 5 × 2.6 m with furniture; floor at z = 0, corner at the origin.

    Same seed, same room.
    """
    rng = np.random.default_rng([seed, 1])
    length, width, height = ROOM_SIZE_M
    shell = box((length / 2, width / 2, height / 2), ROOM_SIZE_M)
    parts = [TriangleMesh(shell.vertices, shell.triangles[:, ::-1])]  # seen from inside
    x, y = 3.0 + rng.uniform(-0.2, 0.2), 2.4 + rng.uniform(-0.2, 0.2)
    yaw = rng.uniform(-0.3, 0.3)
    parts += _table(x, y, yaw, (1.5, 0.8, 0.74))
    for side in (-1.0, 1.0):
        for along in (-0.4, 0.4):
            turn = yaw - side * np.pi / 2 + rng.uniform(-0.3, 0.3)
            c, s = np.cos(yaw), np.sin(yaw)
            parts += _chair(x + c * along - s * side * 0.7, y + s * along + c * side * 0.7, turn)
    for _ in range(4):
        u, v = rng.uniform(-0.5, 0.5), rng.uniform(-0.25, 0.25)
        kind = rng.integers(3)
        if kind == 0:
            parts.append(cylinder((x + u, y + v, 0.74), 0.045, 0.11))
        elif kind == 1:
            parts.append(sphere((x + u, y + v, 0.74 + 0.1), 0.1))
        else:
            parts.append(box((x + u, y + v, 0.74 + 0.06), (0.24, 0.17, 0.12), rng.uniform(0, np.pi)))
    parts += _shelf(1.2 + rng.uniform(0, 0.6), 0.2, 1.6, rng)
    sofa_y = width - 0.5
    parts += [
        box((3.4, sofa_y, 0.22), (1.9, 0.85, 0.44)),
        box((3.4, width - 0.17, 0.6), (1.9, 0.2, 0.5)),
        box((2.42, sofa_y, 0.33), (0.16, 0.85, 0.62)),
        box((4.38, sofa_y, 0.33), (0.16, 0.85, 0.62)),
    ]
    parts.append(cylinder((length - 0.55, 0.6, 0.0), 0.2, height, 48))
    parts += [cylinder((0.5, width - 0.6, 0.0), 0.015, 1.5), sphere((0.5, width - 0.6, 1.6), 0.17)]
    for k in range(3):
        side_m = 0.5 - 0.1 * k
        parts.append(
            box((length - 0.5, 3.6, 0.25 + 0.45 * k), (side_m, side_m, 0.5 - 0.05 * k), rng.uniform(0, 1.5))
        )
    return join(parts)


def street_height_m(x_m: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Height of the street's ground: level, then rising, then less so."""
    x = np.asarray(x_m, np.float64)
    return np.asarray(sum(slope * np.maximum(x - start, 0.0) for start, slope in _SLOPE_STEPS_M))


def make_street(seed: int) -> TriangleMesh:
    """A street along x: sloped ground, kerbs, houses with gaps, pillars, thin poles, parked cars.

    Same seed, same street.
    """
    rng = np.random.default_rng([seed, 2])
    xs = np.array([-10.0, *(start for start, _ in _SLOPE_STEPS_M), STREET_LENGTH_M + 10.0])
    across = np.array([-15.0, -5.0, -5.0, 5.0, 5.0, 15.0])
    kerb = np.array([0.14, 0.14, 0.0, 0.0, 0.14, 0.14])
    ground = np.empty((len(xs), len(across), 3))
    ground[..., 0], ground[..., 1] = xs[:, None], across
    ground[..., 2] = street_height_m(xs)[:, None] + kerb
    parts = [height_field(ground)]
    for side in (-1, 1):
        x = -8.0
        while x < STREET_LENGTH_M + 6:
            length, height, front = rng.uniform(6, 12), rng.uniform(5, 12), rng.uniform(8, 10)
            base = float(street_height_m(x))
            parts.append(
                box((x + length / 2, side * (front + 3), base + height / 2 - 1), (length, 6, height + 2))
            )
            if rng.random() < 0.5:  # an entrance between two round pillars
                parts.append(box((x + length / 2, side * (front - 0.6), base + 3.2), (3.2, 1.2, 0.3)))
                for along in (-1.3, 1.3):
                    at = x + length / 2 + along
                    foot = float(street_height_m(at))
                    parts.append(cylinder((at, side * (front - 0.9), foot), 0.22, base + 3.05 - foot))
            x += length + float(rng.choice([0.0, 1.5, 3.0]))
        for at in np.arange(0.0, STREET_LENGTH_M, 9.0):
            thin = rng.uniform(0.05, 0.12)
            parts.append(cylinder((at, side * 6.0, float(street_height_m(at)) + 0.1), thin, 5.0, 24))
        parts += [
            cylinder((at, side * 7.2, float(street_height_m(at))), 0.35, 3.2, 40)
            for at in np.arange(4.0, STREET_LENGTH_M, 15.0)
        ]
        for at in rng.uniform(0, STREET_LENGTH_M, 5):
            z = float(street_height_m(at))
            parts += [
                box((at, side * 4.0, z + 0.6), (4.2, 1.75, 0.8)),
                box((at - 0.2, side * 4.0, z + 1.2), (2.2, 1.6, 0.5)),
            ]
    return join(parts)
