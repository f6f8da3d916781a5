"""Normals of organised measurements: a robust plane through each cell's window.

A plane n.X = k seen from the sensor satisfies n.d = k / z for the ray d and the depth z along it.
With neighbours expressed in a local pinhole camera that looks along the cell's own ray, d is
(1, x, y) and 1/z is *affine* in (x, y): a 3x3 weighted least squares, exact at any slant. Further
passes keep only the window cells that lie on the plane, so the two sides of an edge do not mix. Where
they do, they scatter about their plane by more than the noise; then fewer neighbours are considered,
closer in depth to the cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.parts import in_parts

__all__ = ["WindowPlanes", "spread_normals"]

_MAX_RADIUS = 15
_NOISE_WIDTHS = np.float32(4.0)
# A plane explains its neighbours when they scatter about it by at most this variance, in sigma^2.
_NOISE_VARIANCES = np.float32(1.2)
# Cells within so many sigma of the planes about them have the normal between theirs.
_SHARED_WIDTHS = np.float32(3.0)
# More than any spread, m^2; infinity is not for fast arithmetic.
_NO_SPREAD = np.float32(1e30)
_NONE, _ONE = np.float32(0.0), np.float32(1.0)
# A window in a scratch, row by row at constant distances, which is how the compiler knows that nothing
# overlaps: ranges and rays of its cells, then their places in the local camera and what planes are fitted to.
_MAX_CELLS = 128  # 11 x 11 of a radius of 5 are the most, in whole registers
_RANGE, _RAY, _X, _Y, _D, _PER_D, _AWAY, _OFF, _WEIGHT, _END = (
    _MAX_CELLS * k for k in (0, 1, 4, 5, 6, 7, 8, 9, 10, 11)
)  # fmt: skip
_WIDE = 16
# The cells that a pass is for.
_ALL, _NODES, _OTHERS = 0, 1, 2


@njit(cache=True, nogil=True, error_model="numpy")
def _copy_window(ranges: Any, rays: Any, i: int, j: int, radius: int, step: int, wrap: bool, s: Any) -> int:
    """Ranges and rays of the window about cell (i, j); the number of its cells, filled up with empty ones."""
    height, width = ranges.shape
    first, last = j - radius, j + radius
    if not wrap:
        first += max(0, (step - 1 - first) // step) * step
        last = min(last, width - 1)
    count = 0
    for ii in range(i - radius, i + radius + 1, step):
        if ii < 0 or ii >= height:
            continue
        for jj in range(first, last + 1, step):
            column = jj % width if wrap else jj
            s[_RANGE + count] = ranges[ii, column]
            s[_RAY + count] = rays[ii, column, 0]
            s[_RAY + _MAX_CELLS + count] = rays[ii, column, 1]
            s[_RAY + 2 * _MAX_CELLS + count] = rays[ii, column, 2]
            count += 1
    whole = (count + _WIDE - 1) // _WIDE * _WIDE
    for k in range(count, whole):
        s[_RANGE + k] = _NONE
    return whole


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _place(s: Any, count: int, c: Any, e1: Any, e2: Any, t0: Any) -> Any:
    """Put the cells of a window into the camera (e1, e2, c) about a range t0; how many have a range.

    x, y and the inverse depth as t0 / z - 1, so that single precision does; the depth error that explains
    an error of it to first order, over that error; the distance from t0 and, for each metre of it, the
    lateral one.
    """
    possible = _NONE
    for k in range(count):
        t = s[_RANGE + k]
        ux, uy, uz = s[_RAY + k], s[_RAY + _MAX_CELLS + k], s[_RAY + 2 * _MAX_CELLS + k]
        along = ux * c[0] + uy * c[1] + uz * c[2]
        is_seen = t > _NONE
        possible += _ONE if is_seen else _NONE
        is_usable = is_seen and along >= np.float32(0.2)
        along = along if is_usable else _ONE
        z = t * along if is_usable else t0
        x = (ux * e1[0] + uy * e1[1] + uz * e1[2]) / along
        y = (ux * e2[0] + uy * e2[1] + uz * e2[2]) / along
        s[_X + k] = x
        s[_Y + k] = y
        s[_D + k] = (t0 - z) / z
        s[_PER_D + k] = z * z / t0
        s[_AWAY + k] = abs(z - t0) if is_usable else _NO_SPREAD
        s[_OFF + k] = t0 * np.sqrt(x * x + y * y)
    return possible


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _consider(s: Any, count: int, slope: Any, sigma: Any) -> Any:
    """Weights 1 of the cells within a slope of the window's middle, 0 of others; how many there are."""
    considered = _NONE
    for k in range(count):
        w = _ONE if s[_AWAY + k] <= slope * s[_OFF + k] + np.float32(4.0) * sigma else _NONE
        s[_WEIGHT + k] = w
        considered += w
    return considered


@njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")
def _fit_plane(s: Any, count: int, least: Any, sigma: Any) -> Any:
    """Robust inverse-depth plane (alpha, beta, gamma) of a window, t0 / z - 1 = alpha + beta x + gamma y.

    Four passes, the later ones over those within 6, 3 and 3 sigma of the plane before. Returns the mean
    square about it as well, _NO_SPREAD when fewer than ``least`` cells are on one plane.
    """
    alpha = beta = gamma = _NONE
    rss, n = _NONE, _ONE
    for attempt in range(4):
        gate = np.float32(3.0) * sigma
        if attempt < 2:
            gate = np.float32(6.0) * sigma if attempt == 1 else _NO_SPREAD
        n = rss = sx = sy = sd = sxx = sxy = syy = sxd = syd = _NONE
        # No branch inside: the compiler makes vectors of it.
        for k in range(count):
            x, y, d = s[_X + k], s[_Y + k], s[_D + k]
            e = (d - alpha - beta * x - gamma * y) * s[_PER_D + k]
            w = s[_WEIGHT + k] if abs(e) <= gate else _NONE
            wx, wy, wd = w * x, w * y, w * d
            n += w
            rss += w * e * e
            sx += wx
            sy += wy
            sd += wd
            sxx += wx * x
            sxy += wx * y
            syy += wy * y
            sxd += wx * d
            syd += wy * d
        if n < least:
            return alpha, beta, gamma, _NO_SPREAD
        mx, my, md = sx / n, sy / n, sd / n
        vxx = sxx / n - mx * mx
        vxy = sxy / n - mx * my
        vyy = syy / n - my * my
        vxd = sxd / n - mx * md
        vyd = syd / n - my * md
        det = vxx * vyy - vxy * vxy
        trace = vxx + vyy
        # Samples along one line say nothing across it.
        if not (det > np.float32(0.01) * trace * trace):
            return alpha, beta, gamma, _NO_SPREAD
        beta = (vyy * vxd - vxy * vyd) / det
        gamma = (vxx * vyd - vxy * vxd) / det
        alpha = md - beta * mx - gamma * my
    return alpha, beta, gamma, rss / max(n - np.float32(3.0), _ONE)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _off_plane(normals: Any, ranges: Any, rays: Any, a: int, b: int, i: int, j: int) -> Any:
    """Distance of cell (i, j) from the plane of cell (a, b), metres."""
    off = _NONE
    for k in range(3):
        off += normals[a, b, k] * (ranges[i, j] * rays[i, j, k] - ranges[a, b] * rays[a, b, k])
    return off


