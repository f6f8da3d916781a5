"""The lazy regime: shared random features, each chart a closed-form linear solve.

A new chart starts as the tangent plane, gets its parametrisation by optimal transport between
Poisson-disk samples of V and samples of its evidence, and is then regressed on *all* its evidence at
the foot points. A warm start skips the transport: the stored chart already gives the foot points.
"""

from __future__ import annotations

import numpy as np
import torch

from streamdgp.config import FitConfig
from streamdgp.fitting.features import SharedFeatures, draw_features
from streamdgp.fitting.raster import RASTER, project_on_rasters, raster_lattice
from streamdgp.fitting.ridge import solve_ridge, solve_ridge_gcv
from streamdgp.fitting.types import FitResult, PatchBatch
from streamdgp.sampling.domain import poisson_disk_domain
from streamdgp.transport import assign, squared_distances

__all__ = ["LazyRegime"]

_TRANSPORT_RIDGE = 1e-3
_SMOOTHING_RIDGE = 0.03
_RIDGE_PER_THICKNESS2 = 4.0
_THIN = 0.12
_THICK = 0.2
_GAUGE_LIMIT = 0.6
# Where a chart has no rows its change must stay zero, however clean the evidence.
_LEAST_REFIT_RIDGE = 1e-4
_HUBER = 2.5


