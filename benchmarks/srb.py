"""Two scans of the surface reconstruction benchmark: python -m benchmarks.srb.

``anchor`` and ``gargoyle`` are points with normals and no sensor: the data that the method's paper was
measured on. As there, distances go one way, from the scan's points to the surface, because the truth is
not part of the data: mean (one-sided Chamfer), largest (one-sided Hausdorff), and the share of the points
within given errors. Ours takes the cloud as one frame; screened Poisson gets the same points and normals.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from benchmarks.inputs import shared_data
from benchmarks.methods import Job, run_job, summary_row
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.datasets import open_dataset
from streamdgp.frames import PointFrame
from streamdgp.meshes import MeshLike, RayScene

CLOUDS = ("anchor", "gargoyle")
ERRORS_M = (0.05e-3, 0.1e-3, 0.2e-3, 0.5e-3)
POISSON_DEPTH = 9
FAR_M = 1e-3
FAR_SHARE = 0.01


def cloud_points(path: Path, unit: str = "mm") -> npt.NDArray[np.float64]:
    """Points of a scan (N, 3), metres."""
    frame = open_dataset(path, unit=unit).read(0)
    assert isinstance(frame, PointFrame)
    return frame.points_m.reshape(-1, 3).astype(np.float64)


def scores_of(mesh: MeshLike, points_m: npt.NDArray[np.float64]) -> dict[str, float]:
    """Distances from the points to the mesh: mean, median, percentiles, largest, shares within errors."""
    distance = RayScene(mesh).closest(points_m)[0]
    median, p95, p99 = (float(value) for value in np.quantile(distance, [0.5, 0.95, 0.99]))
    return {
        "mean_m": float(distance.mean()),
        "median_m": median,
        "p95_m": p95,
        "p99_m": p99,
        "hausdorff_m": float(distance.max()),
        **{f"within_{1e3 * error:g}mm": float((distance < error).mean()) for error in ERRORS_M},
        "farther_than_1mm": float((distance >= FAR_M).mean()),
    }


def run_cloud(name: str, path: Path, scratch: Path) -> Result:
    """One scan, all methods."""
    points = cloud_points(path)
    jobs = [
        Job("streamdgp", str(path), unit="mm"),
        # Points with normals are not thinned: the voxel is only nominal.
        Job("poisson", str(path), 0.001, depth=POISSON_DEPTH, unit="mm"),
    ]
    rows, summary, figures = [], [], {}
    checks: list[Check] = []
    for k, job in enumerate(jobs):
        measured = run_job(job, scratch / f"{k}.ply")
        found = scores_of(measured.mesh, points)
        lengths = (found[key] for key in ("mean_m", "median_m", "p95_m", "p99_m", "hausdorff_m"))
        shares = (found[f"within_{1e3 * error:g}mm"] for error in ERRORS_M)
        rows.append(
            [
                f"{name} {job.label}",
                *(f"{1e3 * length:.4f}" for length in lengths),
                *(f"{100 * share:.2f} %" for share in shares),
                f"{measured.total_s:.1f}",
                f"{measured.peak_mb:.0f}",
            ]
        )
        lengths_mm = {f"{key}_mm": 1e3 * found[f"{key}_m"] for key in ("mean", "median", "p95", "p99")}
        summary.append(
            summary_row(
                f"srb {name}", job, measured, None, **lengths_mm, completeness=1 - found["farther_than_1mm"]
            )
        )
        figures[job.label] = found
        if job.method == "streamdgp":
            far = found["farther_than_1mm"]
            checks.append(Check("target", f"{name}: share of the scan farther than 1 mm", far, FAR_SHARE))
    columns = [
        *("", "mean mm", "median mm", "p95 mm", "p99 mm", "largest mm"),
        *(f"within {1e3 * error:g} mm" for error in ERRORS_M),
        *("s", "peak MB"),
    ]
    extent = 1e3 * float(np.ptp(points, axis=0).max())
    title = f"{name}: {len(points)} points, {extent:.0f} mm long; distances from the scan to the surface"
    return Result(name, [Table(title, columns, rows)], checks, [], {**figures, "summary": summary})


def run(clouds: Sequence[str] = CLOUDS) -> Result:
    """All scans as one result."""
    with tempfile.TemporaryDirectory(prefix="streamdgp-srb-") as scratch:
        found = [
            run_cloud(name, shared_data("scans", "srb", f"{name}.ply"), Path(scratch) / name)
            for name in clouds
        ]
    return Result(
        "Surface reconstruction benchmark",
        [table for one in found for table in one.tables],
        [check for one in found for check in one.checks],
        [],
        {
            **{one.name: {k: v for k, v in one.figures.items() if k != "summary"} for one in found},
            "summary": [row for one in found for row in one.figures["summary"]],
        },
    )


@click.command(epilog="Example: python -m benchmarks.srb --clouds anchor")
@click.option("--clouds", default=",".join(CLOUDS), show_default=True, help="Which of them, by commas.")
@json_option
def main(clouds: str, json_path: Path | None) -> None:
    """Reconstruct two published scans and measure how far their points are from the surface."""
    conclude(run(clouds.split(",")), json_path)


if __name__ == "__main__":
    main()
