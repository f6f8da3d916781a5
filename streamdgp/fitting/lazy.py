"""The lazy regime: shared random features, each chart a closed-form linear solve.

A new chart starts as the tangent plane, gets its parametrisation by optimal transport between
Poisson-disk samples of V and samples of its evidence, and is then regressed on *all* its evidence at
the foot points. A warm start skips the transport: the stored chart already gives the foot points.
"""

from __future__ import annotations

import numpy as np
import torch

from streamdgp.config import FitConfig
from streamdgp.fitting.at_samples import (
    UNBACKED_COST,
    SharedSamples,
    consistency_samples,
    moved_charts,
    points_at,
    regressed_charts,
    transport_problems,
)
from streamdgp.fitting.batches import as_worker
from streamdgp.fitting.features import SharedFeatures, draw_features
from streamdgp.fitting.fused import STEEP_COS, STEEP_SHARE, regress_charts
from streamdgp.fitting.lattice import rasters_of_charts
from streamdgp.fitting.raster import RASTER, over_tangent_plane, project_on_rasters, raster_lattice
from streamdgp.fitting.ridge import ridge_candidates, solve_ridge, solve_ridge_reml
from streamdgp.fitting.types import FitResult, PatchBatch
from streamdgp.sampling.domain import poisson_disk_domain
from streamdgp.transport import assign, squared_distances

__all__ = ["LazyRegime"]

_TRANSPORT_RIDGE = 1e-3
# A sample with evidence so near, in chart radii, takes part in the transport.
_BACKED_REACH = 0.2
# A patch that bends by a right angle is this high, in chart radii (its sagitta is 0.37).
_BENT_HEIGHT = 0.35
_SMOOTHING_RIDGE = 0.03
_RIDGE_PER_THICKNESS2 = 4.0
_THIN = 0.12
_THICK = 0.2
_GAUGE_LIMIT = 0.6
# What charts agree on is smooth already: a light penalty keeps the refit from smoothing it again.
_REFIT_RIDGE = 1e-4
_RIM_WEIGHT = 0.02
_HUBER = 2.5


