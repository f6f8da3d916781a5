"""``streamdgp-client scenes``: look at scenes and their revisions, name these, delete scenes."""

from __future__ import annotations

import asyncio
import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamdgp.cli._group import OneLineErrors
from streamdgp_client._async_client import AsyncClient
from streamdgp_client._types import RevisionInfo, SceneInfo, SceneStatistics
from streamdgp_client.cli._options import server_option

__all__ = ["scenes"]


@click.group(cls=OneLineErrors, short_help="List, show or delete scenes; name revisions.")
def scenes() -> None:
    """List, show or delete scenes, list their revisions and give them names.

    \b
    Examples:
      streamdgp-client scenes list
      streamdgp-client scenes show kitchen
      streamdgp-client scenes revisions kitchen
      streamdgp-client scenes tag kitchen before-lunch
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
        "revisions": f"{len(revisions)} can be read, up to {revisions[0].number}" if revisions else "none",
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


@scenes.command("revisions", short_help="List the revisions of one scene that can be read.")
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N, and tagged ones.")
@server_option
def revisions_(name: str, limit: int | None, server: str) -> None:
    """List the revisions of the scene NAME that can be read, newest first.

    \b
    Examples:
      streamdgp-client scenes revisions kitchen
      streamdgp-client scenes revisions kitchen --limit 5
    """

    async def fetch() -> list[RevisionInfo]:
        async with AsyncClient(server) as client:
            return await client.list_revisions(name)

    found = asyncio.run(fetch())
    table = Table("revision", "time (UTC)", "frames", "charts", "tags", "message", box=None, pad_edge=False)
    for place, info in enumerate(found):
        if limit is None or place < limit or info.tags:
            table.add_row(
                str(info.number),
                f"{info.committed:%Y-%m-%d %H:%M:%S}",
                str(info.frame_count),
                str(info.chart_count),
                " ".join(info.tags),
                Text(info.message),
            )
    if found:
        Console().print(table)
    else:
        click.echo("no revisions")


@scenes.command("tag", short_help="Give a revision a name; it is kept then.")
@click.argument("name")
@click.argument("tag")
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="[default: the newest]")
@server_option
def tag_(name: str, tag: str, revision: int | None, server: str) -> None:
    """Name a revision of the scene NAME: TAG stands for it in queries, and it is kept until untagged.

    \b
    Examples:
      streamdgp-client scenes tag kitchen before-lunch
      streamdgp-client scenes tag kitchen empty-table --revision 12
    """

    async def send() -> RevisionInfo:
        async with AsyncClient(server) as client:
            return await client.create_tag(name, tag, revision)

    click.echo(f"{name}: revision {asyncio.run(send()).number} is {tag}")


@scenes.command("untag", short_help="Take a name away from a revision.")
@click.argument("name")
@click.argument("tag")
@server_option
def untag(name: str, tag: str, server: str) -> None:
    """Take the name TAG away; its revision is then kept no longer than others.

    \b
    Example:
      streamdgp-client scenes untag kitchen before-lunch
    """

    async def send() -> int:
        async with AsyncClient(server) as client:
            return await client.delete_tag(name, tag)

    click.echo(f"{name}: revision {asyncio.run(send())} is not {tag} any more")


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
