"""The consistency step: minimise sum_q L_q + mu sum_qq' L_qq' over the dirty charts.

Block relaxation: every dirty chart is solved towards its own evidence solution and its neighbours'
predictions, all from the same state (block Jacobi). Solving in colours, each seeing the result of the
one before (Gauss-Seidel), over-smoothed measurably more. Stored charts that are not dirty are
boundary values and never move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from streamdgp.atlas.atlas import Atlas
from streamdgp.config import ConsistencyConfig
from streamdgp.consistency.overlap import neighbour_targets, neighbours_of
from streamdgp.fitting.batches import map_batches, rasters_of_batch
from streamdgp.fitting.types import Regime

__all__ = ["DirtyCharts", "make_consistent", "seam_distances_m"]

_REACH = 1.3
# The targets are smooth already: a light penalty keeps the refit from smoothing them again.
_CONSENSUS_RIDGE = 0.01
_TOLERANCE = 1.0


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
    own: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    mu: float,
    tolerance: float = np.inf,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Targets (K, N, 3) that combine own points with the neighbours' predictions; their share (K, N)."""
    start, near, distinct = _near(atlas, charts)
    targets, overlap = np.empty_like(own), np.empty_like(weights)
    if not len(distinct):
        return own.copy(), np.zeros_like(weights)
    neighbour_targets(
        charts, start, near,
        np.stack([atlas.rasters[c] for c in distinct]), np.stack([atlas.supports[c] for c in distinct]),
        atlas.columns["anchor"], atlas.columns["rotation"], atlas.scale_m, mu, own, weights,
        np.maximum(tolerance * atlas.columns["residual"][charts].astype(np.float64), 1e-6), targets, overlap,
    )  # fmt: skip
    return targets, overlap


def make_consistent(atlas: Atlas, regime: Regime, dirty: DirtyCharts, config: ConsistencyConfig) -> None:
    """Run the sweeps; weights and rasters of the dirty charts are replaced in the atlas.

    Every sweep starts from the charts' own evidence solution, so sweeps do not diffuse.
    """
    if config.sweeps == 0 or config.weight == 0 or not len(dirty.charts):
        return
    alone = atlas.columns["parameters"][dirty.charts].copy()
    for _ in range(config.sweeps):
        parameters, rasters = _solve_blocks(atlas, regime, dirty, alone, config.weight)
        atlas.store_weights(dirty.charts, parameters, rasters)


def _solve_blocks(
    atlas: Atlas, regime: Regime, dirty: DirtyCharts, alone: npt.NDArray[np.float32], mu: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Solve every dirty chart against its neighbours as they stand; returns parameters and rasters."""

    def on_device(values: npt.NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(values).to(regime.device)

    def solve(part: slice) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        charts, feet = dirty.charts[part], on_device(dirty.feet[part])
        stored = on_device(alone[part])
        own = regime.evaluate(stored, feet).cpu().numpy()
        targets, _ = neighbour_rows(atlas, charts, own, dirty.weights[part], mu, _TOLERANCE)
        parameters = regime.refit_to(
            stored,
            feet,
            on_device(targets),
            on_device(dirty.weights[part]),
            on_device(dirty.ridge[part] * _CONSENSUS_RIDGE),
        )
        return parameters.cpu().numpy(), rasters_of_batch(regime, parameters)

    parts = map_batches(solve, len(dirty.charts))
    return np.concatenate([p for p, _ in parts]), np.concatenate([r for _, r in parts])


def seam_distances_m(
    atlas: Atlas,
    charts: npt.NDArray[np.int64],
    points: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    own: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """Distance between each chart and its neighbours' mean prediction at the chart's rows, metres.

    ``own`` (K, N, 3) are the charts' own foot points of ``points``. Rows without a neighbour are left out.
    """
    big = 1e6
    targets, overlap = neighbour_rows(atlas, charts, own, weights, big)
    distance: npt.NDArray[np.float64] = np.linalg.norm(
        (targets - own)[overlap > 0.5].astype(np.float64), axis=1
    )
    return distance * atlas.scale_m
