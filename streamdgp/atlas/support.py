"""Support of a chart: the part of its domain that evidence backs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.atlas.free_cells import PASS_WEIGHT

__all__ = ["closed_cells", "support_masks"]

_CLOSING_CELLS = 2
_LEAST_SHARE = 0.2
# One judgement alone opens no hole.
_MOST_PASSES_OF_FILLED = 2


def support_masks(hits: npt.NDArray[Any], passes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """How far the cells are surface, (C, 16, 16) in 255ths, from hits and passes per cell.

    A sparse first view leaves cells between samples empty; closing by two cells fills them without
    moving the outer boundary, but for cells that rays passed through.
    """
    share = hits / np.maximum(hits + PASS_WEIGHT * passes, 1e-9)
    is_filled = closed_cells(share > _LEAST_SHARE) & (hits == 0) & (passes <= _MOST_PASSES_OF_FILLED)
    solid = np.where(is_filled, 1.0, np.where(share > _LEAST_SHARE, share, 0.0))
    masks: npt.NDArray[np.uint8] = np.rint(255 * solid).astype(np.uint8)
    return masks


def closed_cells(solid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Morphological closing of (C, 16, 16) by two cells."""
    pad = _CLOSING_CELLS + 1
    padded = np.pad(solid, ((0, 0), (pad, pad), (pad, pad)))
    return (~_dilated(~_dilated(padded)))[:, pad:-pad, pad:-pad]


def _dilated(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Dilation of (C, n, n) by the diamond of two cells; beyond the border is empty, all masks at once."""
    grown = masks
    for _ in range(_CLOSING_CELLS):
        wider = grown.copy()
        wider[:, 1:] |= grown[:, :-1]
        wider[:, :-1] |= grown[:, 1:]
        wider[:, :, 1:] |= grown[:, :, :-1]
        wider[:, :, :-1] |= grown[:, :, 1:]
        grown = wider
    return grown
