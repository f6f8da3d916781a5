"""Marching-cubes tables, generated instead of typed in.

Corner c of a cube has offsets (c & 1, c >> 1 & 1, c >> 2 & 1). On every face the crossing edges are
joined by directed segments; an ambiguous face always separates its inside corners, a rule that
depends on the face alone, so two cubes agree on it and the mesh has no cracks. The segments chain
into closed loops; a loop is triangulated without diagonals that lie in a face of the cube, because
the neighbouring cube could draw the same diagonal and the edge would belong to four triangles.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["EDGE_AXIS", "EDGE_CORNER", "triangle_table"]

_EDGES = [(a, a | bit) for bit in (1, 2, 4) for a in range(8) if not a & bit]
EDGE_CORNER: npt.NDArray[np.int32] = np.array([a for a, _ in _EDGES], np.int32)
"""(12,) lower corner of each edge."""
EDGE_AXIS: npt.NDArray[np.int32] = np.array([(b - a).bit_length() - 1 for a, b in _EDGES], np.int32)
"""(12,) axis of each edge."""
# Corners of each face, counter-clockwise seen from outside.
_FACES = [(0, 4, 6, 2), (1, 3, 7, 5), (0, 1, 5, 4), (2, 6, 7, 3), (0, 2, 3, 1), (4, 5, 7, 6)]
_MAX_TRIANGLES = 5


def _edge(a: int, b: int) -> int:
    return _EDGES.index((min(a, b), max(a, b)))


def _segments(inside: list[bool]) -> dict[int, int]:
    """Directed segments edge -> edge over all faces."""
    follow: dict[int, int] = {}
    for face in _FACES:
        for k in range(4):
            # An inside corner run that starts at k: entered over edge (k-1, k), left after its end.
            if not inside[face[k]] or inside[face[k - 1]]:
                continue
            end = k
            while inside[face[(end + 1) % 4]]:
                end += 1
            entry = _edge(face[k - 1], face[k])
            leave = _edge(face[end % 4], face[(end + 1) % 4])
            follow[leave] = entry
    return follow


def _share_face(a: int, b: int) -> bool:
    corners = {*_EDGES[a], *_EDGES[b]}
    return any(corners <= set(face) for face in _FACES)


@lru_cache(maxsize=4096)
def _triangulate(loop: tuple[int, ...]) -> tuple[int, tuple[tuple[int, int, int], ...]]:
    """Fewest diagonals that lie in a face: (count, triangles)."""
    if len(loop) == 3:
        return 0, ((loop[0], loop[1], loop[2]),)
    best: tuple[int, tuple[tuple[int, int, int], ...]] | None = None
    for k in range(2, len(loop)):
        # Triangle on the side (first, second) with apex k.
        bad = 0
        triangles: tuple[tuple[int, int, int], ...] = ((loop[0], loop[1], loop[k]),)
        for part, diagonal in (
            (loop[1 : k + 1], (loop[1], loop[k])),
            ((loop[0], *loop[k:]), (loop[0], loop[k])),
        ):
            if len(part) < 3:
                continue
            bad += _share_face(*diagonal)
            cost, rest = _triangulate(part)
            bad += cost
            triangles += rest
        if best is None or bad < best[0]:
            best = (bad, triangles)
    assert best is not None
    return best


@lru_cache(maxsize=1)
def triangle_table() -> npt.NDArray[np.int8]:
    """(256, 16) int8: number of triangles, then edge numbers of each, outward where the field grows.

    Bit c of the case is set when corner c is inside (negative).
    """
    table = np.zeros((256, 1 + 3 * _MAX_TRIANGLES), np.int8)
    for case in range(256):
        follow = _segments([bool(case >> c & 1) for c in range(8)])
        count = 0
        while follow:
            start = min(follow)
            loop = [start]
            edge = follow.pop(start)
            while edge != start:
                loop.append(edge)
                edge = follow.pop(edge)
            for a, b, c in _triangulate(tuple(loop))[1]:
                table[case, 1 + 3 * count : 4 + 3 * count] = (a, c, b)
                count += 1
        table[case, 0] = count
    return table
