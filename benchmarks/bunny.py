"""A laser scanner's range scans: python -m benchmarks.bunny.

The ten real range scans of the Stanford bunny against the mesh that the Stanford lab made of them, which is
no truth but an independent, careful reconstruction. Open3D's TSDF takes pinhole images, which these are not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.inputs import shared_data
from benchmarks.methods import Job, Measured, run_job, summary_row
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.evaluation import MeshScores, compare_meshes
from streamdgp.meshes import read_mesh

MEAN_M = 0.0003
FAR_M = 0.002
FAR_SHARE = 0.01
POISSON_DEPTH = 8
POISSON_VOXEL_M = 0.0005


def run(limit: int | None = None) -> Result:
    """Reconstruct the scans and compare."""
    folder = shared_data("scans", "stanford-bunny")
    reference = read_mesh(folder / "reconstruction" / "bun_zipper.ply")
    scan = str(folder / "data")
    jobs = [
        Job("streamdgp", scan, limit=limit),
        Job("poisson", scan, POISSON_VOXEL_M, depth=POISSON_DEPTH, limit=limit),
    ]
    rows, summary, figures = [], [], {}
    found: list[tuple[Measured, MeshScores]] = []
    with tempfile.TemporaryDirectory(prefix="streamdgp-bunny-") as scratch:
        for k, job in enumerate(jobs):
            took = run_job(job, Path(scratch) / f"{k}.ply")
            scores = compare_meshes(took.mesh, reference, threshold_m=FAR_M)
            found.append((took, scores))
            rows.append(_row(job, took, scores))
            summary.append(summary_row("bunny, against the lab's mesh", job, took, scores))
            figures[job.label] = scores.as_dict()
    ours, mine = found[0]
    columns = [
        *("", "from: mean mm", "median", "p95", "p99", "to: mean mm", "median", "p99"),
        *("farther than 2 mm", "normals", "s", "map MB", "peak MB"),
    ]
    title = f"stanford-bunny, {ours.frame_count} range scans, against the lab's mesh"
    far = 1 - mine.precision
    lengths_mm = 1e3 * mine.accuracy_mean_m, 1e3 * mine.completeness_mean_m
    return Result(
        "Bunny",
        [Table(title, columns, rows)],
        [
            Check("gate", "bunny: mean distance to the reference, mm", lengths_mm[0], 1e3 * MEAN_M),
            Check("gate", "bunny: mean distance from the reference, mm", lengths_mm[1], 1e3 * MEAN_M),
            Check("gate", "bunny: share of the area farther than 2 mm", far, FAR_SHARE),
        ],
        [
            f"bunny: {ours.chart_count} charts, {mine.triangle_count} triangles,"
            f" {(ours.map_bytes or 0) / max(1, ours.chart_count):.0f} bytes per chart"
        ],
        {**figures, "split": ours.split, "config": ours.config, "summary": summary},
    )


def _row(job: Job, took: Measured, scores: MeshScores) -> list[str]:
    lengths = (
        *(scores.accuracy_mean_m, scores.accuracy_median_m, scores.accuracy_p95_m, scores.accuracy_p99_m),
        *(scores.completeness_mean_m, scores.completeness_median_m, scores.completeness_p99_m),
    )
    return [
        job.label,
        *(f"{1e3 * length:.3f}" for length in lengths),
        f"{100 * (1 - scores.precision):.2f} %",
        f"{scores.normal_consistency:.3f}",
        f"{took.total_s:.1f}",
        f"{took.map_bytes / 1e6:.1f}" if took.map_bytes else "-",
        f"{took.peak_mb:.0f}",
    ]


@click.command(epilog="Example: python -m benchmarks.bunny --json bench-out/bunny.json")
@click.option("--limit", type=int, help="Only the first N range scans.")
@json_option
def main(limit: int | None, json_path: Path | None) -> None:
    """Reconstruct a laser-scanned bunny and compare with the scanner's own mesh."""
    conclude(run(limit), json_path)


if __name__ == "__main__":
    main()
