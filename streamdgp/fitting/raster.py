"""Charts as rasters: phi on a fixed lattice of V, bilinear in between.

With shared hidden layers a raster costs one small matrix product, and everything geometric (foot
points, distances, normals) becomes a table look-up instead of a network evaluation. The lattice
spacing is scale / 16: for a surface of curvature k the bilinear error is at most
k * (scale / 16)^2 / 8 (a few micrometres for centimetre radii).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit

__all__ = ["RASTER", "foot_on_raster", "project_on_rasters", "raster_lattice"]

RASTER = 33
_HALF = (RASTER - 1) / 2


def raster_lattice(device: torch.device | str = "cpu") -> torch.Tensor:
    """Lattice points of V = [-1, 1]^2: (33 * 33, 2) float32, first coordinate slow."""
    axis = torch.linspace(-1, 1, RASTER, device=device)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


@njit(cache=True, nogil=True, error_model="numpy")
def foot_on_raster(raster: Any, y: Any, v: Any, out: Any, steps: int) -> float:
    """Gauss-Newton foot point of ``y`` on a raster, from ``v``.

    out = [phi (3), dphi/dv0 (3), dphi/dv1 (3)] at the final ``v`` (in place). Outside V the chart
    continues along its last cell. Returns the squared distance.
    """
    for step in range(steps + 1):
        a = (v[0] + 1.0) * _HALF
        b = (v[1] + 1.0) * _HALF
        i = min(max(int(np.floor(a)), 0), RASTER - 2)
        j = min(max(int(np.floor(b)), 0), RASTER - 2)
        a -= i
        b -= j
        d2 = 0.0
        g0 = g1 = h00 = h01 = h11 = 0.0
        for k in range(3):
            p00 = raster[i, j, k]
            p01 = raster[i, j + 1, k]
            p10 = raster[i + 1, j, k]
            p11 = raster[i + 1, j + 1, k]
            low = p00 + b * (p01 - p00)
            high = p10 + b * (p11 - p10)
            phi = low + a * (high - low)
            d0 = (high - low) * _HALF
            d1 = ((p01 - p00) + a * ((p11 - p10) - (p01 - p00))) * _HALF
            out[k] = phi
            out[3 + k] = d0
            out[6 + k] = d1
            e = y[k] - phi
            d2 += e * e
            g0 += d0 * e
            g1 += d1 * e
            h00 += d0 * d0
            h01 += d0 * d1
            h11 += d1 * d1
        if step == steps:
            return d2
        ridge = 1e-6 * (h00 + h11) + 1e-12
        h00 += ridge
        h11 += ridge
        det = h00 * h11 - h01 * h01
        s0 = (h11 * g0 - h01 * g1) / det
        s1 = (h00 * g1 - h01 * g0) / det
        length = np.sqrt(s0 * s0 + s1 * s1)
        if length > 0.25:
            s0 *= 0.25 / length
            s1 *= 0.25 / length
        v[0] = min(max(v[0] + s0, -1.3), 1.3)
        v[1] = min(max(v[1] + s1, -1.3), 1.3)
        if length < 1e-5:
            steps = step + 1
    return d2


@njit(cache=True, nogil=True, error_model="numpy")
def project_on_rasters(rasters: Any, points: Any, weights: Any, feet: Any, distance: Any) -> None:
    """Foot points of the rows of every chart: coarse search on the raster, then Gauss-Newton.

    rasters (C, 33, 33, 3), points (C, N, 3), weights (C, N; 0 = padding), outputs feet (C, N, 2),
    signed normal distance (C, N), chart units.
    """
    y = np.empty(3)
    v = np.empty(2)
    out = np.empty(9)
    stride = 4
    for c in range(points.shape[0]):
        raster = rasters[c]
        for r in range(points.shape[1]):
            if weights[c, r] <= 0.0:
                feet[c, r, 0] = 0.0
                feet[c, r, 1] = 0.0
                distance[c, r] = 0.0
                continue
            for k in range(3):
                y[k] = points[c, r, k]
            best = 1e30
            for i in range(0, RASTER, stride):
                for j in range(0, RASTER, stride):
                    d = 0.0
                    for k in range(3):
                        e = y[k] - raster[i, j, k]
                        d += e * e
                    if d < best:
                        best = d
                        v[0] = i / _HALF - 1.0
                        v[1] = j / _HALF - 1.0
            foot_on_raster(raster, y, v, out, 4)
            feet[c, r, 0] = v[0]
            feet[c, r, 1] = v[1]
            nx = out[4] * out[8] - out[5] * out[7]
            ny = out[5] * out[6] - out[3] * out[8]
            nz = out[3] * out[7] - out[4] * out[6]
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-30
            distance[c, r] = ((y[0] - out[0]) * nx + (y[1] - out[1]) * ny + (y[2] - out[2]) * nz) / length
