"""Foot points of evidence on charts of any network, through their rasters."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamdgp.fitting.raster import project_on_rasters
from streamdgp.fitting.types import PatchBatch

__all__ = ["foot_points", "weighted_rms"]


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
