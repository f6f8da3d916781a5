"""Options that the commands share."""

from __future__ import annotations

import click

from streamdgp_client._async_client import DEFAULT_SERVER

__all__ = ["scene_option", "server_option"]

server_option = click.option(
    "--server",
    metavar="HOST:PORT",
    default=DEFAULT_SERVER,
    envvar="STREAMDGP_SERVER",
    show_default=True,
    help="Where the server listens.",
)
scene_option = click.option(
    "--scene", metavar="NAME", required=True, help="Scene: letters, digits, '.', '_', '-'."
)
