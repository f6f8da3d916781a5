"""``streamdgp simulate``: virtual scans with known truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from streamdgp.cli._group import progress_bar

__all__ = ["simulate"]


@click.command(short_help="Make a virtual scan with ground truth.")
@click.argument("world", metavar="MESH|room|street")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New or empty folder.")
@click.option(
    "--sensor", type=click.Choice(["depth", "lidar"]), help="[default: lidar for street, else depth]"
)
@click.option("--frames", type=click.IntRange(min=1), default=60, show_default=True, help="Number of views.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Same seed, same bytes."
)
@click.option(
    "--size",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="M",
    help="Longest side of a MESH.",
)
@click.option(
    "--flying-pixels",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share at depth edges (depth only).",
)
def simulate(
    world: str, output: Path, sensor: str | None, frames: int, seed: int, size: float, flying_pixels: float
) -> None:
    """Scan a MESH file, a procedural room or a street with a virtual sensor.

    The folder has the format of a real scan (7scenes for depth, kitti for LiDAR) and also
    truth.ply and seen.npy (what the rays reached), which `streamdgp evaluate` reads.

    \b
    Examples:
      streamdgp simulate room -o room-scan --frames 120
      streamdgp simulate street -o street-scan --frames 40
      streamdgp simulate bunny.ply -o bunny-scan --sensor depth --seed 3
    """
    from streamdgp.simulate import DepthSensor, LidarSensor, simulate_scan

    kind = sensor or ("lidar" if world == "street" else "depth")
    if kind == "lidar" and flying_pixels:
        raise click.UsageError("--flying-pixels is for the depth sensor")
    device = (
        LidarSensor() if kind == "lidar" else dataclasses.replace(DepthSensor(), flying_share=flying_pixels)
    )
    with progress_bar() as progress:
        task = progress.add_task("frames", total=frames, note="", visible=False)
        summary = simulate_scan(
            world,
            output,
            device,
            frames,
            seed,
            size_m=size,
            progress=lambda done, _: progress.update(task, completed=done, visible=True),
        )
    click.echo(f"{summary.path}: {summary.frame_count} frames ({summary.format}), truth.ply, seen.npy")
