"""``make demo``: a simulated scan goes to a real server, the surface comes back while it streams.

Everything is made here: the object, its scan, the truth that the result is measured against.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from streamdgp._demo_object import make_teapot
from streamdgp.datasets import Dataset, open_dataset
from streamdgp.errors import ServerUnavailableError, StreamdgpError
from streamdgp.evaluation import MeshScores, compare_meshes
from streamdgp.evaluation.baselines import fuse_tsdf
from streamdgp.frames import DepthFrame
from streamdgp.meshes import MeshLike, read_mesh, render_png, write_mesh
from streamdgp.simulate import simulate_scan
from streamdgp_client import AsyncClient, Mesh, UploadReport, upload
from streamdgp_client import Progress as StreamProgress

__all__ = ["main", "running_server"]

_SCENE: Final = "teapot"
_TSDF_VOXEL_M: Final = 0.004
_THRESHOLD_M: Final = 0.004
_EYE_M: Final = (0.95, -1.15, 1.0)
_TARGET_M: Final = (0.0, 0.0, -0.06)
_STOP_S: Final = 60.0
_READY: Final = "streamdgp-server ready on "


@contextlib.contextmanager
def running_server(data: Path, *arguments: str) -> Iterator[str]:
    """A server process of its own on a free port; yields its address, and stops it at the end.

    Raises
    ------
    ServerUnavailableError
        It did not start; its own words are on the error stream.
    """
    command = [sys.executable, "-m", "streamdgp_server", "serve", "--data", str(data)]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # empty when the process ended
        if not line.startswith(_READY):
            raise ServerUnavailableError(
                f"{_READY!r} from the server", repr(line), "See above what it complains about."
            )
        yield line.removeprefix(_READY).split(",")[0].strip()
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask for a clean end (commit, then exit); a second Ctrl-C or a minute without one ends it at once."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()


@dataclass
class _Stream:
    """One scan on its way into a scene, with a bar to see it."""

    console: Console
    bars: Progress
    task: TaskID
    reached: StreamProgress
    changed: asyncio.Event

    def show(self, progress: StreamProgress) -> None:
        """What the client reports."""
        self.reached = progress
        note = f"sent {progress.sent}, durable {progress.durable}, revision {progress.revision}"
        self.bars.update(self.task, completed=progress.applied, note=note)
        self.changed.set()

    async def until_applied(self, frame_count: int, sending: asyncio.Task[UploadReport]) -> None:
        """Wait until that many frames are in the surface, or sending ended."""
        while self.reached.applied < frame_count and not sending.done():
            self.changed.clear()
            waits = {asyncio.create_task(self.changed.wait()), sending}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits - {sending}:
                wait.cancel()


async def _query(client: AsyncClient, console: Console, label: str) -> Mesh:
    started = time.perf_counter()
    mesh = await client.query_mesh(_SCENE)
    seconds = time.perf_counter() - started
    console.print(
        f"  {label}: revision {mesh.revision}, {len(mesh.triangles):,} triangles, answered in {seconds:.2f} s"
    )
    return mesh


async def _stream_and_query(address: str, scan: Dataset, console: Console) -> Mesh:
    """Stream the scan; ask for the mesh after a quarter, after two thirds, and at the end."""
    bars = Progress(
        TextColumn("  in the surface"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )
    async with AsyncClient(address) as client:
        with bars:
            task = bars.add_task("frames", total=len(scan), note="")
            stream = _Stream(console, bars, task, StreamProgress(), asyncio.Event())
            sending = asyncio.create_task(
                upload(client, scan, _SCENE, "demo-camera", on_progress=stream.show)
            )
            try:
                for share in (0.25, 0.65):
                    await stream.until_applied(int(share * len(scan)), sending)
                    state = f"while it streams, {stream.reached.applied} of {len(scan)} frames applied"
                    if not sending.done():
                        await _query(client, console, state)
                report = await sending
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        done = report.progress
        console.print(
            f"  {report.sent} frames sent, {report.rejected} rejected, {done.durable} durable, "
            f"{done.applied} applied, revision {done.revision}"
        )
        mesh = await _query(client, console, "at the end")
        facts = await client.get_scene_statistics(_SCENE)
        console.print(
            f"  {facts.chart_count:,} charts over {facts.surfel_count:,} surfels, "
            f"{facts.atlas_bytes / 1e6:.1f} MB on disk"
        )
        return mesh


def _row(scores: MeshScores) -> list[str]:
    lengths = (scores.accuracy_mean_m, scores.accuracy_median_m, scores.accuracy_p95_m)
    return [
        *(f"{1e3 * length:.2f}" for length in lengths),
        f"{100 * scores.recall:.2f} %",
        f"{scores.f_score:.4f}",
        f"{scores.normal_consistency:.3f}",
        f"{scores.triangle_count:,}",
    ]


def _print_scores(console: Console, ours: MeshScores, tsdf: MeshScores) -> None:
    table = Table(box=SIMPLE)
    table.add_column("error in mm", no_wrap=True)
    for name in ("mean", "median", "p95", "complete", "F-score", "normals", "faces"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("streamdgp", *_row(ours))
    table.add_row(f"TSDF {1e3 * _TSDF_VOXEL_M:g} mm", *_row(tsdf))
    console.print(table)
    share = ours.accuracy_mean_m / tsdf.accuracy_mean_m
    console.print(
        f"  Mean error {share:.2f} x that of Open3D's TSDF of the same frames.\n"
        f"  complete: share of the seen truth within {1e3 * _THRESHOLD_M:g} mm of the mesh; F-score at "
        f"{1e3 * _THRESHOLD_M:g} mm; normals: mean cosine to the true ones."
    )


def _evaluate(console: Console, out: Path, mesh: Mesh, scan: Dataset) -> None:
    """Scores beside the TSDF of the same frames, and a picture of both beside the truth."""
    tsdf = fuse_tsdf((frame for frame in scan if isinstance(frame, DepthFrame)), _TSDF_VOXEL_M)
    truth, seen = read_mesh(out / "scan" / "truth.ply"), np.load(out / "scan" / "seen.npy")
    ours, theirs = (
        compare_meshes(one, truth, threshold_m=_THRESHOLD_M, seen_m=seen) for one in (mesh, tsdf.mesh)
    )
    _print_scores(console, ours, theirs)
    views: dict[str, MeshLike] = {
        f"streamdgp, mean error {1e3 * ours.accuracy_mean_m:.2f} mm": mesh,
        f"TSDF {1e3 * _TSDF_VOXEL_M:g} mm, mean error {1e3 * theirs.accuracy_mean_m:.2f} mm": tsdf.mesh,
        "truth": truth,
    }
    render_png(
        views, out / "mesh.png", size=(620, 520), eye_m=_EYE_M, target_m=_TARGET_M, field_of_view_deg=39.0
    )


def _fresh_folder(out: Path) -> Path:
    """The output folder without what an earlier demo left in it."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("scan", "data"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("mesh.ply", "mesh.png"):
        (out / name).unlink(missing_ok=True)
    return out


