"""The active regime: charts whose features move (section 3.6 of the paper, mean-field side).

Every chart starts from the lazy solution. Where that leaves more residual than the noise explains (an
edge, a corner, fine detail), its own hidden layers are trained by Adam, while the last layer and the
affine part stay the ridge solution for the features of the moment (variable projection, Golub and
Pereyra 1973: at that solution the gradient by the hidden weights is the partial one). A fifth of the
evidence is held out; training stops when it no longer gains there, and a chart that never gained
keeps the lazy solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamdgp.config import FitConfig
from streamdgp.errors import InvalidConfigError
from streamdgp.fitting._projection import foot_points
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.raster import RASTER, raster_lattice
from streamdgp.fitting.ridge import solve_ridge
from streamdgp.fitting.types import FitResult, PatchBatch
from streamdgp.network import (
    NetworkSpec,
    evaluate,
    evaluate_with_jacobian,
    hidden_features,
    pack,
    unpack,
)

__all__ = ["ActiveConfig", "ActiveRegime"]

_HIDDEN = ("weight0", "bias0", "weight1", "bias1")


@dataclass(frozen=True)
class ActiveConfig:
    """Schedule of the active regime."""

    noise_ratio: float = 1.15
    """A chart is trained when its residual exceeds this many times the noise its weights state."""
    rounds: int = 8
    """Most rounds; the evidence is projected and the held-out part judged after each."""
    steps_per_round: int = 10
    """Adam steps of a round, at fixed foot points."""
    learning_rate: float = 1e-2
    """Adam's step size."""
    held_out_every: int = 5
    """One row of the evidence in this many is held out."""
    least_gain: float = 0.02
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


class ActiveRegime:
    """Charts with hidden layers of their own; see ``streamdgp.fitting.types.Regime``.

    A flat row is a whole network (``streamdgp.network``: two hidden layers, affine part), so that
    it needs nothing beside it.

    Parameters
    ----------
    lazy
        Gives the starting solution, its ridge and the preconditioner of the last layer.
    config
        Schedule.
    """

    name = "active"

    def __init__(
        self,
        config: FitConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        lazy: LazyRegime | None = None,
        schedule: ActiveConfig | None = None,
    ) -> None:
        self.lazy = lazy or LazyRegime(config, seed, device)
        self.schedule = schedule or ActiveConfig()
        width = self.lazy.features.w1.shape[1]
        self.spec = NetworkSpec((width, width))
        self.parameter_count = self.spec.parameter_count

    # --- Regime protocol -------------------------------------------------------------------------

    def fit_new(self, patches: PatchBatch) -> FitResult:
        """Lazy fit; then train the charts it does not explain."""
        fit = self.lazy.fit_new(patches)
        start = self.from_lazy(fit.parameters)
        return self._train(patches, fit, start, start)
