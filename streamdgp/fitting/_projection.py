"""Foot points of evidence on charts of any network, through their rasters."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamdgp.fitting.raster import project_on_rasters
from streamdgp.fitting.types import PatchBatch

__all__ = ["foot_points", "robust_weights", "weighted_rms"]

_HUBER = 2.5


def foot_points(rasters: Tensor, patches: PatchBatch) -> tuple[Tensor, Tensor]:
    """Parameters of the closest chart points, and the distances to them.

    Parameters
    ----------
    rasters
        phi of the C charts on the raster lattice, (C, 33, 33, 3).
    patches
        Evidence of the C charts.

    Returns
    -------
    feet (C, N, 2), and signed distances along the chart normal (C, N); 0 on padding.
    """
    device = patches.points.device
    feet = np.zeros((*patches.weights.shape, 2), np.float32)
    distance = np.zeros(patches.weights.shape, np.float32)
    project_on_rasters(
        _contiguous(rasters), _contiguous(patches.points), _contiguous(patches.weights), feet, distance
    )
    return torch.from_numpy(feet).to(device), torch.from_numpy(distance).to(device)


def _contiguous(values: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.detach().cpu().numpy())


def weighted_rms(distance: Tensor, weights: Tensor) -> Tensor:
    """Weighted root-mean-square (C,) of distances (C, N); 0 for a chart without evidence."""
    mass = weights.sum(dim=1)
    return ((weights * distance**2).sum(dim=1) / torch.where(mass > 0, mass, 1.0)).sqrt()


def robust_weights(weights: Tensor, distance: Tensor) -> Tensor:
    """Huber weights (C, N): beyond 2.5 robust standard deviations the influence stops growing.

    The scale is the median of the standardised distances |d| sqrt(w), per chart.
    """
    standardised = distance.abs() * weights.sqrt()
    count = (weights > 0).sum(dim=1)
    ordered = torch.where(weights > 0, standardised, torch.inf).sort(dim=1).values
    middle = (count // 2).clamp(max=standardised.shape[1] - 1)
    median = ordered.gather(1, middle[:, None])
    limit = _HUBER * 1.4826 * torch.where(torch.isfinite(median), median, 0.0)
    return weights * torch.where(standardised > limit, limit / standardised.clamp(min=1e-20), 1.0)
