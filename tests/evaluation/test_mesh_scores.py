"""Mesh scores on surfaces whose distances are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from streamdgp.errors import InvalidInputError
from streamdgp.evaluation import compare_meshes, sample_surface, vertices_within
from streamdgp.meshes import TriangleMesh
from streamdgp.simulate._shapes import box, join, sphere


def _square(z_m: float, side_m: float = 1.0) -> TriangleMesh:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1.0]]) * side_m / 2
    return TriangleMesh(
        np.column_stack([corners, np.full(4, z_m)]), np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    )


def test_parallel_planes_have_their_distance() -> None:
    scores = compare_meshes(_square(0.003), _square(0.0), threshold_m=0.004, sample_count=5000)
    for name in (
        "accuracy_mean_m",
        "accuracy_median_m",
        "accuracy_p99_m",
        "completeness_mean_m",
        "chamfer_distance_m",
    ):
        assert getattr(scores, name) == pytest.approx(0.003, abs=1e-6)
    assert (scores.precision, scores.recall, scores.f_score) == (1.0, 1.0, 1.0)
    assert scores.normal_consistency == pytest.approx(1.0)
    assert scores.triangle_count == 2
    assert scores.edge_manifold
    strict = compare_meshes(_square(0.003), _square(0.0), threshold_m=0.002, sample_count=5000)
    assert (strict.precision, strict.recall, strict.f_score) == (0.0, 0.0, 0.0)


def test_half_a_surface_is_accurate_but_incomplete() -> None:
    """A square of a quarter of the area: recall is a quarter; with only that seen, all of it."""
    half, whole = _square(0.0, 0.5), _square(0.0)
    scores = compare_meshes(half, whole, sample_count=50_000, threshold_m=0.001)
    assert scores.precision == 1.0
    assert scores.recall == pytest.approx(0.25, abs=0.01)
    assert scores.f_score == pytest.approx(2 * scores.recall / (1 + scores.recall))
    seen, _ = sample_surface(half, 400_000, seed=5)
    with_seen = compare_meshes(half, whole, sample_count=50_000, threshold_m=0.004, seen_m=seen)
    assert with_seen.recall == 1.0
    with pytest.raises(InvalidInputError, match="Check frame and unit"):
        compare_meshes(half, whole, seen_m=seen + 100.0)


def test_concentric_spheres() -> None:
    """Radii 1 and 1.01: every distance is 1 cm up to the triangles' sagitta (0.5 mm)."""
    scores = compare_meshes(sphere((0, 0, 0), 1.01, 96), sphere((0, 0, 0), 1.0, 96), threshold_m=0.02)
    assert scores.accuracy_mean_m == pytest.approx(0.01, abs=3e-4)
    assert scores.completeness_p95_m == pytest.approx(0.01, abs=6e-4)
    assert scores.normal_consistency > 0.995


def test_perpendicular_surfaces_have_no_consistent_normals() -> None:
    wall = TriangleMesh(_square(0.0).vertices[:, [2, 0, 1]] * 0.01, _square(0.0).triangles)
    assert compare_meshes(wall, _square(0.0), sample_count=2000).normal_consistency == pytest.approx(
        0.0, abs=1e-6
    )


def test_triangles_without_area_have_no_normals_that_count() -> None:
    """Marching cubes and CAD files leave slivers; one in the reference made the consistency nan."""
    square = _square(0.0)
    sliver = np.array([[0.6, 0, 0], [0.8, 0, 0], [0.7, 0, 0]])
    reference = TriangleMesh(
        np.concatenate([square.vertices, sliver]),
        np.concatenate([square.triangles, [[4, 5, 6]]]).astype(np.int32),
    )
    beside = TriangleMesh(square.vertices * 0.1 + [0.7, 0, 0.001], square.triangles)
    scores = compare_meshes(join([_square(0.001), beside]), reference, sample_count=20_000)
    assert scores.normal_consistency == pytest.approx(1.0)
    assert scores.accuracy_median_m == pytest.approx(0.001, abs=1e-5)


def test_scores_do_not_depend_on_the_frame_and_scale_with_the_unit() -> None:
    mesh, reference = sphere((0, 0, 0), 0.5), box((0, 0, 0.1), (0.8, 0.8, 0.8))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    base = compare_meshes(mesh, reference, threshold_m=0.05, sample_count=20_000)
    moved = [TriangleMesh(10 * m.vertices @ turn.T + [300, -20, 7], m.triangles) for m in (mesh, reference)]
    scaled = compare_meshes(moved[0], moved[1], threshold_m=0.5, sample_count=20_000)
    assert scaled.accuracy_mean_m == pytest.approx(10 * base.accuracy_mean_m, rel=1e-4)
    assert scaled.completeness_p95_m == pytest.approx(10 * base.completeness_p95_m, rel=1e-3)
    assert scaled.f_score == pytest.approx(base.f_score, abs=1e-3)
    assert scaled.normal_consistency == pytest.approx(base.normal_consistency, abs=1e-3)


def test_samples_follow_the_area() -> None:
    """One square is nine times the other: it gets nine tenths of the samples, evenly spread."""
    mesh = join([_square(0.0, 3.0), _square(5.0, 1.0)])
    points, normals = sample_surface(mesh, 10_000, seed=3)
    big = points[:, 2] == 0
    assert big.mean() == pytest.approx(0.9, abs=0.002)
    assert np.abs(points[big].mean(axis=0)).max() < 0.05
    assert points[big][:, :2].std(axis=0) == pytest.approx([3 / np.sqrt(12)] * 2, rel=0.02)
    np.testing.assert_allclose(normals, np.broadcast_to([0, 0, 1.0], normals.shape))
    with pytest.raises(InvalidInputError, match="some area"):
        sample_surface(TriangleMesh(np.zeros((3, 3)), np.array([[0, 1, 2]], np.int32)), 10, 0)


def test_curve_of_the_paper() -> None:
    mesh = TriangleMesh(
        np.array([[0, 0, 0.001], [0.1, 0, 0.002], [0, 0.1, 0.004]]), np.array([[0, 1, 2]], np.int32)
    )
    shares = vertices_within(mesh, _square(0.0), [0.0005, 0.0015, 0.003, 0.01])
    np.testing.assert_allclose(shares, [0, 1 / 3, 2 / 3, 1])


def test_three_triangles_on_an_edge_are_not_manifold() -> None:
    fan = TriangleMesh(
        np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0.0]]),
        np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]], np.int32),
    )
    assert not compare_meshes(fan, fan, sample_count=100).edge_manifold


def test_threshold_must_be_positive() -> None:
    with pytest.raises(InvalidInputError, match="threshold_m > 0"):
        compare_meshes(_square(0.0), _square(0.0), threshold_m=0.0)