class LazyRegime:
    """Charts phi(v) = A [v; 1] + B psi(v) with psi shared; parameters are (A, B), 3 * (3 + m) floats."""

    name = "lazy"

    def __init__(
        self,
        config: FitConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        features: SharedFeatures | None = None,
        transport: bool = True,
    ) -> None:
        self.config = config or FitConfig()
        self.device = torch.device(device)
        self.features = (features or draw_features(self.config.width, seed)).to(self.device)
        self.parameter_count = 3 * (3 + self.features.count)
        self._transport = transport
        count = self.config.transport_samples
        self._samples = torch.from_numpy(poisson_disk_domain(count, seed=seed)).to(self.device)
        self._lattice_rows = self.features(raster_lattice(self.device))
        self._sample_rows = self.features(self._samples)
        self._transport_operator = self._ridge_operator(self._sample_rows)

    def _ridge_operator(self, rows: torch.Tensor) -> torch.Tensor:
        """(3 + m, n): maps targets at the transport samples to coefficients (same for all charts)."""
        gram = rows.T @ rows / len(rows)
        diagonal = torch.full((len(gram),), 1e-6, device=rows.device)
        diagonal[3:] += _TRANSPORT_RIDGE * self.features.penalty
        operator: torch.Tensor = torch.linalg.solve(gram + torch.diag(diagonal), rows.T / len(rows))
        return operator

    # --- Regime protocol -------------------------------------------------------------------------

    def fit_new(self, patches: PatchBatch) -> FitResult:
        """Plane, transport, regression, projection, regression on all evidence."""
        return self._regress(patches, self._initial(patches))

    def fit_warm(self, patches: PatchBatch, parameters: torch.Tensor) -> FitResult:
        """Project the evidence on the stored charts and regress again."""
        return self._regress(patches, self._unflatten(parameters))

    def refit_to(
        self,
        parameters: torch.Tensor,
        feet: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        ridge: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Regress towards targets at fixed foot points (the consistency step).

        The *change* is regressed and penalised, so a chart stays as it is where it has no rows.
        """
        if ridge is None:
            ridge = torch.full((len(feet),), 1e-3, device=self.device)
        ridge = ridge.clamp_min(_LEAST_REFIT_RIDGE)
        rows = self.features(feet)
        change = targets - rows @ self._unflatten(parameters)
        return parameters + self._flatten(solve_ridge(rows, change, weights, self.features.penalty, ridge))

    def evaluate(self, parameters: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """phi(v): (C, P), (C, K, 2) -> (C, K, 3)."""
        return self.features(v) @ self._unflatten(parameters)

    def evaluate_with_jacobian(
        self, parameters: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """phi(v) (C, K, 3) and dphi/dv (C, K, 3, 2)."""
        rows, jacobian = self.features.with_jacobian(v)
        b = self._unflatten(parameters)
        return rows @ b, torch.einsum("cnkd,cko->cnod", jacobian, b)

    def rasters(self, parameters: torch.Tensor) -> torch.Tensor:
        """phi on the lattice of V: (C, 33, 33, 3)."""
        return (self._lattice_rows @ self._unflatten(parameters)).reshape(-1, RASTER, RASTER, 3)

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """The hidden layers all charts share, for the store."""
        f = self.features
        return {f"shared_{name}": getattr(f, name).cpu().numpy() for name in ("w1", "w2", "mix", "penalty")}

    # --- Steps -----------------------------------------------------------------------------------

    def _unflatten(self, parameters: torch.Tensor) -> torch.Tensor:
        return parameters.reshape(len(parameters), -1, 3)

    def _flatten(self, coefficients: torch.Tensor) -> torch.Tensor:
        return coefficients.reshape(len(coefficients), -1)

    def _plane(self, count: int) -> torch.Tensor:
        """Coefficients of phi(v) = (v, 0)."""
        b = torch.zeros(count, 3 + self.features.count, 3, device=self.device)
        b[:, 0, 0] = 1
        b[:, 1, 1] = 1
        return b

    def _initial(self, patches: PatchBatch) -> torch.Tensor:
        """Coefficients after plane + transport + regression on the assigned pairs."""
        count, n = len(patches.points), len(self._samples)
        if not self._transport:
            return self._plane(count)
        plane = torch.cat([self._samples, torch.zeros(n, 1, device=self.device)], 1)
        picked, backed = self._pick_evidence(patches, plane)
        # Samples that no evidence backs take no part: their cost to any evidence is one constant,
        # and in the regression they stay on the plane.
        cost = squared_distances(plane.expand(count, n, 3), picked)
        cost = torch.where(backed[:, :, None], cost, torch.full_like(cost, 8.0))
        match = assign(cost)
        targets = torch.gather(picked, 1, match[..., None].expand(-1, -1, 3))
        targets = torch.where(backed[..., None], targets, plane.expand_as(targets))
        return self._transport_operator @ targets

    def _smooth(self, patches: PatchBatch, coefficients: torch.Tensor) -> torch.Tensor:
        """Regress once on all evidence with a large ridge.

        An assignment displaces samples by half their spacing; that jitter must not reach the feet
        from which cross-validation judges the fit.
        """
        feet = self._feet(coefficients, patches)
        ridge = self._ridge_floor(patches).clamp_min(_SMOOTHING_RIDGE)
        return solve_ridge(self.features(feet), patches.points, patches.weights, self.features.penalty, ridge)

    def _feet(self, coefficients: torch.Tensor, patches: PatchBatch) -> torch.Tensor:
        """Parameters (C, N, 2) of the evidence: foot points, in a fixed gauge.

        A surface does not fix its parametrisation; left alone, repeated warm starts let it drift until
        feet leave V. So the affine part of the tangential map is made the identity, unless it is
        nearly singular (a fold). Evidence nearly as thick as the chart is wide tells nothing about the
        foot point's direction (nearest points on a tilted sheet tilt it further): there the feet are
        the tangential coordinates, and the chart is a regression of height.
        """
        feet, _ = self._project(coefficients, patches)
        tangential = coefficients[:, :3, :2]
        a, b, c, d = (tangential[:, i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
        half = 0.5 * (a.square() + b.square() + c.square() + d.square())
        smallest = (half - (half.square() - (a * d - b * c).square()).clamp_min(0).sqrt()).clamp_min(0).sqrt()
        graph = (smallest > _GAUGE_LIMIT)[:, None, None]
        feet = torch.where(graph, feet @ tangential[:, :2] + tangential[:, 2:], feet)
        thick = ((patches.thickness - _THIN) / (_THICK - _THIN)).clamp(0, 1)[:, None, None]
        return torch.where(graph, feet + thick * (patches.points[..., :2] - feet), feet)

    def _pick_evidence(self, patches: PatchBatch, plane: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evidence spread over the patch (C, n, 3), and which samples have evidence near them (C, n)."""
        count, n = len(patches.points), len(plane)
        valid = patches.weights > 0
        rows = valid.sum(1)
        # Rows come sorted in space, so equal steps through them spread over the patch.
        step = torch.arange(n, device=self.device, dtype=torch.float32) + 0.5
        index = (step[None] * rows[:, None] / n).long().clamp_max(patches.points.shape[1] - 1)
        picked = torch.gather(patches.points, 1, index[..., None].expand(-1, -1, 3))
        distance = squared_distances(plane.expand(count, n, 3)[..., :2], patches.points[..., :2])
        distance = torch.where(valid[:, None, :], distance, torch.full_like(distance, torch.inf))
        return picked, distance.amin(2) < 0.2**2

    def _project(self, coefficients: torch.Tensor, patches: PatchBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Feet (C, N, 2) and signed distances (C, N) of the evidence."""
        rasters = (self._lattice_rows @ coefficients).reshape(-1, RASTER, RASTER, 3)
        feet = np.empty((*patches.weights.shape, 2), np.float32)
        distance = np.empty(patches.weights.shape, np.float32)
        project_on_rasters(
            rasters.cpu().numpy(), patches.points.cpu().numpy(), patches.weights.cpu().numpy(), feet, distance
        )
        return torch.from_numpy(feet).to(self.device), torch.from_numpy(distance).to(self.device)

    def _regress(self, patches: PatchBatch, coefficients: torch.Tensor) -> FitResult:
        """Feet on a smooth chart, regression with the ridge by cross-validation, then robustly.

        Feet must not come from a chart that follows the noise: nearest points on a wiggly sheet make
        its residuals small, cross-validation then asks for more wiggles, and warm starts repeat that.
        """
        smooth = self._smooth(patches, coefficients)
        feet = self._feet(smooth, patches)
        rows = self.features(feet)
        penalty = self.features.penalty
        fit = solve_ridge_gcv(
            rows, patches.points, patches.weights, penalty, self.config.gcv_gamma, self._ridge_floor(patches)
        )
        distance = (patches.points - rows @ fit.coefficients).norm(dim=-1)
        weights = self._robust(patches.weights, distance)
        final = solve_ridge(rows, patches.points, weights, penalty, fit.ridge)
        total = weights.sum(1).clamp_min(1e-30)
        residual = ((weights * distance.square()).sum(1) / total).sqrt()
        return FitResult(self._flatten(final), feet, residual, weights, fit.ridge)

    @staticmethod
    def _ridge_floor(patches: PatchBatch) -> torch.Tensor:
        """Least ridge (C,): evidence as thick as the chart is wide supports a plane and little more.

        lambda = sigma^2 / (n tau^2) for errors of variance sigma^2 = thickness^2 in n independent groups
        and a prior of variance tau^2 on the features; few groups (about three), because drift and
        sensor bias are shared by neighbouring rows; tau = 0.3 chart radii. Thin evidence (below 0.12) has
        no floor: there the spread is mostly slope and curvature.
        """
        excess = patches.thickness.square() - _THIN**2
        return (_RIDGE_PER_THICKNESS2 * excess).clamp(0.0, 1.0)

    @staticmethod
    def _robust(weights: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Huber weights on the standardised distance, scale by the median absolute deviation."""
        valid = weights > 0
        z = distance.abs() * weights.sqrt()
        count = valid.sum(1)
        ordered = torch.where(valid, z, torch.full_like(z, torch.inf)).sort(1).values
        median = ordered.gather(1, (count // 2).clamp_max(z.shape[1] - 1)[:, None])
        limit = _HUBER * 1.4826 * torch.where(torch.isfinite(median), median, torch.zeros_like(median))
        return weights * torch.where(z > limit, limit / z.clamp_min(1e-20), torch.ones_like(z))
