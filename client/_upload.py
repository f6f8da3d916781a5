"""Sends a recorded scan, from where the server stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from streamdgp.errors import (
    DatasetError,
    InvalidFrameError,
    NotFoundError,
    SequenceError,
    ServerUnavailableError,
)
from streamdgp.frames import Frame
from streamdgp_client._async_client import AsyncClient
from streamdgp_client._types import ConnectionChange, FrameRecord, IngestStatus, Progress, Rejection

__all__ = ["FrameList", "UploadReport", "check_same_source", "upload"]


class FrameList(Protocol):
    """A recorded scan (``streamdgp.datasets.Dataset``)."""

    def __len__(self) -> int:
        """Return how many frames there are."""

    @property
    def frame_names(self) -> list[str]:
        """What each frame is called."""

    def read(self, index: int) -> Frame:
        """Read a frame."""

    def checksum(self, index: int) -> int:
        """crc32c of what the frame is made from."""


@dataclass(frozen=True)
class UploadReport:
    """What an upload did."""

    already_durable: int
    """Frames of the scan that the server had before; with a spool, as far as was known."""
    sent: int
    rejected: int
    """Frames that this upload could not read or the server refused."""
    progress: Progress


def check_same_source(frames: FrameList, records: Sequence[FrameRecord]) -> None:
    """Check that the server's numbers are the frames that this scan would give them.

    Raises
    ------
    SequenceError
        A number stands for a frame of another name or content.
    """
    names = frames.frame_names
    for record in records:
        index = record.sequence_number - 1
        if index >= len(names):
            break
        wanted = f"frame {record.sequence_number} to be {record.source_id!r} as it was sent before"
        remedy = (
            "Send with the --every and the options of the first time, or under another --producer or --scene."
        )
        if names[index] != record.source_id:
            raise SequenceError(wanted, f"{names[index]!r}", remedy)
        if record.source_crc32c and record.source_crc32c != _checksum(frames, index):
            raise SequenceError(wanted, "the same name with other content or pose", remedy)


def _checksum(frames: FrameList, index: int) -> int:
    """Return the frame's checksum; 0, which compares with nothing, when its files cannot be read."""
    try:
        return frames.checksum(index)
    except DatasetError:
        return 0


async def upload(
    client: AsyncClient,
    frames: FrameList,
    scene: str,
    producer_id: str,
    *,
    config: Mapping[str, Any] | None = None,
    spool: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_rejected: Callable[[Rejection], None] | None = None,
    on_unreadable: Callable[[str, Exception], None] | None = None,
    on_connection: Callable[[ConnectionChange], None] | None = None,
) -> UploadReport:
    """Send the frames that the server has not yet; return when all are part of the surface.

    A frame that cannot be read uses up its number (the server rejects it), so that numbers and
    frames stay in step.

    Parameters
    ----------
    client, frames, scene, producer_id, config
        What to send where; ``config`` is for a scene that is created.
    spool, on_progress, on_connection
        As in ``AsyncClient.stream``. With a spool the server is waited for however long it is away; the scan
        is read meanwhile, but for the first time that the folder is used.
    on_unreadable
        Called with the name and error of a frame that cannot be read.
    on_rejected
        Called for frames that the server refuses, but not for unreadable ones.

    Raises
    ------
    SequenceError
        The server has other frames under these numbers.
    StreamdgpError
        As ``FrameStream.send``.
    """
    status = await _status(client, scene, producer_id, may_be_away=spool is not None)
    await asyncio.to_thread(check_same_source, frames, status.records)
    names = frames.frame_names
    if spool is None and status.durable >= len(names) and status.applied >= status.durable:
        progress = Progress(status.durable, status.durable, status.applied, status.revision)
        return UploadReport(len(names), 0, 0, progress)
    unreadable = set[int]()
    rejected = 0

    def count_rejected(rejection: Rejection) -> None:
        nonlocal rejected
        rejected += 1
        if on_rejected is not None and rejection.sequence_number not in unreadable:
            on_rejected(rejection)

    stream = client.stream(
        scene,
        producer_id,
        config=config,
        spool=spool,
        on_progress=on_progress,
        on_rejected=count_rejected,
        on_connection=on_connection,
    )
    async with stream:
        if not stream.is_numbered:  # which frame of the scan is next, only the server knows
            await stream.wait("durable")
        last_waiting = await stream.last_waiting()
        if last_waiting is not None:
            await asyncio.to_thread(check_same_source, frames, [last_waiting])
        already = min(stream.next_sequence_number - 1 - stream.waiting_count, len(names))
        first = stream.next_sequence_number - 1
        for index in range(first, len(names)):
            checksum = await asyncio.to_thread(_checksum, frames, index)
            try:
                frame = await asyncio.to_thread(frames.read, index)
            except (DatasetError, InvalidFrameError) as error:
                unreadable.add(stream.next_sequence_number)
                if on_unreadable is not None:
                    on_unreadable(names[index], error)
                await stream.skip(source_id=names[index], source_crc32c=checksum)
            else:
                await stream.send(frame, source_id=names[index], source_crc32c=checksum)
    return UploadReport(already, len(names) - already, rejected, stream.progress)


async def _status(client: AsyncClient, scene: str, producer_id: str, *, may_be_away: bool) -> IngestStatus:
    try:
        return await client.get_ingest_status(scene, producer_id)
    except NotFoundError:
        return IngestStatus()
    except ServerUnavailableError:
        if not may_be_away:
            raise
        return IngestStatus()
