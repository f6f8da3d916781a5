"""Thin things: slabs of 1 cm, rods, and a comb with narrow gaps: python -m benchmarks.thin.

Both sides of a thin plate are seen, and must not pull at each other; a rod of 6 mm is barely wider than
an evidence voxel; the teeth of a comb hide each other. The scans are those of ``benchmarks.object``.
Thin poles in a street are measured by ``benchmarks.street``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from benchmarks.methods import Job, Measured, run_job, summary_row
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.evaluation import MeshScores, compare_meshes, sample_surface
from streamdgp.meshes import MeshLike, RayScene, TriangleMesh, read_mesh
from streamdgp.simulate import DepthSensor, simulate_scan
from streamdgp.simulate._shapes import box, cylinder, join
from streamdgp.simulate._worlds import fit_to_size

THRESHOLD_M = 0.004
SLAB_F = 0.99
RODS_M = (0.006, 0.010, 0.020)
GAPS_M = (0.010, 0.015, 0.020)
TSDF_VOXELS_M = (0.002, 0.004)


@dataclass(frozen=True)
class Thing:
    """Something thin: its mesh, its parts by name, and the size at which it is scanned."""

    name: str
    parts: dict[str, TriangleMesh]
    size_m: float

    @property
    def mesh(self) -> TriangleMesh:
        """All parts together, centred."""
        return fit_to_size(join(list(self.parts.values())), self.size_m)

    def placed(self) -> dict[str, TriangleMesh]:
        """The parts where the scan has them."""
        vertices, found, start = self.mesh.vertices, {}, 0
        for name, part in self.parts.items():
            found[name] = TriangleMesh(vertices[start : start + len(part.vertices)], part.triangles)
            start += len(part.vertices)
        return found


def make_slab(length_m: float) -> Thing:
    """A plate 1 cm thick, two thirds as wide as long; scanned from 1.6 times its length."""
    plate = box((0, 0, 0), (length_m, length_m * 2 / 3, 0.01))
    return Thing(f"slab of 1 cm, {length_m:g} m long", {"slab": plate}, length_m)


def make_rods() -> Thing:
    """Three upright rods, thin to thick, and three pairs of 1 cm teeth, on a board 5 cm thick."""
    parts = {"board": box((0, 0, 0.025), (0.5, 0.3, 0.05))}
    for k, diameter_m in enumerate(RODS_M):
        foot = (-0.17 + 0.08 * k, -0.06 + 0.06 * k, 0.05)
        parts[f"rod of {1e3 * diameter_m:g} mm"] = cylinder(foot, diameter_m / 2, 0.3, 48)
    x = 0.04
    for gap_m in GAPS_M:
        teeth = [box((x + side * (gap_m + 0.01) / 2, 0, 0.125), (0.01, 0.16, 0.15)) for side in (-1, 1)]
        parts[f"gap of {1e3 * gap_m:g} mm"] = join(teeth)
        x += 0.075
    return Thing("rods and gaps", parts, 0.5)


def part_completeness(
    mesh: MeshLike,
    parts: dict[str, TriangleMesh],
    seen_m: npt.NDArray[np.floating],
    threshold_m: float,
    sample_count: int = 20_000,
) -> dict[str, float]:
    """Of each part's area within the threshold of something seen, the share that the mesh comes as close to.

    A part that was not seen at all is NaN.
    """
    from scipy.spatial import cKDTree

    tree, scene = cKDTree(np.asarray(seen_m, np.float64)), RayScene(mesh)
    found = {}
    for name, part in parts.items():
        points, _ = sample_surface(part, sample_count, 1)
        gap, _ = tree.query(points, distance_upper_bound=threshold_m)
        points = points[np.isfinite(gap)]
        found[name] = float((scene.closest(points)[0] < threshold_m).mean()) if len(points) else float("nan")
    return found


def jobs_for(scan: Path) -> list[Job]:
    """Ours, the TSDF in two sizes, Poisson."""
    return [
        Job("streamdgp", str(scan)),
        *(Job("tsdf", str(scan), voxel_m) for voxel_m in TSDF_VOXELS_M),
        Job("poisson", str(scan), 0.004),
    ]


def run_thing(thing: Thing, scratch: Path, frames: int, seed: int) -> Result:
    """Scan one thing, reconstruct it every way, score the whole and its parts."""
    sensor = DepthSensor(dropout_share=0, max_range_m=100)
    made = simulate_scan(thing.mesh, scratch / "scan", sensor, frames, seed, size_m=thing.size_m)
    truth, seen = read_mesh(made.truth), np.load(made.seen)
    rows, part_rows, summary, figures = [], [], [], {}
    checks: list[Check] = []
    for k, job in enumerate(jobs_for(made.path)):
        measured = run_job(job, scratch / f"{k}.ply")
        mesh = measured.mesh
        scores = compare_meshes(mesh, truth, threshold_m=THRESHOLD_M, seen_m=seen)
        rows.append(_row(job, measured, scores))
        summary.append(summary_row(thing.name, job, measured, scores))
        figures[job.label] = {"scores": scores.as_dict(), "ms_per_frame": measured.ms_per_frame}
        if len(thing.parts) > 1:
            shares = part_completeness(mesh, thing.placed(), seen, THRESHOLD_M)
            part_rows.append([job.label, *(f"{share:.3f}" for share in shares.values())])
            figures[job.label]["parts"] = shares
        elif job.method == "streamdgp":
            checks.append(Check("gate", f"{thing.name}: F at 4 mm", scores.f_score, SLAB_F, False))
    columns = ["", "mean mm", "median mm", "p95 mm", "p99 mm", "precision", "recall", "F at 4 mm", "normals"]
    title = (
        f"{thing.name}: {frames} frames of {sensor.width} x {sensor.height} from {1.6 * thing.size_m:.2f} m"
    )
    tables = [Table(title, [*columns, "ms per frame", "peak MB"], rows)]
    if part_rows:
        names = ["", *thing.parts]
        tables.append(Table(f"{thing.name}: completeness of the parts at 4 mm", names, part_rows))
    return Result(thing.name, tables, checks, [], {**figures, "summary": summary})


def _row(job: Job, measured: Measured, scores: MeshScores) -> list[str]:
    lengths = (
        *(scores.accuracy_mean_m, scores.accuracy_median_m, scores.accuracy_p95_m, scores.accuracy_p99_m),
    )
    return [
        job.label,
        *(f"{1e3 * length:.3f}" for length in lengths),
        *(f"{share:.4f}" for share in (scores.precision, scores.recall, scores.f_score)),
        f"{scores.normal_consistency:.3f}",
        "-" if measured.ms_per_frame is None else f"{measured.ms_per_frame:.0f}",
        f"{measured.peak_mb:.0f}",
    ]


def things() -> dict[str, Thing]:
    """All that is scanned, by the name that ``--things`` takes."""
    return {"slab": make_slab(0.6), "far-slab": make_slab(1.0), "rods": make_rods()}


def run(names: Sequence[str], frames: int = 60, seed: int = 7) -> Result:
    """All things as one result."""
    known, found = things(), []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="streamdgp-thin-") as scratch:
            found.append(run_thing(known[name], Path(scratch), frames, seed))
    return Result(
        "Thin structures",
        [table for one in found for table in one.tables],
        [check for one in found for check in one.checks],
        [],
        {
            **{one.name: {k: v for k, v in one.figures.items() if k != "summary"} for one in found},
            "summary": [row for one in found for row in one.figures["summary"]],
        },
    )


@click.command(epilog="Example: python -m benchmarks.thin --things slab --frames 20")
@click.option("--things", "names", default="slab,far-slab,rods", show_default=True, help="Which, by commas.")
@click.option("--frames", default=60, show_default=True)
@click.option("--seed", default=7, show_default=True)
@json_option
def main(names: str, frames: int, seed: int, json_path: Path | None) -> None:
    """Scan slabs, rods and gaps and compare with the truth."""
    wanted = names.split(",")
    unknown = set(wanted) - set(things())
    if unknown:
        raise click.BadParameter(f"nothing called {', '.join(sorted(unknown))}", param_hint="--things")
    conclude(run(wanted, frames, seed), json_path)


if __name__ == "__main__":
    main()
