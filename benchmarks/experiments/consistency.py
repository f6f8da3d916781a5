"""The consistency step off and on: seams and error, for several weights, and in a stream."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.engine import reconstruct
from benchmarks.experiments.plots import COLORS, GREY, cumulative, drawing
from benchmarks.experiments.report import Experiment, Figures, markdown_table, picture
from benchmarks.inside import SeamRecorder, fit_independently
from benchmarks.object import Scan, make_scan
from streamdgp.config import ConsistencyConfig, SceneConfig
from streamdgp.consistency.sweep import make_consistent, seam_distances_m
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles

__all__ = ["EXPERIMENT"]

_MESH = "cow"
_FRAMES = 30
_SEAMS_EVERY = 3
_WEIGHTS = (0.25, 0.5, 1.0, 1.5, 3.0, 6.0)
_SWEEPS = (1, 2, 4)


def _row(seam_m: np.ndarray, error_m: float) -> dict[str, float]:
    return {
        "seam_mm": 1e3 * float(seam_m.mean()),
        "seam_p95_mm": 1e3 * float(np.quantile(seam_m, 0.95)),
        "error_mm": 1e3 * error_m,
    }


def _stream(scan: Scan, sweeps: int) -> tuple[Reconstructor, SeamRecorder, float]:
    """Stream the scan; the engine, its seams between fitted and stored charts, and the mesh's mean error."""
    seams = SeamRecorder(_SEAMS_EVERY)
    with seams.recording():
        made = reconstruct(scan.frames, SceneConfig(consistency=ConsistencyConfig(sweeps=sweeps)))
    return made.engine, seams, scan.score(made.mesh).accuracy_mean_m


def _batch(engine: Reconstructor, scan: Scan, config: ConsistencyConfig) -> dict[str, float]:
    """Fit all charts alone from the final evidence, then make them consistent with one another."""
    fit_independently(engine, consistent=False)
    inner = engine._map
    assert inner is not None
    charts = np.arange(len(inner.atlas))
    make_consistent(inner.atlas, inner.regime, charts, config)
    seam = seam_distances_m(inner.atlas, inner.regime, charts)
    return _row(seam, scan.score(weld_tiles(engine.surface().tiles())).accuracy_mean_m)


def measure(folder: Path) -> Figures:
    """A stream off and on, then weights and sweeps on its final evidence."""
    with tempfile.TemporaryDirectory() as scratch:
        scan = make_scan(_MESH, Path(scratch), _FRAMES)
        reconstruct(scan.frames[:2])  # compiles the kernels
        _, never, off_m = _stream(scan, 0)
        engine, seams, on_m = _stream(scan, 1)
    parts = {
        "off": np.concatenate(never.after_m),
        "on, before each step": np.concatenate(seams.before_m),
        "on, after each step": np.concatenate(seams.after_m),
    }
    base = ConsistencyConfig()
    weights = {f"{mu:g}": _batch(engine, scan, replace(base, weight=mu)) for mu in _WEIGHTS}
    sweeps = {str(n): _batch(engine, scan, replace(base, sweeps=n)) for n in _SWEEPS}
    figures: Figures = {
        "mesh": _MESH,
        "frames": _FRAMES,
        "charts": engine.chart_count,
        "default_weight": base.weight,
        "stream": {name: _row(seam, off_m if name == "off" else on_m) for name, seam in parts.items()},
        "alone": _batch(engine, scan, replace(base, sweeps=0)),
        "weights": weights,
        "sweeps": sweeps,
    }
    _draw(folder, figures, parts)
    return figures


def _draw(folder: Path, figures: Figures, parts: dict[str, np.ndarray]) -> None:
    with drawing(folder, "consistency", 3.4) as figure:
        left, right = figure.subplots(1, 2)
        for (name, seam), color in zip(parts.items(), (GREY, COLORS[5], COLORS[0]), strict=True):
            cumulative(left, 1e3 * seam, 2.0, color=color, label=name)
        left.set(xlabel="seam between a fitted chart and stored ones (mm)", ylabel="samples within it (%)",
                 title="While frames stream in", ylim=(0, 102))  # fmt: skip
        left.legend(title="consistency step", loc="lower right")
        alone = figures["alone"]
        found = dict(figures["weights"])
        found |= {f"{name}×": one for name, one in figures["sweeps"].items() if name != "1"}
        place = np.arange(len(found))
        for k, (key, label, color) in enumerate(
            (("seam_mm", "mean seam", COLORS[0]), ("error_mm", "mean error of the mesh", COLORS[1]))
        ):
            ratio = [one[key] / alone[key] for one in found.values()]
            right.bar(place + 0.4 * k - 0.2, ratio, width=0.38, color=color, label=label)
        right.axhline(1.0, color=GREY, lw=1, ls="--")
        right.set_xticks(place, list(found))
        right.set(xlabel="weight μ (one sweep), or sweeps (default μ)")
        right.set(ylabel="ratio to no consistency step", title="All charts at once", ylim=(0, 1.3))
        right.grid(visible=False, axis="x")
        right.legend(ncols=2, loc="upper center")


def describe(figures: Figures) -> str:
    """Text from the figures."""
    keys = ("seam_mm", "seam_p95_mm", "error_mm")
    named = {f"stream, {name}": one for name, one in figures["stream"].items()}
    named["all at once, off"] = figures["alone"]
    named |= {f"all at once, μ = {mu}": one for mu, one in figures["weights"].items()}
    named |= {f"all at once, {n} sweeps": one for n, one in figures["sweeps"].items() if n != "1"}
    rows = [[name, *(f"{one[key]:.3f}" for key in keys)] for name, one in named.items()]
    stream, alone = figures["stream"], figures["alone"]
    on, off = stream["on, after each step"], stream["off"]
    default = figures["weights"][f"{figures['default_weight']:g}"]
    most = max(figures["sweeps"].items(), key=lambda item: int(item[0]))

    def change(new: float, old: float) -> str:
        return f"{100 * (new / old - 1):+.1f} %"

    return f"""\
A virtual scan of *{figures["mesh"]}* ({figures["frames"]} frames, {figures["charts"]} charts), where
the error is exact. Seams are the distances between what a chart and what its neighbours say at the
chart's samples; in the stream, between charts being fitted and stored ones. *All at once* fits every
chart again from the final evidence, then runs the step over all of them.

{picture("consistency", "Seams in a stream without and with the step; seam and error for weights and sweeps")}

{markdown_table(["", "mean seam mm", "p95 seam mm", "mean error mm"], rows)}

In the stream the step takes the mean seam from {off["seam_mm"]:.3f} mm without it to
{on["seam_mm"]:.3f} mm, and the error of the mesh changes by {change(on["error_mm"], off["error_mm"])}.
All at once, with the default μ = {figures["default_weight"]:g}: seams
{change(default["seam_mm"], alone["seam_mm"])}, error {change(default["error_mm"], alone["error_mm"])}.
The blend of the mesh averages the charts' independent errors with or without the step, so that
agreement is bought for the charts and hardly shows in the mesh. More sweeps ({most[0]}) change seams by
{change(most[1]["seam_mm"], alone["seam_mm"])} and the error by
{change(most[1]["error_mm"], alone["error_mm"])}."""


EXPERIMENT = Experiment("consistency", "Consistency off and on", measure, describe)
