"""What optimal transport is worth on patches that fold: python -m benchmarks.transport_ablation.

A sheet rolls up ever further; beyond 90 degrees the tangent plane at its anchor sees two layers. The
lazy regime is run with transport and with the tangent plane itself as first parametrisation, all
else equal. Errors in thousandths of the chart radius.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.analytic_patches import AnalyticPatches, bent_sheet_patches, make_patches
from streamdgp.fitting._projection import foot_points
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.types import PatchBatch

MISSED = 0.1


@dataclass(frozen=True)
class FoldError:
    """Distances of the true surface's points to the chart, chart units."""

    mean: float
    p95: float
    missed_share: float


def fold_error(patches: AnalyticPatches, *, transport: bool) -> FoldError:
    """Fit all patches; how far the true surface is from the charts, and how much of it they miss."""
    regime = LazyRegime(transport=transport)
    rasters = regime.rasters(regime.fit_new(patches.evidence).parameters)
    exact = PatchBatch(patches.clean, torch.ones(patches.clean.shape[:2]))
    distance = foot_points(rasters, exact)[1].abs()
    return FoldError(
        float(distance.mean()), float(distance.quantile(0.95)), float((distance > MISSED).float().mean())
    )


@click.command(epilog="Example: python -m benchmarks.transport_ablation --charts 64")
@click.option("--charts", default=64, show_default=True)
@click.option("--points", default=256, show_default=True, help="Evidence per chart.")
@click.option("--sigma", default=0.01, show_default=True, help="Noise, in chart radii.")
def main(charts: int, points: int, sigma: float) -> None:
    """Compare charts fitted with and without optimal transport."""
    torch.set_num_threads(1)
    table = Table("patch", "transport", "mean", "p95", f"share missed by {MISSED:g}")
    batches = [make_patches("saddle", charts, points, sigma)]
    batches += [bent_sheet_patches(math.radians(a), charts, points, sigma) for a in (60, 90, 120, 150, 180)]
    for patches in batches:
        for transport in (False, True):
            error = fold_error(patches, transport=transport)
            table.add_row(
                patches.name,
                "with" if transport else "without",
                f"{1e3 * error.mean:.2f}",
                f"{1e3 * error.p95:.2f}",
                f"{100.0 * error.missed_share:.1f} %",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
