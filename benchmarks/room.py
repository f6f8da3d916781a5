"""A real room: every 5th frame in, frames in between predicted: python -m benchmarks.room.

Rays of frames that were held back are cast at our surface, at Open3D's TSDF (1 cm) and at screened Poisson
(trimmed to where points are, for it closes everything) of the same input; all are judged over the same
pixels, and a miss counts as an infinite error. Sizes are compared with the TSDF of whatever voxel has the
least mean error.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.engine import depth_frames
from benchmarks.inputs import shared_data
from benchmarks.methods import Job, Measured, run_job, summary_row
from benchmarks.results import Check, Result, Table, conclude, json_option
from benchmarks.size import SIZE_RATIO, SizeRow, size_figures, size_table
from streamdgp.datasets import open_dataset
from streamdgp.evaluation import DepthScores, compare_depth
from streamdgp.frames import DepthFrame
from streamdgp.meshes import MeshLike, RayScene

MAX_DEPTH_M = 4.0
TSDF_VOXEL_M = 0.01
POISSON_DEPTH = 9
TSDF_SWEEP_M = (0.005, 0.0075, 0.015, 0.02)
HELD_BACK_COUNT = 12


def held_back_frames(frame_count: int, every: int, count: int) -> list[int]:
    """Numbers of ``count`` frames spread over the scan, each in the middle between two that go in."""
    middles = range(every // 2, frame_count, every)
    count = min(count, len(middles))
    return [middles[k * len(middles) // count] for k in range(count)]


def run(every: int = 5, limit: int | None = None, held_back: int = HELD_BACK_COUNT) -> Result:
    """Reconstruct the kitchen every way and compare."""
    folder = shared_data("rgbd-kitchen")
    scan = open_dataset(folder, max_range_m=MAX_DEPTH_M)
    frame_count = len(scan) if limit is None else min(len(scan), limit)
    common: dict[str, Any] = {"every": every, "limit": limit, "max_range_m": MAX_DEPTH_M}
    jobs = {
        "ours": Job("streamdgp", str(folder), **common),
        "tsdf": Job("tsdf", str(folder), TSDF_VOXEL_M, **common),
        "poisson": Job("poisson", str(folder), TSDF_VOXEL_M, depth=POISSON_DEPTH, trim_vox=3.0, **common),
    }
    sweep = {f"tsdf {v}": Job("tsdf", str(folder), v, **common) for v in TSDF_SWEEP_M}
    numbers = held_back_frames(frame_count, every, held_back)
    others = depth_frames(scan.read(k) for k in numbers)
    with tempfile.TemporaryDirectory(prefix="streamdgp-room-") as scratch:
        took = {name: run_job(job, Path(scratch) / f"{name}.ply") for name, job in (jobs | sweep).items()}
        meshes: dict[str, MeshLike] = {name: one.mesh for name, one in took.items()}
    scores = compare_depth(meshes, others, max_depth_m=MAX_DEPTH_M)
    errors = {name: _errors_m(meshes[name], others) for name in jobs}
    both = np.isfinite(errors["ours"]) & np.isfinite(errors["tsdf"])
    shared = {name: float(errors[name][both].mean()) for name in ("ours", "tsdf")}
    mine, theirs = scores["ours"], scores["tsdf"]
    rows, summary = [], []
    for name, job in jobs.items():
        found = scores[name]
        p95, p99 = np.quantile(errors[name], [0.95, 0.99], method="higher")
        far_m = float(p95), float(p99)
        rows.append([job.label, *_row(found, far_m), *_cost(took[name])])
        summary.append(
            summary_row(
                "room, held-back depth",
                job,
                took[name],
                None,
                mean_mm=1e3 * found.mean_of_hits_m,
                median_mm=1e3 * found.median_m,
                p95_mm=1e3 * far_m[0],
                p99_mm=1e3 * far_m[1],
                completeness=found.coverage,
            )
        )
    columns = [
        *("", "median mm", "mean of hits mm", "p95 mm", "p99 mm", "within 2 cm", "early 5 cm", "late 5 cm"),
        *("coverage", "ms per frame", "s", "map MB", "peak MB"),
    ]
    ours = took["ours"]
    voxels = {"tsdf": TSDF_VOXEL_M} | dict(zip(sweep, TSDF_SWEEP_M, strict=True))
    best = min(voxels, key=lambda name: scores[name].mean_of_hits_m)
    size = SizeRow("room", ours, took[best], voxels[best])
    title = (
        f"rgbd-kitchen, {ours.frame_count} frames in, {len(numbers)} held back, {mine.pixel_count} pixels;"
        " a miss counts as an infinite error"
    )
    return Result(
        "Room",
        [Table(title, columns, rows), _by_voxel(voxels, scores, took), size_table([size])],
        _checks(mine, theirs, size),
        [
            f"{ours.chart_count} charts, mesh in {ours.extract_s:.1f} s, held back: {numbers}",
            f"mean over the {100 * both.mean():.1f} % of the pixels that both show:"
            f" ours {1e3 * shared['ours']:.1f} mm, the TSDF's {1e3 * shared['tsdf']:.1f} mm"
            f" (ratio {shared['ours'] / shared['tsdf']:.3f})",
        ],
        {
            **{name: one.as_dict() for name, one in scores.items()},
            "mean_where_both_show_m": shared,
            "ms_per_frame": ours.ms_per_frame,
            "config": ours.config,
            "size": size_figures(size),
            "summary": summary,
        },
    )


def _checks(mine: DepthScores, theirs: DepthScores, size: SizeRow) -> list[Check]:
    """Against the TSDF of 1 cm: no worse in anything, 5 % better as a target; and the size."""
    checks = []
    for name, ratio, is_more in (
        ("median error", mine.median_m / theirs.median_m, False),
        ("mean error of hits", mine.mean_of_hits_m / theirs.mean_of_hits_m, False),
        ("rays 5 cm too early", mine.early_5cm / theirs.early_5cm, False),
        ("rays 5 cm too late", mine.late_5cm / theirs.late_5cm, False),
        ("share within 2 cm", mine.within_2cm / theirs.within_2cm, True),
        ("coverage", mine.coverage / theirs.coverage, True),
    ):
        checks.append(Check("gate", f"{name} / TSDF's", ratio, 1.0, not is_more))
        checks.append(Check("target", f"{name} / TSDF's", ratio, 1.05 if is_more else 0.95, not is_more))
    checks.append(Check("gate", "bytes / TSDF's", size_figures(size)["ratio"], SIZE_RATIO))
    return checks


def _by_voxel(voxels: dict[str, float], scores: dict[str, DepthScores], took: dict[str, Measured]) -> Table:
    """What the TSDF makes of other voxels."""
    rows = [
        [
            f"{1e3 * voxels[name]:g} mm",
            f"{1e3 * scores[name].median_m:.2f}",
            f"{1e3 * scores[name].mean_of_hits_m:.1f}",
            f"{100 * scores[name].within_2cm:.1f} %",
            f"{100 * scores[name].early_5cm:.1f} %",
            f"{(took[name].map_bytes or 0) / 1e6:.1f}",
        ]
        for name in sorted(voxels, key=lambda name: voxels[name])
    ]
    columns = ["voxel", "median mm", "mean of hits mm", "within 2 cm", "early 5 cm", "map MB"]
    return Table("Open3D TSDF by the edge of a voxel", columns, rows)


def _errors_m(mesh: MeshLike, frames: list[DepthFrame]) -> npt.NDArray[np.float32]:
    """The error of every pixel that ``compare_depth`` looks at, infinite where the ray meets nothing."""
    scene, errors = RayScene(mesh), []
    for frame in frames:
        k, pose = frame.intrinsics, frame.world_T_sensor
        depth = frame.depth_m[::2, ::2]
        v, u = np.nonzero((depth > 0.4) & (depth < MAX_DEPTH_M))
        rays = np.stack([(2 * u - k.cx) / k.fx, (2 * v - k.cy) / k.fy, np.ones(len(u))], axis=-1)
        errors.append(np.abs(scene.cast(pose[:3, 3], rays @ pose[:3, :3].T).t - depth[v, u]))
    return np.concatenate(errors)


def _cost(took: Measured) -> list[str]:
    return [
        "-" if took.ms_per_frame is None else f"{took.ms_per_frame:.0f}",
        f"{took.total_s:.1f}",
        "-" if took.map_bytes is None else f"{took.map_bytes / 1e6:.1f}",
        f"{took.peak_mb:.0f}",
    ]


def _row(scores: DepthScores, far_m: tuple[float, float]) -> list[str]:
    shares = (scores.within_2cm, scores.early_5cm, scores.late_5cm)
    return [
        f"{1e3 * scores.median_m:.2f}",
        f"{1e3 * scores.mean_of_hits_m:.1f}",
        *(f"{1e3 * value:.0f}" for value in far_m),
        *(f"{100 * share:.1f} %" for share in shares),
        f"{scores.coverage:.3f}",
    ]


@click.command(epilog="Example: python -m benchmarks.room --json bench-out/room.json")
@click.option("--every", default=5, show_default=True, help="Every how many frames one goes in.")
@click.option("--limit", type=int, help="Only the first N frames of the scan.")
@click.option("--held-back", default=HELD_BACK_COUNT, show_default=True, help="Frames to predict.")
@json_option
def main(every: int, limit: int | None, held_back: int, json_path: Path | None) -> None:
    """Predict held-back depth images of a real kitchen."""
    conclude(run(every, limit, held_back), json_path)


if __name__ == "__main__":
    main()
