"""Support of a chart: the part of its domain that evidence backs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.atlas.free_cells import DOUBTED_PASSES, PASS_WEIGHT
from streamdgp.evidence.patches import SUPPORT_CELLS
from streamdgp.fitting.pointers import raster_at
from streamdgp.parts import in_parts

__all__ = ["closed_cells", "followed_cells", "support_masks"]

_CLOSING_CELLS = 2
# Two passes alone open no hole.
_MOST_PASSES_OF_FILLED = 2
_PAD = _CLOSING_CELLS + 1
# Charts, some microseconds each.
_LEAST_PART = 200


def support_masks(hits: npt.NDArray[Any], passes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """How far the cells are surface, (C, 16, 16) in 255ths, from hits and passes per cell.

    A cell that was looked at is at least 1: 0 says that nothing is known of it. A sparse first view leaves
    cells between samples empty; closing by two cells fills them without moving the outer boundary, but
    for cells that rays passed through.
    """
    against = PASS_WEIGHT * np.maximum(passes.astype(np.int16) - DOUBTED_PASSES, 0)
    share = hits / np.maximum(hits + against, 1e-9)
    masks: npt.NDArray[np.uint8] = np.maximum(np.rint(255 * share), (hits > 0) | (passes > 0)).astype(
        np.uint8
    )
    masks[closed_cells(hits > 0) & (hits == 0) & (passes <= _MOST_PASSES_OF_FILLED)] = 255
    return masks


def followed_cells(
    points: npt.NDArray[Any], weights: npt.NDArray[Any], raster_addresses: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Cells (C, 16, 16) of fitted charts that lie within a cell and a sigma of evidence.

    Evidence that the fit did not follow (another sheet, flying pixels) lies over the same cells and farther
    off.

    Parameters
    ----------
    points, weights
        Evidence as in PatchBatch: (C, N, 3), and 1 / sigma^2 (C, N), 0 for padding; in units of a chart.
    raster_addresses
        Of the charts' rasters (C,).
    """
    followed = np.zeros((len(points), SUPPORT_CELLS, SUPPORT_CELLS), np.uint8)

    def judge(begin: int, end: int) -> None:
        _follow(points[begin:end], weights[begin:end], raster_addresses[begin:end], followed[begin:end])

    in_parts(judge, len(points), _LEAST_PART)
    return followed


@njit(cache=True, nogil=True, error_model="numpy")
def _follow(points: Any, weights: Any, raster_addresses: Any, followed: Any) -> None:
    cell = 2.0 / SUPPORT_CELLS
    for c in range(points.shape[0]):
        raster = raster_at(raster_addresses[c])
        for r in range(points.shape[1]):
            if not weights[c, r] > 0.0:
                continue
            noise2 = 1.0 / weights[c, r]
            i = int(np.floor((points[c, r, 0] + 1.0) / cell))
            j = int(np.floor((points[c, r, 1] + 1.0) / cell))
            for a in range(max(i - 1, 0), min(i + 2, SUPPORT_CELLS)):
                for b in range(max(j - 1, 0), min(j + 2, SUPPORT_CELLS)):
                    if followed[c, a, b]:
                        continue
                    x, y = 2 * a + 1, 2 * b + 1
                    gap2 = wide2 = long2 = 0.0
                    for k in range(3):
                        gap2 += (points[c, r, k] - raster[x, y, k]) ** 2
                        # The cell's own size: on slopes it is larger than its shadow.
                        wide2 += (raster[x + 1, y, k] - raster[x - 1, y, k]) ** 2
                        long2 += (raster[x, y + 1, k] - raster[x, y - 1, k]) ** 2
                    if gap2 <= max(wide2, long2, cell * cell) + noise2:
                        followed[c, a, b] = 1


def closed_cells(solid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Morphological closing of (C, 16, 16) by the diamond of two cells; beyond the border is empty."""
    closed = np.empty(solid.shape, np.bool_)
    solid = np.ascontiguousarray(solid)
    in_parts(lambda begin, end: _close(solid[begin:end], closed[begin:end]), len(solid), _LEAST_PART)
    return closed


@njit(cache=True, nogil=True)
def _close(solid: Any, closed: Any) -> None:
    """Every row of cells is a word, and a step of the dilation five shifts and ors."""
    side = solid.shape[1]
    wide = side + 2 * _PAD
    every = np.uint64((1 << wide) - 1)
    rows, grown = np.empty(wide, np.uint64), np.empty(wide, np.uint64)
    for chart in range(solid.shape[0]):
        rows[:] = np.uint64(0)
        for i in range(side):
            for j in range(side):
                if solid[chart, i, j]:
                    rows[i + _PAD] |= np.uint64(1 << (j + _PAD))
        for _ in range(2):
            for _ in range(_CLOSING_CELLS):
                for i in range(wide):
                    word = rows[i] | rows[i] << np.uint64(1) | rows[i] >> np.uint64(1)
                    if i > 0:
                        word |= rows[i - 1]
                    if i + 1 < wide:
                        word |= rows[i + 1]
                    grown[i] = word & every
                rows[:] = grown
            # Dilated, then what is empty dilated: eroded.
            for i in range(wide):
                rows[i] = ~rows[i] & every
        for i in range(side):
            for j in range(side):
                closed[chart, i, j] = rows[i + _PAD] >> np.uint64(j + _PAD) & np.uint64(1)
