"""Anchors of an atlas: where new charts go, how large they are, and which are too large by now."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamdgp.atlas.atlas import Atlas
from streamdgp.atlas.free_cells import against
from streamdgp.evidence.surfels import SurfelMap
from streamdgp.parts import in_parts
from streamdgp.sampling.anchors import place_anchors
from streamdgp.sampling.shrinking import exposed_surfels, levels_for_new, levels_that_serve, remove_charts

__all__ = ["add_anchors", "shrink_charts"]

# As many as a plane needs.
_MIN_SURFELS_PER_ANCHOR = 3
# A cell that one ray went through may yet be whole.
_LEAST_PASSES = 2
# Trials of a radius, some tens of microseconds each.
_LEAST_PART = 20


def add_anchors(
    atlas: Atlas,
    evidence: SurfelMap,
    uncovered: npt.NDArray[np.int64],
    largest_level: int,
    min_cos: float,
    frame_index: int,
) -> npt.NDArray[np.int64]:
    """Poisson-disk anchors over surfels (K,) that no compatible chart covers yet; numbers of the new charts.

    Anchors of the least radius are thrown first. If the evidence about some of them would serve a larger
    chart, all are thrown again, the largest first.
    """
    candidates = uncovered[np.argsort(_shuffle(uncovered), kind="stable")]
    served = np.zeros(len(candidates), np.uint8)
    atlas.tidy_grid()
    count, source = _throw(atlas, evidence, candidates, served, 0, min_cos)
    if largest_level:
        new = np.arange(len(atlas), count)
        served[source[new]] = _levels(atlas, evidence, new, largest_level, min_cos)
        if served.any():
            remove_charts(
                len(atlas), count, atlas.columns["anchor"], atlas.columns["level"], atlas.scales_m, atlas.grid
            )
            atlas.tidy_grid()
            count, _ = _throw(atlas, evidence, candidates, served, int(served.max()), min_cos)
    normal = atlas.columns["rotation"][len(atlas) : count, :, 2].copy()
    new = atlas.appended(count, frame_index)
    atlas.face(new, normal)
    return new


def _throw(
    atlas: Atlas,
    evidence: SurfelMap,
    candidates: npt.NDArray[np.int64],
    served: npt.NDArray[np.uint8],
    largest_level: int,
    min_cos: float,
) -> tuple[int, npt.NDArray[np.int64]]:
    """Write anchors behind the last chart; how many charts there would be, and each one's candidate."""
    while True:
        c, count = atlas.columns, len(atlas)
        source = np.zeros(atlas.capacity, np.int64)
        for level in range(largest_level, -1, -1):
            count, is_done = place_anchors(
                candidates, served, level, atlas.radii_m, atlas.scales_m, min_cos, _MIN_SURFELS_PER_ANCHOR,
                evidence.voxel_size_m, evidence.look_up, count, c["anchor"], c["rotation"][:, :, 2],
                c["level"], source, atlas.grid,
            )  # fmt: skip
            if not is_done:
                break
        else:
            return count, source
        # Growing forgets what was not taken in yet.
        atlas.grow()


def _levels(
    atlas: Atlas, evidence: SurfelMap, charts: npt.NDArray[np.int64], most: int, min_cos: float
) -> npt.NDArray[np.uint8]:
    """Up to which level, at most ``most``, evidence serves at the anchors of charts (K,)."""
    c, served = atlas.columns, np.empty(len(charts), np.uint8)

    def judge(begin: int, end: int) -> None:
        levels_for_new(
            charts[begin:end], len(atlas), c["anchor"], c["rotation"], most, atlas.radii_m, atlas.scales_m,
            min_cos, evidence.voxel_size_m, evidence.look_up, atlas.grid, served[begin:end],
        )  # fmt: skip

    in_parts(judge, len(charts), _LEAST_PART)
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
    hits, passes = (c[name][seen].astype(np.float64) for name in ("hits", "passes"))
    is_open = (passes >= _LEAST_PASSES) & (against.py_func(hits, passes) > hits)
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
    exposed = exposed_surfels(
        too_large, c["anchor"], c["rotation"], reach_m, min_cos, evidence.voxel_size_m, evidence.look_up
    )
    # What rays have gone through since is going, and founds nothing.
    candidates: npt.NDArray[np.int64] = exposed[evidence.columns["streak"][exposed] == 0]
    return candidates


def _shuffle(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Fixed pseudo-random ranks of surfel numbers."""
    h = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(31))) * np.uint64(0xD6E8FEB86659FD93)
    return ((h ^ (h >> np.uint64(29))) >> np.uint64(1)).astype(np.int64)
