"""Poisson-disk samples of the parameter domain V (section 3.1 of the Deep Geometric Prior).

The samples are found by sample elimination (Yuksel 2015): draw many uniform candidates, then drop
the most crowded one again and again until the wanted number is left. That gives blue noise of an
exact count, which dart throwing cannot promise. Elimination runs on a torus: on a bounded domain
the samples would crowd at the boundary (measured: 54 % instead of 51 % in the outer 0.3).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from streamdgp.errors import InvalidInputError

__all__ = ["DomainShape", "poisson_disk_domain"]

DomainShape = Literal["disk", "square"]

_CANDIDATES_PER_SAMPLE = 5
_MAX_COUNT = 4096
_DISK_MARGIN = 1.2


def poisson_disk_domain(count: int, seed: int = 0, shape: DomainShape = "disk") -> NDArray[np.float32]:
    """Blue-noise samples of the unit disk or of the square (-1, 1)^2.

    A patch lies in the unit ball of its chart frame and V starts as its tangent plane, so the unit
    disk is the part of V that evidence can back; the square is all of V.

    Parameters
    ----------
    count
        Exact number of samples, 1 to 4096.
    seed
        Same count, seed and shape give the same samples.
    shape
        ``"disk"`` or ``"square"``.

    Returns
    -------
    (count, 2) float32, strictly inside the domain; a copy of the cached samples.

    Raises
    ------
    InvalidInputError
        For a count out of range or an unknown shape.
    """
    if not 1 <= count <= _MAX_COUNT:
        raise InvalidInputError(
            f"the number of parameter samples must lie in 1..{_MAX_COUNT}",
            str(count),
            "Choose a count in that range.",
        )
    if shape not in ("disk", "square"):
        raise InvalidInputError(
            "the domain shape must be 'disk' or 'square'", repr(shape), "Name one of them."
        )
    return _sample(int(count), int(seed), shape).copy()


@lru_cache(maxsize=128)
def _sample(count: int, seed: int, shape: DomainShape) -> NDArray[np.float32]:
    rng = np.random.default_rng([seed, count])
    if shape == "square":
        samples = 2.0 * _blue_noise_torus(rng, count) - 1.0
    else:
        # A disk cut from the torus, its radius chosen so that it holds exactly `count` samples.
        side = 2.0 * _DISK_MARGIN
        centred = side * (_blue_noise_torus(rng, math.ceil(count * side**2 / math.pi)) - 0.5)
        radius = np.linalg.norm(centred, axis=1)
        order = np.argsort(radius, kind="stable")
        edge = 0.5 * (radius[order[count - 1]] + radius[order[count]])
        samples = centred[np.sort(order[:count])] / edge
    return (samples * (1.0 - 1e-6)).astype(np.float32)


def _blue_noise_torus(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """``count`` blue-noise samples of the unit torus [0, 1)^2, (count, 2)."""
    candidates = rng.random((count * _CANDIDATES_PER_SAMPLE, 2))
    # Largest possible least distance of `count` samples: that of the hexagonal packing.
    packing_distance = math.sqrt(2.0 / (math.sqrt(3.0) * count))
    # A torus cell is never closer to itself than half its side.
    radius = min(packing_distance, 0.49)
    pairs = cKDTree(candidates, boxsize=1.0).query_pairs(radius, output_type="ndarray")
    offset = candidates[pairs[:, 0]] - candidates[pairs[:, 1]]
    offset -= np.round(offset)
    # Crowding (1 - d / 2R)_+^8 (Yuksel, equation 2), by squaring three times.
    closeness = np.maximum(1.0 - np.sqrt((offset**2).sum(axis=1)) / radius, 0.0)
    for _ in range(3):
        closeness = closeness * closeness
    rows = np.concatenate([pairs[:, 0], pairs[:, 1]])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.lexsort((columns, rows))
    kept = _eliminate(
        np.searchsorted(rows[order], np.arange(len(candidates) + 1)),
        columns[order],
        np.concatenate([closeness, closeness])[order],
        count,
    )
    return candidates[kept]


def _eliminate(
    row_start: NDArray[np.int64], neighbour: NDArray[np.int64], closeness: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Drop the most crowded candidate until ``count`` are left; their indices, ascending.

    The pairs come in compressed rows: those of candidate i are ``row_start[i]:row_start[i + 1]``.
    """
    candidate_count = len(row_start) - 1
    row_of_pair = np.repeat(np.arange(candidate_count), np.diff(row_start))
    heat = np.bincount(row_of_pair, weights=closeness, minlength=candidate_count)
    for _ in range(candidate_count - count):
        worst = int(heat.argmax())
        pairs = slice(row_start[worst], row_start[worst + 1])
        heat[neighbour[pairs]] = heat[neighbour[pairs]] - closeness[pairs]
        heat[worst] = -np.inf
    return np.flatnonzero(heat > -np.inf)
