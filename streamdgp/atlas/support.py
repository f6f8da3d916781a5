"""Support of a chart: the part of its domain that evidence backs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["support_masks"]

_CLOSING_CELLS = 2


def support_masks(observations: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Masks (C, 16, 16) uint8 of the cells with evidence, small gaps between samples closed.

    A sparse first view leaves cells between samples empty; closing by two cells fills them without
    moving the outer boundary.
    """
    pad = _CLOSING_CELLS + 1
    backed = np.pad(observations > 0, ((0, 0), (pad, pad), (pad, pad)))
    closed = ~_dilated(~_dilated(backed))
    return closed[:, pad:-pad, pad:-pad].astype(np.uint8)


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
