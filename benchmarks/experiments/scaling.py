"""1/sqrt(n) against 1/n on curves: features that stay or move, the cubic-spline limit, uneven sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.interpolate import CubicSpline

from benchmarks.experiments.plots import COLORS, GREY, METHOD_COLORS, drawing, log_log_slope
from benchmarks.experiments.report import Experiment, Figures, markdown_table, picture
from benchmarks.experiments.spline import CurveRun, kinks, least_norm_curve, scaled_curve, train_curve
from streamdgp.network import Scaling

__all__ = ["EXPERIMENT", "corner", "smooth"]

_WIDTH = 512
_STEPS = 6000
_SCALINGS: tuple[tuple[Scaling, str, str], ...] = (
    ("ntk", "1/√n (lazy)", METHOD_COLORS["lazy"]),
    ("mean_field", "1/n (active)", METHOD_COLORS["active"]),
)
_MOVING_WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
_MOVING_STEPS = 3000
_LIMIT_WIDTHS = (64, 128, 256, 512, 1024, 2048)
_BINS = 76
_FULLEST = 8
_AT = np.linspace(-0.9, 0.9, 721)
_SAMPLING = {
    "even": np.linspace(-0.9, 0.9, 13),
    "uneven": np.sort(
        np.concatenate([np.linspace(-0.9, -0.2, 3), np.linspace(-0.1, 0.2, 7), [0.45, 0.65, 0.9]])
    ),
}


def corner(x: np.ndarray) -> np.ndarray:
    """A tent: three corners, straight in between."""
    tent: np.ndarray = 0.3 * np.maximum(0.0, 1.0 - np.abs(x - 0.1) / 0.45)
    return tent


def smooth(x: np.ndarray) -> np.ndarray:
    """Two waves."""
    waves: np.ndarray = 0.15 * np.sin(3.5 * x) + 0.05 * np.cos(6.0 * x)
    return waves


_CURVES = {"corner": corner, "smooth": smooth}


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def _moved(run: CurveRun) -> float:
    return float(np.median(np.abs(run.kink_path[-1] - run.kink_path[0])))


def _draw_fit(axes: Axes, run: CurveRun, x: np.ndarray, title: str, color: str) -> None:
    axes.plot(_AT, corner(_AT), color="#bbbbbb", lw=3.5, label="true curve")
    axes.plot(_AT, CubicSpline(x, corner(x), bc_type="natural")(_AT), color=COLORS[6], ls=":", lw=1.3,
              label="natural cubic spline")  # fmt: skip
    axes.plot(_AT, scaled_curve(run.spec, run.row, _AT), color=color, lw=1.6, label="network")
    axes.plot(x, corner(x), "o", color=COLORS[6], ms=3.5, label="samples")
    axes.set(title=title, ylabel="f(x)", xlim=(-0.95, 0.95), ylim=(-0.04, 0.42))
    axes.tick_params(labelbottom=False)


def _draw_paths(axes: Axes, run: CurveRun, color: str) -> None:
    """Positions of some kinks over training, and how much of the curve's bend they end up with."""
    order = np.linspace(0, _WIDTH - 1, 65).round().astype(int)
    axes.plot(run.kink_path[:, order], np.linspace(0, 1, len(run.kink_path)), color=color, lw=0.6, alpha=0.75)
    height, edges = _bend(run)
    axes.bar(edges[:-1], 0.4 * height / height.max(), width=np.diff(edges), bottom=1.04, align="edge",
             color=COLORS[6])  # fmt: skip
    axes.set(xlim=(-0.95, 0.95), ylim=(0, 1.5), xlabel="x, position of the kinks")
    steps = (0, 10, 100, 1000, _STEPS)
    axes.set_yticks([(step / _STEPS) ** (1 / 3) for step in steps], [f"{step}" for step in steps])
    axes.set_ylabel("step", y=0.33)
    axes.text(-0.92, 1.48, "bend |Δf′| at the end", va="top", fontsize=8)


def _bend(run: CurveRun) -> tuple[np.ndarray, np.ndarray]:
    """How much the trained curve bends in each of 76 bins, and their edges."""
    where, jump = kinks(run.spec, run.row)
    return np.histogram(where, bins=_BINS, range=(-0.95, 0.95), weights=np.abs(jump))


def _moving(axes: Axes) -> dict[str, Any]:
    """How far kinks move over the width."""
    x = _SAMPLING["uneven"]
    found: dict[str, Any] = {"widths": list(_MOVING_WIDTHS)}
    for scaling, label, color in _SCALINGS:
        moved = [
            _moved(train_curve(x, corner(x), n, scaling, _MOVING_STEPS, rate=0.4)) for n in _MOVING_WIDTHS
        ]
        found[scaling] = moved
        found[f"{scaling}_slope"] = log_log_slope(np.array(_MOVING_WIDTHS, float), np.array(moved))
        axes.loglog(_MOVING_WIDTHS, moved, "o-", color=color, label=label, ms=4)
    guide = found["ntk"][0] * (np.array(_MOVING_WIDTHS) / _MOVING_WIDTHS[0]) ** -0.5
    axes.loglog(_MOVING_WIDTHS, 0.7 * guide, color="#999999", ls="--", lw=1.1, label="n^(−1/2)")
    axes.set(xlabel="width n", ylabel="median move of a kink", title="Features stay or move")
    axes.legend()
    return found


