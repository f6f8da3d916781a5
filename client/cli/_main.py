"""Entry point of the command ``streamdgp-client``."""

from __future__ import annotations

import logging

import click

from streamdgp import __version__
from streamdgp.cli._group import OneLineErrors
from streamdgp_client.cli._query_mesh import query_mesh
from streamdgp_client.cli._scenes import scenes
from streamdgp_client.cli._stream import stream

__all__ = ["main"]


@click.group(
    cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="streamdgp-client")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def main(verbose: bool) -> None:
    """Stream depth and LiDAR frames to a streamdgp server and query the surface.

    The server is --server HOST:PORT of each command, else the environment variable STREAMDGP_SERVER, else
    127.0.0.1:50051.

    \b
    Examples:
      streamdgp-client stream scans/kitchen --scene kitchen
      streamdgp-client query-mesh --scene kitchen -o kitchen.ply
      streamdgp-client scenes list
    """
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


for _command in (stream, query_mesh, scenes):
    main.add_command(_command)
