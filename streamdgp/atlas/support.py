"""Support of a chart: the part of its domain that evidence backs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.atlas.free_cells import against
from streamdgp.evidence.patches import SUPPORT_CELLS
from streamdgp.fitting.pointers import raster_at
from streamdgp.parts import in_parts

__all__ = ["followed_cells", "settle_cells", "show_cells"]

_CLOSING_CELLS = 2
# Two passes alone open no hole.
_MOST_PASSES_OF_FILLED = 2
_PAD = _CLOSING_CELLS + 1
_WIDE = SUPPORT_CELLS + 2 * _PAD
# Charts, some microseconds each.
_LEAST_PART = 200


def show_cells(
    charts: npt.NDArray[np.int64],
    hits: npt.NDArray[np.uint8],
    passes: npt.NDArray[np.uint8],
    support: npt.NDArray[np.uint8],
) -> npt.NDArray[np.float32]:
    """Make the supports of some charts (K,) anew, in place; returns them from 0 to 1 (K, 16, 16).

    A support says how far the cells are surface, in 255ths, from hits and passes per cell, all uint8
    (charts, 16, 16). A cell that was looked at is at least 1: 0 says that nothing is known of it. A sparse
    first view leaves cells between samples empty; closing by two cells fills them without moving the outer
    boundary, but for cells that rays passed through.
    """
    shown = np.empty((len(charts), SUPPORT_CELLS, SUPPORT_CELLS), np.float32)

    def show(begin: int, end: int) -> None:
        _show(charts[begin:end], hits, passes, support, shown[begin:end])

    in_parts(show, len(charts), _LEAST_PART)
    return shown


def settle_cells(
    charts: npt.NDArray[np.int64],
    observations: npt.NDArray[np.float32],
    support: npt.NDArray[np.uint8],
    hits: npt.NDArray[np.uint8],
    passes: npt.NDArray[np.uint8],
) -> npt.NDArray[np.bool_]:
    """Move the votes of fitted charts (K,) to where their evidence (K, 16, 16) is now.

    What was counted stands where there still is evidence, and in its gaps. A cell that had none lay
    anywhere; now it has a place: these cells are returned, (K, 16, 16).
    """
    is_new = np.empty((len(charts), SUPPORT_CELLS, SUPPORT_CELLS), np.bool_)

    def settle(begin: int, end: int) -> None:
        _settle(charts[begin:end], observations[begin:end], support, hits, passes, is_new[begin:end])

    in_parts(settle, len(charts), _LEAST_PART)
    return is_new


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
    middle, size2 = np.empty((SUPPORT_CELLS, SUPPORT_CELLS, 3), np.float32), np.empty(followed.shape[1:])
    for c in range(points.shape[0]):
        raster = raster_at(raster_addresses[c])
        for a in range(SUPPORT_CELLS):
            for b in range(SUPPORT_CELLS):
                x, y = 2 * a + 1, 2 * b + 1
                wide2 = long2 = 0.0
                for k in range(3):
                    middle[a, b, k] = raster[x, y, k]
                    # The cell's own size: on slopes it is larger than its shadow.
                    wide2 += (raster[x + 1, y, k] - raster[x - 1, y, k]) ** 2
                    long2 += (raster[x, y + 1, k] - raster[x, y - 1, k]) ** 2
                size2[a, b] = max(wide2, long2, cell * cell)
        for r in range(points.shape[1]):
            if not weights[c, r] > 0.0:
                continue
            p0, p1, p2 = points[c, r, 0], points[c, r, 1], points[c, r, 2]
            noise2 = 1.0 / weights[c, r]
            i = int(np.floor((p0 + 1.0) / cell))
            j = int(np.floor((p1 + 1.0) / cell))
            for a in range(max(i - 1, 0), min(i + 2, SUPPORT_CELLS)):
                for b in range(max(j - 1, 0), min(j + 2, SUPPORT_CELLS)):
                    gap2 = 0.0
                    gap2 += (p0 - middle[a, b, 0]) ** 2
                    gap2 += (p1 - middle[a, b, 1]) ** 2
                    gap2 += (p2 - middle[a, b, 2]) ** 2
                    followed[c, a, b] |= gap2 <= size2[a, b] + noise2


@njit(cache=True, nogil=True, error_model="numpy")
def _close(values: Any, rows: Any, grown: Any) -> None:
    """Morphological closing of values (16, 16) > 0 by the diamond of two cells; beyond the border is empty.

    Every row of cells is a word, padded on all sides, and a step of the dilation five shifts and ors.
    """
    wide = rows.shape[0]
    every = np.uint64((1 << wide) - 1)
    rows[:] = np.uint64(0)
    for i in range(SUPPORT_CELLS):
        for j in range(SUPPORT_CELLS):
            if values[i, j] > 0:
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


@njit(cache=True, nogil=True, error_model="numpy")
def _show(charts: Any, hits: Any, passes: Any, support: Any, shown: Any) -> None:
    rows, grown = np.empty(_WIDE, np.uint64), np.empty(_WIDE, np.uint64)
    for row in range(charts.shape[0]):
        c = charts[row]
        _close(hits[c], rows, grown)
        for i in range(SUPPORT_CELLS):
            for j in range(SUPPORT_CELLS):
                h, p = int(hits[c, i, j]), int(passes[c, i, j])
                level = 0
                if h > 0:
                    level = max(int(np.rint(255.0 * (h / (h + against(h, p))))), 1)
                elif p <= _MOST_PASSES_OF_FILLED and rows[i + _PAD] >> np.uint64(j + _PAD) & np.uint64(1):
                    level = 255
                elif p > 0:
                    level = 1
                support[c, i, j] = level
                shown[row, i, j] = np.float32(level) / np.float32(255.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _settle(charts: Any, observations: Any, support: Any, hits: Any, passes: Any, is_new: Any) -> None:
    rows, grown = np.empty(_WIDE, np.uint64), np.empty(_WIDE, np.uint64)
    for row in range(charts.shape[0]):
        c = charts[row]
        _close(observations[row], rows, grown)
        for i in range(SUPPORT_CELLS):
            for j in range(SUPPORT_CELLS):
                is_settled = rows[i + _PAD] >> np.uint64(j + _PAD) & np.uint64(1) > 0
                is_new[row, i, j] = is_settled and support[c, i, j] == 0 and passes[c, i, j] == 0
                if observations[row, i, j] > 0.0:
                    hits[c, i, j] = max(hits[c, i, j], np.uint8(1))
                elif not is_settled:
                    hits[c, i, j] = 0
                if not is_settled:
                    passes[c, i, j] = 0
