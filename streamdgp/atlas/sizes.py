"""Sizes of charts: how large new ones may be, and which are too large for what is known by now."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamdgp.atlas.atlas import Atlas
from streamdgp.atlas.free_cells import DOUBTED_PASSES, PASS_WEIGHT
from streamdgp.evidence.surfels import SurfelMap
from streamdgp.parts import in_parts
from streamdgp.sampling.anchors import levels_served
from streamdgp.sampling.shrinking import exposed_surfels, levels_that_serve

__all__ = ["levels_about", "shrink_charts"]

# To find where a large chart may be, one trial in every so many r suffices.
_TRIAL_DISTANCE = 1.5
# A cell that one ray went through may yet be whole.
_LEAST_PASSES = 2
# Trials, some tens of microseconds each.
_LEAST_PART = 20


def levels_about(
    candidates: npt.NDArray[np.int64], atlas: Atlas, evidence: SurfelMap, largest: int, min_cos: float
) -> npt.NDArray[np.uint8]:
    """Up to which level, at most ``largest``, a chart about each of the candidates (K,) may go.

    Candidates are numbers of surfels. The first in each cell of a lattice are tried; the others get 0.
    """
    served = np.zeros(len(candidates), np.uint8)
    if largest == 0:
        return served
    cell = np.floor(evidence.positions_m(candidates) / (_TRIAL_DISTANCE * atlas.radii_m[0])).astype(np.int64)
    tried = np.unique(cell, axis=0, return_index=True)[1]
    found = np.empty(len(tried), np.uint8)

    def judge(begin: int, end: int) -> None:
        levels_served(
            candidates[tried[begin:end]], largest, atlas.radii_m, atlas.scales_m, min_cos,
            evidence.voxel_size_m, evidence.look_up, found[begin:end],
        )  # fmt: skip

    in_parts(judge, len(tried), _LEAST_PART)
    served[tried] = found
    return served


def shrink_charts(
    atlas: Atlas,
    evidence: SurfelMap,
    seen: npt.NDArray[np.int64],
    dirty: npt.NDArray[np.int64],
    min_cos: float,
) -> npt.NDArray[np.int64]:
    """Make charts smaller that are too large.

    Of the ``seen`` (K,) those that something ends or opens in: their cells are too wide for that. Of the
    ``dirty`` among them, those whose evidence does not serve so large a ball. Returns the surfels that they
    may have covered, and do not any more: candidates for new anchors.
    """
    c = atlas.columns
    seen = seen[c["level"][seen] > 0]
    passes = c["passes"][seen].astype(np.float32)
    is_open = (passes >= _LEAST_PASSES) & (PASS_WEIGHT * (passes - DOUBTED_PASSES) > c["hits"][seen])
    pierced = seen[is_open.any((1, 2))]
    large = np.setdiff1d(dirty[c["level"][dirty] > 0], pierced)
    wanted = np.empty(len(large), np.uint8)

    def judge(begin: int, end: int) -> None:
        levels_that_serve(
            large[begin:end], c["anchor"], c["rotation"], c["level"], atlas.scales_m, min_cos,
            evidence.voxel_size_m, evidence.look_up, wanted[begin:end],
        )  # fmt: skip

    in_parts(judge, len(large), _LEAST_PART)
    is_too_large = wanted < c["level"][large]
    too_large = np.concatenate([pierced, large[is_too_large]])
    wanted = np.concatenate([np.zeros(len(pierced), np.uint8), wanted[is_too_large]])
    if not len(too_large):
        return np.zeros(0, np.int64)
    reach_m = atlas.scale_of(too_large)
    atlas.shrink(too_large, wanted)
    exposed: npt.NDArray[np.int64] = exposed_surfels(
        too_large, c["anchor"], c["rotation"], reach_m, min_cos, evidence.voxel_size_m, evidence.look_up
    )
    return exposed
