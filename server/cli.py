"""``streamdgp-server``: serve scenes, check a data directory, export and import scenes."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from streamdgp.cli._group import OneLineErrors, progress_bar
from streamdgp.errors import StreamdgpError
from streamdgp_server.address import split_address

__all__ = ["main"]

_EXAMPLES = """
\b
Examples:
  streamdgp-server serve --data ./data
  streamdgp-server serve --data ./data --listen 0.0.0.0:50051 --threads 4
  streamdgp-server serve --data ./data --listen 127.0.0.1:0        # any free port
  streamdgp-server check ./data
  streamdgp-server export ./data kitchen -o kitchen.sdgp
  streamdgp-server import ./data kitchen.sdgp --as kitchen-2
"""


@click.group(cls=OneLineErrors, epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamdgp")
def main() -> None:
    """Keep surfaces up to date while frames stream in, and answer queries about them."""


@main.command(epilog="\b\nExample:\n  streamdgp-server serve --data ./data --listen 127.0.0.1:50051")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory of the scenes."
)
@click.option(
    "--listen",
    default="127.0.0.1:50051",
    show_default=True,
    metavar="HOST:PORT",
    help="Address to serve on; port 0 takes a free one. There is no authentication: stay on loopback, "
    "or on a network you trust.",
)
@click.option("--device", default="cpu", show_default=True, help="Where charts are fitted: cpu or cuda.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=None,
    help="Threads of one fit. Default: the processors less one, which is left to ingest and queries.",
)
@click.option(
    "--max-cells",
    type=click.IntRange(1000),
    default=None,
    help="Refuse mesh queries that would visit more lattice cells. Default: 100 million.",
)
@click.option(
    "--keep-revisions",
    type=click.IntRange(1),
    default=None,
    help="Keep at least so many of the newest revisions of a scene readable. Default: 100.",
)
@click.option(
    "--keep-revisions-for",
    type=click.FloatRange(0),
    default=0.0,
    metavar="HOURS",
    help="Keep those of the last hours as well. Each costs what a commit writes. Default: 0.",
)
@click.option(
    "--memory-budget",
    type=click.FloatRange(24),
    default=None,
    metavar="MB",
    help="Keep so much of all maps and tiles in memory, the rest on disk. Default: no limit.",
)
@click.option(
    "--min-free",
    type=click.FloatRange(0),
    default=None,
    metavar="MB",
    help="Take no frames while the disk has less free; 0: do not look. Default: 500.",
)
@click.option(
    "--segment-size",
    type=click.FloatRange(0.001, 4096),
    default=None,
    metavar="MB",
    help="Size of the files of a log; frames are dropped by whole files. Default: 134.",
)
@click.option(
    "--keep-frames",
    is_flag=True,
    help="Keep all frames in the log. Default: frames that two durable revisions include are dropped.",
)
@click.option(
    "--keepalive",
    type=click.FloatRange(0.1, 86400),
    default=None,
    metavar="S",
    help="Ask a silent client for a sign of life after so long, and drop it after twice as long again. "
    "Default: 20.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0.1, 86400),
    default=None,
    metavar="S",
    help="End a stream whose client leaves a frame half sent, or answers unread, for so long. Default: 300.",
)
@click.option("-v", "--verbose", count=True, help="Log more: -v what happens, -vv every frame.")
def serve(
    data: Path,
    listen: str,
    device: str,
    threads: int | None,
    max_cells: int | None,
    keep_revisions: int | None,
    keep_revisions_for: float,
    memory_budget: float | None,
    min_free: float | None,
    segment_size: float | None,
    keep_frames: bool,
    keepalive: float | None,
    patience: float | None,
    verbose: int,
) -> None:
    """Serve the scenes under --data until interrupted.

    Prints one line with the address when it is ready. On Ctrl-C or SIGTERM it finishes the frames in
    hand, commits and exits; frames that are durable but not yet fitted are fitted after the next start.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("streamdgp", "streamdgp_server"):
        logging.getLogger(name).setLevel(level)
    try:
        split_address(listen)
    except StreamdgpError as error:
        raise click.ClickException(str(error)) from error
    # grpc's own complaint about a port in use would come on top of ours. Read when grpc is first imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Loading the engine takes seconds; --help must not.
    import torch

    from streamdgp.fitting.device import choose_device
    from streamdgp_server.app import serve as run_server
    from streamdgp_server.options import ServerOptions

    # Queries and ingest get the interpreter soon while the fit thread runs Python (default: 5 ms).
    sys.setswitchinterval(0.0005)
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) - 1))
    options = ServerOptions(data=data, device=device, keep_revisions_for_s=3600 * keep_revisions_for)
    if max_cells is not None:
        options = replace(options, max_cells=max_cells)
    options = replace(options, commit=replace(options.commit, keep_frames=keep_frames))
    if keepalive is not None:
        options = replace(options, keepalive_s=keepalive)
    if patience is not None:
        options = replace(options, patience_s=patience)
    if segment_size is not None:
        options = replace(options, segment_bytes=int(1e6 * segment_size))
    if memory_budget is not None:
        options = replace(options, memory_budget_bytes=int(1e6 * memory_budget))
    if min_free is not None:
        options = replace(options, min_free_bytes=int(1e6 * min_free))
    if keep_revisions is not None:
        options = replace(options, commit=replace(options.commit, keep_revisions=keep_revisions))
    try:
        choose_device(device)
        asyncio.run(
            run_server(
                options,
                listen,
                lambda address: click.echo(f"streamdgp-server ready on {address}, data in {data}"),
            )
        )
    except StreamdgpError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("data", type=click.Path(file_okay=False, path_type=Path))
