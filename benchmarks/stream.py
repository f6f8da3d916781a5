"""What streaming costs: python -m benchmarks.stream.

Streamed surfaces against an independent fit of all charts from the same final evidence (anchors
given); seams between charts being fitted and stored ones, with and without the consistency step;
bit-identity of what a frame does not touch, of repeated runs and across a restart; time per frame
early and late in a long stream, with what happened to the charts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from benchmarks.engine import Reconstruction, reconstruct, warm_up
from benchmarks.inputs import shared_data
from benchmarks.inside import (
    SeamRecorder,
    fit_independently,
    rows_that_differ,
    snapshot_state,
    state_bytes,
    untouched_charts,
)
from benchmarks.object import MESHES, Scan, make_scan
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.config import ConsistencyConfig, SceneConfig
from streamdgp.datasets import open_dataset
from streamdgp.frames import DepthFrame, FrameReport
from streamdgp.levels import RATIOS
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles

BATCH_RATIO = 1.05
SEAM_RATIO = 0.5
LATE_RATIO = 1.2
ERROR_RATIO = 1.01  # not raised: less than the seed of the random features changes it
_SEAMS_EVERY = 3


def against_batch(
    scan: Scan, name: str
) -> tuple[Reconstruction, SeamRecorder, list[str], Check, dict[str, float]]:
    """Stream a scan, then fit all its charts again from the final evidence; errors of both."""
    seams = SeamRecorder(_SEAMS_EVERY)
    with seams.recording():
        streamed = reconstruct(scan.frames)
    errors = {"streamed": 1e3 * scan.score(streamed.mesh).accuracy_mean_m}
    for label, consistent in (("alone", False), ("consistent", True)):
        fit_independently(streamed.engine, consistent=consistent)
        mesh = weld_tiles(streamed.engine.surface().tiles())
        errors[label] = 1e3 * scan.score(mesh).accuracy_mean_m
    ratio = errors["streamed"] / min(errors["alone"], errors["consistent"])
    fits = sum(_fitted(report) for report in streamed.reports)
    row = [
        name,
        *(f"{error:.3f}" for error in errors.values()),
        f"{ratio:.3f}",
        str(streamed.engine.chart_count),
        f"{fits / max(1, streamed.engine.chart_count):.1f}",
    ]
    return streamed, seams, row, Check("gate", f"{name}: streamed / batch error", ratio, BATCH_RATIO), errors


def _fitted(report: FrameReport) -> int:
    return report.charts_created + report.charts_warm + report.charts_cold


def run_batch(meshes: Sequence[str], frames: int, scratch: Path) -> Result:
    """The object scans; the first also without the consistency step."""
    rows, checks, figures, tables = [], [], {}, []
    for k, name in enumerate(meshes):
        scan = make_scan(name, scratch / name, frames)
        if k == 0:
            warm_up(scan.frames[:2])
        _, seams, row, check, errors = against_batch(scan, name)
        rows.append(row)
        checks.append(check)
        figures[name] = errors
        if k == 0:
            table, more = _consistency(scan, name, seams, errors["streamed"])
            tables.append(table)
            checks += more
    title = f"streamed against an independent fit of all charts, mean error in mm, {frames} frames"
    columns = [
        "",
        "streamed",
        "batch",
        "batch + consistency",
        "ratio to the better",
        "charts",
        "fits per chart",
    ]
    return Result("Batch", [Table(title, columns, rows), *tables], checks, [], figures)


def _consistency(scan: Scan, name: str, seams: SeamRecorder, error_mm: float) -> tuple[Table, list[Check]]:
    without = SeamRecorder(_SEAMS_EVERY)
    with without.recording():
        plain = reconstruct(scan.frames, SceneConfig(consistency=ConsistencyConfig(sweeps=0)))
    plain_mm = 1e3 * scan.score(plain.mesh).accuracy_mean_m
    before, after, never = (np.concatenate(x) for x in (seams.before_m, seams.after_m, without.after_m))
    rows = [
        ["a stream without the step", *_seam_row(never), f"{plain_mm:.3f}"],
        ["a stream with it: before each step", *_seam_row(before), ""],
        ["a stream with it: after each step", *_seam_row(after), f"{error_mm:.3f}"],
    ]
    title = f"{name}: seams between charts being fitted and the stored ones they overlap, mm"
    table = Table(title, ["", "mean", "median", "p95", "mean error of the mesh"], rows)
    return table, [
        Check(
            "target",
            f"{name}: seams with / without consistency",
            float(after.mean() / never.mean()),
            SEAM_RATIO,
        ),
        Check("target", f"{name}: error with / without consistency", error_mm / plain_mm, ERROR_RATIO),
    ]


def _seam_row(distances_m: npt.NDArray[np.float64]) -> list[str]:
    return [f"{1e3 * value:.3f}" for value in (distances_m.mean(), *np.quantile(distances_m, [0.5, 0.95]))]


def run_bits(frames: Sequence[DepthFrame]) -> Result:
    """Untouched charts, repeated runs, restarts: all to the bit."""
    engine = Reconstructor()
    untouched = differing = 0
    half = None
    for k, frame in enumerate(frames):
        before = snapshot_state(engine).tables.get("charts")
        engine.integrate(frame)
        after = snapshot_state(engine)
        if before is not None:
            config = engine.config
            assert config.anchor_radius_m is not None
            assert config.evidence_voxel_m is not None
            ball_m = config.neighbourhood_ratio * config.anchor_radius_m * RATIOS[before["level"]]
            # A surfel's mean may move by a voxel and bring in the balls about it.
            safe = untouched_charts(before["anchor"], ball_m + 2 * config.evidence_voxel_m, frame)
            untouched += int(safe.sum())
            differing += rows_that_differ(before, after.tables["charts"], safe)
        if k + 1 == len(frames) // 2:
            half = after
    once = state_bytes(snapshot_state(engine))
    again = Reconstructor()
    for frame in frames:
        again.integrate(frame)
    assert half is not None, "at least two frames"
    resumed = Reconstructor.restore(half)
    for frame in frames[len(frames) // 2 :]:
        resumed.integrate(frame)
    unequal = [
        sum(once[name] != other[name] for name in once)
        for other in (state_bytes(snapshot_state(again)), state_bytes(snapshot_state(resumed)))
    ]
    return Result(
        "Bits",
        [],
        [
            Check("gate", "charts that no ray touched and that changed a bit", differing, 0),
            Check("gate", "columns that differ after the same log again", unequal[0], 0),
            Check("gate", "columns that differ after a restart half way", unequal[1], 0),
        ],
        [f"bit-identity over {len(frames)} frames: {untouched} times a chart was out of reach of a frame"],
    )


def run_long(limit: int | None) -> Result:
    """Every frame of the kitchen: time and charts, by quarters of the stream."""
    scan = open_dataset(shared_data("rgbd-kitchen"), max_range_m=4.0)
    count = len(scan) if limit is None else min(limit, len(scan))
    warm_up(scan.read(k) for k in (0, 1))
    engine = Reconstructor()
    reports, charts, surfels = [], [], []
    for k in range(count):
        reports.append(engine.integrate(scan.read(k)))
        charts.append(engine.chart_count)
        surfels.append(engine.surfel_count)
    quarters = np.array_split(np.arange(count), 4)
    rows, medians = [], []
    for number, part in enumerate(quarters, 1):
        mine = [reports[k] for k in part]
        seconds = np.array([report.seconds for report in mine])
        medians.append(float(np.median(seconds)))
        counts = [
            np.mean([getattr(report, f"charts_{kind}") for report in mine])
            for kind in ("created", "warm", "cold", "untouched")
        ]
        rows.append(
            [
                f"quarter {number}",
                *(f"{1e3 * value:.0f}" for value in (seconds.mean(), np.median(seconds), seconds.max())),
                *(f"{value:.0f}" for value in counts),
                str(charts[part[-1]]),
                str(surfels[part[-1]]),
            ]
        )
    columns = ["", "ms mean", "median", "max", "created", "warm", "cold", "left alone", "charts", "surfels"]
    table = Table(f"rgbd-kitchen, {count} frames: per frame, and the map at the quarter's end", columns, rows)
    return Result(
        "Long",
        [table],
        [
            Check(
                "target",
                "time per frame, last quarter / first (medians)",
                medians[-1] / medians[0],
                LATE_RATIO,
            )
        ],
        [],
        {
            "seconds": [report.seconds for report in reports],
            "created": [report.charts_created for report in reports],
            "warm": [report.charts_warm for report in reports],
            "cold": [report.charts_cold for report in reports],
            "untouched": [report.charts_untouched for report in reports],
        },
    )


def run(meshes: Sequence[str], frames: int, limit: int | None, parts: Sequence[str]) -> Result:
    """All parts as one result."""
    found = []
    with tempfile.TemporaryDirectory(prefix="streamdgp-stream-") as scratch:
        if "batch" in parts:
            found.append(run_batch(meshes, frames, Path(scratch)))
        if "bits" in parts:
            found.append(run_bits(make_scan(meshes[0], Path(scratch) / "bits", 16).frames))
    if "long" in parts:
        found.append(run_long(limit))
    return Result(
        "Streaming",
        [table for one in found for table in one.tables],
        [check for one in found for check in one.checks],
        [note for one in found for note in one.notes],
        {one.name.lower(): one.figures for one in found},
    )


@click.command(epilog="Example: python -m benchmarks.stream --parts long --limit 60")
@click.option("--meshes", default=",".join(MESHES), show_default=True, help="Object scans, by commas.")
@click.option("--frames", default=60, show_default=True, help="Frames of an object scan.")
@click.option("--limit", type=int, help="Frames of the long stream. Default: all 300.")
@click.option("--parts", default="batch,bits,long", show_default=True, help="Which of them, by commas.")
@json_option
def main(meshes: str, frames: int, limit: int | None, parts: str, json_path: Path | None) -> None:
    """Streamed against batch, seams, bit-identity, and time per frame over a long stream."""
    conclude(run(meshes.split(","), frames, limit, parts.split(",")), json_path)


if __name__ == "__main__":
    main()
