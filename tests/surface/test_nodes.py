"""Distances at the nodes of a tile are those of the blend at these points, whichever charts look at them."""

from __future__ import annotations

import numpy as np
import pytest

from streamdgp.surface.blend import blend_points
from streamdgp.surface.nodes import evaluate_nodes
from tests.reference.scans import VOXEL_M, scan

_TILE_CELLS = 12


@pytest.mark.parametrize("kind", ["torus", "slab", "crease"])
@pytest.mark.parametrize("step_m", [0.7 * VOXEL_M, 2.5 * VOXEL_M])
def test_nodes_of_a_tile_are_points_of_the_blend(kind: str, step_m: float) -> None:
    surface = scan(kind, True).reconstructor.surface()
    band_m = 1.9 * step_m
    places = {plan.index: plan.members for plan in surface._plan(step_m, None)}
    n = _TILE_CELLS + 1
    compared = 0
    for index in list(places)[:: max(len(places) // 12, 1)]:
        # Of all charts, in their order: none that the plan leaves out would have had anything to say.
        charts = surface._gather(np.arange(surface.chart_count))
        corner = np.array(index, np.int64) * surface.tile_cells
        value, valid = np.zeros((n, n, n)), np.zeros((n, n, n), np.uint8)
        evaluate_nodes(corner, step_m, band_m, surface.blend_radius, charts, value, valid)

        nodes = np.argwhere(np.ones((n, n, n), np.bool_))
        result, reached = np.zeros((len(nodes), 5)), np.zeros(len(nodes), np.uint8)
        points = (corner + nodes) * step_m
        blend_points(points, band_m, surface.blend_radius, charts, result, reached)
        np.testing.assert_array_equal(valid.reshape(-1), reached)
        np.testing.assert_array_equal(value.reshape(-1), result[:, 0] * reached)
        compared += int(reached.sum())

        few, seen = np.zeros((n, n, n)), np.zeros((n, n, n), np.uint8)
        members = surface._gather(places[index])
        evaluate_nodes(corner, step_m, band_m, surface.blend_radius, members, few, seen)
        np.testing.assert_array_equal(seen, valid)
        np.testing.assert_array_equal(few, value)
    assert compared > 500
