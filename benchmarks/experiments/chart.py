"""One chart fitted to a patch of a real scan, in the three regimes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from benchmarks.experiments.plots import METHOD_COLORS, cumulative, drawing
from benchmarks.experiments.report import Experiment, Figures, markdown_table, picture
from benchmarks.experiments.scans import (
    SCANS,
    Patch,
    bumpy_anchor,
    load_scan,
    patch_at,
    plane_noise_m,
    split,
)
from streamdgp.fitting._projection import foot_points
from streamdgp.fitting.active import ActiveRegime
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.paper import PaperConfig, PaperRegime
from streamdgp.fitting.types import PatchBatch, Regime

__all__ = ["EXPERIMENT"]

_SCALE_M = 5e-3
_QUANTILE = 0.75
_PAPER_LONG = 150


def _regimes() -> dict[str, Regime]:
    lazy = LazyRegime()
    long = PaperConfig(local_epochs=_PAPER_LONG, consistency_epochs=_PAPER_LONG)
    return {
        "lazy": lazy,
        "active": ActiveRegime(),
        "paper": PaperRegime(),
        f"paper, {_PAPER_LONG} steps": PaperRegime(schedule=long),
    }


def _distances_m(raster: torch.Tensor, points: np.ndarray, scale_m: float) -> np.ndarray:
    """Signed distances (N,) of chart-frame points from the chart."""
    rows = torch.from_numpy(points[None]).float()
    signed = foot_points(raster, PatchBatch(rows, torch.ones(rows.shape[:2])))[1][0]
    return scale_m * signed.double().numpy()


def _summary(signed_m: np.ndarray) -> dict[str, float]:
    size = 1e6 * np.abs(signed_m)
    return {"rms_um": float(np.sqrt((size**2).mean())), "p95_um": float(np.quantile(size, 0.95))}


def _fit(regime: Regime, patch: Patch, held_out: np.ndarray, noise_m: float) -> tuple[np.ndarray, Any]:
    evidence = patch.evidence(noise_m)
    if isinstance(regime, LazyRegime | ActiveRegime):
        regime.fit_new(evidence)  # compiles the kernels
    started = time.process_time()
    fit = regime.fit_new(evidence)
    parameters = fit.parameters
    if isinstance(regime, PaperRegime):
        # The paper's second stage; a chart alone has its own evidence as target.
        parameters = regime.train_on(parameters, fit.feet, evidence.points, evidence.weights)
    seconds = time.process_time() - started
    raster = regime.rasters(parameters)
    fitted, kept = (_distances_m(raster, points, patch.scale_m) for points in (patch.points, held_out))
    return raster[0].numpy(), {
        "ms": 1e3 * seconds,
        "fitted": _summary(fitted),
        "held_out": _summary(kept),
        "_signed_um": 1e6 * kept,
    }


def _picture(axes: Any, patch: Patch, raster: np.ndarray, signed_um: np.ndarray, limit_um: float) -> Any:  # noqa: ANN401
    """The chart as a surface, its evidence coloured by the distance from it (three-dimensional axes)."""
    scale_mm = 1e3 * patch.scale_m
    surface = scale_mm * raster.copy()
    surface[np.linalg.norm(raster[..., :2], axis=2) > 0.97] = np.nan
    axes.plot_wireframe(*np.moveaxis(surface, 2, 0), color="#5f6b87", lw=0.5, rstride=1, cstride=1)
    points = scale_mm * patch.points
    shown = axes.scatter(*points.T, c=signed_um, cmap="coolwarm", vmin=-limit_um, vmax=limit_um, s=9,
                         depthshade=False, edgecolors="none")  # fmt: skip
    axes.set(xlabel="mm", ylabel="mm")
    axes.set_box_aspect((1, 1, max(0.35, np.ptp(points[:, 2]) / (2 * scale_mm))), zoom=1.2)
    axes.view_init(elev=38, azim=-60)
    axes.tick_params(labelsize=7, pad=-2)
    axes.locator_params(nbins=4)
    return shown


def _curves(axes: Axes, found: dict[str, Any], noise_m: float) -> None:
    limit = 5e6 * noise_m
    for name, one in found.items():
        base, _, longer = name.partition(",")
        style = "--" if base == "active" else ":" if longer else "-"
        label = f"{name}: rms {one['held_out']['rms_um']:.0f} µm"
        cumulative(axes, np.abs(one["_signed_um"]), limit, color=METHOD_COLORS[base], ls=style, label=label)
    axes.set(xlabel="distance from the chart (µm)", ylabel="held-out points within it (%)", ylim=(0, 103))
    axes.legend(loc="lower right")


def measure(folder: Path) -> Figures:
    """Fit one bumpy patch of each scan in every regime."""
    figures: Figures = {}
    with drawing(folder, "chart", 6.2) as figure:
        for row, scan in enumerate(SCANS):
            cloud = load_scan(scan)
            fitted, held_out = split(cloud)
            noise_m = plane_noise_m(fitted)
            patch = patch_at(fitted, bumpy_anchor(fitted, _SCALE_M, _QUANTILE), _SCALE_M)
            local = patch.local(held_out.points_m)
            same = held_out.normals @ patch.rotation[:, 2] > 0.5
            kept = local[same & (np.linalg.norm(local, axis=1) < 0.9)]
            found, rasters = {}, {}
            for name, regime in _regimes().items():
                rasters[name], found[name] = _fit(regime, patch, kept, noise_m)
            own = _distances_m(torch.from_numpy(rasters["lazy"][None]), patch.points, patch.scale_m)
            space: Any = figure.add_subplot(2, 2, 2 * row + 1, projection="3d")
            shown = _picture(space, patch, rasters["lazy"], 1e6 * own, 2e6 * noise_m)
            space.set_title(f"{scan}: lazy chart and its {len(patch.points)} points")
            figure.colorbar(shown, ax=space, shrink=0.6, pad=0.12, label="distance (µm)")
            axes = figure.add_subplot(2, 2, 2 * row + 2)
            _curves(axes, found, noise_m)
            axes.set_title(f"{scan}: {len(kept)} points held out of the fit")
            figures[scan] = {
                "evidence": len(patch.points),
                "held_out": len(kept),
                "noise_um": 1e6 * noise_m,
                "relief_mm": 1e3 * patch.scale_m * float(np.ptp(patch.points[:, 2])),
                "regimes": {
                    name: {k: v for k, v in one.items() if not k.startswith("_")}
                    for name, one in found.items()
                },
            }
    return figures


def describe(figures: Figures) -> str:
    """Text from the figures."""
    rows = [
        [
            f"{scan}: {name}",
            f"{one['fitted']['rms_um']:.1f}",
            f"{one['held_out']['rms_um']:.1f}",
            f"{one['held_out']['p95_um']:.0f}",
            f"{one['ms']:.1f}",
        ]
        for scan, found in figures.items()
        for name, one in found["regimes"].items()
    ]
    patches = "; ".join(
        f"{scan}: {found['evidence']} points, {found['relief_mm']:.1f} mm of relief, noise about "
        f"{found['noise_um']:.0f} µm (from planes through 12 neighbours)"
        for scan, found in figures.items()
    )

    def held_out(scan: str, name: str) -> float:
        return float(figures[scan]["regimes"][name]["held_out"]["rms_um"])

    names = list(_regimes_of(figures))
    # Within two per cent is a tie.
    leaders = {
        scan: [n for n in names if held_out(scan, n) <= 1.02 * min(held_out(scan, m) for m in names)]
        for scan in figures
    }
    best = ", ".join(f"{' and '.join(those)} on {scan}" for scan, those in leaders.items())
    idle = [scan for scan in figures if held_out(scan, "lazy") == held_out(scan, "active")]
    same = (
        f" On {' and '.join(idle)} the active regime kept the lazy chart: training gained nothing."
        if idle
        else ""
    )
    longer = names[-1]
    overfit = [scan for scan in figures if held_out(scan, longer) > 1.05 * held_out(scan, "lazy")]
    more = (
        " With more steps the paper's network takes the noise of its points for surface on "
        f"{' and '.join(overfit)}: closer to those it fits, farther from the others (see early stopping)."
        if overfit
        else ""
    )
    return f"""\
A ball of {1e3 * _SCALE_M:g} mm, bumpier than three in four others, from each scan ({patches}). Four
fifths of the points are the chart's evidence; the others say how far the chart is from points it has
not seen, which cannot be less than their noise. The paper's network is shown with its schedule (25
steps on the Wasserstein distance, 25 towards its own evidence) and with {_PAPER_LONG / 25:.0f} times as
many steps; it starts from the tangent plane.

{picture("chart", "Charts of two patches with their evidence, and the distances of held-out points")}

{markdown_table(["", "rms fitted µm", "rms held out µm", "p95 held out µm", "CPU ms"], rows)}

Closest to the held-out points: {best}.{same}{more}"""


def _regimes_of(figures: Figures) -> list[str]:
    return list(next(iter(figures.values()))["regimes"])


EXPERIMENT = Experiment("chart", "One chart fitted to a scan", measure, describe)
