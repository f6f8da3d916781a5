"""The generated marching-cubes table: all 256 cases."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from streamdgp.surface.kernels import march
from streamdgp.surface.marching import EDGE_AXIS, EDGE_CORNER, triangle_table
from streamdgp.surface.mesh import Mesh
from tests.reference.mesh import topology

_CORNERS = np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)], np.float64)
_ENDS = [(int(c), int(c) | 1 << int(a)) for c, a in zip(EDGE_CORNER, EDGE_AXIS, strict=True)]
_FACES = [{c for c in range(8) if c >> axis & 1 == side} for axis in range(3) for side in range(2)]


def _triangles(case: int) -> list[tuple[int, int, int]]:
    row = triangle_table()[case]
    return [tuple(int(e) for e in row[1 + 3 * t : 4 + 3 * t]) for t in range(row[0])]  # type: ignore[misc]


def _in_a_face(a: int, b: int) -> bool:
    return any({*_ENDS[a], *_ENDS[b]} <= face for face in _FACES)


def test_edges_are_the_twelve_of_a_cube() -> None:
    assert len(set(_ENDS)) == 12
    for a, b in _ENDS:
        assert np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 1
        assert (_CORNERS[b] >= _CORNERS[a]).all()


@pytest.mark.parametrize("case", range(256))
def test_every_case(case: int) -> None:
    """Crossed edges only and all of them; boundary only in faces; no diagonal in a face; outward."""
    triangles = _triangles(case)
    crossed = {e for e, (a, b) in enumerate(_ENDS) if (case >> a & 1) != (case >> b & 1)}
    assert {e for t in triangles for e in t} == crossed
    assert len(triangles) <= 5
    sides: Counter[tuple[int, int]] = Counter()
    for t in triangles:
        assert len(set(t)) == 3
        sides.update([(t[0], t[1]), (t[1], t[2]), (t[2], t[0])])
    assert max(sides.values(), default=1) == 1
    for a, b in sides:
        inner = (b, a) in sides
        # An inner side may not lie in a face, where the next cube could draw it too; the rim must.
        assert inner != _in_a_face(a, b)
    # The rim closes: as many sides leave every vertex as arrive.
    rim = [s for s in sides if (s[1], s[0]) not in sides]
    assert Counter(a for a, _ in rim) == Counter(b for _, b in rim)
    middle = {e: (_CORNERS[a] + _CORNERS[b]) / 2 for e, (a, b) in enumerate(_ENDS)}
    if len(crossed) and bin(case).count("1") in (1, 7):
        t = triangles[0]
        normal = np.cross(middle[t[1]] - middle[t[0]], middle[t[2]] - middle[t[0]])
        inside = [c for c in range(8) if case >> c & 1]
        lone = inside[0] if len(inside) == 1 else next(c for c in range(8) if c not in inside)
        away = (middle[t[0]] - _CORNERS[lone]) @ normal
        assert (away > 0) == (len(inside) == 1)


@pytest.mark.parametrize("case", range(128))
def test_complement_crosses_the_same_edges(case: int) -> None:
    assert {e for t in _triangles(case) for e in t} == {e for t in _triangles(255 - case) for e in t}


def test_two_cubes_agree_on_every_shared_face() -> None:
    """For each of the 16 patterns on a face, the segments do not depend on the rest of the cube."""
    for axis in range(3):
        for side in range(2):
            face = [c for c in range(8) if c >> axis & 1 == side]
            rest = [c for c in range(8) if c not in face]
            for pattern in range(16):
                bits = sum(1 << c for k, c in enumerate(face) if pattern >> k & 1)
                seen = set()
                for fill in range(16):
                    case = bits + sum(1 << c for k, c in enumerate(rest) if fill >> k & 1)
                    sides = Counter(
                        s for t in _triangles(case) for s in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))
                    )
                    rim = frozenset(
                        s
                        for s in sides
                        if (s[1], s[0]) not in sides and {*_ENDS[s[0]], *_ENDS[s[1]]} <= set(face)
                    )
                    seen.add(rim)
                assert len(seen) == 1, (axis, side, pattern)


def _march(values: np.ndarray, valid: np.ndarray | None = None, step: float = 1.0) -> Mesh:
    shape = np.ones(values.shape, np.uint8) if valid is None else valid
    vertices, keys, triangles = march(
        np.zeros(3, np.int64), step, values, shape, triangle_table(), EDGE_CORNER, EDGE_AXIS
    )[:3]
    assert len(np.unique(keys)) == len(keys)
    return Mesh(vertices, np.zeros((len(vertices), 3), np.float32), triangles)


@pytest.mark.parametrize("seed", range(6))
def test_random_fields_give_closed_manifolds(seed: int) -> None:
    """Every ambiguous case occurs in noise; the surface stays closed, manifold and oriented."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.05, 0.85, (14, 14, 14))  # neighbours differ by less than the jump limit, 1.8 cells
    values[1:-1, 1:-1, 1:-1] *= rng.choice([-1, 1], (12, 12, 12))
    mesh = _march(values)
    assert len(mesh.triangles) > 3000
    found = topology(mesh)
    assert found.closed, found


def test_a_sphere_is_closed_and_turned_outwards() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij"), -1)
    values = np.linalg.norm(grid - [9.3, 9.6, 9.1], axis=-1) - 6.4
    mesh = _march(values)
    found = topology(mesh)
    assert found.closed
    assert found.euler == 2
    corners = mesh.vertices[mesh.triangles]
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume == pytest.approx(
        4 / 3 * np.pi * 6.4**3, rel=0.02
    )  # chords: h^2 / (8 R^2) in the radius and more at the caps


def test_jumps_between_sheets_and_unknown_nodes_give_no_triangle() -> None:
    values = np.where(np.arange(8)[:, None, None] < 4, -1.5, 1.5) * np.ones((8, 8, 8))
    assert len(_march(values).triangles) == 0, "a jump of 3 cells is no surface"
    assert len(_march(values / 3).triangles) == 2 * 49
    valid = np.ones((8, 8, 8), np.uint8)
    valid[3, 2, 2] = 0
    assert len(_march(values / 3, valid).triangles) == 2 * (49 - 4)


def test_every_corner_permutation_is_reachable() -> None:
    """The table is the same in all three axes: rotating the cube rotates the set of crossed edges' loops."""
    counts = [len(_triangles(case)) for case in range(256)]
    for case, order in itertools.product(range(256), [(1, 2, 0), (2, 0, 1)]):
        turned = 0
        for c in range(8):
            bits = [c & 1, c >> 1 & 1, c >> 2 & 1]
            if case >> c & 1:
                turned |= 1 << (bits[order[0]] | bits[order[1]] << 1 | bits[order[2]] << 2)
        assert counts[turned] == counts[case]
