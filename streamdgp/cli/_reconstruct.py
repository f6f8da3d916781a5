"""``streamdgp reconstruct``: a folder of frames to a mesh, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamdgp.cli._group import progress_bar
from streamdgp.datasets import FORMATS, open_dataset
from streamdgp.errors import InvalidFrameError, ResourceLimitError
from streamdgp.meshes import check_mesh_path, write_mesh

if TYPE_CHECKING:
    from streamdgp.surface import SurfaceSnapshot

__all__ = ["reconstruct"]

_TILE_CACHE_BYTES = 64 << 20
_MAX_CELLS = 1_000_000_000


def _check_cost(snapshot: SurfaceSnapshot, resolution_m: float | None) -> None:
    """Refuse a mesh that would fill the memory rather than a file."""
    cost = snapshot.estimate_cells(resolution_m)
    if cost > _MAX_CELLS:
        raise ResourceLimitError(
            f"a mesh of at most {_MAX_CELLS:,} lattice cells",
            f"about {cost:,} at a resolution of {resolution_m or snapshot.resolution_m or 0.0:g} m",
            "Choose a coarser --resolution.",
        )


@click.command(short_help="Reconstruct a recorded scan, without a server.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Mesh: .ply .obj .glb .stl"
)
@click.option(
    "--format", "format_name", type=click.Choice(["auto", *FORMATS]), default="auto", show_default=True
)
@click.option(
    "--regime",
    type=click.Choice(["lazy", "active", "paper"]),
    default="lazy",
    show_default=True,
    help="How charts are fitted.",
)
@click.option(
    "--anchor-radius", type=float, metavar="M", help="Distance of the charts' anchors. [default: automatic]"
)
@click.option(
    "--largest-radius-ratio",
    type=float,
    metavar="X",
    help="Up to X times that distance where surface is flat or evidence sparse, 1 to 4. [default: 4]",
)
@click.option("--resolution", type=float, metavar="M", help="Cell of the mesh. [default: automatic]")
@click.option(
    "--every", type=click.IntRange(min=1), default=1, show_default=True, help="Use every N-th frame."
)
@click.option("--limit", type=click.IntRange(min=1), help="Use at most N frames.")
@click.option("--unit", type=click.Choice(["m", "cm", "mm"]), help="Unit of point clouds. [default: m]")
@click.option("--layout", type=click.Choice(["xyz", "xyzi"]), help="What a .bin file holds.")
@click.option("--poses", type=click.Path(path_type=Path), help="Pose file outside the folder.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def reconstruct(
    path: Path,
    output: Path,
    format_name: str,
    regime: str,
    anchor_radius: float | None,
    largest_radius_ratio: float | None,
    resolution: float | None,
    every: int,
    limit: int | None,
    unit: str | None,
    layout: str | None,
    poses: Path | None,
    device: str,
) -> None:
    """Reconstruct the scan at PATH (a folder, or one file) and write its mesh.

    Frames that cannot be used are reported and left out.

    \b
    Examples:
      streamdgp reconstruct scans/kitchen -o kitchen.ply
      streamdgp reconstruct scans/kitchen -o kitchen.glb --every 5 --resolution 0.02
      streamdgp reconstruct anchor.ply -o anchor-mesh.ply --unit mm --regime active
    """
    check_mesh_path(output)
    dataset = open_dataset(path, format_name, unit=unit, layout=layout, poses=poses).subset(every, limit)
    from streamdgp.config import SceneConfig
    from streamdgp.fitting.device import choose_device
    from streamdgp.parts import one_ahead
    from streamdgp.reconstructor import Reconstructor
    from streamdgp.surface import TileCache, weld_tiles

    settings: dict[str, Any] = {
        "regime": regime,
        "anchor_radius_m": anchor_radius,
        "resolution_m": resolution,
    }
    if largest_radius_ratio is not None:
        settings["largest_radius_ratio"] = largest_radius_ratio
    reconstructor = Reconstructor(SceneConfig(**settings), device=choose_device(device))
    rejected: list[str] = []
    with progress_bar() as progress:
        task = progress.add_task("frames", total=len(dataset), note="")
        ahead = one_ahead(lambda index: reconstructor.prepare(dataset.read(index)), range(len(dataset)))
        for index, points in enumerate(ahead):
            try:
                report = reconstructor.integrate(points.result())
            except InvalidFrameError as error:
                rejected.append(f"frame {dataset.frame_names[index]} left out: {error}")
                progress.advance(task)
                continue
            if report.charts_created and not index:
                _check_cost(reconstructor.surface(), resolution)  # before the work, not after it
            charts = report.charts_untouched + report.charts_created + report.charts_warm + report.charts_cold
            progress.update(task, advance=1, note=f"{charts} charts")
        task = progress.add_task("surface", total=1, note="")
        snapshot = reconstructor.surface()
        _check_cost(snapshot, resolution)
        mesh = weld_tiles(list(snapshot.tiles(resolution_m=resolution, cache=TileCache(_TILE_CACHE_BYTES))))
        progress.update(task, advance=1, note=f"{len(mesh.triangles)} triangles")
    write_mesh(output, mesh)
    for line in [*dataset.skipped, *rejected]:
        click.echo(line, err=True)
    used = len(dataset) - len(rejected)
    click.echo(
        f"{output}: {len(mesh.vertices)} vertices, {len(mesh.triangles)} triangles, "
        f"{snapshot.chart_count} charts from {used} frames ({dataset.format})"
    )