@click.option("--all-revisions", is_flag=True, help="Read every revision, not only the newest.")
@click.option("--repair", is_flag=True, help="Mend first what a start of the server would mend.")
def check(data: Path, all_revisions: bool, repair: bool) -> None:
    """Verify every checksum under DATA. Exits with 1 when something is damaged.

    What a server mends when it starts, --repair mends without one: records that were never acknowledged are
    cut, and a newest revision that cannot be read is given up where the log can make it again.

    \b
    Example:
      streamdgp-server check ./data --all-revisions
    """
    from streamdgp_server.check import check_data

    scenes = faults = 0
    try:
        for found in check_data(data, all_revisions=all_revisions, repair=repair):
            scenes += 1
            faults += bool(found.fault)
            facts = f"intact, {found.revisions} revisions, {found.log_records} log records"
            if found.schema:
                facts += f", schema {found.schema}"
            click.echo(f"{found.scene_id}: {found.fault or facts}")
    except StreamdgpError as error:
        raise click.ClickException(str(error)) from error
    if not scenes:
        click.echo(f"no scenes in {data}")
    if faults:
        raise click.ClickException(f"{faults} damaged scenes")


@main.command("export", short_help="Write a scene to one file.")
@click.argument("data", type=click.Path(file_okay=False, path_type=Path))
@click.argument("scene")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="File to write, by custom *.sdgp; replaced if it exists.",
)
@click.option(
    "--no-log",
    is_flag=True,
    help="Leave the frames out, of which the newest revision includes all. Their numbers stay known.",
)
def export_(data: Path, scene: str, output: Path, no_log: bool) -> None:
    """Write the scene SCENE under DATA to one file: settings, all revisions and tags, frames.

    The file is an uncompressed zip with a manifest.json, and appears whole or not at all. The server of DATA
    must be stopped.

    \b
    Examples:
      streamdgp-server export ./data kitchen -o kitchen.sdgp
      streamdgp-server export ./data kitchen -o kitchen.sdgp --no-log
    """
    from streamdgp_server.exporting import export_scene

    with _byte_bar("export") as on_progress:
        manifest = export_scene(data, scene, output, with_frames=not no_log, on_progress=on_progress)
    frames = "" if manifest.has_frames else ", without frames"
    click.echo(f"{output}: {scene}, revision {manifest.revision}, {manifest.byte_count / 1e6:.1f} MB{frames}")


@main.command("import", short_help="Make a scene of an exported file.")
@click.argument("data", type=click.Path(file_okay=False, path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", help="Name of the scene. Default: the name it had.")
def import_(data: Path, file: Path, name: str | None) -> None:
    """Make a scene under DATA of the exported FILE. It appears whole and checked, or not at all.

    The server of DATA must be stopped; DATA is made if it is missing.

    \b
    Examples:
      streamdgp-server import ./data kitchen.sdgp
      streamdgp-server import ./elsewhere kitchen.sdgp --as kitchen-2
    """
    from streamdgp_server.importing import import_scene

    with _byte_bar("import") as on_progress:
        scene, manifest = import_scene(data, file, scene_id=name, on_progress=on_progress)
    click.echo(f"{scene}: revision {manifest.revision}, {manifest.byte_count / 1e6:.1f} MB from {file}")


@contextmanager
def _byte_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar in MB, for functions that report bytes done and bytes in all."""
    bars = progress_bar()
    bars.live.transient = True
    with bars:
        task = bars.add_task(name, total=None, note="MB")
        yield lambda done, total: bars.update(task, completed=done // 10**6, total=max(1, total // 10**6))
