"""A real room: every 5th frame in, frames in between predicted: python -m benchmarks.room.

Rays of frames that were held back are cast at our surface and at Open3D's TSDF (1 cm) of the same
input; both are judged over the same pixels, and a miss counts as an infinite error.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.engine import depth_frames, map_bytes, reconstruct, warm_up
from benchmarks.inputs import shared_data
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.datasets import open_dataset
from streamdgp.evaluation import DepthScores, compare_depth
from streamdgp.evaluation.baselines import fuse_tsdf

MAX_DEPTH_M = 4.0
TSDF_VOXEL_M = 0.01
MEDIAN_RATIO = 1.10
COVERAGE_RATIO = 0.97
HELD_BACK_COUNT = 12


def held_back_frames(frame_count: int, every: int, count: int) -> list[int]:
    """Numbers of ``count`` frames spread over the scan, each in the middle between two that go in."""
    middles = range(every // 2, frame_count, every)
    count = min(count, len(middles))
    return [middles[k * len(middles) // count] for k in range(count)]


def run(every: int = 5, limit: int | None = None, held_back: int = HELD_BACK_COUNT) -> Result:
    """Reconstruct the kitchen both ways and compare."""
    scan = open_dataset(shared_data("rgbd-kitchen"), max_range_m=MAX_DEPTH_M)
    frame_count = len(scan) if limit is None else min(len(scan), limit)
    given = depth_frames(scan.read(k) for k in range(0, frame_count, every))
    warm_up(given[:2])
    ours = reconstruct(given)
    tsdf = fuse_tsdf(given, TSDF_VOXEL_M, max_depth_m=MAX_DEPTH_M)
    numbers = held_back_frames(frame_count, every, held_back)
    scores = compare_depth(
        {"ours": ours.mesh, "tsdf": tsdf.mesh},
        depth_frames(scan.read(k) for k in numbers),
        max_depth_m=MAX_DEPTH_M,
    )
    mine, theirs = scores["ours"], scores["tsdf"]
    rows = [
        ["streamdgp", *_row(mine), f"{ours.ms_per_frame:.0f}", f"{map_bytes(ours.engine) / 1e6:.0f}"],
        ["TSDF 1 cm", *_row(theirs), f"{1e3 * tsdf.seconds_per_frame:.0f}", f"{tsdf.map_bytes / 1e6:.0f}"],
    ]
    columns = [
        *("", "median mm", "mean of hits mm", "within 2 cm", "early 5 cm", "late 5 cm", "coverage"),
        *("ms per frame", "map MB"),
    ]
    title = f"rgbd-kitchen, {len(given)} frames in, {len(numbers)} held back, {mine.pixel_count} pixels"
    return Result(
        "Room",
        [Table(title, columns, rows)],
        [
            Check("gate", "median error / TSDF's", mine.median_m / theirs.median_m, MEDIAN_RATIO),
            Check("gate", "coverage / TSDF's", mine.coverage / theirs.coverage, COVERAGE_RATIO, False),
        ],
        [f"{ours.engine.chart_count} charts, mesh in {ours.mesh_s:.1f} s, held back: {numbers}"],
        {
            "ours": mine.as_dict(),
            "tsdf": theirs.as_dict(),
            "ms_per_frame": ours.ms_per_frame,
            "config": ours.engine.config.to_dict(),
        },
    )


def _row(scores: DepthScores) -> list[str]:
    shares = (scores.within_2cm, scores.early_5cm, scores.late_5cm)
    return [
        f"{1e3 * scores.median_m:.2f}",
        f"{1e3 * scores.mean_of_hits_m:.1f}",
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
