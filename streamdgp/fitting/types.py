"""What every fitting regime takes and gives.

A patch is the evidence of one chart in the chart's own frame: ``y = R.T @ (x - anchor) / scale``
with ``scale = c * r``, so that the patch lies in the unit ball. The parameter domain V is the
square (-1, 1)^2 (the paper's (0,1)^2, centred); the starting plane is ``phi(v) = (v_0, v_1, 0)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["FitResult", "PatchBatch", "Regime"]


@dataclass(frozen=True)
class PatchBatch:
    """C patches padded to N samples. All float32, on one device.

    points (C, N, 3)   evidence in chart coordinates; padding rows are 0
    weights (C, N)     inverse variance in chart units (1/sigma^2); 0 marks padding
    thickness (C,)     spread of the evidence along the normal, chart units; left out: zeros
    raster_addresses   (C,) int64 of the stored charts' rasters, if at hand (warm fits, CPU)
    """

    points: torch.Tensor
    weights: torch.Tensor
    thickness: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    raster_addresses: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        c, n, three = self.points.shape
        if not self.thickness.numel():
            object.__setattr__(self, "thickness", self.weights.new_zeros(c))
        assert three == 3
        assert self.weights.shape == (c, n)
        assert self.thickness.shape == (c,)


@dataclass(frozen=True)
class FitResult:
    """Fitted charts.

    parameters (C, P)  one flat float32 row per chart
    feet (C, N, 2)     parameter v_i of every sample (its foot point on the chart)
    residual (C,)      weighted root-mean-square distance of the samples to the chart, chart units
    weights (C, N)     weights after robust reweighting
    ridge (C,)         ridge used by the last regression, relative to the total weight
    """

    parameters: torch.Tensor
    feet: torch.Tensor
    residual: torch.Tensor
    weights: torch.Tensor
    ridge: torch.Tensor


class Regime(Protocol):
    """One way to fit charts: ``lazy``, ``active`` or ``paper``."""

    name: str
    parameter_count: int
    device: torch.device

    @property
    def is_chartwise(self) -> bool:
        """Whether charts are computed one by one, so that a chart's bits do not depend on its company."""
        ...

    def fit_new(self, patches: PatchBatch) -> FitResult:
        """Cold fit: plane, transport, regression, projection, regression on all evidence."""
        ...

    def fit_warm(self, patches: PatchBatch, parameters: torch.Tensor) -> FitResult:
        """Warm start: project the evidence onto the stored charts, regress again. No transport."""
        ...

    def refit_to(self, parameters: torch.Tensor, v: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Regress towards ``targets`` (C, N, 3) at samples ``v`` (N, 2) of V (consistency step).

        Returns new parameters (C, P).
        """
        ...

    def evaluate(self, parameters: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """phi(v): (C, P), (C, K, 2) or samples shared by all charts (K, 2) -> (C, K, 3)."""
        ...

    def evaluate_with_jacobian(
        self, parameters: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """phi(v) and dphi/dv: (C, K, 3), (C, K, 3, 2)."""
        ...

    def rasters(self, parameters: torch.Tensor) -> torch.Tensor:
        """phi on the raster lattice of V (``streamdgp.fitting.raster``): (C, 33, 33, 3)."""
        ...

    def shared_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Weights that all charts share (hidden layers), stored once with the atlas; may be empty."""
        ...
