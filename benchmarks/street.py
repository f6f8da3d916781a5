"""LiDAR: python -m benchmarks.street.

A virtual 64-beam drive with exact truth, made by the independent tool, against Open3D's TSDF and screened
Poisson, and how much of the street's thin poles each of them has; the real submaps of KITTI 07 through a
real server. Poisson would close the whole sky: its triangles far from every point are dropped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np

from benchmarks.inputs import run_bench, shared_data
from benchmarks.methods import Job, Measured, run_job, summary_row
from benchmarks.results import Check, Result, Table, conclude, json_option
from benchmarks.size import SIZE_RATIO, SizeRow, size_figures, size_table
from benchmarks.thin import part_completeness
from streamdgp.datasets import open_dataset
from streamdgp.demo import running_server
from streamdgp.evaluation import MeshScores, compare_meshes
from streamdgp.frames import PointFrame
from streamdgp.meshes import TriangleMesh, read_mesh
from streamdgp.simulate._shapes import cylinder, join
from streamdgp_client import Client

STREET_THRESHOLD_M = 0.1
TSDF_VOXELS_M = (0.05, 0.1)
STREET_F_RATIO = 1.04
POISSON_DEPTH = 10  # a cell of some 8 cm
POLE_COMPLETENESS = 0.9


def street_poles() -> dict[str, TriangleMesh]:
    """The poles of the tool's street: radius 0.12 m, 5 m high, every 9 m on both sides."""
    return {
        f"x {x:g} y {6 * side}": cylinder((x, 6.0 * side, 0.0), 0.12, 5.0, 24)
        for side in (-1, 1)
        for x in np.arange(0, 60, 9.0)
    }


def run_street(folder: Path, frames: int, seed: int) -> Result:
    """The virtual drive, all methods; and how much of its poles alone they have."""
    scan = folder / "scan"
    run_bench("street", scan, "--frames", str(frames), "--seed", str(seed))
    truth, seen = read_mesh(scan / "truth.ply"), np.load(scan / "seen.npy")
    poles = {"poles": join(list(street_poles().values()))}
    jobs = [
        Job("streamdgp", str(scan)),
        *(Job("tsdf", str(scan), voxel_m) for voxel_m in TSDF_VOXELS_M),
        Job("poisson", str(scan), STREET_THRESHOLD_M, depth=POISSON_DEPTH, trim_vox=3.0),
    ]
    rows, summary, figures = [], [], {}
    found: dict[str, tuple[Measured, MeshScores, float]] = {}
    for k, job in enumerate(jobs):
        took = run_job(job, folder / f"{k}.ply")
        mesh = took.mesh
        scores = compare_meshes(mesh, truth, threshold_m=STREET_THRESHOLD_M, seen_m=seen)
        share = part_completeness(mesh, poles, seen, STREET_THRESHOLD_M, 200_000)["poles"]
        found[job.label] = took, scores, share
        rows.append([job.label, *_street_row(scores), f"{share:.3f}", *_cost(took)])
        summary.append(summary_row("street", job, took, scores))
        figures[job.label] = {**scores.as_dict(), "poles": share, "split": took.split}
    ours, mine, my_poles = found[jobs[0].label]
    theirs = [found[job.label] for job in jobs if job.method == "tsdf"]
    best = min(range(len(theirs)), key=lambda k: theirs[k][1].accuracy_mean_m)
    size = SizeRow("street", ours, theirs[best][0], TSDF_VOXELS_M[best])
    columns = [
        *("", "mean mm", "median mm", "p95 mm", "p99 mm", "precision", "recall", "F", "normals", "poles"),
        *("ms per scan", "s", "map MB", "peak MB"),
    ]
    title = f"virtual street, {ours.frame_count} scans of 64 x 1024, F at 10 cm over what was seen"
    return Result(
        "Street",
        [Table(title, columns, rows), size_table([size])],
        [
            Check(
                "gate",
                "street: F / the better TSDF's",
                mine.f_score / max(scores.f_score for _, scores, _ in theirs),
                STREET_F_RATIO,
                False,
            ),
            Check("gate", "street: bytes / TSDF's", size_figures(size)["ratio"], SIZE_RATIO),
            Check("gate", "street: completeness of its poles at 10 cm", my_poles, POLE_COMPLETENESS, False),
            Check(
                "target",
                "street: completeness of its poles against the better TSDF's",
                my_poles,
                max(share for _, _, share in theirs),
                False,
            ),
        ],
        [f"street: {ours.chart_count} charts, mesh in {ours.extract_s:.1f} s"],
        {**figures, "config": ours.config, "size": size_figures(size), "summary": summary},
    )


