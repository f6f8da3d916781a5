"""Many arrays, one kernel call: compiled code reads rasters and supports where they lie.

Charts' rasters lie in slots that are never written while a snapshot sees them, so those of some charts
lie anywhere. A kernel over thousands of charts would have to copy them together first, under the
interpreter's lock; it takes their addresses instead. The caller keeps the arrays alive during the call
(``streamdgp.memory``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from streamdgp.fitting.raster import RASTER

__all__ = ["raster_at", "support_mask_at"]

_SUPPORT = 16


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@njit(cache=True, nogil=True, inline="always")
def raster_at(address: int) -> Any:
    """The (33, 33, 3) float32 raster at an address."""
    return carray(_pointer(address), (RASTER, RASTER, 3), np.float32)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, inline="always")
def support_mask_at(address: int) -> Any:
    """The (16, 16) float32 support mask at an address."""
    return carray(_pointer(address), (_SUPPORT, _SUPPORT), np.float32)  # type: ignore[call-arg]
