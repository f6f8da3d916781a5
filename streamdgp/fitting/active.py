"""The active regime: charts whose features move (section 3.6 of the paper, mean-field side).

Every chart starts from the lazy solution. Where that leaves more residual than the noise explains (an
edge, a corner, fine detail), its own hidden layers are trained by Adam, while the last layer and the
affine part stay the ridge solution for the features of the moment (variable projection, Golub and
Pereyra 1973: at that solution the gradient by the hidden weights is the partial one). A fifth of the
evidence is held out; training stops when it no longer gains there, and a chart that never gained
keeps the lazy solution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamdgp.config import FitConfig
from streamdgp.errors import InvalidConfigError
from streamdgp.fitting._projection import foot_points, robust_weights, weighted_rms
from streamdgp.fitting.features import SharedFeatures
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.raster import RASTER, raster_lattice
from streamdgp.fitting.ridge import solve_ridge, solve_ridge_reml
from streamdgp.fitting.types import FitResult, PatchBatch
from streamdgp.network import (
    ChartParameters,
    NetworkSpec,
    evaluate,
    evaluate_with_jacobian,
    hidden_features,
    pack,
    unpack,
)

__all__ = ["ActiveConfig", "ActiveRegime"]

_MOST_WIDTH = 64
_HIDDEN = ("weight0", "bias0", "weight1", "bias1")
_FIT_FIELDS = ("parameters", "feet", "residual", "weights", "ridge")
# Charts asked to agree are smooth already: a light penalty keeps the refit from smoothing them again.
_REFIT_RIDGE = 1e-4


@dataclass(frozen=True)
class ActiveConfig:
    """Schedule of the active regime."""

    noise_ratio: float = 1.1
    """A chart is trained when its residual exceeds this many times the noise its weights state."""
    rounds: int = 12
    """Most rounds; the evidence is projected and the held-out part judged after each."""
    steps_per_round: int = 5
    """Adam steps of a round, at fixed foot points."""
    learning_rate: float = 1e-2
    """Adam's step size."""
    held_out_every: int = 5
    """One row of the evidence in this many is held out."""
    least_gain: float = 0.01
    """Share by which the held-out error must fall below the best one to count as better."""
    patience: int = 2
    """Rounds without gain after which a chart stops."""
    charts_per_batch: int = 64
    """Charts trained together."""

    def __post_init__(self) -> None:
        for name, least in (
            ("noise_ratio", 0.0),
            ("rounds", 1),
            ("steps_per_round", 1),
            ("held_out_every", 2),
            ("least_gain", 0.0),
            ("patience", 1),
            ("charts_per_batch", 1),
        ):
            if not getattr(self, name) >= least:
                raise InvalidConfigError(
                    f"active {name} must be at least {least}",
                    repr(getattr(self, name)),
                    "Correct the setting.",
                )
        if not 0.0 < self.learning_rate < 1.0:
            raise InvalidConfigError(
                "active learning_rate must lie in (0, 1)", repr(self.learning_rate), "Correct the setting."
            )


def _with_own_layers(config: FitConfig) -> FitConfig:
    """Shared layers may be wide; layers of a chart's own are paid for by every chart."""
    return replace(config, width=min(config.width, _MOST_WIDTH), features=_MOST_WIDTH)


