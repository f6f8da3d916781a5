"""Anchors are a Poisson-disk sampling of the evidence: spread, covering, deterministic, incremental."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamdgp.config import ConsistencyConfig, FitConfig, SceneConfig
from streamdgp.evidence.precision import NORMAL_STEP, OFFSET_STEP_VOX
from streamdgp.frames import Frame, PointFrame
from streamdgp.levels import RATIOS
from streamdgp.reconstructor import Reconstructor
from tests.reference.poisson import closest_compatible_pair, uncovered_evidence
from tests.reference.shapes import (
    Box,
    Plane,
    Shape,
    Sphere,
    Torus,
    depth_frame,
    fibonacci_directions,
    look_at,
)

_VOXEL = 0.01
# Fitting plays no part here: make it as cheap as it goes.
_CONFIG = SceneConfig(
    evidence_voxel_m=_VOXEL,
    anchor_radius_m=4 * _VOXEL,
    fit=FitConfig(width=4, max_samples=64, transport_samples=16),
    consistency=ConsistencyConfig(sweeps=0),
)
_MIN_SURFELS = 3
_SHAPES: tuple[Shape, ...] = (
    Plane((0, 0, 0), (0.2, 0.1, 1.0), 0.35),
    Sphere(radius=0.25),
    Torus(0.2, 0.08),
    Box((-0.2, -0.2, -0.2), (0.2, 0.2, 0.2)),
    Box((-0.25, -0.25, -0.005), (0.25, 0.25, 0.005)),
)


def _tables(
    r: Reconstructor,
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]]]:
    tables = r.changes().tables
    assert r._map is not None
    charts = {k: r._map.atlas.column(k).copy() for k in ("anchor", "rotation", "level")}
    raw = tables["surfels"].columns
    voxel = r.config.evidence_voxel_m
    assert voxel is not None
    surfels = {
        "position": (raw["key"].astype(np.float64) + 0.5 + OFFSET_STEP_VOX * raw["offset"]) * voxel,
        "normal": NORMAL_STEP * raw["normal"].astype(np.float64),
        "weight": raw["weight"].astype(np.float64),
        "sigma": np.sqrt(raw["count"] / raw["weight"]),
    }
    return charts, surfels


def _check(r: Reconstructor) -> int:
    """Both properties hold; return the number of anchors."""
    charts, surfels = _tables(r)
    radius = r.config.anchor_radius_m
    assert radius is not None
    min_cos = float(np.cos(np.deg2rad(r.config.normal_angle_deg)))
    normals = charts["rotation"][:, :, 2]
    # Anchors of one frame are compared before their normals are rounded, each by sqrt(3) / 2 of 1 / 32767.
    gap = closest_compatible_pair(charts["anchor"], normals, min_cos + 5.3e-5)
    assert gap > radius * (1 - 1e-9), f"two compatible anchors {gap / radius:.4f} r apart"
    uncovered = uncovered_evidence(
        surfels["position"], surfels["normal"], surfels["weight"], surfels["sigma"],
        charts["anchor"], normals, radius * RATIOS[charts["level"]], radius, min_cos, _MIN_SURFELS,
    )  # fmt: skip
    assert not len(uncovered), (
        f"{len(uncovered)} of {len(surfels['weight'])} surfels are not covered: {uncovered[:5]}"
    )
    return len(charts["anchor"])


def _views(shape: Shape, seed: int, count: int, noisy: bool) -> list[Frame]:
    rng = np.random.default_rng(seed)
    directions = fibonacci_directions(32)[rng.permutation(32)[:count]]
    return [
        depth_frame(shape, look_at(0.8 * d, 0.1 * rng.normal(size=3)), focal=90.0, rng=rng if noisy else None)
        for d in directions
    ]


@hypothesis_settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(_SHAPES),
    views=st.integers(1, 4),
    noisy=st.booleans(),
)
def test_poisson_disk_after_every_frame(seed: int, shape: Shape, views: int, noisy: bool) -> None:
    """No two compatible anchors closer than r; no supported evidence farther than r from one."""
    r = Reconstructor(_CONFIG)
    placed = 0
    for frame in _views(shape, seed, views, noisy):
        before = _tables(r)[0]["anchor"].copy() if r.frame_count and r.chart_count else np.zeros((0, 3))
        report = r.integrate(frame)
        count = _check(r) if r.chart_count else 0
        assert report.charts_created == count - placed
        placed = count
        if len(before):
            np.testing.assert_array_equal(_tables(r)[0]["anchor"][: len(before)], before, "an anchor moved")
    assert placed == r.chart_count


def test_same_frames_same_anchors() -> None:
    frames = _views(_SHAPES[2], 3, 3, True)
    first, second = Reconstructor(_CONFIG), Reconstructor(_CONFIG)
    for frame in frames:
        first.integrate(frame)
        second.integrate(frame)
    a, b = _tables(first)[0], _tables(second)[0]
    assert a["anchor"].tobytes() == b["anchor"].tobytes()
    assert a["rotation"].tobytes() == b["rotation"].tobytes()


def test_the_same_view_again_adds_no_anchor() -> None:
    frame = _views(_SHAPES[1], 4, 1, False)[0]
    r = Reconstructor(_CONFIG)
    assert r.integrate(frame).charts_created > 10
    assert r.integrate(frame).charts_created == 0
    assert r.integrate(frame).charts_created == 0


def test_anchors_lie_on_the_surface_and_normals_point_out() -> None:
    shape = Sphere(radius=0.25)
    r = Reconstructor(_CONFIG)
    for frame in _views(shape, 5, 4, True):
        r.integrate(frame)
    charts, _ = _tables(r)
    # An anchor is projected on the mean plane of its patch: noise is averaged over some ten surfels,
    # and the plane lies inside the sphere by r^2 / (8 R) = 0.8 mm at most.
    assert np.median(shape.distance(charts["anchor"])) < 0.002
    cosine = (charts["rotation"][:, :, 2] * shape.normal(charts["anchor"])).sum(1)
    assert np.quantile(cosine, 0.05) > 0.95
    rotation = charts["rotation"]
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-6
    )
    assert (np.linalg.det(rotation) > 0.99).all()


def test_density_is_that_of_a_maximal_packing() -> None:
    """Dart throwing fills 0.7 disks of radius r/2 per area pi r^2/4 in the plane, no more."""
    plane = Plane((0, 0, 0.003), (0, 0, 1))
    r = Reconstructor(replace(_CONFIG, largest_radius_ratio=1.0))
    r.integrate(depth_frame(plane, look_at((0, 0, 1.0), (0, 0.001, 0)), width=120, height=90, focal=120.0))
    charts, _ = _tables(r)
    area = (119 / 120.0) * (89 / 120.0)
    filled = len(charts["anchor"]) * np.pi * (0.5 * 4 * _VOXEL) ** 2 / area
    # Jamming density of random sequential packing is 0.547; anchors near the border stick out by r/2.
    assert 0.47 < filled < 0.66


def test_a_thin_slab_gets_anchors_on_both_sheets() -> None:
    slab = Box((-0.25, -0.25, -0.005), (0.25, 0.25, 0.005))
    r = Reconstructor(_CONFIG)
    for z in (0.6, -0.6):
        r.integrate(depth_frame(slab, look_at((0.02, 0.01, z), (0, 0, 0))))
    charts, _ = _tables(r)
    up, down = charts["rotation"][:, 2, 2] > 0.9, charts["rotation"][:, 2, 2] < -0.9
    assert min(up.sum(), down.sum()) > 0.8 * max(up.sum(), down.sum())
    assert charts["anchor"][up, 2].min() > 0.003
    assert charts["anchor"][down, 2].max() < -0.003


@pytest.mark.parametrize(("surfels", "charts"), [(1, 0), (2, 0), (3, 1), (4, 1)])
def test_an_anchor_needs_as_many_surfels_as_a_plane(surfels: int, charts: int) -> None:
    points = np.zeros((8 * surfels, 3), np.float32)
    points[:, :2] = _VOXEL * (
        np.array([(0, 0), (1, 0), (0, 1), (1, 1)])[np.arange(8 * surfels) % surfels] + 0.5
    )
    points[:, 2] = 0.5 * _VOXEL
    normals = np.tile(np.float32([0, 0, 1]), (len(points), 1))
    r = Reconstructor(_CONFIG)
    report = r.integrate(PointFrame(points, np.eye(4), has_origin=False, normals=normals))
    assert report.surfels_touched == surfels
    assert report.charts_created == charts


def test_a_few_pixels_get_no_anchor() -> None:
    """A patch of three pixels has no normals."""
    dot = Plane((0.005, 0.005, 0.005), (0, 0, 1), 0.008)
    r = Reconstructor(_CONFIG)
    report = r.integrate(depth_frame(dot, look_at((0.005, 0.005, 0.5), (0.005, 0.006, 0))))
    assert report.charts_created == 0
    assert r.chart_count == 0
    assert list(r.surface().tiles()) == []
