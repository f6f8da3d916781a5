"""The paper's own network and procedure, kept as the reference of the fast path.

Every chart is a 2-128-256-512-512-3 ReLU network, trained alone by Adam on the squared Wasserstein
distance between its image of the parameter samples and its evidence (section 3.3), then towards
fixed targets for consistency (section 3.5). One difference: the network is added to the tangent
plane (v_0, v_1, 0) of the chart's frame, which spares Adam the steps of finding the plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamdgp.config import FitConfig
from streamdgp.errors import InvalidConfigError
from streamdgp.fitting._projection import foot_points, weighted_rms
from streamdgp.fitting.raster import RASTER, raster_lattice
from streamdgp.fitting.types import FitResult, PatchBatch
from streamdgp.network import (
    NetworkSpec,
    evaluate,
    evaluate_with_jacobian,
    initial_parameters,
    pack,
    unpack,
)
from streamdgp.sampling.domain import poisson_disk_domain
from streamdgp.transport import TransportConfig, squared_distances, transport_plan

__all__ = ["PaperConfig", "PaperRegime"]


@dataclass(frozen=True)
class PaperConfig:
    """Schedule of the paper's procedure."""

    local_epochs: int = 25
    """Adam steps on the Wasserstein distance, one transport plan each."""
    consistency_epochs: int = 25
    """Adam steps of one ``refit_to``."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    hidden: tuple[int, ...] = (128, 256, 512, 512)
    """Hidden widths."""
    charts_per_batch: int = 16
    """Charts trained together; a chart takes 7 MB with gradients and Adam's moments."""

    def __post_init__(self) -> None:
        for name in ("local_epochs", "consistency_epochs", "charts_per_batch"):
            if getattr(self, name) < 1:
                raise InvalidConfigError(
                    f"paper {name} must be at least 1", repr(getattr(self, name)), "Correct the setting."
                )
        if not 0.0 < self.learning_rate < 1.0:
            raise InvalidConfigError(
                "paper learning_rate must lie in (0, 1)", repr(self.learning_rate), "Correct the setting."
            )