class ActiveRegime:
    """Charts with hidden layers of their own; see ``streamdgp.fitting.types.Regime``.

    A flat row is a whole network (``streamdgp.network``: two hidden layers, affine part), so that
    it needs nothing beside it.

    Parameters
    ----------
    config, seed, device
        Of the lazy regime it starts from; ignored when ``lazy`` is given.
    lazy
        Gives the starting solution, its ridge and the preconditioner of the last layer.
    schedule
        Which charts are trained, and how.
    """

    name = "active"
    is_chartwise = False

    def __init__(
        self,
        config: FitConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        lazy: LazyRegime | None = None,
        schedule: ActiveConfig | None = None,
        features: SharedFeatures | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.lazy = lazy or LazyRegime(_with_own_layers(config or FitConfig()), seed, device, features)
        self.schedule = schedule or ActiveConfig()
        width = self.lazy.features.w1.shape[1]
        self.spec = NetworkSpec((width, width))
        self.parameter_count = self.spec.parameter_count

    # --- Regime protocol -------------------------------------------------------------------------

    def fit_new(self, patches: PatchBatch) -> FitResult:
        """Lazy fit; then train the charts that it does not explain."""
        fit = self.lazy.fit_new(patches)
        return self._train(patches, replace(fit, parameters=self.from_lazy(fit.parameters)))

    def fit_warm(self, patches: PatchBatch, parameters: Tensor) -> FitResult:
        """Project on the stored charts, solve the last layer; train on where that is not enough."""
        return self._train(patches, self._regress(patches, parameters))

    def refit_to(self, parameters: Tensor, v: Tensor, targets: Tensor) -> Tensor:
        """Change the last layer towards targets (C, N, 3) at samples (N, 2); the hidden layers stay."""
        hidden, samples = unpack(parameters, self.spec), v.expand(len(parameters), -1, -1)
        change = targets - self.evaluate(parameters, v)
        ones = torch.ones_like(change[..., 0])
        ridge = torch.full_like(ones[:, 0], _REFIT_RIDGE)
        last = slice(self.spec.blocks[3].stop, None)
        moved = parameters.clone()
        moved[:, last] += self._solve(hidden, samples, change, ones, ridge)[:, last]
        return moved

    def evaluate(self, parameters: Tensor, v: Tensor) -> Tensor:
        """phi(v): (C, P), (C, K, 2) or (K, 2) to (C, K, 3)."""
        return evaluate(unpack(parameters, self.spec), v.expand(len(parameters), -1, -1), self.spec)

    def evaluate_with_jacobian(self, parameters: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """phi(v) and dphi/dv: (C, K, 3), (C, K, 3, 2)."""
        return evaluate_with_jacobian(unpack(parameters, self.spec), v, self.spec)

    def rasters(self, parameters: Tensor) -> Tensor:
        """phi on the lattice of V: (C, 33, 33, 3)."""
        lattice = raster_lattice(parameters.device)[None].expand(len(parameters), -1, -1)
        return self.evaluate(parameters, lattice).reshape(-1, RASTER, RASTER, 3)

    def shared_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Shared layers of the lazy start; rows do not need them to be evaluated."""
        return self.lazy.shared_arrays()

    # --- Steps -----------------------------------------------------------------------------------

    def from_lazy(self, parameters: Tensor) -> Tensor:
        """Flat rows (C, P) of the same charts as lazy ones (C, P_lazy), equal up to rounding."""
        shared = self.lazy.features
        hidden = {
            "weight0": shared.w1[:2].T[None],
            "bias0": shared.w1[2][None],
            "weight1": shared.w2[:-1].T[None],
            "bias1": shared.w2[-1][None],
        }
        return self._join(hidden, parameters.reshape(len(parameters), -1, 3))

    def _join(self, hidden: ChartParameters, coefficients: Tensor) -> Tensor:
        """Flat rows from hidden layers and coefficients (C, 3 + m, 3) of the preconditioned features."""
        width = self.spec.hidden[-1]
        mixed = torch.matmul(self.lazy.features.mix[None], coefficients[:, 3:])
        parts = {name: hidden[name] for name in _HIDDEN}
        parts["weight2"] = mixed[:, :width].mT
        parts["bias2"] = torch.zeros_like(coefficients[:, 0])
        parts["affine"] = (coefficients[:, :3] + mixed[:, width:]).mT
        return pack(parts, self.spec)

    def _features(self, hidden: ChartParameters, v: Tensor) -> Tensor:
        """Design rows [v, 1, psi(v)], (C, N, 3 + m): each chart's own features, preconditioned.

        The combination that makes the shared features orthonormal keeps the normal equations well
        conditioned in single precision as long as the hidden layers stay near where they began.
        """
        affine = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        raw = torch.cat([hidden_features(hidden, v, self.spec), affine], dim=-1)
        # With a batch axis of its own: one product per chart, whose bits do not depend on the batch.
        return torch.cat([affine, torch.matmul(raw, self.lazy.features.mix[None])], dim=-1)

    def _solve(
        self, hidden: ChartParameters, feet: Tensor, targets: Tensor, weights: Tensor, ridge: Tensor
    ) -> Tensor:
        return self._join(hidden, self._ridge(self._features(hidden, feet), targets, weights, ridge))

    def _ridge(self, rows: Tensor, targets: Tensor, weights: Tensor, ridge: Tensor) -> Tensor:
        """Ridge coefficients (C, 3 + m, 3), in double precision.

        Trained features are no longer orthonormal: with the smallest ridges the normal equations
        then lose all digits of single precision.
        """
        penalty = self.lazy.features.penalty
        solution = solve_ridge(
            rows.detach().double(), targets.double(), weights.double(), penalty.double(), ridge.double()
        )
        return solution.to(rows.dtype)

    def _regress(self, patches: PatchBatch, parameters: Tensor) -> FitResult:
        """As the lazy regime regresses, on each chart's own features."""
        hidden = unpack(parameters, self.spec)
        feet, _ = foot_points(self.rasters(parameters), patches)
        rows, penalty = self._features(hidden, feet), self.lazy.features.penalty
        fit = solve_ridge_reml(
            rows.double(),
            patches.points.double(),
            patches.weights.double(),
            penalty.double(),
            self.lazy.config.smoothness,
        )
        coefficients, ridge = fit.coefficients.to(rows.dtype), fit.ridge.to(rows.dtype)
        return self._finish(patches, hidden, self._join(hidden, coefficients), ridge)

    def _finish(
        self, patches: PatchBatch, hidden: ChartParameters, parameters: Tensor, ridge: Tensor
    ) -> FitResult:
        """Project on the charts, weight robustly, solve with all evidence, and project again."""
        feet, distance = foot_points(self.rasters(parameters), patches)
        weights = robust_weights(patches.weights, distance)
        final = self._solve(hidden, feet, patches.points, weights, ridge)
        feet, distance = foot_points(self.rasters(final), patches)
        return FitResult(final, feet, weighted_rms(distance, weights), weights, ridge)

    def _train(self, patches: PatchBatch, fit: FitResult) -> FitResult:
        """Train the charts whose residual exceeds the noise; the others keep their fit."""
        count = (patches.weights > 0).sum(dim=1)
        # The weights are inverse variances: pure noise has sum w d^2 = n.
        misfit = fit.residual * (fit.weights.sum(dim=1) / count.clamp(min=1)).sqrt()
        least_rows = self.schedule.held_out_every * 3
        chosen = torch.nonzero((misfit > self.schedule.noise_ratio) & (count >= least_rows))[:, 0]
        parts = {name: getattr(fit, name).clone() for name in _FIT_FIELDS}
        for some in torch.split(chosen, self.schedule.charts_per_batch):
            mine = PatchBatch(patches.points[some], patches.weights[some])
            start = FitResult(**{name: value[some] for name, value in parts.items()})
            trained, gained = self._train_batch(mine, start)
            for name in _FIT_FIELDS:
                parts[name][some[gained]] = getattr(trained, name)[gained]
        return FitResult(**parts)

    def _train_batch(self, patches: PatchBatch, fit: FitResult) -> tuple[FitResult, Tensor]:
        """Best charts by held-out evidence, solved with all of it; and which ones gained (C,)."""
        plan = self.schedule
        row = torch.arange(patches.points.shape[1], device=patches.points.device)
        held_out = (row % plan.held_out_every == plan.held_out_every - 1).to(patches.weights)
        best = fit.parameters.clone()
        best_error = torch.full_like(fit.residual, torch.inf)
        stale = torch.zeros(len(best), dtype=torch.int64, device=best.device)
        gained = torch.zeros_like(stale, dtype=torch.bool)
        hidden = {
            name: value.clone().requires_grad_()
            for name, value in unpack(fit.parameters, self.spec).items()
            if name in _HIDDEN
        }
        optimizer = torch.optim.Adam(list(hidden.values()), lr=plan.learning_rate, betas=(0.9, 0.99))
        feet, weights = fit.feet, fit.weights
        for turn in range(plan.rounds + 1):
            with torch.no_grad():
                current = self._solve(hidden, feet, patches.points, weights * (1.0 - held_out), fit.ridge)
                feet, distance = foot_points(self.rasters(current), patches)
                error = weighted_rms(distance, weights * held_out)
                better = (error < (1.0 - plan.least_gain) * best_error) & (stale < plan.patience)
                best_error = torch.where(better, error, best_error)
                best = torch.where(better[:, None], current, best)
                stale = torch.where(better, 0, stale + 1)
                gained |= better & (turn > 0)
            if turn == plan.rounds or bool((stale >= plan.patience).all()):
                break
            self._descend(optimizer, hidden, feet, patches.points, weights * (1.0 - held_out), fit.ridge)
        with torch.no_grad():
            return self._finish(patches, unpack(best, self.spec), best, fit.ridge), gained

    def _descend(
        self,
        optimizer: torch.optim.Optimizer,
        hidden: dict[str, Tensor],
        feet: Tensor,
        targets: Tensor,
        weights: Tensor,
        ridge: Tensor,
    ) -> None:
        """Adam steps on the hidden layers, the last layer solved before each (variable projection)."""
        shares = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-30)
        with torch.enable_grad():
            for _ in range(self.schedule.steps_per_round):
                optimizer.zero_grad(set_to_none=True)
                rows = self._features(hidden, feet)
                coefficients = self._ridge(rows, targets, weights, ridge)
                loss = (shares[..., None] * (rows @ coefficients - targets).square()).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
