"""The two defining properties of Poisson-disk anchors, checked by brute force over all pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["closest_compatible_pair", "uncovered_evidence"]

Array = npt.NDArray[np.float64]
_SLACK = 1 + 1e-6
_FLAT = 0.94  # mean length of unit normals spread evenly over 40 degrees


def closest_compatible_pair(anchors: Array, normals: Array, min_cos: float) -> float:
    """Smallest distance between two anchors whose normals agree, infinity if there is none."""
    if len(anchors) < 2:
        return np.inf
    gap = np.linalg.norm(anchors[:, None] - anchors[None], axis=2)
    gap[normals @ normals.T < min_cos] = np.inf
    np.fill_diagonal(gap, np.inf)
    return float(gap.min())


def uncovered_evidence(
    positions: Array,
    normals: Array,
    weights: Array,
    sigmas: Array,
    anchors: Array,
    anchor_normals: Array,
    anchor_radii: Array,
    radius: float,
    min_cos: float,
    min_count: int,
) -> npt.NDArray[np.int64]:
    """Well-supported evidence beyond the radius of every anchor compatible with it or its patch.

    Three standard deviations ``sigmas`` of a single observation along the anchor's normal do not count:
    noise is no new surface. Evidence is well supported when at least ``min_count`` compatible surfels
    lie within 0.7 ``radius``, the least one, and their normals agree with each other and with its own: a lone
    or torn surfel, or one on a crease, carries no plane.
    """
    length = np.linalg.norm(normals, axis=1)
    unit = normals / np.maximum(length, 1e-12)[:, None]
    uncovered = []
    for s in np.flatnonzero(length > 0.31):
        offset = positions[s] - anchors
        along = (offset * anchor_normals).sum(1)
        beyond = np.maximum(np.abs(along) - 3 * sigmas[s], 0)
        close = (offset**2).sum(1) - along**2 + beyond**2 <= (anchor_radii * _SLACK) ** 2
        if (close & (anchor_normals @ unit[s] > min_cos - 1e-4)).any():
            continue
        near = np.linalg.norm(positions - positions[s], axis=1) <= 0.699 * radius
        near &= normals @ unit[s] > (min_cos + 1e-4) * length
        if near.sum() < min_count:
            continue
        mean = (weights[near, None] * normals[near]).sum(0)
        flatness = float(np.linalg.norm(mean)) / float((weights[near] * length[near]).sum())
        mean /= max(float(np.linalg.norm(mean)), 1e-12)
        if flatness < _FLAT:
            continue
        if mean @ unit[s] < min_cos + 1e-4:
            continue
        # A single surfel's normal is noisy: an anchor that agrees with the patch covers it as well.
        if not (close & (anchor_normals @ mean > min_cos - 1e-4)).any():
            uncovered.append(int(s))
    return np.array(uncovered, np.int64)
