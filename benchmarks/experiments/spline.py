"""Curves: the cubic-spline limit of the kernel regime, and features that move.

A curve network f(x) = alpha sum_i c_i relu(w_i x + b_i) (+ an affine part) is ``streamdgp.network`` on
samples (x, 0). Features have unit slopes and kinks t_i spread evenly over an interval; outer weights start at
zero. Then the tangent kernel at the start is that of the outer weights alone, the sum of products
relu(w_i x + b_i) relu(w_i x' + b_i), and the least weights |c| that interpolate minimise the integral of
f''^2 (Williams et al. 2019): for n to infinity and an affine part without penalty, the natural cubic spline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamdgp.network import NetworkSpec, Scaling, evaluate, hidden_features, pack, unpack

__all__ = ["CurveRun", "kinks", "least_norm_curve", "scaled_curve", "start_curve", "train_curve"]

_KINK_REACH = 1.0


def start_curve(width: int, scaling: Scaling, *, affine: bool) -> tuple[NetworkSpec, Tensor]:
    """A curve network and its start: kinks evenly over (-1, 1), both directions in turn, outer weights zero.

    The row is float64, (1, P). The second input and the outputs beyond the first are not used.
    """
    spec = NetworkSpec((width,), scaling=scaling, affine=affine)
    first = spec.layer_scales[0]
    t = _KINK_REACH * (2.0 * (torch.arange(width, dtype=torch.float64) + 0.5) / width - 1.0)
    direction = torch.where(torch.arange(width) % 2 == 0, 1.0, -1.0).double()
    parts = {
        "weight0": torch.stack([direction / first, torch.zeros_like(t)], dim=1)[None],
        "bias0": (-direction * t)[None],
        "weight1": torch.zeros(1, 3, width, dtype=torch.float64),
        "bias1": torch.zeros(1, 3, dtype=torch.float64),
    }
    if affine:
        parts["affine"] = torch.zeros(1, 3, 3, dtype=torch.float64)
    return spec, pack(parts, spec)


def _samples(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack([x, np.zeros_like(x)], axis=1))[None]


def scaled_curve(spec: NetworkSpec, row: Tensor, x: np.ndarray) -> np.ndarray:
    """f(x) of a row (1, P) at (K,) places."""
    with torch.no_grad():
        return evaluate(unpack(row, spec), _samples(x), spec)[0, :, 0].numpy()


def kinks(spec: NetworkSpec, row: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Where the features' kinks are, and how much the slope jumps there: (n,), (n,)."""
    weights = unpack(row, spec)
    slope = spec.layer_scales[0] * weights["weight0"][0, :, 0]
    jump = spec.layer_scales[1] * weights["weight1"][0, 0] * slope.abs()
    return (-weights["bias0"][0] / slope).numpy(), jump.numpy()


def least_norm_curve(width: int, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Where gradient flow on the outer weights ends, the affine part being free: f at (K,) places.

    min |c|^2 such that the affine part plus sum_i c_i relu_i interpolates (x, y).
    """
    spec, row = start_curve(width, "ntk", affine=True)
    weights = unpack(row, spec)
    scale = spec.layer_scales[1]
    rows, shown = (scale * hidden_features(weights, _samples(z), spec)[0].numpy() for z in (x, at))
    affine, affine_shown = (np.stack([np.ones_like(z), z], axis=1) for z in (x, at))
    gram = rows @ rows.T
    # Saddle-point system [G A; A^T 0] (multipliers, affine part) = (y, 0).
    system = np.block([[gram, affine], [affine.T, np.zeros((2, 2))]])
    solution = np.linalg.solve(system, np.concatenate([y, np.zeros(2)]))
    curve: np.ndarray = shown @ (rows.T @ solution[: len(x)]) + affine_shown @ solution[len(x) :]
    return curve


@dataclass(frozen=True)
class CurveRun:
    """A trained curve: its row at the start and the end, its loss, and kinks (looks, n) on the way."""

    spec: NetworkSpec
    start: Tensor
    row: Tensor
    rms: float
    kink_path: np.ndarray


def train_curve(
    x: np.ndarray, y: np.ndarray, width: int, scaling: Scaling, steps: int, rate: float = 0.2, looks: int = 40
) -> CurveRun:
    """Gradient descent with momentum on all weights; the same speed in function space for both scalings.

    Kinks are looked at when the cube root of the step has gone on by 1 / ``looks`` of its way.
    A weight's gradient is alpha times smaller than the function's, so the rate is ``rate`` / (alpha^2 n).
    """
    spec, start = start_curve(width, scaling, affine=False)
    weights = {name: value.clone().requires_grad_() for name, value in unpack(start, spec).items()}
    alpha = spec.layer_scales[1]
    speed = rate / (alpha**2 * width)
    # The output's bias is one weight and not one of n: it takes the plain rate.
    groups = [
        {"params": [weights[k] for k in ("weight0", "bias0", "weight1")], "lr": speed},
        {"params": [weights["bias1"]], "lr": rate},
    ]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.95)
    samples, target = _samples(x), torch.from_numpy(y)
    path: list[np.ndarray] = []
    loss = torch.zeros(())
    for step in range(steps):
        if step >= steps * (len(path) / looks) ** 3:
            path.append(kinks(spec, pack({k: v.detach() for k, v in weights.items()}, spec))[0])
        optimizer.zero_grad(set_to_none=True)
        loss = (evaluate(weights, samples, spec)[0, :, 0] - target).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    row = pack({name: value.detach() for name, value in weights.items()}, spec)
    path.append(kinks(spec, row)[0])
    return CurveRun(spec, start, row, float(loss.detach().sqrt()), np.stack(path))
