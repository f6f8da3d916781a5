"""``streamdgp-client query-mesh``: the current surface as a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from streamdgp.cli._group import progress_bar
from streamdgp.errors import NotFoundError
from streamdgp.meshes import check_mesh_path, write_mesh
from streamdgp_client._async_client import AsyncClient
from streamdgp_client._mesh import Mesh
from streamdgp_client.cli._options import Revision, scene_option, server_option

__all__ = ["query_mesh"]

_Roi = tuple[float, ...]


class _RoiType(click.ParamType[_Roi]):
    """Six numbers; whether they make a box is for the server to say."""

    name = "x0,y0,z0,x1,y1,z1"

    def convert(self, value: str | _Roi, param: click.Parameter | None, ctx: click.Context | None) -> _Roi:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 6:
            self.fail(f"{value!r} is not x0,y0,z0,x1,y1,z1: six numbers, metres, without spaces.", param, ctx)
        return numbers


@click.command("query-mesh", short_help="Write the current surface to a mesh file.")
@scene_option
@server_option
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Mesh: .ply .obj .glb .stl"
)
@click.option("--roi", type=_RoiType(), help="Only this box, metres.")
@click.option("--resolution", type=float, metavar="M", help="Cell of the mesh. [default: that of the scene]")
@click.option("--revision", type=Revision(), help="A number or a tag. [default: the newest]")
def query_mesh(
    scene: str,
    server: str,
    output: Path,
    roi: _Roi | None,
    resolution: float | None,
    revision: int | str | None,
) -> None:
    """Write the mesh of a scene, of one revision, at any moment, also while frames come in.

    The file appears whole or not at all.

    \b
    Examples:
      streamdgp-client query-mesh --scene kitchen -o kitchen.ply
      streamdgp-client query-mesh --scene kitchen -o table.glb --roi=-1,-1,0,1,1,2 --resolution 0.005
      streamdgp-client query-mesh --scene kitchen -o before.ply --revision 12
      streamdgp-client query-mesh --scene kitchen -o before.ply --revision before-lunch
    """
    check_mesh_path(output)
    mesh = asyncio.run(_query(server, scene, roi, resolution, revision))
    if not len(mesh.triangles):
        raise NotFoundError(
            f"a surface in {scene}" + (" within the box" if roi else ""),
            f"none in revision {mesh.revision}",
            "Stream frames first." if roi is None else "Choose another box.",
        )
    write_mesh(output, mesh)
    click.echo(
        f"{output}: {len(mesh.vertices)} vertices, {len(mesh.triangles)} triangles, "
        f"resolution {mesh.resolution_m:.4g} m, revision {mesh.revision}"
    )


async def _query(
    server: str, scene: str, roi: _Roi | None, resolution: float | None, revision: int | str | None
) -> Mesh:
    bars = progress_bar()
    bars.live.transient = True
    with bars:
        task = bars.add_task("tiles", total=None, note="")
        async with AsyncClient(server) as client:
            return await client.query_mesh(
                scene,
                roi_m=roi,
                resolution_m=resolution,
                revision=revision,
                on_tile=lambda count, total: bars.update(task, completed=count, total=max(count, total)),
            )