class PaperRegime:
    """Fits charts as the paper does; see ``streamdgp.fitting.types.Regime``.

    Parameters
    ----------
    config
        Settings common to the regimes; none of them applies to the paper's procedure.
    seed
        Of the initial weights (the same for every chart, so that a chart does not depend on its
        batch) and of the parameter samples.
    device
        Where to train.
    schedule
        Network and epochs.
    transport
        Solver; by default exact assignment where evidence fills the batch, else Sinkhorn.
    """

    name = "paper"
    is_chartwise = False

    def __init__(
        self,
        config: FitConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        schedule: PaperConfig | None = None,
        transport: TransportConfig | None = None,
    ) -> None:
        self.config = config or FitConfig()
        self.seed = seed
        self.device = torch.device(device)
        self.schedule = schedule or PaperConfig()
        self.transport = transport or TransportConfig()
        self.spec = NetworkSpec(self.schedule.hidden, affine=False)
        self.parameter_count = self.spec.parameter_count

    def fit_new(self, patches: PatchBatch) -> FitResult:
        """Train from random weights: transport plan, gradient step, and again."""
        start = initial_parameters(self.spec, 1, self.seed).to(patches.points)
        return self._fit(patches, start.expand(len(patches.points), -1))

    def fit_warm(self, patches: PatchBatch, parameters: Tensor) -> FitResult:
        """Train on from stored weights (C, P), by the same schedule."""
        return self._fit(patches, parameters)

    def refit_to(self, parameters: Tensor, v: Tensor, targets: Tensor) -> Tensor:
        """Train on towards targets (C, N, 3) at samples (N, 2) of V."""
        feet = v.expand(len(parameters), -1, -1)
        return self.train_on(parameters, feet, targets, torch.ones_like(targets[..., 0]))

    def train_on(self, parameters: Tensor, feet: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Consistency epochs towards targets (C, N, 3) at fixed feet (C, N, 2), weighted by (C, N)."""
        mass = weights.sum(dim=1, keepdim=True)
        shares = weights / torch.where(mass > 0, mass, 1.0)

        def train(rows: Tensor, part: slice) -> Tensor:
            def loss(points: Tensor) -> Tensor:
                return (shares[part, :, None] * (points - targets[part]) ** 2).sum()

            return self._adam(rows, feet[part], loss, self.schedule.consistency_epochs)

        return self._in_batches(train, parameters)

    def evaluate(self, parameters: Tensor, v: Tensor) -> Tensor:
        """phi(v): (C, P), (C, K, 2) or (K, 2) to (C, K, 3)."""
        v = v.expand(len(parameters), -1, -1)
        parts = [
            _plane(v[part]) + evaluate(unpack(parameters[part], self.spec), v[part], self.spec)
            for part in self._parts(len(parameters))
        ]
        return torch.cat(parts) if parts else v.new_zeros(0, v.shape[1], 3)

    def evaluate_with_jacobian(self, parameters: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """phi(v) and dphi/dv: (C, K, 3), (C, K, 3, 2)."""
        plane_jacobian = torch.eye(3, 2, dtype=v.dtype, device=v.device)
        points, jacobians = [], []
        for part in self._parts(len(parameters)):
            value, jacobian = evaluate_with_jacobian(unpack(parameters[part], self.spec), v[part], self.spec)
            points.append(_plane(v[part]) + value)
            jacobians.append(plane_jacobian + jacobian)
        if not points:
            return v.new_zeros(0, v.shape[1], 3), v.new_zeros(0, v.shape[1], 3, 2)
        return torch.cat(points), torch.cat(jacobians)

    def rasters(self, parameters: Tensor) -> Tensor:
        """phi on the lattice of V: (C, 33, 33, 3)."""
        lattice = raster_lattice(parameters.device)[None].expand(len(parameters), -1, -1)
        return self.evaluate(parameters, lattice).reshape(-1, RASTER, RASTER, 3)

    def shared_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Nothing is shared: every chart has all its weights."""
        return {}

    def _fit(self, patches: PatchBatch, start: Tensor) -> FitResult:
        samples = poisson_disk_domain(patches.points.shape[1], self.seed)
        v = torch.from_numpy(samples).to(patches.points.device)

        def train(rows: Tensor, part: slice) -> Tensor:
            evidence = patches.points[part]
            # The paper's measure is uniform on the points; evidence weights play no part.
            uniform = (patches.weights[part] > 0).to(evidence.dtype)
            # A chart without evidence has no problem to solve: give it one, and no gradient.
            empty = uniform.sum(dim=1) == 0
            masses = torch.where(empty[:, None], 1.0, uniform)

            def wasserstein(points: Tensor) -> Tensor:
                """W_2^2 for the plan of the moment: least squares to the barycentres of its rows."""
                cost = squared_distances(points.detach(), evidence)
                targets = transport_plan(cost, None, masses, self.transport).barycentres(evidence)
                targets = torch.where(empty[:, None, None], points.detach(), targets)
                return (points - targets).square().sum() / points.shape[1]

            samples_of_each = v[None].expand(len(evidence), -1, -1)
            return self._adam(rows, samples_of_each, wasserstein, self.schedule.local_epochs)

        parameters = self._in_batches(train, start)
        feet, distance = foot_points(self.rasters(parameters), patches)
        residual = weighted_rms(distance, patches.weights)
        return FitResult(parameters, feet, residual, patches.weights, torch.zeros_like(residual))

    def _adam(self, rows: Tensor, v: Tensor, loss: Callable[[Tensor], Tensor], epochs: int) -> Tensor:
        """Adam on a batch; the loss is a sum over charts, so each chart is trained on its own."""
        weights = {
            name: value.detach().clone().requires_grad_() for name, value in unpack(rows, self.spec).items()
        }
        optimizer = torch.optim.Adam(list(weights.values()), lr=self.schedule.learning_rate, fused=True)
        plane = _plane(v)
        with torch.enable_grad():
            for _ in range(epochs):
                optimizer.zero_grad(set_to_none=True)
                loss(plane + evaluate(weights, v, self.spec)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return pack(weights, self.spec).detach()

    def _in_batches(self, train: Callable[[Tensor, slice], Tensor], start: Tensor) -> Tensor:
        trained = [train(start[part], part) for part in self._parts(len(start))]
        return torch.cat(trained) if trained else start.clone()

    def _parts(self, chart_count: int) -> list[slice]:
        size = self.schedule.charts_per_batch
        return [slice(begin, min(begin + size, chart_count)) for begin in range(0, chart_count, size)]


def _plane(v: Tensor) -> Tensor:
    """The tangent plane (v_0, v_1, 0), (C, K, 3)."""
    return torch.cat([v, torch.zeros_like(v[..., :1])], dim=-1)
