"""Training dynamics: training, held-out and true error over Adam's steps on noisy patches.

The paper's network is trained by the paper's loss (one transport plan per step, so that assignments may
change at any time) far beyond the paper's schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.analytic_patches import AnalyticPatches, make_patches
from benchmarks.experiments.plots import COLORS, GREY, drawing
from benchmarks.experiments.report import Experiment, Figures, markdown_table, picture
from benchmarks.experiments.training import train_network
from streamdgp.fitting._projection import foot_points
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.paper import PaperRegime
from streamdgp.fitting.types import PatchBatch, Regime

__all__ = ["EXPERIMENT"]

_SURFACE = "torus"
_NOISES = (0.01, 0.03, 0.09)
_CHARTS = 3
_FITTED, _HELD_OUT = 128, 64
_STEPS = 480
_STEPS_PER_LOOK = 10
_PATIENCE = 8
_END = 5


@dataclass(frozen=True)
class _Look:
    """Mean errors over the charts, thousandths of the chart radius."""

    train: float
    held_out: float
    true: float


def _rms(distance: Tensor) -> float:
    return 1e3 * float(distance.square().mean(dim=1).sqrt().mean())


def _look(regime: Regime, parameters: Tensor, patches: AnalyticPatches) -> _Look:
    """Distances of fitted, held-out and true points from the charts."""
    rasters = regime.rasters(parameters)

    def distance(points: Tensor) -> Tensor:
        return foot_points(rasters, PatchBatch(points, torch.ones(points.shape[:2])))[1]

    fitted, held_out = patches.noisy[:, :_FITTED], patches.noisy[:, _FITTED:]
    return _Look(_rms(distance(fitted)), _rms(distance(held_out)), _rms(distance(patches.clean)))


def _curve(patches: AnalyticPatches) -> tuple[list[_Look], _Look]:
    """Errors every few steps of the paper's training, and the lazy regime's on the same evidence."""
    evidence = patches.evidence
    fitted = PatchBatch(evidence.points[:, :_FITTED].contiguous(), evidence.weights[:, :_FITTED].contiguous())
    regime, lazy = PaperRegime(), LazyRegime()
    steps = iter(range(_STEPS_PER_LOOK, _STEPS + 1, _STEPS_PER_LOOK))
    looks = [_look(regime, rows, patches) for _, rows in train_network(regime, fitted.points, steps)]
    return looks, _look(lazy, lazy.fit_new(fitted).parameters, patches)


def _stop(held_out: np.ndarray) -> int:
    """The look at which a run ends: the best so far, once it has not been beaten for some looks."""
    best = 0
    for look in range(len(held_out)):
        if held_out[look] < held_out[best]:
            best = look
        elif look - best >= _PATIENCE:
            break
    return best


def measure(folder: Path) -> Figures:
    """Train at three levels of noise."""
    steps = _STEPS_PER_LOOK * np.arange(1, _STEPS // _STEPS_PER_LOOK + 1)
    figures: Figures = {"steps": _STEPS, "charts": _CHARTS, "levels": {}}
    with drawing(folder, "stopping", 3.4) as figure:
        for axes, sigma in zip(figure.subplots(1, len(_NOISES)), _NOISES, strict=True):
            patches = make_patches(_SURFACE, _CHARTS, _FITTED + _HELD_OUT, sigma)
            looks, lazy = _curve(patches)
            train, held_out, true = (
                np.array([getattr(x, k) for x in looks]) for k in ("train", "held_out", "true")
            )
            stop = _stop(held_out)
            for values, color, label in (
                (train, GREY, "points fitted"),
                (held_out, COLORS[0], "points held out"),
                (true, COLORS[1], "true surface"),
            ):
                axes.semilogy(steps, values, color=color, label=label)
            axes.axvline(steps[stop], color=COLORS[0], lw=1, ls=":")
            axes.axhline(lazy.true, color=COLORS[1], lw=1, ls="--", label="true surface, lazy chart")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.tick_params(axis="y", which="minor", labelsize=7.5)
            axes.set(xlabel="Adam steps", title=f"noise {1e3 * sigma:g} thousandths")
            figures["levels"][f"{1e3 * sigma:g}"] = {
                "stop_step": int(steps[stop]),
                "true_at_stop": float(true[stop]),
                "best_step": int(steps[true.argmin()]),
                "true_best": float(true.min()),
                "true_at_end": float(true[-_END:].mean()),
                "held_out_at_stop": float(held_out[stop]),
                "held_out_at_end": float(held_out[-_END:].mean()),
                "train_at_stop": float(train[stop]),
                "train_at_end": float(train[-_END:].mean()),
                "true_lazy": lazy.true,
            }
        figure.axes[0].set_ylabel("rms distance from the chart\n(thousandths of its radius)")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figures


def describe(figures: Figures) -> str:
    """Text from the figures."""
    levels = figures["levels"]
    rows = [
        [
            sigma,
            str(one["stop_step"]),
            *(f"{one[key]:.1f}" for key in ("true_at_stop", "true_best", "true_at_end", "true_lazy")),
            f"{one['train_at_end']:.1f}",
        ]
        for sigma, one in levels.items()
    ]
    worse = [sigma for sigma, one in levels.items() if one["true_at_end"] > 1.1 * one["true_at_stop"]]
    loss = max(one["true_at_stop"] / one["true_best"] - 1 for one in levels.values())
    gain = {sigma: one["true_at_end"] / one["true_at_stop"] for sigma, one in levels.items()}
    fell = {sigma: 100 * (one["train_at_end"] / one["train_at_stop"] - 1) for sigma, one in levels.items()}
    wrinkled = [
        sigma
        for sigma, one in levels.items()
        if one["held_out_at_end"] < one["held_out_at_stop"] and one["true_at_end"] > one["true_at_stop"]
    ]
    trap = (
        f" A trap: at noise {', '.join(wrinkled)} the held-out error, the distance to the nearest point "
        "of the chart, is in the end lower again than at the stop, while the truth is farther away: a "
        "wrinkled chart has a point near everything. So training must stop at the first minimum, after some "
        "looks without gain, and not at the least value of a long run."
        if wrinkled
        else ""
    )
    rose = [sigma for sigma in worse if fell[sigma] > 0]
    unsteady = (
        f" Where it rose (noise {', '.join(rose)}), it is not the noise that was learned; probably "
        "Adam's steps are too large to settle."
        if rose
        else ""
    )
    if worse:
        verdict = (
            f"Trained to the end, the true error is {', '.join(f'{gain[s]:.1f}' for s in worse)} times that "
            f"at the stop (noise {', '.join(worse)}): the network first finds the surface and "
            "then the noise. The distance from the fitted points changed meanwhile by "
            f"{', '.join(f'{fell[s]:+.0f}' for s in worse)} %.{unsteady}"
        )
    else:
        verdict = "Within these steps training on never cost more than a tenth of the true error."
    calm = [sigma for sigma in levels if sigma not in worse]
    rest = f" At noise {', '.join(calm)} there is little to lose yet." if worse and calm else ""
    beaten = [s for s, one in levels.items() if one["true_lazy"] <= one["true_at_stop"]]
    lazy = (
        "The lazy chart, whose ridge is chosen by marginal likelihood instead of a stopping time, is closer "
        f"to the truth than the stopped network at {len(beaten)} of {len(levels)} levels of noise."
    )
    columns = ["noise", "held-out stop, step", "true error there", "least true error", "mean at the end"]
    table = markdown_table([*columns, "lazy chart", "fitted points at the end"], rows)
    return f"""\
{figures["charts"]} noisy patches of a {_SURFACE}, {_FITTED} points each to fit and {_HELD_OUT} held
out, at three levels of noise (standard deviation per axis, in thousandths of the chart radius). The
paper's network (429,187 weights) is trained by Adam on the Wasserstein distance for {figures["steps"]}
steps instead of 25, one transport plan per step. It is stopped in hindsight where the held-out error
was not beaten for {_PATIENCE * _STEPS_PER_LOOK} steps. Errors are root-mean-square distances from the
chart; those of the true surface's points are exact.

{picture("stopping", "Errors over the steps of training at three levels of noise; dotted: the stop")}

{table}

{verdict}{rest}{trap} Stopping where the held-out points say costs at most {100 * loss:.0f} % over the
best moment, which only the truth knows. {lazy}"""


EXPERIMENT = Experiment("stopping", "Training dynamics and early stopping under noise", measure, describe)
