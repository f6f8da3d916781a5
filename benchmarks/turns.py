"""What it is worth that charts have turns: python -m benchmarks.turns.

All frames of the kitchen but the held-back ones, once with a turn of the charts in every frame and once with
the default; depth images of the held-back frames are predicted. What the engine takes is processor time, of
all threads.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from benchmarks.engine import depth_frames
from benchmarks.inputs import shared_data
from benchmarks.results import Result, Table, conclude, json_option
from benchmarks.room import HELD_BACK_COUNT, MAX_DEPTH_M, held_back_frames
from streamdgp.config import FitConfig, SceneConfig
from streamdgp.datasets import open_dataset
from streamdgp.evaluation import compare_depth
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles

_EVERY = 5


def run(limit: int | None = None) -> Result:
    """Stream the kitchen with and without turns."""
    scan = open_dataset(shared_data("rgbd-kitchen"), max_range_m=MAX_DEPTH_M)
    count = len(scan) if limit is None else min(len(scan), limit)
    held_back = held_back_frames(count, _EVERY, HELD_BACK_COUNT)
    others = depth_frames(scan.read(k) for k in held_back)
    rows, values = [], {}
    for most_waiting in (1, FitConfig().most_waiting):
        engine = Reconstructor(SceneConfig(fit=FitConfig(most_waiting=most_waiting)))
        turns = fits = frames = 0
        took_s = 0.0
        for k in sorted(set(range(count)) - set(held_back)):
            frame = scan.read(k)
            started_s = time.process_time()
            report = engine.integrate(frame)
            took_s += time.process_time() - started_s
            frames += 1
            turns += "fit" in report.stages_s
            fits += report.charts_created + report.charts_warm + report.charts_cold
        mesh = weld_tiles(engine.surface().tiles())
        scores = compare_depth({"ours": mesh}, others, max_depth_m=MAX_DEPTH_M)["ours"]
        rows.append(
            [
                f"at least every {most_waiting}" if most_waiting > 1 else "every frame",
                f"{turns} of {frames}",
                f"{fits / frames:.0f}",
                f"{1e3 * took_s / frames:.0f}",
                f"{1e3 * scores.median_m:.2f}",
                f"{1e3 * scores.mean_of_hits_m:.2f}",
                f"{scores.within_2cm:.4f}",
                f"{scores.early_5cm:.4f}",
                f"{scores.late_5cm:.4f}",
                f"{scores.coverage:.4f}",
            ]
        )
        values[str(most_waiting)] = scores.as_dict() | {"turns": turns, "frames": frames, "fits": fits}
    columns = [
        *("turns", "had", "fits per frame", "processor ms per frame", "median mm", "mean of hits mm"),
        *("within 2 cm", "early 5 cm", "late 5 cm", "coverage"),
    ]
    title = f"rgbd-kitchen, every frame but {len(held_back)} held back"
    return Result("Turns", [Table(title, columns, rows)], [], [], values)


@click.command(epilog="Example: python -m benchmarks.turns --limit 60")
@click.option("--limit", type=int, help="Only the first N frames of the scan.")
@json_option
def main(limit: int | None, json_path: Path | None) -> None:
    """What it is worth that charts have turns."""
    conclude(run(limit), json_path)


if __name__ == "__main__":
    main()
