"""``streamdgp-client stream``: send a recorded scan."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from streamdgp.datasets import FORMATS, Dataset, open_dataset
from streamdgp_client._async_client import AsyncClient
from streamdgp_client._connection import DEFAULT_KEEPALIVE_S
from streamdgp_client._types import ConnectionChange, Progress, Rejection
from streamdgp_client._upload import UploadReport, upload
from streamdgp_client.cli._options import scene_option, server_option

__all__ = ["stream"]

_INTERRUPTED = 130  # what a shell reports for Ctrl-C


class _Display:
    """Three bars (sent, durable, applied) with the lag, and warnings above them, on the error stream."""

    def __init__(self, frame_count: int) -> None:
        self._console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._tasks = {
            name: self._bars.add_task(name, total=frame_count, note="")
            for name in ("sent", "durable", "applied")
        }
        self._was_connected = self._is_lost = False
        self.last = Progress()

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def progress(self, progress: Progress) -> None:
        self._bars.start()  # no bars before there is something to show: the scan may be refused
        self.last = progress
        for name, task in self._tasks.items():
            note = f"lag {progress.lag}, revision {progress.revision}" if name == "applied" else ""
            self._bars.update(task, completed=getattr(progress, name), note=note)

    def rejected(self, rejection: Rejection) -> None:
        self.warn(f"frame {rejection.sequence_number} was rejected: {rejection.error}")

    def unreadable(self, name: str, error: Exception) -> None:
        self.warn(f"{name} cannot be read: {error}")

    def connection(self, change: ConnectionChange) -> None:
        """Say once that the connection is lost, and where the stream goes on."""
        number = change.next_sequence_number
        if change.error is None:
            if self._is_lost:
                again = " again" if self._was_connected else ""
                self._say(f"connected{again}, going on with frame {number}")
            elif number > 1:
                self._say(f"resumed at frame {number}")
            self._was_connected = True
        elif not self._is_lost:
            what = "connection lost" if self._was_connected else "server not reached"
            self.warn(f"{what} ({change.error.got or change.error}), trying again")
        self._is_lost = change.error is not None

    def warn(self, text: str) -> None:
        self._say(f"warning: {' '.join(text.split())}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@click.command(short_help="Send a recorded scan to a scene; resumes where the server stands.")
@click.argument("path", type=click.Path(path_type=Path))
@scene_option
@server_option
@click.option(
    "--format", "format_name", type=click.Choice(["auto", *FORMATS]), default="auto", show_default=True
)
@click.option(
    "--every", type=click.IntRange(min=1), default=1, show_default=True, help="Send every N-th frame."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Send at most N frames.")
@click.option(
    "--producer",
    metavar="NAME",
    help="Who sends; frames are numbered per producer. [default: the name of the folder]",
)
@click.option("--unit", type=click.Choice(["m", "cm", "mm"]), help="Unit of point clouds. [default: m]")
@click.option("--layout", type=click.Choice(["xyz", "xyzi"]), help="What a .bin file holds.")
@click.option("--poses", type=click.Path(path_type=Path), help="Pose file outside the folder.")
@click.option(
    "--regime", type=click.Choice(["lazy", "active", "paper"]), help="For a new scene: how charts are fitted."
)
@click.option("--anchor-radius", type=float, metavar="M", help="For a new scene: distance of the anchors.")
@click.option(
    "--largest-radius-ratio",
    type=float,
    metavar="X",
    help="For a new scene: up to X times that distance where surface is flat or sparse. [default: 4]",
)
@click.option(
    "--spool",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep frames in this folder until the server has them on disk: the scan is read on while the server "
    "is away, which is waited for without end, and a later run sends what is left. Removed in the end.",
)
@click.option(
    "--keepalive",
    type=click.FloatRange(0.1, 86400),
    default=DEFAULT_KEEPALIVE_S,
    show_default=True,
    metavar="S",
    help="Ask a silent server for a sign of life after so long, and connect again after twice as long again; "
    "at least 10, or what the server's own --keepalive is.",
)
def stream(
    path: Path,
    scene: str,
    server: str,
    format_name: str,
    every: int,
    limit: int | None,
    producer: str | None,
    unit: str | None,
    layout: str | None,
    poses: Path | None,
    regime: str | None,
    anchor_radius: float | None,
    largest_radius_ratio: float | None,
    spool: Path | None,
    keepalive: float,
) -> None:
    """Send the scan at PATH (a folder, or one file) and wait until the surface includes it.

    The scene is created when there is none. Frames that the server has already are not sent again, so the
    command can be stopped and repeated at any time. A connection that breaks is said and opened again; every
    frame becomes part of the surface once. Unusable frames are reported and left out.

    \b
    Examples:
      streamdgp-client stream scans/kitchen --scene kitchen
      streamdgp-client stream scans/kitchen --scene quick --every 5 --limit 20
      streamdgp-client stream /mnt/stick/kitchen --scene kitchen --spool kitchen-spool
      streamdgp-client stream kitti/07 --scene street --format kitti --server robot-base:50051
    """
    dataset = open_dataset(path, format_name, unit=unit, layout=layout, poses=poses).subset(every, limit)
    settings = {
        "regime": regime,
        "anchor_radius_m": anchor_radius,
        "largest_radius_ratio": largest_radius_ratio,
    }
    config = {name: value for name, value in settings.items() if value is not None}
    with _Display(len(dataset)) as display:
        for line in dataset.skipped:
            display.warn(line)
        try:
            report = asyncio.run(
                _upload(
                    dataset, server, keepalive, scene, producer or _producer_of(path), config, spool, display
                )
            )
        except KeyboardInterrupt:
            report = None
    last = display.last if report is None else report.progress
    state = f"{last.durable} frames durable, {last.applied} applied, revision {last.revision}"
    if report is None:
        click.echo(f"{scene}: stopped; {state}. The same command goes on from there.", err=True)
        raise click.exceptions.Exit(_INTERRUPTED)
    click.echo(
        f"{scene}: {report.sent} frames sent, {report.already_durable} were there before, "
        f"{report.rejected} rejected; {state}"
    )


async def _upload(
    dataset: Dataset,
    server: str,
    keepalive_s: float,
    scene: str,
    producer: str,
    config: dict[str, Any],
    spool: Path | None,
    display: _Display,
) -> UploadReport:
    async with AsyncClient(server, keepalive_s=keepalive_s) as client:
        return await upload(
            client,
            dataset,
            scene,
            producer,
            config=config,
            spool=spool,
            on_progress=display.progress,
            on_rejected=display.rejected,
            on_unreadable=display.unreadable,
            on_connection=display.connection,
        )


def _producer_of(path: Path) -> str:
    """Return the folder's name as a producer id."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).lstrip("._-")
    return name[:63] or "scan"
