"""Charts on the lattice of V: what is shown is summed from features that were looked up there once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from streamdgp.fitting.raster import RASTER

__all__ = ["AFFINE", "raster_of_chart", "rasters_of_charts"]

AFFINE = 3
"""The first coefficients of a chart are of v0, v1 and 1; those of the features follow."""
_HALF = (RASTER - 1) / 2


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _column(coefficients: Any, g: int, k: int) -> Any:
    return (
        np.float32(coefficients[g, k]),
        np.float32(coefficients[g + 1, k]),
        np.float32(coefficients[g + 2, k]),
        np.float32(coefficients[g + 3, k]),
    )


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def raster_of_chart(lattice: Any, coefficients: Any, planes: Any, raster: Any) -> None:
    """phi on the lattice (3267,) from coefficients (3 + m, 3); ``planes`` (3, 1089) is scratch."""
    x, y, z = planes[0], planes[1], planes[2]
    for i in range(RASTER):
        u = np.float32(i / _HALF - 1.0)
        for j in range(RASTER):
            v = np.float32(j / _HALF - 1.0)
            for k in range(3):
                planes[k, RASTER * i + j] = (
                    u * coefficients[0, k] + v * coefficients[1, k] + coefficients[2, k]
                )
    # Four features at a time: sums are read and written as seldom, and their order stays that of features.
    whole = lattice.shape[0] // 4 * 4
    for f in range(0, whole, 4):
        psi0, psi1, psi2, psi3 = lattice[f], lattice[f + 1], lattice[f + 2], lattice[f + 3]
        g = AFFINE + f
        x0, x1, x2, x3 = _column(coefficients, g, 0)
        y0, y1, y2, y3 = _column(coefficients, g, 1)
        z0, z1, z2, z3 = _column(coefficients, g, 2)
        for p in range(RASTER * RASTER):
            x[p] = x[p] + x0 * psi0[p] + x1 * psi1[p] + x2 * psi2[p] + x3 * psi3[p]
            y[p] = y[p] + y0 * psi0[p] + y1 * psi1[p] + y2 * psi2[p] + y3 * psi3[p]
            z[p] = z[p] + z0 * psi0[p] + z1 * psi1[p] + z2 * psi2[p] + z3 * psi3[p]
    for f in range(whole, lattice.shape[0]):
        psi, g = lattice[f], AFFINE + f
        x0, y0, z0 = (
            np.float32(coefficients[g, 0]),
            np.float32(coefficients[g, 1]),
            np.float32(coefficients[g, 2]),
        )
        for p in range(RASTER * RASTER):
            x[p] += x0 * psi[p]
            y[p] += y0 * psi[p]
            z[p] += z0 * psi[p]
    for p in range(RASTER * RASTER):
        raster[3 * p] = x[p]
        raster[3 * p + 1] = y[p]
        raster[3 * p + 2] = z[p]


@njit(cache=True, nogil=True, error_model="numpy")
def rasters_of_charts(lattice: Any, coefficients: Any, rasters: Any) -> None:
    """phi of every chart on the lattice: features there (m, 1089), (C, 3 + m, 3) to (C, 33, 33, 3)."""
    planes = np.empty((3, RASTER * RASTER), np.float32)
    for chart in range(coefficients.shape[0]):
        raster_of_chart(lattice, coefficients[chart], planes, rasters[chart].reshape(-1))
