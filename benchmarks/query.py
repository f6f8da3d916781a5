"""Queries while a real scan streams into a real server: python -m benchmarks.query.

The kitchen is streamed by the real client, once with nobody else there, which tells how many frames a second
the server takes; and once while ``query_mesh`` runs every few seconds. Every answer
must come from a whole revision that includes every frame acknowledged as applied when it was asked
for and, as long as the stream is within the server's speed, every frame durable two seconds before.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np

from benchmarks.inputs import shared_data
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.datasets import Dataset, open_dataset
from streamdgp.demo import running_server
from streamdgp.frames import Frame
from streamdgp_client import AsyncClient, Progress, UploadReport, upload

ANSWER_S = 2.0
DURABLE_AGE_S = 2.0
WITHIN_SPEED_FRAMES = 4
FRAMES_PER_S_GATE = 5.0
FRAMES_PER_S_TARGET = 10.0
_SCENE = "kitchen"


@dataclass(frozen=True)
class Answer:
    """One mesh query: what was known when it was asked, and what came."""

    asked_s: float
    answered_s: float
    revision: int
    triangles: int
    applied: int
    durable_before: int
    lag_before: int
    """Frames durable and not applied two seconds before it was asked."""
    lag: int
    frames: int = 0
    """Frames of the revision."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.answered_s - self.asked_s


@dataclass
class _Acks:
    """What the server acknowledged when; times as of ``time.perf_counter``."""

    history: list[tuple[float, Progress]] = field(default_factory=lambda: [(0.0, Progress())])

    def take(self, progress: Progress) -> None:
        self.history.append((time.perf_counter(), progress))

    def at(self, moment_s: float) -> Progress:
        """The last report before a moment."""
        return next(progress for when, progress in reversed(self.history) if when <= moment_s)

    def applied_per_s(self, first: int) -> float:
        """Frames applied a second, from the first report of so many on."""
        (began, before), (ended, after) = (
            next((report for report in self.history if report[1].applied >= first), self.history[-1]),
            self.history[-1],
        )
        return (after.applied - before.applied) / (ended - began) if ended > began else float("nan")


@dataclass(frozen=True)
class _Streamed:
    """What came of one stream: ``seconds`` until every frame was applied, and what was answered."""

    report: UploadReport
    acks: _Acks
    answers: list[Answer]
    seconds: float


class _Paced:
    """A scan whose frames come no faster than a camera would send them; 0 frames per second: no limit."""

    def __init__(self, scan: Dataset, frames_per_s: float) -> None:
        self._scan = scan
        self._period_s = 1 / frames_per_s if frames_per_s else 0.0
        self._next_s = 0.0
        self.frame_names = scan.frame_names
        self.checksum = scan.checksum

    def __len__(self) -> int:
        return len(self._scan)

    def read(self, index: int) -> Frame:
        """Read a frame when its time has come; called off the event loop."""
        time.sleep(max(0.0, self._next_s - time.perf_counter()))
        self._next_s = max(self._next_s, time.perf_counter()) + self._period_s
        return self._scan.read(index)


async def _ask_until(
    client: AsyncClient,
    acks: _Acks,
    sending: asyncio.Task[UploadReport],
    period_s: float,
    frames: dict[int, int],
) -> list[Answer]:
    """Ask every ``period_s``; ``frames`` collects the frame count of every revision seen."""
    answers = []
    while not sending.done():
        await asyncio.wait([sending], timeout=period_s)
        asked = time.perf_counter()
        known = acks.at(asked)
        if known.applied:
            mesh = await client.query_mesh(_SCENE)
            answered = time.perf_counter()
            # At once: the server keeps a bounded number of revisions.
            frames.update({one.number: one.frame_count for one in await client.list_revisions(_SCENE)})
            answers.append(
                Answer(
                    asked,
                    answered,
                    mesh.revision,
                    len(mesh.triangles),
                    known.applied,
                    acks.at(asked - DURABLE_AGE_S).durable,
                    acks.at(asked - DURABLE_AGE_S).lag,
                    known.lag,
                )
            )
    return answers


async def _stream_and_ask(address: str, scan: _Paced, period_s: float | None) -> _Streamed:
    """``period_s`` None: nobody asks."""
    acks = _Acks()
    frames: dict[int, int] = {}
    answers: list[Answer] = []
    started = time.perf_counter()
    # Two connections: the answers must not queue behind frames on one.
    async with AsyncClient(address) as robot, AsyncClient(address) as viewer:
        sending = asyncio.create_task(upload(robot, scan, _SCENE, "camera", on_progress=acks.take))
        ended: list[float] = []
        sending.add_done_callback(lambda _: ended.append(time.perf_counter()))
        try:
            if period_s is not None:
                answers = await _ask_until(viewer, acks, sending, period_s, frames)
            report = await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    # A revision that has been dropped since counts as NaN frames would: -1 fails every check.
    known = [Answer(**{**asdict(answer), "frames": frames.get(answer.revision, -1)}) for answer in answers]
    return _Streamed(report, acks, known, ended[0] - started)


