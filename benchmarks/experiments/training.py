"""The paper's network trained for as long as one likes, with a look at it now and then.

``PaperRegime`` runs a schedule to its end; here one run of Adam is watched, and the loss can be that of
AtlasNet (Groueix et al. 2018) instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from streamdgp.fitting.paper import PaperRegime
from streamdgp.network import evaluate, initial_parameters, pack, unpack
from streamdgp.sampling.domain import poisson_disk_domain
from streamdgp.transport import assign, squared_distances

__all__ = ["Loss", "train_network"]

Loss = Literal["wasserstein", "chamfer"]


def _wasserstein(points: Tensor, evidence: Tensor) -> Tensor:
    """W_2^2 of as many points as evidence, (C, N, 3) both, for the assignment of the moment."""
    match = assign(squared_distances(points, evidence))
    targets = torch.gather(evidence, 1, match[..., None].expand(-1, -1, 3))
    return (points - targets).square().sum(dim=(1, 2)) / points.shape[1]


def _chamfer(points: Tensor, evidence: Tensor) -> Tensor:
    """Mean squared distance to the nearest point of the other set, both ways: no transport."""
    cost = squared_distances(points, evidence)

    def one_way(source: Tensor, target: Tensor, nearest: Tensor) -> Tensor:
        return (
            (source - torch.gather(target, 1, nearest[..., None].expand(-1, -1, 3))).square().sum(2).mean(1)
        )

    return one_way(points, evidence, cost.argmin(2)) + one_way(evidence, points, cost.argmin(1))


_LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {"wasserstein": _wasserstein, "chamfer": _chamfer}


def train_network(
    regime: PaperRegime, evidence: Tensor, looks: Iterator[int], loss: Loss = "wasserstein"
) -> Iterator[tuple[int, Tensor]]:
    """Train charts on evidence (C, N, 3) from random weights; yields (step, rows (C, P)) at each look.

    Starts and samples as ``regime.fit_new`` does; ``looks`` are ascending numbers of steps.
    """
    start = initial_parameters(regime.spec, 1, regime.seed).expand(len(evidence), -1)
    weights = {
        name: value.detach().clone().requires_grad_() for name, value in unpack(start, regime.spec).items()
    }
    optimizer = torch.optim.Adam(list(weights.values()), lr=regime.schedule.learning_rate, fused=True)
    v = torch.from_numpy(poisson_disk_domain(evidence.shape[1], regime.seed)).expand(len(evidence), -1, -1)
    plane = torch.cat([v, torch.zeros_like(v[..., :1])], dim=-1)
    step = 0
    for look in looks:
        while step < look:
            optimizer.zero_grad(set_to_none=True)
            _LOSSES[loss](plane + evaluate(weights, v, regime.spec), evidence).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        yield step, pack(weights, regime.spec).detach()
