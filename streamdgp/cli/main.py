"""Entry point of the command ``streamdgp``."""

from __future__ import annotations

import click

from streamdgp import __version__
from streamdgp.cli._evaluate import evaluate
from streamdgp.cli._group import OneLineErrors
from streamdgp.cli._reconstruct import reconstruct
from streamdgp.cli._simulate import simulate

__all__ = ["main"]


@click.group(
    cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="streamdgp")
def main() -> None:
    """Surfaces from depth and LiDAR frames, as an atlas of neural charts.

    \b
    Examples:
      streamdgp simulate room -o room-scan
      streamdgp reconstruct room-scan -o room.ply
      streamdgp evaluate room.ply --reference room-scan/truth.ply --seen room-scan/seen.npy

    Streaming to a server: see streamdgp-server and streamdgp-client.
    """


for _command in (reconstruct, simulate, evaluate):
    main.add_command(_command)


if __name__ == "__main__":
    main()
