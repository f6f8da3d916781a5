"""``streamdgp-client scenes``: look at scenes, delete them."""

from __future__ import annotations

import asyncio
import json

import click
from rich.console import Console
from rich.table import Table

from streamdgp.cli._group import OneLineErrors
from streamdgp_client._async_client import AsyncClient
from streamdgp_client._types import RevisionInfo, SceneInfo, SceneStatistics
from streamdgp_client.cli._options import server_option

__all__ = ["scenes"]


@click.group(cls=OneLineErrors, short_help="List, show or delete scenes.")
def scenes() -> None:
    """List, show or delete scenes.

    \b
    Examples:
      streamdgp-client scenes list
      streamdgp-client scenes show kitchen
      streamdgp-client scenes delete kitchen
    """


@scenes.command("list", short_help="List all scenes.")
@server_option
def list_(server: str) -> None:
    """List all scenes of the server.

    \b
    Example:
      streamdgp-client scenes list --server robot-base:50051
    """

    async def fetch() -> list[SceneInfo]:
        async with AsyncClient(server) as client:
            return await client.list_scenes()

    found = asyncio.run(fetch())
    table = Table("scene", "frames", "charts", "created", box=None, pad_edge=False)
    for scene in found:
        table.add_row(
            scene.name, str(scene.frame_count), str(scene.chart_count), f"{scene.created:%Y-%m-%d %H:%M:%S}"
        )
    if found:
        Console().print(table)
    else:
        click.echo("no scenes")


@scenes.command("show", short_help="Show one scene.")
@click.argument("name")
@server_option
def show(name: str, server: str) -> None:
    """Show counts, sizes and settings of the scene NAME.

    \b
    Example:
      streamdgp-client scenes show kitchen
    """

    async def fetch() -> tuple[SceneInfo, SceneStatistics, list[RevisionInfo]]:
        async with AsyncClient(server) as client:
            scene = await client.get_scene(name)
            return scene, await client.get_scene_statistics(name), await client.list_revisions(name)

    scene, statistics, revisions = asyncio.run(fetch())
    settings = scene.resolved_config or scene.config
    rows = {
        "scene": scene.name,
        "created": f"{scene.created:%Y-%m-%d %H:%M:%S} UTC",
        "revision": str(statistics.revision),
        "revisions": f"{revisions[-1].number} to {revisions[0].number} can be read" if revisions else "none",
        "frames": f"{statistics.frame_count} ({statistics.rejected_frame_count} rejected)",
        "charts": str(statistics.chart_count),
        "surfels": str(statistics.surfel_count),
        "bounds": "empty" if scene.bounds_m is None else " ".join(f"{value:.3f}" for value in scene.bounds_m),
        "resolution": f"{statistics.resolution_m:.4g} m" if statistics.resolution_m else "not known yet",
        "atlas": f"{statistics.atlas_bytes / 1e6:.1f} MB",
        "log": f"{statistics.log_bytes / 1e6:.1f} MB",
        "settings": json.dumps(settings) if settings else "automatic",
    }
    for key, value in rows.items():
        click.echo(f"{key:<11} {value}")


@scenes.command("delete", short_help="Delete one scene, for good.")
@click.argument("name")
@server_option
def delete(name: str, server: str) -> None:
    """Delete the scene NAME with all its revisions and frames. This cannot be undone.

    \b
    Example:
      streamdgp-client scenes delete kitchen
    """

    async def fetch() -> None:
        async with AsyncClient(server) as client:
            await client.delete_scene(name)

    asyncio.run(fetch())
    click.echo(f"{name}: deleted")