def _limit(axes: Axes) -> dict[str, Any]:
    """Where lazy training ends, against the natural cubic spline, over the width."""
    x = _SAMPLING["uneven"]
    spline = CubicSpline(x, corner(x), bc_type="natural")(_AT)
    gaps = [float(np.abs(least_norm_curve(n, x, corner(x), _AT) - spline).max()) for n in _LIMIT_WIDTHS]
    slope = log_log_slope(np.array(_LIMIT_WIDTHS, float), np.array(gaps))
    axes.loglog(_LIMIT_WIDTHS, gaps, "o-", color=GREY, ms=4, label=f"slope {slope:.2f}")
    axes.set(xlabel="width n", ylabel="largest difference", title="Lazy limit − cubic spline")
    axes.legend()
    return {"widths": list(_LIMIT_WIDTHS), "largest_difference": gaps, "slope": slope}


def measure(folder: Path) -> Figures:
    """Fit both curves at both samplings in both scalings."""
    figures: Figures = {"fits": {}}
    with drawing(folder, "scaling", 5.6) as figure:
        axes = figure.subplots(2, 3, width_ratios=(1.15, 1.15, 1))
        for name, curve in _CURVES.items():
            for sampling, x in _SAMPLING.items():
                truth = curve(_AT)
                spline = CubicSpline(x, curve(x), bc_type="natural")(_AT)
                one: dict[str, Any] = {"spline": _rms(spline - truth)}
                for column, (scaling, label, color) in enumerate(_SCALINGS):
                    run = train_curve(x, curve(x), _WIDTH, scaling, _STEPS, rate=0.4)
                    one[scaling] = _rms(scaled_curve(run.spec, run.row, _AT) - truth)
                    one[f"{scaling}_at_samples"] = run.rms
                    one[f"{scaling}_moved"] = _moved(run)
                    bend = np.sort(_bend(run)[0])
                    one[f"{scaling}_gathered"] = float(bend[-_FULLEST:].sum() / bend.sum())
                    if name == "corner" and sampling == "uneven":
                        _draw_fit(axes[0, column], run, x, f"{label}, n = {_WIDTH}", color)
                        _draw_paths(axes[1, column], run, color)
                figures["fits"][f"{name}, {sampling}"] = one
        axes[0, 0].legend(loc="upper left", fontsize=7.5, ncols=2)
        figures["moving"] = _moving(axes[0, 2])
        figures["limit"] = _limit(axes[1, 2])
    return figures


def describe(figures: Figures) -> str:
    """Text from the figures."""
    fits, moving, limit = figures["fits"], figures["moving"], figures["limit"]
    rows = [
        [
            case,
            *(
                f"{1e3 * one[key]:.2f}"
                for key in ("spline", "ntk", "mean_field", "ntk_moved", "mean_field_moved")
            ),
        ]
        for case, one in fits.items()
    ]
    wins = [case for case, one in fits.items() if one["mean_field"] < one["ntk"]]
    losses = [case for case in fits if case not in wins]
    uneven = fits["corner, uneven"]
    worst = max(one[f"{scaling}_at_samples"] for one in fits.values() for scaling in ("ntk", "mean_field"))
    return f"""\
A curve network f(x) = α Σ cᵢ relu(wᵢx + bᵢ) with unit slopes, kinks spread evenly over (−1, 1) and cᵢ =
0, trained on all weights by gradient descent with momentum from 13 noise-free samples; α = 1/√n or 1/n,
at the same speed in function space. Shown is a tent sampled densely around its top and sparsely
elsewhere. Under the fits: paths of 65 of the {_WIDTH} kinks while training goes on (upwards), and on
top where the trained curve has its bends.

{picture("scaling", "A tent fitted in both scalings, paths of the kinks, their moves and the spline limit")}

**Features stay or move.** The median move of a kink falls with the width as n^{moving["ntk_slope"]:.2f}
with 1/√n (from {moving["ntk"][0]:.3f} at n = {moving["widths"][0]} to {moving["ntk"][-1]:.3f} at n =
{moving["widths"][-1]}), and as n^{moving["mean_field_slope"]:.2f} with 1/n
({moving["mean_field"][0]:.2f} to {moving["mean_field"][-1]:.2f}): there features move by
{100 * moving["mean_field"][-1] / 2:.0f} % of the interval however many there are. They gather: the
fullest {_FULLEST} of {_BINS} bins hold {100 * uneven["mean_field_gathered"]:.0f} % of the bend, and
{100 * uneven["ntk_gathered"]:.0f} % with 1/√n.

**Cubic-spline limit.** Kernel interpolation with these features and a free affine part (where lazy
training of the last layer ends) tends to the natural cubic spline through the samples: the largest
difference is {limit["largest_difference"][0]:.1e} at n = {limit["widths"][0]} and
{limit["largest_difference"][-1]:.1e} at n = {limit["widths"][-1]}, falling as n^{limit["slope"]:.2f}.
The trained lazy network has no free affine part and stays close to the spline, not on it.

**Uneven sampling.** Root-mean-square errors between the samples (×1000; at the samples all are below
{1e3 * worst:.1f}) and median moves (×1000):

{markdown_table(["", "natural cubic spline", "1/√n", "1/n", "move 1/√n", "move 1/n"], rows)}

Moving features win on *{"*, *".join(wins) or "none"}* and lose on *{"*, *".join(losses) or "none"}*. On
the unevenly sampled tent they are {uneven["ntk"] / uneven["mean_field"]:.1f} times closer than the lazy
network, which, like the spline, swings over the sparse part; on a smooth curve the spline's smoothness
is the better prior. That is the case for active charts at creases and for lazy ones elsewhere."""


EXPERIMENT = Experiment(
    "scaling", "1/√n against 1/n: features that stay, features that move", measure, describe
)
