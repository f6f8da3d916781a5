"""Settings of the transport solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamdgp.errors import InvalidConfigError

__all__ = ["TransportConfig", "TransportMethod"]

TransportMethod = Literal["auto", "exact", "sinkhorn", "geomloss"]


@dataclass(frozen=True)
class TransportConfig:
    """How transport problems are solved.

    The entropic problem is min_P <P, C> - H(P) / lambda; it tends to the exact one as lambda grows.
    """

    method: TransportMethod = "auto"
    """``auto`` takes the exact solver on a CPU for uniform problems up to ``exact_size_limit``,
    Sinkhorn otherwise."""
    exact_size_limit: int = 256
    """Most points on a side for which ``auto`` solves exactly (64: 0.17 ms, 256: 3 to 5 ms)."""
    inverse_temperature: float = 500.0
    """lambda, in 1 / cost unit. In chart units costs reach 4; 500 blurs over about 0.04."""
    stage_factor: float = 4.0
    """lambda grows by at most this factor from one annealing stage to the next; above 1."""
    stage_iterations: int = 10
    """Scaling iterations of every stage, and of the last one twice as many."""

    def __post_init__(self) -> None:
        checks = (
            ("method", self.method in ("auto", "exact", "sinkhorn", "geomloss"), "a known method"),
            ("exact_size_limit", self.exact_size_limit >= 0, "not negative"),
            ("inverse_temperature", 0.0 < self.inverse_temperature < float("inf"), "positive and finite"),
            ("stage_factor", 1.0 < self.stage_factor < float("inf"), "above 1 and finite"),
            ("stage_iterations", self.stage_iterations >= 1, "at least 1"),
        )
        for name, good, wanted in checks:
            if not good:
                raise InvalidConfigError(
                    f"transport {name} must be {wanted}",
                    repr(getattr(self, name)),
                    "Correct the setting or leave it out for its default.",
                )