def _within_speed(answers: Sequence[Answer]) -> list[Answer]:
    """Answers while the server kept up: no backlog, neither now nor two seconds before."""
    return [answer for answer in answers if max(answer.lag, answer.lag_before) <= WITHIN_SPEED_FRAMES]


def run(limit: int | None, every: int, frames_per_s: float, period_s: float) -> Result:
    """Stream the kitchen, and stream it again and query it meanwhile."""
    scan = open_dataset(shared_data("rgbd-kitchen")).subset(every, limit)
    streams = []
    for period in (None, period_s):
        with tempfile.TemporaryDirectory(prefix="streamdgp-query-") as scratch:
            with running_server(Path(scratch) / "data") as address:
                streams.append(asyncio.run(_stream_and_ask(address, _Paced(scan, frames_per_s), period)))
    alone, asked = streams
    report, answers = asked.report, asked.answers
    took = np.array([answer.seconds for answer in answers] or [np.nan])
    behind = sum(answer.frames < answer.applied for answer in answers)
    in_time = _within_speed(answers)
    stale = sum(answer.frames < answer.durable_before for answer in in_time)
    start = answers[0].asked_s if answers else 0.0
    rows = [
        [
            f"{answer.asked_s - start:.0f}",
            f"{answer.seconds:.2f}",
            *(
                str(n)
                for n in (answer.revision, answer.frames, answer.applied, answer.durable_before, answer.lag)
            ),
            f"{answer.triangles:,}",
        ]
        for answer in answers[:: max(1, len(answers) // 20)]
    ]
    columns = [
        *(
            "at s",
            "answer s",
            "revision",
            "its frames",
            "applied then",
            "durable 2 s before",
            "lag",
            "triangles",
        ),
    ]
    pace = f"at most {frames_per_s:g} a second" if frames_per_s else "as fast as the server takes them"
    title = f"rgbd-kitchen, {len(scan)} frames {pace}; queries every {period_s:g} s"
    done = report.progress
    per_s = len(scan) / alone.seconds
    speed = [
        [
            name,
            f"{stream.seconds:.1f}",
            f"{len(scan) / stream.seconds:.2f}",
            f"{stream.acks.applied_per_s(len(scan) // 2):.2f}",
        ]
        for name, stream in (("nobody asks", alone), (f"a query every {period_s:g} s", asked))
    ]
    return Result(
        "Queries while streaming",
        [
            Table(f"rgbd-kitchen, {pace}", ["", "s", "frames/s", "in the second half"], speed),
            Table(title, columns, rows),
        ],
        [
            *(
                ()
                if frames_per_s
                else (
                    Check("gate", "frames a second while nobody asks", per_s, FRAMES_PER_S_GATE, False),
                    Check("target", "frames a second while nobody asks", per_s, FRAMES_PER_S_TARGET, False),
                )
            ),
            Check("gate", "frames rejected", report.rejected, 0),
            Check("gate", "frames acknowledged as durable", done.durable, len(scan), False),
            Check("gate", "frames applied", done.applied, len(scan), False),
            Check("gate", "longest answer, s", float(took.max()), ANSWER_S),
            Check("gate", "answers without a frame acknowledged as applied", behind, 0),
            Check("gate", f"of {len(in_time)} within the server's speed, answers older than 2 s", stale, 0),
        ],
        [
            f"{len(answers)} answers: mean {took.mean():.2f} s, median {np.median(took):.2f} s, "
            f"longest {took.max():.2f} s",
        ],
        {
            "seconds": asked.seconds,
            "seconds_alone": alone.seconds,
            "answers": [asdict(answer) for answer in answers],
        },
    )


@click.command(epilog="Example: python -m benchmarks.query --limit 60 --fps 2")
@click.option("--limit", type=int, help="Frames to stream. Default: all 300.")
@click.option("--every", default=1, show_default=True, help="Every how many frames one is streamed.")
@click.option(
    "--fps",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Frames a second; 0: as fast as they are taken.",
)
@click.option(
    "--period",
    type=click.FloatRange(0),
    default=3.0,
    show_default=True,
    help="Pause between queries, seconds.",
)
@json_option
def main(limit: int | None, every: int, fps: float, period: float, json_path: Path | None) -> None:
    """Query the mesh of a scene while a real scan streams into it."""
    conclude(run(limit, every, fps, period), json_path)


if __name__ == "__main__":
    main()