@contextlib.contextmanager
def _runner() -> Iterator[asyncio.Runner]:
    """An event loop that is whole before Ctrl-C can come: half of one complains when it goes."""
    numbers = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        runner = asyncio.Runner()
        runner.get_loop()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    with runner:
        yield runner


def _run(out: Path, frames: int, console: Console) -> None:
    started = time.perf_counter()
    _fresh_folder(out)
    console.print(f"[bold]1. Scan[/] a teapot of 1 m: {frames} noisy depth frames of 320 x 240")
    simulate_scan(make_teapot(), out / "scan", "depth", frames)
    scan = open_dataset(out / "scan")
    console.print(f"  {out / 'scan'}, {time.perf_counter() - started:.1f} s")
    with _runner() as runner, running_server(out / "data") as address:
        console.print(f"[bold]2. Stream[/] it to streamdgp-server on {address}, data in {out / 'data'}")
        mesh = runner.run(_stream_and_query(address, scan, console))
        write_mesh(out / "mesh.ply", mesh)
    console.print("  server stopped")
    console.print("[bold]3. Compare[/] with the truth and with a TSDF")
    _evaluate(console, out, mesh, scan)
    seconds = time.perf_counter() - started
    console.print(f"Mesh in {out / 'mesh.ply'}, picture in {out / 'mesh.png'}; {seconds:.0f} s in all")


@click.command(epilog="Example: python -m streamdgp.demo --out demo-out")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for the scan, the server's data, mesh.ply and mesh.png; emptied of them first.",
)
@click.option("--frames", type=click.IntRange(8), default=60, show_default=True, help="Frames of the scan.")
def main(out: Path, frames: int) -> None:
    """Scan a virtual object, stream it to a real server, query the surface meanwhile, measure it."""
    # A plain kill shall end the server too, not only Ctrl-C. It takes the way of a Ctrl-C: asyncio then
    # cancels the stream in order, where an exception raised anywhere could be swallowed by a callback.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console(highlight=False, soft_wrap=True)
    try:
        _run(out, frames, console)
    except StreamdgpError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print("stopped; the server has ended")
        raise click.exceptions.Exit(130) from None


if __name__ == "__main__":
    main()