def _cost(took: Measured) -> list[str]:
    return [
        "-" if took.ms_per_frame is None else f"{took.ms_per_frame:.0f}",
        f"{took.total_s:.1f}",
        "-" if took.map_bytes is None else f"{took.map_bytes / 1e6:.1f}",
        f"{took.peak_mb:.0f}",
    ]


def _street_row(scores: MeshScores) -> list[str]:
    lengths = (
        *(scores.accuracy_mean_m, scores.accuracy_median_m),
        *(scores.accuracy_p95_m, scores.accuracy_p99_m),
    )
    shares = (scores.precision, scores.recall, scores.f_score, scores.normal_consistency)
    return [*(f"{1e3 * length:.0f}" for length in lengths), *(f"{share:.3f}" for share in shares)]


def run_submaps(data: Path) -> Result:
    """Real LiDAR submaps, one by one, through a server: a revision each."""
    scan = open_dataset(shared_data("lidar", "kitti07-submaps"))
    revisions, rows = [], []
    with running_server(data) as address, Client(address) as client:
        with client.stream("submaps", "benchmark") as stream:
            for name, frame in zip(scan.frame_names, scan, strict=True):
                stream.send(frame, source_id=name)
                revisions.append(stream.wait("applied").revision)
                known = client.get_scene_statistics("submaps")
                points = len(frame.points_m) if isinstance(frame, PointFrame) else 0
                rows.append(
                    [name, *(str(n) for n in (points, known.surfel_count, known.chart_count, revisions[-1]))]
                )
        triangles = len(client.query_mesh("submaps").triangles)
        rejected = client.get_scene_statistics("submaps").rejected_frame_count
    steps = np.diff([0, *revisions])
    return Result(
        "Submaps",
        [
            Table(
                "kitti07-submaps through a server",
                ["submap", "points", "surfels", "charts", "revision"],
                rows,
            )
        ],
        [
            Check("gate", "submaps rejected", rejected, 0),
            Check("gate", "submaps with a revision of their own", int((steps == 1).sum()), len(scan), False),
        ],
        [f"submaps: mesh of {triangles} triangles"],
        {"revisions": revisions},
    )


def run(frames: int = 40, seed: int = 7, parts: tuple[str, ...] = ("street", "submaps")) -> Result:
    """Both, as one result."""
    with tempfile.TemporaryDirectory(prefix="streamdgp-street-") as scratch:
        found = []
        if "street" in parts:
            found.append(run_street(Path(scratch) / "street", frames, seed))
        if "submaps" in parts:
            found.append(run_submaps(Path(scratch) / "data"))
    return Result(
        "Street",
        [table for one in found for table in one.tables],
        [check for one in found for check in one.checks],
        [note for one in found for note in one.notes],
        {
            **{one.name.lower(): {k: v for k, v in one.figures.items() if k != "summary"} for one in found},
            "summary": [row for one in found for row in one.figures.get("summary", [])],
        },
    )


@click.command(epilog="Example: python -m benchmarks.street --parts street --frames 20")
@click.option("--frames", default=40, show_default=True, help="Scans of the drive.")
@click.option("--seed", default=7, show_default=True)
@click.option("--parts", default="street,submaps", show_default=True, help="Which of them, by commas.")
@json_option
def main(frames: int, seed: int, parts: str, json_path: Path | None) -> None:
    """A virtual LiDAR drive with exact truth, and real submaps."""
    conclude(run(frames, seed, tuple(parts.split(","))), json_path)


if __name__ == "__main__":
    main()
