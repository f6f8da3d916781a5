"""A session of 20,000 frames in a tenth of the memory that its map takes: python -m benchmarks.session.

A small camera drives down a furnished tunnel without end, goes back to where it began now and then, drives
the whole way back at last and stays there for a sixth of the session, which adds nothing to the map: the
history of revisions fills up to its bound, and then the store may not grow any more. The frames go to a
real server without a limit, then to one with a memory budget of a tenth of what the map of the first took;
regions that were seen before are asked for meanwhile. Both must come to the same map, bit by bit. Memory is
that of the server's whole process; what it takes with an empty scene is measured before.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.feed import Feed, mesh_tiles
from benchmarks.results import Check, Result, Table, conclude, json_option
from benchmarks.scaling import Tunnel
from streamdgp.demo import running_server
from streamdgp.store import AtlasStore
from streamdgp.v1 import common_pb2, frame_pb2, surface_service_pb2
from streamdgp.wire import frame_to_proto

FLAT = 0.05
BUDGET_SHARE = 0.1
_SCENE = "scenes/tunnel"
_STEP_M = 0.04
_REVISIT_EVERY, _REVISIT = 2000, 100
_RETURN_SHARE, _STAY_SHARE = 0.06, 0.16
_SAMPLES = 200
_QUERIES = 40
_MIN_BUDGET_MB = 24


@dataclass(frozen=True)
class Drive:
    """Where the camera is at each frame: forward, now and then at the start, at last back there for good."""

    frames: int

    def __iter__(self) -> Iterator[frame_pb2.Frame]:
        tunnel, steps = Tunnel(), self.steps()
        for k, step in enumerate(steps.tolist()):
            # The noise is another one each time that a place is seen.
            yield frame_to_proto(tunnel.frame(step, _STEP_M, 100 + k), sequence_number=k + 1)

    def noted(self, into: hashlib._Hash) -> Iterator[frame_pb2.Frame]:
        """The frames, and what they are made of goes into a digest."""
        for frame in self:
            into.update(frame.SerializeToString(deterministic=True))
            yield frame

    def steps(self) -> np.ndarray:
        """Number of the place of each frame, 0 being the start."""
        steps, at = np.zeros(self.frames, np.int64), 0
        for k in range(self.outward):
            revisited = k % _REVISIT_EVERY - (_REVISIT_EVERY - _REVISIT)
            steps[k] = revisited if revisited >= 0 else at
            at += revisited < 0
        back = round(_RETURN_SHARE * self.frames)
        steps[self.outward : self.outward + back] = np.linspace(at - 1, 0, back)
        steps[self.outward + back :] = np.arange(self.frames - self.outward - back) % _REVISIT
        return steps

    @property
    def outward(self) -> int:
        """Frames until the way back begins."""
        return round((1 - _RETURN_SHARE - _STAY_SHARE) * self.frames)


@dataclass
class Session:
    """What one server did with the drive."""

    drive: Drive
    data: Path
    applied: list[int] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    store_mb: list[float] = field(default_factory=list)
    log_mb: list[float] = field(default_factory=list)
    seconds: float = 0.0
    idle_mb: float = 0.0
    asked: int = 0
    sent: str = ""
    """Digest of all frames."""
    columns: dict[str, str] = field(default_factory=dict)
    """Digests of the newest revision's columns."""
    charts: int = 0
    _next_sample: float = 0.0

    def run(self, name: str, *arguments: str) -> None:
        """Stream everything, stop the server, and take the map's fingerprint from its store."""
        frames = self.drive.frames
        bars = Progress(
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        with running_server(self.data, *arguments) as address, bars:
            task = bars.add_task(name, total=frames)
            pid = _server_of(self.data)
            self.idle_mb = _resident_mb(pid)

            def on_applied(applied: int) -> None:
                bars.update(task, completed=applied)
                if applied < self._next_sample:
                    return
                self._next_sample = applied + frames / _SAMPLES
                self.applied.append(applied)
                self.resident_mb.append(_resident_mb(pid))
                scene = self.data / _SCENE
                self.store_mb.append(_size_mb(scene / "atlas"))
                self.log_mb.append(_size_mb(scene / "log"))
                if applied > (self.asked + 1) * frames / _QUERIES:
                    self._ask(address, applied)

            started_s = time.perf_counter()
            sent = hashlib.sha256()
            Feed(_SCENE, self.drive.noted(sent), frames, on_applied).run(address)
            self.seconds = time.perf_counter() - started_s
            self.sent = sent.hexdigest()
        with closing(AtlasStore.open(self.data / _SCENE / "atlas")) as store:
            state = store.read().state
        for table, columns in state.tables.items():
            for column, values in columns.items():
                digest = hashlib.sha256(f"{values.shape} {values.dtype}".encode())
                digest.update(np.ascontiguousarray(values).data)
                self.columns[f"{table}/{column}"] = digest.hexdigest()
        self.charts = len(state.tables["charts"]["version"])

    def _ask(self, address: str, applied: int) -> None:
        """The mesh of two metres of tunnel somewhere on the way so far."""
        self.asked += 1
        x = _STEP_M * float(np.random.default_rng(self.asked).integers(applied))
        low, high = common_pb2.Vector3(x=x - 1, y=-2, z=-2), common_pb2.Vector3(x=x + 1, y=2, z=2)
        region = common_pb2.Box(min_m=low, max_m=high)
        mesh_tiles(address, surface_service_pb2.GetMeshRequest(scene=_SCENE, region=region))

    def at(self, values: list[float], share: float, width: float = 0.03) -> float:
        """Median of samples around a share of the session."""
        applied = np.array(self.applied) / self.drive.frames
        return float(np.median(np.array(values)[np.abs(applied - share) <= width]))

    @property
    def second_half_mb(self) -> np.ndarray:
        """Memory in the second half."""
        return np.array(self.resident_mb)[np.array(self.applied) >= self.drive.frames / 2]


def _server_of(data: Path) -> int:
    """Process number of the server that serves a directory."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        words = entry.read_bytes().split(b"\0")
        if b"streamdgp_server" in words and str(data).encode() in words:
            return int(entry.parent.name)
    raise click.ClickException(f"no server process for {data}")


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise click.ClickException("the server's process has ended")


def _size_mb(directory: Path) -> float:
    """Bytes on disk; what is deleted meanwhile counts nothing."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total / 1e6


def run(frames: int, scratch: Path, budget_mb: float | None) -> Result:
    """The session without a limit, then with a tenth."""
    drive = Drive(frames)
    free, tight = Session(drive, scratch / "free"), Session(drive, scratch / "tight")
    free.run("no limit")
    map_mb = max(free.resident_mb) - free.idle_mb
    budget = budget_mb or max(_MIN_BUDGET_MB, BUDGET_SHARE * map_mb)
    tight.run("budget", "--memory-budget", f"{budget:.0f}")
    outward = drive.outward / frames
    shares = (0.1, 0.25, 0.5, outward - 0.03, 0.87, 0.91, 0.95, 0.98)
    rows = [
        [
            f"{name}, {what}",
            *(f"{session.at(values, share):.0f}" for share in shares),
        ]
        for name, session in (("no limit", free), (f"budget {budget:.0f} MB", tight))
        for what, values in (
            ("memory MB", session.resident_mb),
            ("store MB", session.store_mb),
            ("log MB", session.log_mb),
        )
    ]
    others = sorted(name for name in free.columns if free.columns[name] != tight.columns.get(name))
    half = tight.second_half_mb
    tenth = max(1, len(half) // 5)
    drift = float(np.median(half[-tenth:]) / np.median(half[:tenth])) - 1
    half_way = tight.at(tight.store_mb, outward / 2, 0.02) / (outward / 2)
    at_the_end = tight.at(tight.store_mb, outward - 0.02, 0.02) / (outward - 0.02)
    # Of the stay, a quarter goes by until history is full.
    quarter = _STAY_SHARE / 4
    stayed = tight.at(tight.store_mb, 1 - quarter, quarter) / tight.at(
        tight.store_mb, 1 - 2.5 * quarter, quarter / 2
    )
    since_far = tight.store_mb[-1] / tight.at(tight.store_mb, outward - 0.02, 0.02)
    return Result(
        "Session",
        [
            Table(
                f"{frames} frames, {free.charts} charts: medians around shares of the session",
                ["", *(f"{100 * share:.0f} %" for share in shares)],
                rows,
            ),
            Table(
                "the whole session",
                ["", "s", "frames/s", "idle MB", "most MB", "queries"],
                [
                    [
                        name,
                        f"{one.seconds:.0f}",
                        f"{frames / one.seconds:.1f}",
                        f"{one.idle_mb:.0f}",
                        f"{max(one.resident_mb):.0f}",
                        f"{one.asked}",
                    ]
                    for name, one in (("no limit", free), ("budget", tight))
                ],
            ),
        ],
        [
            Check("gate", "frames that were not the same for both", int(free.sent != tight.sent), 0),
            Check("gate", "columns of the map that are not the same for both", len(others), 0),
            Check("gate", "budget / what the map takes without one", budget / map_mb, BUDGET_SHARE * 1.01),
            Check("gate", "memory at the end of the second half / at its begin, - 1", abs(drift), FLAT),
            Check("gate", "store bytes per metre driven, far end / half way", at_the_end / half_way, 1.1),
            Check("gate", "store at the end / at the far end (no new area since)", since_far, 1.1),
            Check("gate", "store in the second half of the stay / in the quarter before", stayed, 1.05),
        ],
        [
            f"most memory in the second half / its median: {half.max() / np.median(half):.3f}",
            f"least / median: {half.min() / np.median(half):.3f}",
            *(f"not the same: {name}" for name in others),
        ],
        {
            "free": {"applied": free.applied, "resident_mb": free.resident_mb, "store_mb": free.store_mb},
            "tight": {"applied": tight.applied, "resident_mb": tight.resident_mb, "store_mb": tight.store_mb},
            "budget_mb": budget,
            "map_mb": map_mb,
            "seconds": [free.seconds, tight.seconds],
            "charts": free.charts,
        },
    )


@click.command(epilog="Example: python -m benchmarks.session --frames 2000")
@click.option("--frames", default=20_000, show_default=True, help="Frames of the session.")
@click.option("--budget", type=float, help="MB, instead of a tenth of the map.")
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, path_type=Path),
    help="Empty folder for the stores; they stay.",
)
@json_option
def main(frames: int, budget: float | None, scratch: Path | None, json_path: Path | None) -> None:
    """Stream a long session without and with a memory budget, and compare."""
    with ExitStack() as stack:
        if scratch is None:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="streamdgp-session-"))
        result = run(frames, scratch or Path(made), budget)
    conclude(result, json_path)


if __name__ == "__main__":
    main()
