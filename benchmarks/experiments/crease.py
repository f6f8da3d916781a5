"""Lazy against active charts: on a crease and on a smooth saddle, evenly and unevenly sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes

from benchmarks.analytic_patches import CREASE_SLOPE, NORMAL_ERROR_RAD, SADDLE_BEND
from benchmarks.experiments.plots import METHOD_COLORS, drawing
from benchmarks.experiments.report import Experiment, Figures, markdown_table, picture
from streamdgp.atlas.atlas import tangent_frames
from streamdgp.fitting._projection import foot_points
from streamdgp.fitting.active import ActiveRegime
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.types import PatchBatch, Regime

__all__ = ["EXPERIMENT", "HeightPatches", "height_patches"]

_CHARTS = 96
_POINTS = 192
_JUDGED = 1024
_SIGMA = 0.01
_DENSITY_RATIO = 20.0
_REACH = 0.7
_BINS = 14
_NEAR_EDGE = 0.1

HeightField = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _crease(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height and slopes of a roof whose ridge is the y axis."""
    slope = np.stack([-CREASE_SLOPE * np.sign(u[..., 0]), np.zeros(u.shape[:-1])], axis=-1)
    return -CREASE_SLOPE * np.abs(u[..., 0]), slope


def _saddle(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height: np.ndarray = SADDLE_BEND * (u[..., 0] ** 2 - u[..., 1] ** 2)
    return height, 2.0 * SADDLE_BEND * u * [1.0, -1.0]


_SURFACES: dict[str, HeightField] = {"crease": _crease, "saddle": _saddle}


@dataclass(frozen=True)
class HeightPatches:
    """C patches of a height field in chart frames, lengths in chart radii.

    evidence: noisy points with weights; exact (C, K, 3): points of the true surface, evenly spread;
    from_edge (C, K): their distance from the y axis, measured in the surface of the crease.
    """

    evidence: PatchBatch
    exact: torch.Tensor
    from_edge: np.ndarray


def height_patches(
    surface: str, charts: int, points: int, sigma: float, density_ratio: float = 1.0, seed: int = 0
) -> HeightPatches:
    """Patches around anchors within 0.4 of the y axis, frames tilted by the error of an estimated normal.

    The evidence is ``density_ratio`` times denser at one rim of a patch than at the opposite one (along x).
    """
    rng = np.random.default_rng([seed, list(_SURFACES).index(surface)])
    height = _SURFACES[surface]
    u = rng.uniform(-1.0, 1.0, (charts, 24 * _JUDGED, 2))
    middle = rng.uniform(-0.4, 0.4, (charts, 1, 2))
    z, slope = height(u + middle)
    anchor_z, anchor_slope = height(middle)
    world = np.concatenate([u, (z - anchor_z)[..., None]], axis=-1)
    normal = np.concatenate([-anchor_slope[:, 0], np.ones((charts, 1))], axis=1)
    normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    normal += NORMAL_ERROR_RAD * rng.normal(size=(charts, 3))
    rotation = tangent_frames(normal / np.linalg.norm(normal, axis=1, keepdims=True))
    inside = (world**2).sum(axis=-1) < 1.0
    area = np.sqrt(1.0 + (slope**2).sum(axis=-1))

    def draw(count: int, density: np.ndarray) -> np.ndarray:
        """Weighted sampling without replacement: the largest log u / w (Efraimidis and Spirakis 2006)."""
        keys = np.log(rng.random(density.shape)) / np.where(inside, density, 1e-9)
        return np.sort(np.argsort(-keys, axis=1)[:, :count], axis=1)

    def local(rows: np.ndarray) -> np.ndarray:
        chart: np.ndarray = np.take_along_axis(world, rows[..., None], axis=1) @ rotation
        return chart

    fitted = draw(points, area * density_ratio ** (0.5 * u[..., 0]))
    judged = draw(_JUDGED, area)
    noisy = torch.from_numpy(local(fitted) + sigma * rng.normal(size=(charts, points, 3))).float()
    x = np.take_along_axis((u + middle)[..., 0], judged, axis=1)
    evidence = PatchBatch(noisy, torch.full(noisy.shape[:2], sigma**-2))
    return HeightPatches(
        evidence, torch.from_numpy(local(judged)).float(), np.abs(x) * np.hypot(1.0, CREASE_SLOPE)
    )


def _errors(regime: Regime, patches: HeightPatches) -> tuple[np.ndarray, float]:
    """Distances (C, K) of true points from the charts, thousandths of the radius; share of charts trained."""
    parameters = regime.fit_new(patches.evidence).parameters
    exact = PatchBatch(patches.exact, torch.ones(patches.exact.shape[:2]))
    distance = foot_points(regime.rasters(parameters), exact)[1].abs()
    trained = 0.0
    if isinstance(regime, ActiveRegime):
        hidden = regime.spec.blocks[3].stop
        shared = regime.from_lazy(torch.zeros(1, regime.lazy.parameter_count))
        trained = float((parameters[:, :hidden] != shared[:, :hidden]).any(dim=1).float().mean())
    return 1e3 * distance.double().numpy(), trained


def _profile(axes: Axes, patches: HeightPatches, found: dict[str, np.ndarray], title: str) -> None:
    edges = np.linspace(0.0, _REACH, _BINS + 1)
    bin_of = np.digitize(patches.from_edge.ravel(), edges) - 1
    kept = bin_of < _BINS
    count = np.bincount(bin_of[kept], minlength=_BINS)
    for name, errors in found.items():
        mean = np.bincount(bin_of[kept], errors.ravel()[kept], _BINS) / np.maximum(count, 1)
        axes.plot(0.5 * (edges[1:] + edges[:-1]), mean, "o-", ms=3.5, color=METHOD_COLORS[name], label=name)
    axes.axhline(1e3 * _SIGMA, color="#999999", ls=":", lw=1.2, label="noise of a point (σ)")
    axes.set(xlabel="distance from the ridge (chart radii)", title=title)


def measure(folder: Path) -> Figures:
    """Fit all cases in both regimes."""
    lazy = LazyRegime()
    regimes: dict[str, Regime] = {"lazy": lazy, "active": ActiveRegime()}
    figures: Figures = {"charts": _CHARTS, "points": _POINTS, "sigma": 1e3 * _SIGMA, "cases": {}}
    with drawing(folder, "crease", 3.3) as figure:
        axes = figure.subplots(1, 3, sharey=True)
        shown = 0
        for surface in _SURFACES:
            for sampling, ratio in (("even", 1.0), ("uneven", _DENSITY_RATIO)):
                patches = height_patches(surface, _CHARTS, _POINTS, _SIGMA, ratio)
                outcome = {name: _errors(regime, patches) for name, regime in regimes.items()}
                found = {name: errors for name, (errors, _) in outcome.items()}
                if surface == "crease" or sampling == "uneven":
                    _profile(axes[shown], patches, found, f"{surface}, {sampling} sampling")
                    shown += 1
                near = patches.from_edge < _NEAR_EDGE
                figures["cases"][f"{surface}, {sampling}"] = {
                    name: {
                        "mean": float(errors.mean()),
                        "median": float(np.median(errors)),
                        "p95": float(np.quantile(errors, 0.95)),
                        "near_edge": float(errors[near].mean()),
                        "away": float(errors[~near].mean()),
                        "trained_share": outcome[name][1],
                    }
                    for name, errors in found.items()
                }
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("mean error\n(thousandths of the radius)")
        axes[0].legend()
    return figures


def describe(figures: Figures) -> str:
    """Text from the figures."""
    cases = figures["cases"]
    rows = [
        [f"{case}: {name}", *(f"{one[key]:.1f}" for key in ("mean", "median", "p95", "near_edge", "away"))]
        for case, pair in cases.items()
        for name, one in pair.items()
    ]

    def ratio(case: str, key: str) -> float:
        return float(cases[case]["active"][key] / cases[case]["lazy"][key])

    def change(case: str, key: str) -> str:
        value = 100 * (ratio(case, key) - 1)
        return "unchanged" if abs(value) < 1 else f"{abs(value):.0f} % {'lower' if value < 0 else 'higher'}"

    def trained(case: str) -> float:
        return float(cases[case]["active"]["trained_share"])

    uneven = "uneven"
    return f"""\
{figures["charts"]} patches of a roof (slope {CREASE_SLOPE:g} on either side of its ridge) and of a
saddle, {figures["points"]} points each with noise σ = {figures["sigma"]:g} thousandths of the chart
radius; *uneven* sampling is {_DENSITY_RATIO:g} times denser at one rim than at the opposite one. Errors
are distances of points of the true surface (evenly spread) from the charts, in thousandths of the
radius; *near* is within {_NEAR_EDGE:g} radii of the ridge.

{picture("crease", "Mean error over the distance from the ridge, lazy and active charts")}

{markdown_table(["", "mean", "median", "p95", "near the ridge", "away from it"], rows)}

With features that move, the error near the ridge is {change("crease, even", "near_edge")} on even and
{change(f"crease, {uneven}", "near_edge")} on uneven samples, and away from it
{change("crease, even", "away")} and {change(f"crease, {uneven}", "away")}. Uneven sampling raises the
mean error on the crease by a factor of
{cases["crease, uneven"]["lazy"]["mean"] / cases["crease, even"]["lazy"]["mean"]:.2f} for lazy and
{cases["crease, uneven"]["active"]["mean"] / cases["crease, even"]["active"]["mean"]:.2f} for active
charts. On the smooth saddle the mean is {change("saddle, even", "mean")} (even) and
{change(f"saddle, {uneven}", "mean")} (uneven): {100 * trained("saddle, even"):.0f} % and
{100 * trained(f"saddle, {uneven}"):.0f} % of its charts were trained with a gain,
{100 * trained("crease, even"):.0f} % and {100 * trained(f"crease, {uneven}"):.0f} % of the crease's;
the others keep the lazy solution."""


EXPERIMENT = Experiment("crease", "Lazy against active: a crease, and uneven sampling", measure, describe)
