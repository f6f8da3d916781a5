"""What all commands share: one-line errors and progress bars."""

from __future__ import annotations

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamdgp.errors import StreamdgpError

__all__ = ["OneLineErrors", "progress_bar"]


class OneLineErrors(click.Group):
    """A group whose commands end with one line and status 1 where the library refuses."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except StreamdgpError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


def progress_bar() -> Progress:
    """A progress bar on the error stream, so that results can be piped; none where nobody watches."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
