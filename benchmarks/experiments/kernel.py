"""The tangent kernel of a wide one-hidden-layer ReLU network against its closed form.

A chart network of ``streamdgp.network`` in its ``ntk`` scaling maps v in R^2 to R^3 as

    phi_a(v) = n^-1/2 sum_i c_ai relu(z_i(v)) + d_a,    z_i(v) = 2^-1/2 w_i . v + b_i,

and starts from w_i ~ N(0, 2 I), b_i ~ N(0, 1), c_ai ~ N(0, 1). So z_i(v) = u_i . (v, 1) with u_i ~ N(0, I_3),
and the products of derivatives by c, d, w and b have the expectations (arc-cosine kernels, Cho and Saul 2009)

    K_ab(v, v') = delta_ab [ kappa_1 + 1 + (v . v' / 2 + 1) kappa_0 ],
    kappa_0 = E 1[z > 0] 1[z' > 0] = (pi - t) / 2 pi,
    kappa_1 = E relu(z) relu(z') = |(v, 1)| |(v', 1)| (sin t + (pi - t) cos t) / 2 pi,

with t the angle between (v, 1) and (v', 1). The outer weights' part kappa_1 alone is the kernel of training
only the last layer; a curve is the special case v = (x, 0).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.experiments.plots import COLORS, drawing, log_log_slope
from benchmarks.experiments.report import Experiment, Figures, markdown_table, picture
from streamdgp.network import NetworkSpec, evaluate, initial_parameters, unpack
from streamdgp.sampling.domain import poisson_disk_domain

__all__ = ["EXPERIMENT", "closed_form_kernel", "empirical_kernel", "wide_network"]

_WIDTHS = (16, 64, 256, 1024, 4096)
_SEEDS = 6
_SAMPLES = 12
_CURVE_WIDTHS = (64, 1024, 8192)
_FIXED = 0.4


def wide_network(width: int) -> NetworkSpec:
    """One hidden layer in the kernel scaling, without an affine part."""
    return NetworkSpec((width,), scaling="ntk", affine=False)


def closed_form_kernel(v: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """K(v, v') of one output for samples (K, 2) and (M, 2): the whole kernel (K, M), and kappa_1 alone."""
    first = torch.cat([v, torch.ones_like(v[:, :1])], dim=1)
    second = torch.cat([other, torch.ones_like(other[:, :1])], dim=1)
    lengths = first.norm(dim=1)[:, None] * second.norm(dim=1)
    cosine = (first @ second.T / lengths).clamp(-1.0, 1.0)
    angle = torch.acos(cosine)
    both_active = (math.pi - angle) / (2.0 * math.pi)
    outer = lengths * (torch.sin(angle) + (math.pi - angle) * cosine) / (2.0 * math.pi)
    return outer + 1.0 + (0.5 * v @ other.T + 1.0) * both_active, outer


def empirical_kernel(v: Tensor, spec: NetworkSpec, seed: int) -> Tensor:
    """Products of the network's gradients by its weights, (K, 3, K, 3), for samples (K, 2)."""
    rows = initial_parameters(spec, 1, seed).to(v)

    def outputs(row: Tensor) -> Tensor:
        return evaluate(unpack(row[None], spec), v[None], spec)[0].reshape(-1)

    gradients: Tensor = torch.func.jacrev(outputs)(rows[0])
    return (gradients @ gradients.T).reshape(len(v), 3, len(v), 3)


def _errors(v: Tensor, width: int) -> tuple[float, float]:
    """Root-mean-square error relative to the closed form, and of the entries between outputs, over seeds."""
    exact, _ = closed_form_kernel(v, v)
    spec = wide_network(width)
    same, between = [], []
    for seed in range(_SEEDS):
        kernel = empirical_kernel(v, spec, seed)
        blocks = kernel.permute(1, 3, 0, 2)
        diagonal = torch.stack([blocks[a, a] for a in range(3)])
        same.append((diagonal - exact).square().mean())
        between.append(torch.stack([blocks[0, 1], blocks[0, 2], blocks[1, 2]]).square().mean())
    scale = float(exact.square().mean())
    return tuple(math.sqrt(float(torch.stack(x).mean()) / scale) for x in (same, between))  # type: ignore[return-value]


def _draw(folder: Path, figures: Figures) -> None:
    x = torch.linspace(-2.0, 2.0, 41, dtype=torch.float64)
    line = torch.stack([x, torch.zeros_like(x)], dim=1)
    fixed = int((x - _FIXED).abs().argmin())
    exact, outer = closed_form_kernel(line, line)
    with drawing(folder, "kernel", 3.5) as figure:
        left, right = figure.subplots(1, 2)
        for width, color in zip(_CURVE_WIDTHS, ("#bbbbbb", COLORS[5], COLORS[0]), strict=True):
            kernel = empirical_kernel(line, wide_network(width), 0)[fixed, 0, :, 0]
            left.plot(x, kernel, color=color, lw=1.3, label=f"network, n = {width}")
        left.plot(x, exact[fixed], color=COLORS[1], ls="--", label="closed form")
        left.plot(x, outer[fixed], color=COLORS[6], ls=":", lw=1.4, label="its last-layer part κ₁")
        left.axvline(_FIXED, color="#999999", lw=0.8)
        left.set(
            xlabel="x′ (parameter)", ylabel=f"K({_FIXED:g}, x′)", title="On a line, one draw of each width"
        )
        left.legend()
        widths = np.array(figures["widths"], float)
        right.loglog(widths, figures["relative_error"], "o-", label="one output, against K")
        right.loglog(widths, figures["between_outputs"], "s-", label="between outputs, against 0")
        guide = figures["relative_error"][0] * (widths / widths[0]) ** -0.5
        right.loglog(widths, 0.6 * guide, color="#999999", ls="--", lw=1.2, label="n^(−1/2)")
        right.set(xlabel="width n", ylabel="rms error / rms K", title=f"In the disk, {_SEEDS} draws")
        right.legend()


def measure(folder: Path) -> Figures:
    """Errors over the width, and the kernel on a line."""
    v = torch.from_numpy(poisson_disk_domain(_SAMPLES, seed=0)).double()
    errors = np.array([_errors(v, width) for width in _WIDTHS])
    figures: Figures = {
        "widths": list(_WIDTHS),
        "relative_error": errors[:, 0].tolist(),
        "between_outputs": errors[:, 1].tolist(),
        "slope": log_log_slope(np.array(_WIDTHS, float), errors[:, 0]),
        "slope_between": log_log_slope(np.array(_WIDTHS, float), errors[:, 1]),
    }
    _draw(folder, figures)
    return figures


def describe(figures: Figures) -> str:
    """Text from the figures."""
    rows = [
        [str(width), f"{100 * error:.2f} %", f"{100 * other:.2f} %"]
        for width, error, other in zip(
            figures["widths"], figures["relative_error"], figures["between_outputs"], strict=True
        )
    ]
    holds = abs(figures["slope"] + 0.5) < 0.1
    return f"""\
A chart network of one hidden layer in the kernel scaling (1/√n), φₐ(v) = n^(−1/2) Σ cₐᵢ relu(zᵢ(v)) +
dₐ with zᵢ(v) = wᵢ·v/√2 + bᵢ, starting from wᵢ ~ N(0, 2I), bᵢ, cₐᵢ ~ N(0, 1). Its tangent kernel, the
products of all its derivatives by its weights, tends to

    K_ab(v, v') = δ_ab [κ₁ + 1 + (v·v'/2 + 1) κ₀],   κ₀ = (π − t)/2π,
    κ₁ = |(v,1)| |(v',1)| (sin t + (π − t) cos t)/2π,   t the angle between (v,1) and (v',1)

κ₁ is the part of the last layer alone, which is what the lazy regime trains (through two hidden layers
instead of one).

{picture("kernel", "The tangent kernel of networks of growing width against its closed form")}

{markdown_table(["width n", "rms error, relative to K", "between outputs"], rows)}

The error falls with the width as n^{figures["slope"]:.2f} (outputs among each other:
n^{figures["slope_between"]:.2f}), {"as" if holds else "NOT as"} the mean of n independent terms must
(−0.5). The three coordinates of a chart do not talk to each other in the limit, so that one solve with
three right-hand sides is all a wide lazy chart needs. At a
width of 64 the kernel of one draw is still off by {100 * figures["relative_error"][1]:.0f} %: features of
that many units are a basis of their own and not a converged kernel."""


EXPERIMENT = Experiment(
    "kernel", "The tangent kernel of a wide network against its closed form", measure, describe
)
