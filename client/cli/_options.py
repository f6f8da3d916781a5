"""Options that the commands share."""

from __future__ import annotations

import click

from streamdgp_client._async_client import DEFAULT_SERVER

__all__ = ["Revision", "scene_option", "server_option"]


class Revision(click.ParamType[int | str]):
    """A number from 1, or a tag."""

    name = "N|TAG"

    def convert(
        self, value: int | str, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if isinstance(value, int) or not value.lstrip("-").isdigit():
            return value
        if int(value) < 1:
            self.fail(f"{value} is no revision: they count from 1.", param, ctx)
        return int(value)


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
