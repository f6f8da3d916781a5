"""LiDAR and a laser scanner: python -m benchmarks.street.

A virtual 64-beam drive with exact truth, made by the independent tool, against Open3D's TSDF; the
real submaps of KITTI 07 through a real server; the real range scans of the Stanford bunny.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np

from benchmarks.engine import map_bytes, reconstruct, warm_up
from benchmarks.inputs import run_bench, shared_data
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.datasets import open_dataset
from streamdgp.demo import running_server
from streamdgp.evaluation import MeshScores, compare_meshes
from streamdgp.evaluation.baselines import fuse_tsdf_lidar
from streamdgp.frames import PointFrame
from streamdgp.meshes import read_mesh
from streamdgp_client import Client

STREET_THRESHOLD_M = 0.1
TSDF_VOXELS_M = (0.05, 0.1)
BUNNY_MEAN_M = 0.0003
BUNNY_FAR_M = 0.002
BUNNY_FAR_SHARE = 0.01


def run_street(folder: Path, frames: int, seed: int) -> Result:
    """The virtual drive."""
    run_bench("street", folder, "--frames", str(frames), "--seed", str(seed))
    scans = [frame for frame in open_dataset(folder) if isinstance(frame, PointFrame)]
    truth, seen = read_mesh(folder / "truth.ply"), np.load(folder / "seen.npy")
    warm_up(scans[:2])
    ours = reconstruct(scans)
    mine = compare_meshes(ours.mesh, truth, threshold_m=STREET_THRESHOLD_M, seen_m=seen)
    cost = [f"{ours.ms_per_frame:.0f}", f"{map_bytes(ours.engine) / 1e6:.0f}"]
    rows = [["streamdgp", *_street_row(mine), *cost]]
    figures = {"ours": mine.as_dict(), "config": ours.engine.config.to_dict()}
    best = 0.0
    for voxel_m in TSDF_VOXELS_M:
        tsdf = fuse_tsdf_lidar(scans, voxel_m)
        theirs = compare_meshes(tsdf.mesh, truth, threshold_m=STREET_THRESHOLD_M, seen_m=seen)
        best = max(best, theirs.f_score)
        cost = [f"{1e3 * tsdf.seconds_per_frame:.0f}", f"{tsdf.map_bytes / 1e6:.0f}"]
        rows.append([f"TSDF {100 * voxel_m:g} cm", *_street_row(theirs), *cost])
        figures[f"tsdf_{voxel_m:g}"] = theirs.as_dict()
    columns = [
        "",
        "mean mm",
        "median mm",
        "p95 mm",
        "precision",
        "recall",
        "F",
        "normals",
        "ms per scan",
        "map MB",
    ]
    note = f"street: {ours.engine.chart_count} charts, mesh in {ours.mesh_s:.1f} s"
    return Result(
        "Street",
        [
            Table(
                f"virtual street, {len(scans)} scans of 64 x 1024, F at 10 cm over what was seen",
                columns,
                rows,
            )
        ],
        [Check("gate", "street: F against the better TSDF's", mine.f_score, best, False)],
        [note],
        figures,
    )


def _street_row(scores: MeshScores) -> list[str]:
    lengths = (scores.accuracy_mean_m, scores.accuracy_median_m, scores.accuracy_p95_m)
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


def run_bunny() -> Result:
    """The ten real range scans of the bunny against the mesh that the Stanford lab made of them."""
    folder = shared_data("scans", "stanford-bunny")
    ours = reconstruct(open_dataset(folder / "data"))
    reference = read_mesh(folder / "reconstruction" / "bun_zipper.ply")
    scores = compare_meshes(ours.mesh, reference, threshold_m=BUNNY_FAR_M)
    lengths = (
        *(scores.accuracy_mean_m, scores.accuracy_median_m, scores.accuracy_p99_m),
        *(scores.completeness_mean_m, scores.completeness_median_m, scores.completeness_p99_m),
    )
    far = 1 - scores.precision
    row = [
        *(f"{1e3 * length:.3f}" for length in lengths),
        f"{100 * far:.2f} %",
        f"{scores.normal_consistency:.3f}",
        f"{ours.seconds:.1f}",
    ]
    columns = [
        "",
        "from: mean mm",
        "median",
        "p99",
        "to: mean mm",
        "median",
        "p99",
        "farther than 2 mm",
        "normals",
        "s",
    ]
    return Result(
        "Bunny",
        [Table("stanford-bunny, 10 range scans, against the lab's mesh", columns, [["streamdgp", *row]])],
        [
            Check(
                "gate",
                "bunny: mean distance to the reference, mm",
                1e3 * scores.accuracy_mean_m,
                1e3 * BUNNY_MEAN_M,
            ),
            Check(
                "gate",
                "bunny: mean distance from the reference, mm",
                1e3 * scores.completeness_mean_m,
                1e3 * BUNNY_MEAN_M,
            ),
            Check("gate", "bunny: share of the area farther than 2 mm", far, BUNNY_FAR_SHARE),
        ],
        [f"bunny: {ours.engine.chart_count} charts, {scores.triangle_count} triangles"],
        {"ours": scores.as_dict(), "config": ours.engine.config.to_dict()},
    )


def run(frames: int = 40, seed: int = 7, parts: tuple[str, ...] = ("street", "submaps", "bunny")) -> Result:
    """All three, as one result."""
    with tempfile.TemporaryDirectory(prefix="streamdgp-street-") as scratch:
        found = []
        if "street" in parts:
            found.append(run_street(Path(scratch) / "street", frames, seed))
        if "submaps" in parts:
            found.append(run_submaps(Path(scratch) / "data"))
        if "bunny" in parts:
            found.append(run_bunny())
    return Result(
        "Street and scanner",
        [table for one in found for table in one.tables],
        [check for one in found for check in one.checks],
        [note for one in found for note in one.notes],
        {one.name.lower(): one.figures for one in found},
    )


@click.command(epilog="Example: python -m benchmarks.street --parts bunny")
@click.option("--frames", default=40, show_default=True, help="Scans of the drive.")
@click.option("--seed", default=7, show_default=True)
@click.option("--parts", default="street,submaps,bunny", show_default=True, help="Which of them, by commas.")
@json_option
def main(frames: int, seed: int, parts: str, json_path: Path | None) -> None:
    """A virtual LiDAR drive, real submaps, and a laser-scanned bunny."""
    conclude(run(frames, seed, tuple(parts.split(","))), json_path)


if __name__ == "__main__":
    main()
