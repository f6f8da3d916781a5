"""The evidence a chart is fitted to: which surfels, in which cells, with what weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.config import ConsistencyConfig, FitConfig, SceneConfig
from streamdgp.evidence.patches import DIRTY_CELLS
from streamdgp.evidence.precision import OFFSET_STEP_VOX
from streamdgp.reconstructor import Reconstructor
from tests.reference.shapes import Box, Plane, Shape, Torus, depth_frame, look_at, orbit

Columns = dict[str, npt.NDArray[Any]]
_VOXEL = 0.01


def _scan(
    shape: Shape, poses: list[npt.NDArray[np.float64]], *, ratio: int = 4, focal: float = 80.0
) -> Reconstructor:
    r = Reconstructor(
        SceneConfig(
            evidence_voxel_m=_VOXEL,
            anchor_radius_m=ratio * _VOXEL,
            fit=FitConfig(width=4, transport_samples=16),
            consistency=ConsistencyConfig(sweeps=0),
        )
    )
    for pose in poses:
        r.integrate(depth_frame(shape, pose, focal=focal, width=120, height=90))
    return r


def _gather(r: Reconstructor) -> tuple[Columns, Columns, Columns]:
    """Patches of all charts by the compiled kernel, with the tables they came from."""
    tables = r.changes().tables
    charts, surfels = tables["charts"].columns, tables["surfels"].columns
    m = r._map
    assert m is not None
    patches = r._gather(m, np.arange(len(charts["anchor"])))
    out = {
        "points": patches.points,
        "weights": patches.weights,
        "support": patches.observations,
        "mass": patches.mass,
    }
    return {**charts, "rotation": m.atlas.column("rotation")}, dict(surfels), out


def _members(charts: Columns, surfels: Columns, chart: int, scale: float, min_cos: float) -> Columns:
    """Members of one chart by brute force: voxel centre in the ball, normal of the same sheet."""
    center = (surfels["key"] + 0.5) * _VOXEL
    position = center + OFFSET_STEP_VOX * surfels["offset"] * _VOXEL
    n = surfels["normal"].astype(np.float64)
    rotation = charts["rotation"][chart]
    inside = np.linalg.norm(center - charts["anchor"][chart], axis=1) <= scale
    same = n @ rotation[:, 2] > min_cos * np.linalg.norm(n, axis=1)
    keep = inside & same
    local = (position[keep] - charts["anchor"][chart]) @ rotation / scale
    return {"local": local, "weight": surfels["weight"][keep], "count": surfels["count"][keep]}


@pytest.mark.parametrize("shape", [Torus(0.2, 0.08), Box((-0.2, -0.2, -0.005), (0.2, 0.2, 0.005))])
def test_against_brute_force(shape: Shape) -> None:
    r = _scan(shape, orbit(5, 0.7))
    charts, surfels, got = _gather(r)
    m = r._map
    assert m is not None
    for chart in range(0, len(charts["anchor"]), 7):
        scale = float(m.atlas.scale_of(np.array([chart]))[0])
        want = _members(charts, surfels, chart, scale, m.min_cos)
        total = want["weight"].sum()
        weights = got["weights"][chart].astype(np.float64)
        points = got["points"][chart].astype(np.float64)
        assert weights.sum() == pytest.approx(total * scale**2, rel=1e-5)
        assert got["mass"][chart].sum() == pytest.approx(total, rel=1e-5)
        assert got["support"][chart].sum() == want["count"].sum()
        # Binning keeps the weighted mean: no row may be lost or moved.
        np.testing.assert_allclose(
            (weights[:, None] * points).sum(0) / weights.sum(),
            (want["weight"][:, None] * want["local"]).sum(0) / total,
            atol=1e-5,
        )
        cell = np.clip(np.floor((want["local"][:, :2] + 1) / 2 * DIRTY_CELLS).astype(int), 0, DIRTY_CELLS - 1)
        mass = np.bincount(cell[:, 0] * DIRTY_CELLS + cell[:, 1], want["weight"], DIRTY_CELLS**2)
        # A surfel at the anchor itself lies on a cell corner, where rounding decides.
        corner = np.abs(want["local"][:, :2]).min(1) < 1e-5
        wrong = ~np.isclose(got["mass"][chart], mass, rtol=1e-4, atol=1e-6 * total)
        assert wrong.sum() <= 2 * corner.sum()
        assert (points[weights == 0] == 0).all()
        assert (np.linalg.norm(points, axis=1) <= 1 + 0.9 * _VOXEL / scale).all()


@pytest.mark.parametrize("ratio", [4, 8, 16])
def test_no_side_of_a_chart_loses_its_evidence(ratio: int) -> None:
    """However many voxels a chart spans, its rows must cover it evenly: the bound on rows may not cut.

    On a noisy plane a cell's evidence may lie in two layers of height, so that cells alone do not bound
    the rows; a chart that fills up from one side is fitted without the other.
    """
    plane = Plane((0, 0, 0.0), (0.02, 0.03, 1))
    r = Reconstructor(
        SceneConfig(
            evidence_voxel_m=_VOXEL, anchor_radius_m=ratio * _VOXEL,
            fit=FitConfig(width=4, transport_samples=16), consistency=ConsistencyConfig(sweeps=0),
        )
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for k in range(4):
        r.integrate(
            depth_frame(
                plane, look_at((0.02 * k, 0.01, 1.2), (0, 0, 0)), width=160, height=120, focal=100.0, rng=rng
            )
        )
    charts, surfels, got = _gather(r)
    m = r._map
    assert m is not None
    middle = np.linalg.norm(charts["anchor"][:, :2], axis=1).argsort()[:5]
    for chart in middle:
        scale = float(m.atlas.scale_of(np.array([chart]))[0])
        want = _members(charts, surfels, int(chart), scale, m.min_cos)
        assert got["weights"][chart].sum() == pytest.approx(want["weight"].sum() * scale**2, rel=1e-4)


def test_opposite_sheets_stay_apart() -> None:
    r = _scan(
        Box((-0.2, -0.2, -0.005), (0.2, 0.2, 0.005)),
        [look_at((0.01, 0.02, z), (0, 0, 0)) for z in (0.7, -0.7)],
    )
    charts, _, got = _gather(r)
    for chart in range(len(charts["anchor"])):
        used = got["weights"][chart] > 0
        height = got["points"][chart][used] @ [0, 0, 1]
        # Chart coordinates: its own sheet lies at height 0; the other one would be 1 cm / scale = 0.16 off.
        assert np.abs(height).max() < 0.05
