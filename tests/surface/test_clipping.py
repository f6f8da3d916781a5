"""Cutting triangles where support ends: exact areas, whole borders, the same cuts in every tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.surface.clipping import clip_triangles

Array = npt.NDArray[Any]


def _sheet(n: int = 13) -> tuple[Array, Array, Array, Array]:
    """A unit square of n x n vertices: vertices, keys, normals, triangles."""
    x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    triangles = np.concatenate([np.stack([a, a + n, a + n + 1], 1), np.stack([a, a + n + 1, a + 1], 1)])
    normals = np.tile(np.float32([0, 0, 1]), (n * n, 1))
    keys = np.random.default_rng(0).integers(-(2**62), 2**62, n * n)
    return vertices, keys, normals, triangles.astype(np.int32)


def _area(vertices: Array, triangles: Array) -> float:
    p = vertices[triangles]
    cross = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    assert (cross[:, 2] > 0).all(), "no triangle is turned over, none is empty"
    return float(cross[:, 2].sum() / 2)


@pytest.mark.parametrize("slope", [(1.0, 0.0), (0.3, 0.7), (-0.6, 1.2)])
@pytest.mark.parametrize("level", [0.21, 0.5])
def test_a_half_plane_of_support_leaves_a_half_plane(slope: tuple[float, float], level: float) -> None:
    """Support is linear, so the border is straight; cuts keep a tenth off a vertex, as documented."""
    vertices, keys, normals, triangles = _sheet()
    support = (vertices[:, :2] @ slope).astype(np.float32)
    kept, names, directions, new = clip_triangles(vertices, keys, normals, support, triangles, level)
    at = kept[np.unique(new)][:, :2] @ slope
    step = np.abs(slope).sum() / 12
    assert at.min() > level - 0.11 * step
    fine = np.random.default_rng(1).uniform(size=(400_000, 2)) @ slope
    assert _area(kept, new) == pytest.approx((fine > level).mean(), abs=0.01)
    assert len(np.unique(names)) == len(names) == len(kept) == len(directions)
    np.testing.assert_array_equal(directions, np.float32([[0, 0, 1]] * len(kept)))
    edges = np.sort(np.concatenate([new[:, [0, 1]], new[:, [1, 2]], new[:, [2, 0]]]), 1)
    assert np.unique(edges, axis=0, return_counts=True)[1].max() <= 2, "edge-manifold"


def test_where_all_is_backed_nothing_changes_and_where_nothing_is_nothing_stays() -> None:
    vertices, keys, normals, triangles = _sheet()
    for value, want in ((1.0, triangles), (0.2, triangles[:0])):
        support = np.full(len(vertices), value, np.float32)
        kept, names, _, new = clip_triangles(vertices, keys, normals, support, triangles, 0.5)
        np.testing.assert_array_equal(kept, vertices)
        np.testing.assert_array_equal(names, keys)
        np.testing.assert_array_equal(new, want)


def test_a_cut_depends_on_its_edge_alone() -> None:
    """Two tiles that share an edge cut it at the same place and name it alike, however they number it."""
    vertices, keys, normals, triangles = _sheet()
    rng = np.random.default_rng(2)
    support = rng.uniform(size=len(vertices)).astype(np.float32)
    order = rng.permutation(len(vertices))
    where = np.argsort(order)
    one = clip_triangles(vertices, keys, normals, support, triangles, 0.5)
    turned = np.roll(where[triangles], 1, axis=1)[::-1].astype(np.int32)
    other = clip_triangles(
        vertices[order], keys[order], normals[order], support[order], np.ascontiguousarray(turned), 0.5
    )
    places = [dict(zip(m[1].tolist(), m[0].tolist(), strict=True)) for m in (one, other)]
    assert places[0] == places[1]
    assert len(places[0]) > len(vertices) + 100
