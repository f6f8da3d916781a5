"""Two flat charts that meet at a right angle: what bounds the solid, and where it is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.fitting.raster import RASTER
from streamdgp.memory import HeapMemory
from streamdgp.surface.blend import blend_points

Array = npt.NDArray[Any]
SCALE_M = 0.1
CELL_M = SCALE_M / 8


def _two_charts(is_edge: bool, gap_cells: float = 0.0, goes_on: bool = False) -> tuple[Any, ...]:
    """The plane z = 0 with evidence for x < 0, and x = 0, below it (an edge) or above it (a corner).

    The evidence of both ends so many cells before the crease; or the first goes on behind the second.
    """
    off_m = (3 + gap_cells) * CELL_M
    axis = np.linspace(-1, 1, RASTER, dtype=np.float32)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    flat = np.stack([u, v, 0 * u], -1)
    cells = (np.arange(16) + 0.5) / 8 - 1
    # Three cells from the anchor on.
    supports = [np.repeat((cells < 3 / 8)[:, None], 16, 1).astype(np.float32) for _ in range(2)]
    if goes_on:
        supports[0][:] = 1.0
    side = -1.0 if is_edge else 1.0
    # Columns: the tangent towards the crease, the other one, the normal.
    towards, normal = np.array([0.0, 0.0, -side]), np.array([-side, 0.0, 0.0])
    second = np.stack([towards, np.cross(normal, towards), normal], axis=1)
    anchor = np.array([[-off_m, 0, 0], [0, 0, side * off_m]])
    memory = HeapMemory()
    rasters, masks = memory.array_list("rasters", flat.shape), memory.array_list("supports", (16, 16))
    both = np.arange(2)
    for held, arrays in ((rasters, [flat, flat.copy()]), (masks, supports)):
        held.extend_empty(2)
        held.put(both, arrays)
    charts = (anchor, np.stack([np.eye(3), second]), np.full(2, SCALE_M))
    return (*charts, rasters.addresses(both), masks.addresses(both)), (rasters, masks)


def _blend(charts: tuple[Any, ...], points: list[tuple[float, float, float]]) -> Array:
    result, reached = np.zeros((len(points), 5)), np.zeros(len(points), np.uint8)
    blend_points(np.array(points), 0.03, 0.9, charts[0], result, reached)
    assert reached.all()
    return result


POINTS = [(x, 0.003, z) for x in (-0.012, -0.005, 0.004, 0.009) for z in (-0.011, -0.006, 0.003, 0.008)]


@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_at_an_edge_the_outer_distance_counts(gap: float) -> None:
    found = _blend(_two_charts(True, gap), POINTS)
    wanted = [max(x, z) for x, _, z in POINTS]
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-6)
    is_first = np.array([z > x for x, _, z in POINTS])
    np.testing.assert_allclose(found[:, 1:4], np.where(is_first[:, None], [0, 0, 1], [1, 0, 0]), atol=1e-6)


@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_in_a_corner_the_inner_distance_counts(gap: float) -> None:
    found = _blend(_two_charts(False, gap), POINTS)
    np.testing.assert_allclose(found[:, 0], [min(-x, z) for x, _, z in POINTS], atol=1e-6)


@pytest.mark.parametrize("is_edge", [True, False])
def test_support_that_ends_a_little_early_is_closed_up_to_the_crease(is_edge: bool) -> None:
    beside_crease = [(-t * CELL_M, 0.003, 0.0) for t in (0.05, 0.2)]
    assert (_blend(_two_charts(is_edge, 0.4), beside_crease)[:, 4] > 0.5).all()
    # Two cells are not closed, whatever is beside.
    assert (_blend(_two_charts(is_edge, 2.0), beside_crease)[:, 4] < 0.5).all()


@pytest.mark.parametrize("is_edge", [True, False])
def test_a_sheet_that_goes_on_behind_the_other_is_not_cut(is_edge: bool) -> None:
    # Nearer to the first sheet: it is what is shown, on both sides of the other.
    points = [(x, 0.003, 0.001) for x in (-0.012, -0.005, 0.005, 0.012)]
    found = _blend(_two_charts(is_edge, 0, goes_on=True), points)
    np.testing.assert_allclose(found[:, 0], 0.001, atol=1e-6)
