"""The consistency step: minimise sum_q L_q + mu sum_qq' L_qq' over the dirty charts.

Block Gauss-Seidel: charts of one colour (which overlap little) are solved together towards their
evidence and their neighbours' current predictions, then the next colour sees the result. Stored
charts that are not dirty are boundary values and never move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from streamdgp.atlas.atlas import Atlas
from streamdgp.config import ConsistencyConfig
from streamdgp.consistency.overlap import colour_charts, neighbour_targets, neighbours_of
from streamdgp.fitting.batches import map_batches, rasters_of_batch
from streamdgp.fitting.types import Regime

__all__ = ["DirtyCharts", "make_consistent", "seam_distances_m"]

_REACH = 1.3


@dataclass(frozen=True)
class DirtyCharts:
    """The charts being fitted with what their fit used: rows as in PatchBatch, feet, ridge."""

    charts: npt.NDArray[np.int64]
    points: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    feet: npt.NDArray[np.float32]
    ridge: npt.NDArray[np.float32]


def _near(atlas: Atlas, charts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
    """Neighbour lists of ``charts``: offsets, (chart, row) pairs, and the distinct neighbours."""
    anchor, rotation = atlas.columns["anchor"], atlas.columns["rotation"]
    buffer = np.empty(256, np.int64)
    lists = []
    for chart in charts:
        found = neighbours_of(chart, anchor, rotation, atlas.scale_m, _REACH, atlas.grid, buffer)
        lists.append(buffer[:found].copy())
    start = np.cumsum([0, *(len(x) for x in lists)])
    flat = np.concatenate(lists) if lists else np.zeros(0, np.int64)
    distinct, row = np.unique(flat, return_inverse=True)
    return start, np.stack([flat, row], 1), distinct


def neighbour_rows(
    atlas: Atlas,
    charts: npt.NDArray[np.int64],
    points: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    mu: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Targets (K, N, 3) and weights (K, N) that combine evidence with the neighbours' predictions."""
    start, near, distinct = _near(atlas, charts)
    targets, total = np.empty_like(points), np.empty_like(weights)
    if not len(distinct):
        return points.copy(), weights.copy()
    neighbour_targets(
        charts, start, near,
        np.stack([atlas.rasters[c] for c in distinct]), np.stack([atlas.supports[c] for c in distinct]),
        atlas.columns["anchor"], atlas.columns["rotation"], atlas.scale_m, mu, points, weights, targets, total,
    )  # fmt: skip
    return targets, total


def make_consistent(atlas: Atlas, regime: Regime, dirty: DirtyCharts, config: ConsistencyConfig) -> None:
    """Run the sweeps; weights and rasters of the dirty charts are replaced in the atlas."""
    if config.sweeps == 0 or config.weight == 0 or not len(dirty.charts):
        return
    colour = np.full(len(atlas), -1, np.int32)
    colours = colour_charts(
        dirty.charts, atlas.columns["anchor"], atlas.columns["rotation"], atlas.scale_m, atlas.grid, colour
    )
    for _ in range(config.sweeps):
        for shade in range(colours):
            rows = np.flatnonzero(colour[dirty.charts] == shade)
            charts = dirty.charts[rows]
            parameters, rasters = _solve_block(atlas, regime, dirty, rows, config.weight)
            atlas.store_weights(charts, parameters, rasters)


def _solve_block(
    atlas: Atlas, regime: Regime, dirty: DirtyCharts, rows: npt.NDArray[np.int64], mu: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """One block of the Gauss-Seidel sweep: charts that overlap little, solved together."""

    def solve(part: slice) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        own = rows[part]
        targets, total = neighbour_rows(atlas, dirty.charts[own], dirty.points[own], dirty.weights[own], mu)
        # The penalty stays what it was against the evidence alone: the overlap terms add weight.
        share = dirty.weights[own].sum(1) / np.maximum(total.sum(1), 1e-30)
        parameters = regime.refit_to(
            torch.from_numpy(atlas.columns["parameters"][dirty.charts[own]]),
            torch.from_numpy(dirty.feet[own]),
            torch.from_numpy(targets),
            torch.from_numpy(total),
            torch.from_numpy(dirty.ridge[own] * share),
        )
        return parameters.cpu().numpy(), rasters_of_batch(regime, parameters)

    parts = map_batches(solve, len(rows))
    return np.concatenate([p for p, _ in parts]), np.concatenate([r for _, r in parts])


def seam_distances_m(
    atlas: Atlas, charts: npt.NDArray[np.int64], points: npt.NDArray[np.float32], weights: npt.NDArray[np.float32],
    own: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """Distance between each chart and its neighbours' mean prediction at the chart's rows, metres.

    ``own`` (K, N, 3) are the charts' own foot points. Rows without a neighbour are left out.
    """
    big = 1e6
    targets, total = neighbour_rows(atlas, charts, points, weights, big)
    seen = total > weights * 1.5
    distance: npt.NDArray[np.float64] = np.linalg.norm((targets - own)[seen].astype(np.float64), axis=1)
    return distance * atlas.scale_m
