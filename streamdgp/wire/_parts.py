"""Frames to and from ingest requests: small frames share a message, a large one is sent in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import google_crc32c
from google.protobuf.message import DecodeError

from streamdgp.errors import InvalidFrameError
from streamdgp.v1 import frame_pb2, ingest_service_pb2

__all__ = [
    "BATCH_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_MESSAGE_BYTES",
    "PART_BYTES",
    "PartAssembler",
    "pack_requests",
]

MAX_MESSAGE_BYTES: Final = 8 * 2**20
"""What the server receives in one message."""
MAX_FRAME_BYTES: Final = 64 * 2**20
"""Largest serialised frame."""
BATCH_BYTES: Final = 2**20
"""Small frames are collected up to about this size."""
PART_BYTES: Final = 3 * 2**20
"""A frame larger than this is split into parts of this size."""


def pack_requests(frames: Iterable[frame_pb2.Frame]) -> Iterator[ingest_service_pb2.IngestRequest]:
    """Yield the requests that carry the frames, in order.

    Raises
    ------
    InvalidFrameError
        A frame is larger than ``MAX_FRAME_BYTES``.
    """
    batch: list[frame_pb2.Frame] = []
    batch_bytes = 0
    for frame in frames:
        size = frame.ByteSize()
        if batch and batch_bytes + size > BATCH_BYTES:
            yield _batch(batch)
            batch, batch_bytes = [], 0
        if size > PART_BYTES:
            yield from _split(frame)
        else:
            batch.append(frame)
            batch_bytes += size
    if batch:
        yield _batch(batch)


def _batch(frames: list[frame_pb2.Frame]) -> ingest_service_pb2.IngestRequest:
    return ingest_service_pb2.IngestRequest(frames=ingest_service_pb2.FrameBatch(frames=frames))


def _split(frame: frame_pb2.Frame) -> Iterator[ingest_service_pb2.IngestRequest]:
    data = frame.SerializeToString()
    if len(data) > MAX_FRAME_BYTES:
        raise InvalidFrameError(
            f"a frame of at most {MAX_FRAME_BYTES} bytes",
            f"{len(data)} bytes",
            "Thin it out, or send less a frame.",
        )
    for offset in range(0, len(data), PART_BYTES):
        piece = data[offset : offset + PART_BYTES]
        yield ingest_service_pb2.IngestRequest(
            part=ingest_service_pb2.FramePart(
                sequence_number=frame.sequence_number,
                offset=offset,
                total_bytes=len(data),
                data=piece,
                crc32c=google_crc32c.value(piece),
            )
        )


class PartAssembler:
    """Puts the parts of large frames together again; one per stream.

    Parameters
    ----------
    max_frame_bytes
        Larger frames are refused at their first part, before anything is kept.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._sequence_number = 0
        self._total_bytes = 0

    def add(self, part: ingest_service_pb2.FramePart) -> frame_pb2.Frame | None:
        """Take a part in; return the frame when this was its last one.

        Raises
        ------
        InvalidFrameError
            The frame is too large, the part does not follow the one before, its checksum is wrong,
            or the whole is no frame of that number. The frame begun is dropped: wait for the next
            part at offset zero. ``metadata["sequence"]`` names the frame.
        """
        try:
            return self._add(part)
        except InvalidFrameError as error:
            self.reset()
            error.metadata.setdefault("sequence", str(part.sequence_number))
            raise

    def reset(self) -> None:
        """Forget a frame that was begun."""
        self._buffer = bytearray()
        self._sequence_number = 0
        self._total_bytes = 0

    def _add(self, part: ingest_service_pb2.FramePart) -> frame_pb2.Frame | None:
        if part.offset == 0:
            self.reset()
            if not 0 < part.total_bytes <= self._max_frame_bytes:
                raise InvalidFrameError(
                    f"a frame of 1 to {self._max_frame_bytes} bytes",
                    f"total_bytes={part.total_bytes}",
                    "Send less a frame.",
                )
            self._sequence_number = part.sequence_number
            self._total_bytes = part.total_bytes
        expected = (self._sequence_number, len(self._buffer), self._total_bytes)
        got = (part.sequence_number, part.offset, part.total_bytes)
        if got != expected or not self._total_bytes:
            raise InvalidFrameError(
                f"the next part (frame, offset, total_bytes) = {expected}",
                str(got),
                "Send the parts of a frame in order, from offset 0.",
            )
        if not part.data or len(self._buffer) + len(part.data) > self._total_bytes:
            raise InvalidFrameError(
                f"a part of 1 to {self._total_bytes - len(self._buffer)} bytes",
                f"{len(part.data)} bytes",
                "Split the serialised frame as total_bytes says.",
            )
        if part.HasField("crc32c") and google_crc32c.value(part.data) != part.crc32c:
            raise InvalidFrameError(
                f"a part with crc32c {part.crc32c:08x}",
                f"{google_crc32c.value(part.data):08x}",
                "It was damaged on the way; send the frame again.",
            )
        self._buffer += part.data
        if len(self._buffer) < self._total_bytes:
            return None
        data = bytes(self._buffer)
        sequence_number = self._sequence_number
        self.reset()
        return _parse(data, sequence_number)


def _parse(data: bytes, sequence_number: int) -> frame_pb2.Frame:
    try:
        frame = frame_pb2.Frame.FromString(data)
    except DecodeError as error:
        raise InvalidFrameError(
            "parts that make a serialised Frame", f"{len(data)} bytes that do not parse", "Serialise a Frame."
        ) from error
    if frame.sequence_number != sequence_number:
        raise InvalidFrameError(
            f"a frame with the number of its parts, {sequence_number}",
            str(frame.sequence_number),
            "Number the parts like the frame.",
        )
    return frame
