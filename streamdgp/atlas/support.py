"""Support of a chart: the part of its domain that evidence backs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["support_masks"]

_CLOSING_CELLS = 2


def support_masks(observations: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Masks (C, 16, 16) uint8 of the cells with evidence, small gaps between samples closed.

    A sparse first view leaves cells between samples empty; closing by two cells fills them without
    moving the outer boundary.
    """
    backed = observations > 0
    pad = _CLOSING_CELLS + 1
    padded = np.pad(backed, ((0, 0), (pad, pad), (pad, pad)))
    element = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), _CLOSING_CELLS)[None]
    closed: npt.NDArray[np.bool_] = ndimage.binary_closing(padded, element)[:, pad:-pad, pad:-pad]
    return closed.astype(np.uint8)
