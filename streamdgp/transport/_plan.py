"""One interface to every transport solver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamdgp.errors import InvalidInputError
from streamdgp.transport._config import TransportConfig
from streamdgp.transport._exact import check_finite, exact_plan
from streamdgp.transport._sinkhorn import round_to_marginals, sinkhorn

__all__ = ["TransportPlan", "squared_distances", "transport_plan"]


@dataclass(frozen=True)
class TransportPlan:
    """Solved problems.

    plan (C, n, m)   transported mass; all of a problem's mass is 1
    cost (C,)        <P, C>; for squared distances, W_2^2 when exact
    method           the solver that ran: ``exact``, ``sinkhorn`` or ``geomloss``
    """

    plan: Tensor
    cost: Tensor
    method: str

    def barycentres(self, points_b: Tensor) -> Tensor:
        """Where each row's mass goes on average: points (C, m, d) to (C, n, d); padding rows are 0."""
        mass = self.plan.sum(dim=2, keepdim=True)
        return torch.bmm(self.plan, points_b) / torch.where(mass > 0, mass, 1.0)


def squared_distances(points_a: Tensor, points_b: Tensor) -> Tensor:
    """Squared distances (C, n, m) between (C, n, d) and (C, m, d), by differences; no gradient.

    Not by the expanded square, which loses the digits of close pairs in single precision, and one
    coordinate after another: that is eight times faster than a trailing axis of length 3.
    """
    a = points_a.detach().transpose(1, 2).contiguous()
    b = points_b.detach().transpose(1, 2).contiguous()
    difference = a[:, 0, :, None] - b[:, 0, None, :]
    result = difference.square()
    for axis in range(1, a.shape[1]):
        torch.sub(a[:, axis, :, None], b[:, axis, None, :], out=difference)
        result.addcmul_(difference, difference)
    return result


def transport_plan(
    cost: Tensor,
    weights_a: Tensor | None = None,
    weights_b: Tensor | None = None,
    config: TransportConfig | None = None,
) -> TransportPlan:
    """Optimal transport of many small problems.

    Parameters
    ----------
    cost
        (C, n, m) costs, finite, any device.
    weights_a, weights_b
        Masses (C, n) and (C, m), not negative, at least one positive per problem; normalised here
        to sum to 1. Zero marks padding. Uniform when left out.
    config
        Solver and its settings; ``auto`` chooses by size and device.

    Raises
    ------
    InvalidInputError
        For shapes that do not fit, costs or weights that are not finite, negative weights or a
        problem without mass.
    """
    settings = config or TransportConfig()
    if cost.ndim != 3:
        raise InvalidInputError(
            "transport costs must have shape (C, n, m)",
            f"shape {tuple(cost.shape)}",
            "Add the batch axis: cost[None].",
        )
    check_finite(cost)
    problem_count, row_count, column_count = cost.shape
    a = _marginal(weights_a, (problem_count, row_count), cost, "weights_a")
    b = _marginal(weights_b, (problem_count, column_count), cost, "weights_b")
    method = settings.method if settings.method != "auto" else _choose(cost, a, b, settings)
    cost = cost.detach()
    if method == "exact":
        plan = exact_plan(cost, a, b)
    elif method == "sinkhorn":
        plan = sinkhorn(cost, a, b, settings)
    else:
        plan = _geomloss(cost, a, b, settings)
    return TransportPlan(plan, (plan * cost).sum(dim=(1, 2)), method)


def _marginal(weights: Tensor | None, shape: tuple[int, int], cost: Tensor, name: str) -> Tensor:
    if weights is None:
        return torch.full(shape, 1.0 / max(shape[1], 1), dtype=cost.dtype, device=cost.device)
    if tuple(weights.shape) != shape:
        raise InvalidInputError(
            f"{name} must have shape {shape}",
            f"shape {tuple(weights.shape)}",
            "Give one mass per row (a) and per column (b) of the costs.",
        )
    weights = weights.detach().to(cost)
    total = weights.sum(dim=1, keepdim=True)
    if not bool((weights >= 0).all() and (total > 0).all() and torch.isfinite(total).all()):
        raise InvalidInputError(
            f"{name} must be finite, not negative, and hold some mass in every problem",
            f"least value {float(weights.min()):g}, least total {float(total.min()):g}",
            "Leave empty problems out of the batch.",
        )
    return weights / total


def _choose(cost: Tensor, a: Tensor, b: Tensor, settings: TransportConfig) -> str:
    """Exact where it is both fast and an assignment: uniform masses, equal counts, small, on a CPU."""
    if cost.device.type != "cpu" or max(cost.shape[1:]) > settings.exact_size_limit:
        return "sinkhorn"
    count_a, count_b = (a > 0).sum(dim=1), (b > 0).sum(dim=1)
    uniform = all(
        bool((torch.where(x > 0, x * n[:, None], 1.0) - 1.0).abs().max() < 1e-5)
        for x, n in ((a, count_a), (b, count_b))
        if x.numel()
    )
    return "exact" if uniform and bool((count_a == count_b).all()) else "sinkhorn"


def _geomloss(cost: Tensor, a: Tensor, b: Tensor, settings: TransportConfig) -> Tensor:
    """geomloss's annealed log-domain solver; it takes no zero masses, so padding gets next to none."""
    # Imported here: geomloss takes half a second to import and is a cross-check, not the default.
    from geomloss import ot

    least = 1e-12
    solution = ot.solve_batch(
        cost,
        reg=1.0 / settings.inverse_temperature,
        a=a.clamp(min=least),
        b=b.clamp(min=least),
        max_iter=10 * settings.stage_iterations,
    )
    real = (a[:, :, None] > 0) & (b[:, None, :] > 0)
    plan: Tensor = torch.where(real, solution.plan, 0.0)
    return round_to_marginals(plan, a, b)
