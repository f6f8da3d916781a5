"""Batches of fixed shape: a matrix product's last bits may depend on the batch, so batches do not vary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from streamdgp.fitting.types import FitResult, PatchBatch, Regime

__all__ = ["BATCH", "fit_in_batches", "rasters_of"]

BATCH = 64


def rasters_of(regime: Regime, parameters: torch.Tensor) -> npt.NDArray[np.float32]:
    """Rasters (C, 33, 33, 3) of charts, evaluated in padded batches: the same bits in any company."""
    count = len(parameters)
    parts = []
    for begin in range(0, count, BATCH):
        part = parameters[begin : begin + BATCH]
        if len(part) < BATCH:
            part = torch.cat([part, part.new_zeros(BATCH - len(part), part.shape[1])])
        parts.append(regime.rasters(part).cpu().numpy())
    if not parts:
        return np.zeros((0, 1, 1, 3), np.float32)
    stacked: npt.NDArray[np.float32] = np.concatenate(parts)[:count]
    return stacked


def fit_in_batches(
    regime: Regime,
    points: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    stored: npt.NDArray[np.float32] | None,
    device: torch.device,
) -> FitResult:
    """Fit charts cold (``stored`` None) or warm, some at a time; results on the CPU."""
    results = []
    for begin in range(0, len(points), BATCH):
        part = slice(begin, begin + BATCH)
        patches = PatchBatch(
            torch.from_numpy(points[part]).to(device), torch.from_numpy(weights[part]).to(device)
        )
        if stored is None:
            fit = regime.fit_new(patches)
        else:
            fit = regime.fit_warm(patches, torch.from_numpy(stored[part]).to(device))
        results.append(fit)
    return FitResult(
        *(
            torch.cat([getattr(r, name) for r in results]).cpu()
            for name in ("parameters", "feet", "residual", "weights", "ridge")
        )
    )
