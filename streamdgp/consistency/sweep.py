"""The consistency step: minimise sum_q L_q + mu sum_qq' L_qq' over the dirty charts.

The pairwise terms are sums over Poisson-disk samples of the parameter domain, as in the paper. Block
relaxation: every dirty chart is solved towards its own evidence solution and its neighbours'
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
from streamdgp.consistency.overlap import authorities, neighbour_lists, neighbour_targets
from streamdgp.fitting.at_samples import consistency_samples
from streamdgp.fitting.batches import in_half_precision, map_batches, raster_block
from streamdgp.fitting.types import Regime

__all__ = [
    "consistency_samples",
    "make_consistent",
    "neighbour_predictions",
    "seam_distances_m",
]

_REACH = 1.5
# Neighbours farther off than this many residuals of a chart count for less.
_TOLERANCE = 1.0


@dataclass(frozen=True)
class _Neighbourhood:
    """Who overlaps the charts at hand: lists (offsets, numbers), and what each one in them offers."""

    start: npt.NDArray[np.int64]
    near: npt.NDArray[np.int64]
    raster_address: npt.NDArray[np.int64]
    support_address: npt.NDArray[np.int64]
    authority: npt.NDArray[np.float64]


def _neighbourhood(
    atlas: Atlas, charts: npt.NDArray[np.int64], silent: npt.NDArray[np.int64] | None = None
) -> _Neighbourhood:
    """Neighbours of ``charts`` as they stand; given ``silent``, these have no say and all others the same."""
    columns = atlas.columns
    start, near = neighbour_lists(
        charts, columns["anchor"], columns["rotation"], columns["level"], atlas.scales_m, _REACH, atlas.grid
    )
    if silent is None:
        authority = authorities(near, columns["fit_mass"], columns["fresh_mass"])
    else:
        authority = (~np.isin(near, silent)).astype(np.float64)
    return _Neighbourhood(
        start, near, atlas.rasters.addresses(near), atlas.supports.addresses(near), authority
    )


def neighbour_predictions(
    atlas: Atlas,
    charts: npt.NDArray[np.int64],
    own: npt.NDArray[np.float32],
    mu: float,
    tolerance: float = np.inf,
    silent: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Own points (K, N, 3) combined with the neighbours' predictions there; the neighbours' share (K, N)."""
    around = _neighbourhood(atlas, charts, silent)
    targets, overlap = np.empty_like(own), np.empty(own.shape[:2], np.float32)
    residual = atlas.columns["residual"][charts].astype(np.float64)
    neighbour_targets(
        charts, around.start, around.near,
        around.raster_address, around.support_address, around.authority,
        atlas.columns["anchor"], atlas.columns["rotation"], atlas.columns["level"], atlas.scales_m, mu, own,
        atlas.supports.addresses(charts), np.maximum(tolerance * residual, 1e-6),
        targets, overlap,
    )  # fmt: skip
    return targets, overlap


def make_consistent(
    atlas: Atlas, regime: Regime, charts: npt.NDArray[np.int64], config: ConsistencyConfig
) -> None:
    """Run the sweeps over the dirty ``charts``; their weights and rasters are replaced in the atlas.

    Every sweep starts from the charts' own evidence solution, so sweeps do not diffuse.
    """
    if not (config.weight > 0 and len(charts)):
        return
    alone = atlas.parameters(charts)
    for _ in range(config.sweeps):
        done = 0
        # All are solved before any is replaced: every one sees its neighbours as they stand.
        for parameters, rasters in _solve_blocks(atlas, regime, charts, alone, config.weight):
            atlas.store_weights(charts[done : done + len(rasters)], parameters, rasters)
            done += len(rasters)


def _solve_blocks(
    atlas: Atlas,
    regime: Regime,
    charts: npt.NDArray[np.int64],
    alone: npt.NDArray[np.float32],
    mu: float,
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Solve every dirty chart against its neighbours as they stand; parameters and rasters, in batches."""
    samples = consistency_samples(regime.device)

    def solve(part: slice) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        stored = torch.from_numpy(alone[part]).to(regime.device)
        own = regime.evaluate(stored, samples).cpu().numpy()
        targets, _ = neighbour_predictions(atlas, charts[part], own, mu, _TOLERANCE)
        moved = regime.refit_to(stored, samples, torch.from_numpy(targets).to(regime.device))
        parameters = in_half_precision(moved)
        return parameters.cpu().numpy(), raster_block(regime, parameters)

    return map_batches(solve, len(charts), is_chartwise=regime.is_chartwise)


def seam_distances_m(
    atlas: Atlas,
    regime: Regime,
    charts: npt.NDArray[np.int64],
    silent: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float64]:
    """Distance between each chart and its neighbours' mean prediction at the chart's samples, metres.

    Neighbours in ``silent`` are left out, all others count alike. Samples off the chart's support or
    without a neighbour are left out.
    """
    parameters = torch.from_numpy(atlas.parameters(charts)).to(regime.device)
    own = regime.evaluate(parameters, consistency_samples(regime.device)).cpu().numpy()
    silent = np.zeros(0, np.int64) if silent is None else silent
    alone = 1e6  # a weight beside which the chart's own word vanishes
    targets, overlap = neighbour_predictions(atlas, charts, own, alone, silent=silent)
    apart_m = (targets - own).astype(np.float64) * atlas.scale_of(charts)[:, None, None]
    distance_m: npt.NDArray[np.float64] = np.linalg.norm(apart_m[overlap > 0.5], axis=1)
    return distance_m
