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

__all__ = ["RASTER", "foot_on_raster", "over_tangent_plane", "project_on_rasters", "raster_lattice"]

RASTER = 33
_HALF = (RASTER - 1) / 2


def raster_lattice(device: torch.device | str = "cpu") -> torch.Tensor:
    """Lattice points of V = [-1, 1]^2: (33 * 33, 2) float32, first coordinate slow."""
    axis = torch.linspace(-1, 1, RASTER, device=device)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def foot_on_raster(raster: Any, y: Any, v: Any, out: Any, steps: int) -> float:
    """Gauss-Newton foot point of ``y`` on a raster, from ``v``.

    out = [phi (3), dphi/dv0 (3), dphi/dv1 (3)] at the final ``v`` (in place). Outside V the chart
    continues along its last cell. Returns the squared distance. The three coordinates are written out:
    everything stays in registers, and this is where most of the time of a query goes.
    """
    u, w = v[0], v[1]
    y0, y1, y2 = y[0], y[1], y[2]
    step = 0
    while True:
        a = (u + 1.0) * _HALF
        b = (w + 1.0) * _HALF
        i = min(max(int(np.floor(a)), 0), RASTER - 2)
        j = min(max(int(np.floor(b)), 0), RASTER - 2)
        a -= i
        b -= j
        p, q = raster[i, j, 0], raster[i + 1, j, 0]
        r, s = raster[i, j + 1, 0] - p, raster[i + 1, j + 1, 0] - q
        low = p + b * r
        d00 = q + b * s - low
        x0 = low + a * d00
        d00 *= _HALF
        d10 = (r + a * (s - r)) * _HALF
        p, q = raster[i, j, 1], raster[i + 1, j, 1]
        r, s = raster[i, j + 1, 1] - p, raster[i + 1, j + 1, 1] - q
        low = p + b * r
        d01 = q + b * s - low
        x1 = low + a * d01
        d01 *= _HALF
        d11 = (r + a * (s - r)) * _HALF
        p, q = raster[i, j, 2], raster[i + 1, j, 2]
        r, s = raster[i, j + 1, 2] - p, raster[i + 1, j + 1, 2] - q
        low = p + b * r
        d02 = q + b * s - low
        x2 = low + a * d02
        d02 *= _HALF
        d12 = (r + a * (s - r)) * _HALF
        e0, e1, e2 = y0 - x0, y1 - x1, y2 - x2
        if step >= steps:
            break
        step += 1
        g0 = d00 * e0 + d01 * e1 + d02 * e2
        g1 = d10 * e0 + d11 * e1 + d12 * e2
        h00 = d00 * d00 + d01 * d01 + d02 * d02
        h01 = d00 * d10 + d01 * d11 + d02 * d12
        h11 = d10 * d10 + d11 * d11 + d12 * d12
        ridge = 1e-6 * (h00 + h11) + 1e-12
        h00 += ridge
        h11 += ridge
        inverse = 1.0 / (h00 * h11 - h01 * h01)
        s0 = (h11 * g0 - h01 * g1) * inverse
        s1 = (h00 * g1 - h01 * g0) * inverse
        length2 = s0 * s0 + s1 * s1
        if length2 > 0.0625:
            shorter = 0.25 / np.sqrt(length2)
            s0 *= shorter
            s1 *= shorter
        u = min(max(u + s0, -1.3), 1.3)
        w = min(max(w + s1, -1.3), 1.3)
        if length2 < 1e-10:
            steps = step
    v[0], v[1] = u, w
    out[0], out[1], out[2] = x0, x1, x2
    out[3], out[4], out[5] = d00, d01, d02
    out[6], out[7], out[8] = d10, d11, d12
    distance2: float = e0 * e0 + e1 * e1 + e2 * e2
    return distance2


@njit(cache=True, nogil=True, error_model="numpy")
def project_on_rasters(
    rasters: Any, points: Any, weights: Any, feet: Any, distance: Any, start: Any = None
) -> None:
    """Foot points of the rows of every chart: coarse search on the raster, then Gauss-Newton.

    rasters (C, 33, 33, 3), points (C, N, 3), weights (C, N; 0 = padding), outputs feet (C, N, 2),
    signed normal distance (C, N), chart units. ``start`` (C, N, 2) saves the search where it is not NaN.
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
            if start is not None and not np.isnan(start[c, r, 0]):
                v[0], v[1] = start[c, r, 0], start[c, r, 1]
                best = 0.0
            for i in range(0, RASTER if best > 0.0 else 0, stride):
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


@njit(cache=True, nogil=True, error_model="numpy")
def over_tangent_plane(
    rasters: Any, feet: Any, weights: Any, steep_cos: float, over: Any, steep: Any
) -> None:
    """Tangential coordinates of phi at the feet of the rows: over (C, N, 2); steep (C, N) uint8 where the
    chart's normal leans further from its third axis than ``steep_cos``. Padding is left alone.
    """
    y = np.zeros(3)
    v = np.empty(2)
    out = np.empty(9)
    for c in range(feet.shape[0]):
        for r in range(feet.shape[1]):
            if weights[c, r] <= 0.0:
                continue
            v[0] = feet[c, r, 0]
            v[1] = feet[c, r, 1]
            foot_on_raster(rasters[c], y, v, out, 0)
            over[c, r, 0] = out[0]
            over[c, r, 1] = out[1]
            n0 = out[4] * out[8] - out[5] * out[7]
            n1 = out[5] * out[6] - out[3] * out[8]
            n2 = out[3] * out[7] - out[4] * out[6]
            steep[c, r] = n2 < steep_cos * np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