def _by_feature(table: np.ndarray) -> np.ndarray:
    """(33, 33, m) to (m, 1089)."""
    return np.ascontiguousarray(table.reshape(RASTER * RASTER, -1).T)


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
        *,
        reference: bool = False,
    ) -> None:
        self.config = config or FitConfig()
        self.device = torch.device(device)
        self.features = (features or draw_features(self.config.width, seed, most=self.config.features)).to(
            self.device
        )
        self.parameter_count = 3 * (3 + self.features.count)
        self._transport = transport
        count = self.config.transport_samples
        # On CPUs features are looked up on the lattice, and charts computed one by one (fused.py,
        # at_samples.py).
        self.is_chartwise = self.device.type == "cpu" and not reference
        # All that charts share is made here and once, with the settings of a worker: not by
        # whichever thread needs it first.
        with as_worker():
            self._table = self._feature_table() if self.is_chartwise else None
            self._lattice = None if self._table is None else _by_feature(self._table)
            self._lattice_rows = self.features(raster_lattice(self.device))
            samples = torch.from_numpy(poisson_disk_domain(count, seed=seed)).to(self.device)
            rows, uniform = self.features(samples), torch.ones(count, device=self.device)
            self._start = SharedSamples(samples, rows, self._ridge_operator(rows, _TRANSPORT_RIDGE, uniform))
            self._agreement = self._for_refits(consistency_samples(self.device))

    def _feature_table(self) -> np.ndarray:
        """psi on the raster lattice: (33, 33, m) float32."""
        rows = self.features(raster_lattice())[:, 3:]
        return np.ascontiguousarray(rows.reshape(RASTER, RASTER, -1).numpy())

    def _ridge_operator(self, rows: torch.Tensor, ridge: float, weights: torch.Tensor) -> torch.Tensor:
        """(3 + m, n): maps targets at samples with features ``rows`` (n, 3 + m) to coefficients."""
        weighted = rows.T * (weights / weights.sum())
        gram = weighted @ rows
        diagonal = torch.full((len(gram),), 1e-6, device=rows.device)
        diagonal[3:] += ridge * self.features.penalty
        operator: torch.Tensor = torch.linalg.solve(gram + torch.diag(diagonal), weighted)
        return operator

    # --- Regime protocol -------------------------------------------------------------------------

    def fit_new(self, patches: PatchBatch) -> FitResult:
        """Plane, transport, regression, projection, regression on all evidence."""
        return self._regress(patches, self._initial(patches), cold=True)

    def fit_warm(self, patches: PatchBatch, parameters: torch.Tensor) -> FitResult:
        """Project the evidence on the stored charts and regress again."""
        return self._regress(patches, self._unflatten(parameters), cold=False)

    def refit_to(self, parameters: torch.Tensor, v: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Regress towards targets (C, N, 3) at shared samples ``v`` (N, 2) (the consistency step).

        The *change* is regressed and penalised: a chart asked nothing stays as it is. Samples count by the
        weight that the chart has in the blend there, so that what its features cannot follow shows where
        it matters least. They are the same for all charts: one operator serves them all.
        """
        at = self._samples_at(v)
        if self.is_chartwise:
            return moved_charts(*at.for_kernels, parameters, targets)
        change = targets - self.evaluate(parameters, v)
        # One product for all charts: (k, n) by (n, 3 C).
        moved = at.operator @ change.permute(1, 0, 2).reshape(len(v), -1)
        return parameters + moved.reshape(len(at.operator), -1, 3).permute(1, 0, 2).reshape(
            len(parameters), -1
        )

    def _samples_at(self, v: torch.Tensor) -> SharedSamples:
        """Features and refit operator at samples ``v`` (n, 2); at hand for those of the consistency step."""
        return self._agreement if v is self._agreement.v else self._for_refits(v)

    def _for_refits(self, v: torch.Tensor) -> SharedSamples:
        rows = self.features(v)
        weights = (1 - v.square().sum(1)).clamp_min(_RIM_WEIGHT)
        return SharedSamples(v, rows, self._ridge_operator(rows, _REFIT_RIDGE, weights))

    def evaluate(self, parameters: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """phi(v): (C, P), (C, K, 2) or (K, 2) -> (C, K, 3)."""
        if v.dim() == 2:
            at = self._samples_at(v)
            if self.is_chartwise:
                return points_at(at.for_kernels[0], parameters)
            flat = self._unflatten(parameters).permute(1, 0, 2).reshape(self.parameter_count // 3, -1)
            return (at.rows @ flat).reshape(len(v), -1, 3).permute(1, 0, 2).contiguous()
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
        if self._lattice is not None:
            out = np.empty((len(parameters), RASTER, RASTER, 3), np.float32)
            rasters_of_charts(self._lattice, np.ascontiguousarray(self._unflatten(parameters).numpy()), out)
            return torch.from_numpy(out)
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
        """Coefficients of the plane, and where it does not do, of what transport makes of it.

        Over a patch that bends by less than a right angle, the tangent plane gives every point the foot
        that transport gives it (``benchmarks.transport_ablation``), in a tenth of the time.
        """
        coefficients = self._plane(len(patches.points))
        if self._transport:
            height = torch.where(patches.weights > 0, patches.points[..., 2].abs(), 0.0).amax(1)
            bent = torch.nonzero(height > _BENT_HEIGHT)[:, 0]
            if len(bent):
                coefficients[bent] = self._transported(
                    PatchBatch(patches.points[bent], patches.weights[bent], patches.thickness[bent])
                )
        return coefficients

    def _transported(self, patches: PatchBatch) -> torch.Tensor:
        """Coefficients after plane + transport + regression on the assigned pairs.

        Samples that no evidence backs take no part: their cost to any evidence is one constant, and in the
        regression they stay on the plane.
        """
        samples = self._start.v
        count, n = len(patches.points), len(samples)
        plane = torch.cat([samples, torch.zeros(n, 1, device=self.device)], 1)
        if self.is_chartwise:
            picked, backed = torch.empty(count, n, 3), torch.empty(count, n, dtype=torch.bool)
            cost = torch.empty(count, n, n)
            transport_problems(
                samples.numpy(), patches.points.numpy(), patches.weights.numpy(), _BACKED_REACH,
                picked.numpy(), backed.numpy(), cost.numpy(),
            )  # fmt: skip
        else:
            picked, backed = self._pick_evidence(patches, plane)
            cost = squared_distances(plane.expand(count, n, 3), picked)
            cost = torch.where(backed[:, :, None], cost, torch.full_like(cost, UNBACKED_COST))
        targets = torch.gather(picked, 1, assign(cost)[..., None].expand(-1, -1, 3))
        targets = torch.where(backed[..., None], targets, plane.expand_as(targets))
        if self.is_chartwise:
            return regressed_charts(self._start.for_kernels[1], targets)
        return self._start.operator @ targets

    def _smooth(self, patches: PatchBatch, coefficients: torch.Tensor) -> torch.Tensor:
        """Regress once on all evidence with a large ridge.

        An assignment displaces samples by half their spacing; that jitter must not reach the feet
        from which the ridge is judged.
        """
        feet = self._feet(coefficients, patches)
        ridge = self._ridge_floor(patches).clamp_min(_SMOOTHING_RIDGE)
        return solve_ridge(self.features(feet), patches.points, patches.weights, self.features.penalty, ridge)

    def _feet(self, coefficients: torch.Tensor, patches: PatchBatch) -> torch.Tensor:
        """Parameters (C, N, 2) of the evidence: foot points, in a fixed gauge.

        A surface does not fix its parametrisation; left alone, repeated warm starts let it drift until
        feet leave V, and what bends in the tangential map counts as signal that no ridge may smooth. So
        a chart that is a graph over its tangent plane is parametrised by that plane. On a fold only
        the affine part of the tangential map is made the identity, unless it is nearly singular.

        Evidence nearly as thick as the chart is wide tells nothing about the foot point's direction
        (nearest points on a tilted sheet tilt it further): there the feet are the tangential coordinates,
        and the chart is a regression of height.
        """
        rasters = (self._lattice_rows @ coefficients).reshape(-1, RASTER, RASTER, 3).cpu().numpy()
        tangential = coefficients[:, :3, :2]
        a, b, c, d = (tangential[:, i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
        half = 0.5 * (a.square() + b.square() + c.square() + d.square())
        smallest = (half - (half.square() - (a * d - b * c).square()).clamp_min(0).sqrt()).clamp_min(0).sqrt()
        graph = (smallest > _GAUGE_LIMIT)[:, None, None]
        # Over its tangent plane a chart is nearly a graph: the search starts straight below the point.
        determinant = (a * d - b * c)[:, None]
        x, y = (patches.points[..., :2] - tangential[:, None, 2]).unbind(-1)
        below = (
            torch.stack([x * d[:, None] - y * c[:, None], y * a[:, None] - x * b[:, None]], -1)
            / torch.where(determinant == 0, 1.0, determinant)[..., None]
        )
        feet = self._project(rasters, patches, torch.where(graph, below.clamp(-1.3, 1.3), torch.nan))
        over = np.zeros((*patches.weights.shape, 2), np.float32)
        steep = np.zeros(patches.weights.shape, np.uint8)
        over_tangent_plane(rasters, feet.cpu().numpy(), patches.weights.cpu().numpy(), STEEP_COS, over, steep)
        is_height = torch.from_numpy(steep.sum(1)).to(feet) <= STEEP_SHARE * (patches.weights > 0).sum(1)
        affine = feet @ tangential[:, :2] + tangential[:, 2:]
        over_plane = torch.where(is_height[:, None, None], torch.from_numpy(over).to(feet), affine)
        feet = torch.where(graph, over_plane, feet)
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
        return picked, distance.amin(2) < _BACKED_REACH**2

    def _project(self, rasters: np.ndarray, patches: PatchBatch, start: torch.Tensor) -> torch.Tensor:
        """Feet (C, N, 2) of the evidence on rasters (C, 33, 33, 3), from ``start`` where it is not NaN."""
        feet = np.empty((*patches.weights.shape, 2), np.float32)
        distance = np.empty(patches.weights.shape, np.float32)
        project_on_rasters(
            rasters, patches.points.cpu().numpy(), patches.weights.cpu().numpy(), feet, distance,
            start.cpu().numpy(),
        )  # fmt: skip
        return torch.from_numpy(feet).to(self.device)

    def _regress(self, patches: PatchBatch, coefficients: torch.Tensor, *, cold: bool) -> FitResult:
        """Feet on a smooth chart, regression with the ridge by marginal likelihood, then robustly.

        Feet must not come from a chart that follows the noise: nearest points on a wiggly sheet make
        its residuals small, and the likelihood then asks for more wiggles. So a cold start, which the
        assignment displaces, is regressed once with a large ridge; a stored chart has its ridge already.
        """
        if self._table is not None:
            return self._regress_fused(patches, coefficients, self._table, cold)
        smooth = self._smooth(patches, coefficients) if cold else coefficients
        feet = self._feet(smooth, patches)
        rows = self.features(feet)
        penalty = self.features.penalty
        fit = solve_ridge_reml(
            rows, patches.points, patches.weights, penalty, self.config.smoothness, self._ridge_floor(patches)
        )
        distance = (patches.points - rows @ fit.coefficients).norm(dim=-1)
        weights = self._robust(patches.weights, distance)
        final = solve_ridge(rows, patches.points, weights, penalty, fit.ridge)
        total = weights.sum(1).clamp_min(1e-30)
        residual = ((weights * distance.square()).sum(1) / total).sqrt()
        return FitResult(self._flatten(final), feet, residual, weights, fit.ridge)

    def _regress_fused(
        self, patches: PatchBatch, coefficients: torch.Tensor, table: np.ndarray, cold: bool
    ) -> FitResult:
        """``_regress`` chart by chart (CPU)."""
        points, weights = patches.points.numpy(), patches.weights.numpy()
        stored, made = np.zeros(0, np.int64), None
        if patches.raster_addresses is not None:
            stored = patches.raster_addresses
        elif not cold:
            made = self.rasters(self._flatten(coefficients)).numpy()
            stored = made.__array_interface__["data"][0] + made.strides[0] * np.arange(len(made))
        count, rows = weights.shape
        out = np.empty((count, table.shape[2] + 3, 3), np.float32)
        feet, robust = np.empty((count, rows, 2), np.float32), np.empty((count, rows), np.float32)
        residual, ridge = np.empty(count, np.float32), np.empty(count, np.float32)
        regress_charts(
            points, weights, patches.thickness.numpy(), np.ascontiguousarray(coefficients.numpy()), stored,
            table, _by_feature(table) if self._lattice is None else self._lattice,
            self.features.penalty.numpy(), ridge_candidates(),
            (self.config.smoothness, _SMOOTHING_RIDGE, _RIDGE_PER_THICKNESS2, _THIN, _THICK, _GAUGE_LIMIT,
             _HUBER), out, feet, robust, residual, ridge,
        )  # fmt: skip
        return FitResult(
            self._flatten(torch.from_numpy(out)),
            *(torch.from_numpy(x) for x in (feet, residual, robust, ridge)),
        )

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