@njit(cache=True, nogil=True, error_model="numpy")
def _between_nodes(
    ranges: Any, rays: Any, sigma: Any, i: int, j: int, stride: int, normals: Any, residual: Any
) -> bool:
    """Interpolate the normal of cell (i, j) between the nodes about it; False where that would not do.

    Nodes are every second fitted cell of every second row. All that count have to lie on planes that explain
    their windows, and the cell on each of these.
    """
    height, width = ranges.shape
    row, column = i // stride % 2, j // stride % 2
    nx = ny = nz = most = _NONE
    for corner in range(4):
        down, right = corner // 2, corner % 2
        # In between two rows or columns both count, on one of them it alone.
        if down > row or right > column:
            continue
        a = i + (2 * down - row) * stride
        b = j + (2 * right - column) * stride
        if a >= height or b >= width or residual[a, b] <= _NONE:
            return False
        if residual[a, b] * residual[a, b] > _NOISE_VARIANCES * sigma[a, b] * sigma[a, b]:
            return False
        if abs(_off_plane(normals, ranges, rays, a, b, i, j)) > _SHARED_WIDTHS * sigma[i, j]:
            return False
        nx += normals[a, b, 0]
        ny += normals[a, b, 1]
        nz += normals[a, b, 2]
        most = max(most, residual[a, b])
    norm = np.sqrt(nx * nx + ny * ny + nz * nz)
    if not (norm > _NONE):
        return False
    normals[i, j, 0], normals[i, j, 1], normals[i, j, 2] = nx / norm, ny / norm, nz / norm
    residual[i, j] = most
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _window_normals(
    ranges: Any,
    rays: Any,
    sigma: Any,
    min_radius: int,
    cell_rad: float,
    stride: int,
    which: int,
    slopes: Any,
    wrap: bool,
    row0: int,
    row1: int,
    normals: Any,
    residual: Any,
) -> None:
    s = np.zeros(_END, np.float32)
    c, e1, e2 = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    for i in range(row0 + (-row0) % stride, row1, stride):
        for j in range(0, ranges.shape[1], stride):
            t0, s0 = ranges[i, j], sigma[i, j]
            if t0 <= _NONE:
                continue
            if which != _ALL:
                is_node = i // stride % 2 == 0 and j // stride % 2 == 0
                if is_node != (which == _NODES):
                    continue
                if not is_node and _between_nodes(ranges, rays, sigma, i, j, stride, normals, residual):
                    continue
            # Wide enough that the noise does not tilt the plane, in about 7 x 7 cells.
            radius = min_radius
            if cell_rad > 0.0:
                radius = min(max(min_radius, int(_NOISE_WIDTHS * s0 / (t0 * cell_rad))), _MAX_RADIUS)
            # Basis (e1, e2) orthogonal to the cell's ray c.
            c[:] = rays[i, j]
            if abs(c[0]) < 0.7:
                e1[0], e1[1], e1[2] = _NONE, c[2], -c[1]
            else:
                e1[0], e1[1], e1[2] = -c[2], _NONE, c[0]
            norm = np.sqrt(e1[0] * e1[0] + e1[1] * e1[1] + e1[2] * e1[2])
            for k in range(3):
                e1[k] /= norm
            e2[0] = c[1] * e1[2] - c[2] * e1[1]
            e2[1] = c[2] * e1[0] - c[0] * e1[2]
            e2[2] = c[0] * e1[1] - c[1] * e1[0]
            count = _copy_window(ranges, rays, i, j, radius, max(1, radius // 3), wrap, s)
            least = max(np.float32(6.0), np.float32(0.25) * _place(s, count, c, e1, e2, t0))
            least_spread = _NO_SPREAD
            px = py = pz = _NONE
            for attempt in range(slopes.shape[0]):
                if _consider(s, count, slopes[attempt], s0) < least:
                    continue
                alpha, beta, gamma, spread = _fit_plane(s, count, least, s0)
                if spread >= _NO_SPREAD or abs(alpha) * t0 > np.float32(4.0) * s0:
                    continue
                if spread < least_spread:
                    least_spread = spread
                    # n.d = k / z > 0 along the ray, so -n faces the sensor.
                    px = -((_ONE + alpha) * c[0] + beta * e1[0] + gamma * e2[0])
                    py = -((_ONE + alpha) * c[1] + beta * e1[1] + gamma * e2[1])
                    pz = -((_ONE + alpha) * c[2] + beta * e1[2] + gamma * e2[2])
                if attempt > 0 or spread <= _NOISE_VARIANCES * s0 * s0:
                    break
            norm = np.sqrt(px * px + py * py + pz * pz)
            if not (norm > _NONE):
                continue
            normals[i, j, 0], normals[i, j, 1], normals[i, j, 2] = px / norm, py / norm, pz / norm
            residual[i, j] = np.sqrt(least_spread)


@njit(cache=True, nogil=True, error_model="numpy")
def _spread_normals(
    ranges: Any, rays: Any, sigma: Any, stride: int, row0: int, row1: int, normals: Any
) -> None:
    """Give every cell the normal of its stride block's first cell, if it lies on that plane."""
    width = ranges.shape[1]
    for i in range(row0, row1):
        a = i - i % stride
        for j in range(width):
            b = j - j % stride
            if (a == i and b == j) or ranges[i, j] <= 0.0:
                continue
            if abs(_off_plane(normals, ranges, rays, a, b, i, j)) <= np.float32(4.0) * sigma[i, j]:
                for k in range(3):
                    normals[i, j, k] = normals[a, b, k]


class WindowPlanes:
    """Planes through the windows of cells: those of nodes first, all others when they are asked for.

    Nodes are every second cell of every second row, of those that planes are fitted at.

    Parameters
    ----------
    ranges_m
        (H, W) distance along the unit ray; 0 = no return.
    rays
        (H, W, 3) unit directions, sensor frame.
    sigma_m
        (H, W) noise of the ranges.
    radius
        Smallest half size of the window in cells.
    cell_rad
        Angle between cells; if given, windows grow to four standard deviations of the noise.
    stride
        Fit a plane at every ``stride``-th cell of every ``stride``-th row; the others get none.
    slopes
        A neighbour whose depth differs by more than ``slope * lateral distance + 4 sigma`` is not
        considered; the next is tried where the first finds no plane that explains them, or those
        before none at all.
    wrap
        Columns are periodic (a spinning sensor).

    Attributes
    ----------
    normals
        (H, W, 3) float32 towards the sensor, so far; a zero marks a cell without one.
    residual
        (H, W) float32 rms range residual, metres.
    """

    def __init__(
        self,
        ranges_m: npt.NDArray[np.float32],
        rays: npt.NDArray[np.float32],
        sigma_m: npt.NDArray[np.float32],
        *,
        radius: int,
        cell_rad: float = 0.0,
        stride: int = 1,
        slopes: tuple[float, ...] = (4.0,),
        wrap: bool = False,
    ) -> None:
        height, width = ranges_m.shape
        self.normals = np.zeros((height, width, 3), np.float32)
        self.residual = np.zeros((height, width), np.float32)
        self._ranges, self._rays, self._sigma = (
            np.ascontiguousarray(x, np.float32) for x in (ranges_m, rays, sigma_m)
        )
        self._radius, self._cell_rad, self._stride = radius, cell_rad, stride
        self._slopes, self._wrap = np.asarray(slopes, np.float32), wrap

    def fit_all(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Fit a plane at every cell; returns normals and residuals."""
        self._fit(_ALL)
        return self.normals, self.residual

    def fit_nodes(self) -> None:
        """Fit planes at nodes."""
        self._fit(_NODES)

    def fit_others(self) -> None:
        """After the nodes: cells between take the mean normal of the two or four nearest, or are fitted.

        The mean where they lie on these planes, which explain their windows: they have most cells in common.
        """
        self._fit(_OTHERS)

    def _fit(self, which: int) -> None:
        height, stride = len(self.residual), self._stride

        def band(begin: int, end: int) -> None:
            rows = (begin * stride, min(end * stride, height))
            _window_normals(
                self._ranges, self._rays, self._sigma, self._radius, self._cell_rad, stride, which,
                self._slopes, self._wrap, *rows, self.normals, self.residual,
            )  # fmt: skip

        in_parts(band, -(-height // stride))


def spread_normals(
    ranges_m: npt.NDArray[np.float32],
    rays: npt.NDArray[np.float32],
    sigma_m: npt.NDArray[np.float32],
    normals: npt.NDArray[np.float32],
    stride: int,
) -> npt.NDArray[np.float32]:
    """Return normals (H, W, 3) where every ``stride``-th cell of every such row had one before.

    Cells between take the normal of the first cell of their block when they lie on its plane within 4 sigma.
    The other arrays are those that ``WindowPlanes`` was given.
    """
    height = len(ranges_m)
    spread = normals.copy()

    def band(begin: int, end: int) -> None:
        # Bands start at a multiple of the stride, so a block never spans two of them.
        rows = (begin * stride, min(end * stride, height))
        _spread_normals(ranges_m, rays, sigma_m, stride, *rows, spread)

    if stride > 1:
        in_parts(band, -(-height // stride))
    return spread
