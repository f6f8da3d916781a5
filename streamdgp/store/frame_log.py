"""The durable log of frames: append-only, segmented, checksummed.

A frame is acknowledged only after :meth:`FrameLog.append` returned. The atlas is derived state:
recovery is the last committed atlas plus a replay of the records after it.

Payloads of frames that are not needed any more may be dropped (:meth:`FrameLog.drop_payloads`); what
they were stays known.

Files in the directory: ``<first position, 20 digits>.seg`` (a header, then records), ``DURABLE``
(how many records are known to be on disk) and ``LOCK``. What lies beyond the mark when the log is
opened, and is not whole, was never acknowledged: it is cut. Anything else that is not whole is an
error that names segment and record.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import google_crc32c

from streamdgp.errors import StorageError
from streamdgp.store._durable import DirectoryLock, sync_directory
from streamdgp.store._failpoints import reach
from streamdgp.store._records import (
    HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    DamagedRecordError,
    LogRecord,
    RecordHeader,
    RecordKind,
    decode_mark,
    decode_meta,
    decode_segment_header,
    encode_mark,
    encode_record,
    encode_segment_header,
)

__all__ = ["FrameLog"]

_LOGGER = logging.getLogger(__name__)
_MARK_NAME = "DURABLE"
_DEFAULT_SEGMENT_BYTES = 128 * 1024 * 1024


@dataclass
class _Segment:
    """An open segment: where each of its records starts, and where the next one will."""

    path: Path
    descriptor: int
    first_position: int
    offsets: list[int] = field(default_factory=list)
    end: int = SEGMENT_HEADER_BYTES
    has_frames: bool = False

    def add(self, record: LogRecord, record_bytes: int) -> None:
        """Note the record that lies at the end."""
        self.offsets.append(self.end)
        self.end += record_bytes
        self.has_frames |= record.kind is RecordKind.FRAME

    @property
    def end_position(self) -> int:
        return self.first_position + len(self.offsets)


class FrameLog:
    """The log of one scene. One writer; any number of reading threads.

    Parameters
    ----------
    directory
        Made if missing; locked while the log is open.
    segment_bytes
        A segment that has grown past this is closed and a new one begun.

    Raises
    ------
    StorageError
        The directory is locked, or a record that had been made durable is damaged or missing.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = _DEFAULT_SEGMENT_BYTES) -> None:
        self.directory = Path(directory)
        self._segment_bytes = segment_bytes
        self._lock = DirectoryLock(self.directory)
        self._guard = threading.Lock()
        self._failure: OSError | None = None
        self._segments: list[_Segment] = []
        self._metas: list[LogRecord] = []
        self._mark_descriptor = -1
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def first_position(self) -> int:
        """Position of the oldest record kept."""
        return self._segments[0].first_position

    @property
    def end_position(self) -> int:
        """Position the next record will get; all before it are durable."""
        return self._segments[-1].end_position

    def records_without_payload(self) -> list[LogRecord]:
        """Every record's facts, in order, from memory."""
        return list(self._metas)

    def append(self, records: Sequence[LogRecord]) -> list[LogRecord]:
        """Make records durable (one write, one sync) and return them with their positions.

        Records passed together share the cost of the sync; a server passes all that are waiting.

        Raises
        ------
        StorageError
            The disk refused. After a failed sync nothing can be appended any more: what the disk
            holds is unknown until the log is opened again.
        InvalidInputError
            A record is too large; nothing was written.
        """
        with self._guard:
            if self._failure is not None:
                raise self._refused("a log whose last sync succeeded", self._failure)
            start = self.end_position
            placed = [replace(record, position=start + i) for i, record in enumerate(records)]
            chunks = [encode_record(record, record.position) for record in placed]
            segment = self._segments[-1]
            if segment.end >= self._segment_bytes:
                segment = self._begin_segment(start)
            self._write(segment, b"".join(chunks))
            for record, chunk in zip(placed, chunks, strict=True):
                segment.add(record, len(chunk))
            self._metas.extend(replace(record, payload=b"") for record in placed)
            os.pwrite(self._mark_descriptor, encode_mark(self.end_position), 0)
        return placed

    @property
    def kept_from(self) -> int:
        """From this position on, no payload has been dropped."""
        for record in reversed(self._metas):
            if record.kind is RecordKind.DROPPED:
                return record.position + 1
        return self.first_position

    def segments_without_payloads(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of each segment as it would be without the payloads of its frames."""
        for segment in list(self._segments):
            header = encode_segment_header(segment.first_position)
            yield segment.path.name, header + b"".join(chunk for _, chunk in self._stripped(segment))

    @property
    def dropped_before(self) -> int:
        """From this position on no payload has been dropped; 0 when none has been at all."""
        dropped = (record.position for record in reversed(self._metas) if record.kind is RecordKind.DROPPED)
        return next(dropped, -1) + 1

    def drop_payloads(self, before: int, prove: Callable[[], object] | None = None) -> int:
        """Drop the payloads of frames in whole segments before a position; returns the bytes freed.

        The segment that is written to stays. Everything else about a record stays too, and rejections
        whole. No record before ``before`` may be read meanwhile. A segment is replaced by a rename: after a
        crash it is there whole or stripped.

        Parameters
        ----------
        prove
            Called once before anything is dropped: raises when what makes the frames needless cannot be read
            (:meth:`AtlasStore.prove`).

        Raises
        ------
        StorageError
            The disk refused, or ``prove`` did; the segments that were not replaced are as before.
        """
        freed = 0
        for number, segment in enumerate(self._segments[:-1]):
            if segment.end_position > before:
                break
            if segment.has_frames:
                if prove is not None:
                    prove()
                    prove = None
                self._segments[number] = stripped = self._strip(segment)
                freed += segment.end - stripped.end
                os.close(segment.descriptor)
        return freed

    def _strip(self, segment: _Segment) -> _Segment:
        """Replace a segment by one without payloads of frames."""
        first, unfinished = segment.first_position, segment.path.with_suffix(".tmp")
        at = first - self.first_position
        stripped = _Segment(segment.path, -1, first)
        chunks = [encode_segment_header(first)]
        for record, chunk in self._stripped(segment):
            chunks.append(chunk)
            stripped.add(record, len(chunk))
        try:
            stripped.descriptor = os.open(
                unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
            _write_all(stripped.descriptor, b"".join(chunks), 0)
            os.fsync(stripped.descriptor)
            reach("log.drop-rename")
            unfinished.rename(segment.path)
            reach("log.drop-renamed")
            sync_directory(self.directory)
        except OSError as error:
            if stripped.descriptor >= 0:
                os.close(stripped.descriptor)
            raise self._refused("a segment of the log without its frames", error) from error
        for index in range(at, at + len(stripped.offsets)):
            if self._metas[index].kind is RecordKind.FRAME:
                self._metas[index] = replace(self._metas[index], kind=RecordKind.DROPPED)
        return stripped

    def _stripped(self, segment: _Segment) -> Iterator[tuple[LogRecord, bytes]]:
        """The records of a segment and their bytes, frames without their payloads."""
        for position in range(segment.first_position, segment.end_position):
            record = self._metas[position - self.first_position]
            if record.kind is RecordKind.FRAME:
                record = replace(record, kind=RecordKind.DROPPED)
            else:
                record = self._load(position)
            yield record, encode_record(record, position)

    def read(self, position: int) -> LogRecord:
        """One record with its payload, its checksum verified.

        Raises
        ------
        StorageError
            No such position, its payload has been dropped, or the record is damaged; the message names
            segment and record.
        """
        record = self._load(position)
        if record.kind is RecordKind.DROPPED:
            raise StorageError(
                f"the frame of log record {position} in {self.directory}",
                "one that has been dropped, for revisions include it",
                "Keep frames (--keep-frames) where they are needed again.",
            )
        return record

    def _load(self, position: int) -> LogRecord:
        """One record as it is on disk, verified."""
        segment = self._segment_of(position)
        offset = segment.offsets[position - segment.first_position]
        try:
            header = RecordHeader.decode(os.pread(segment.descriptor, HEADER_BYTES, offset))
            if header.position != position:
                raise DamagedRecordError(f"position: {header.position}")
            record, payload = _read_body(segment, header, offset)
        except (DamagedRecordError, OSError, ValueError) as error:
            raise self._damaged(segment, position, error) from error
        return replace(record, payload=payload)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[LogRecord]:
        """Records from ``start`` to ``stop`` (default: the end as it is now), in order, dropped ones too."""
        for position in range(start, self.end_position if stop is None else stop):
            yield self._load(position)

    def verify(self) -> int:
        """Read everything and check every checksum; returns how many records there are."""
        count = 0
        for _ in self.records(self.first_position):
            count += 1
        return count

    def close(self) -> None:
        """Close the files and release the lock."""
        for segment in self._segments:
            os.close(segment.descriptor)
        self._segments = []
        if self._mark_descriptor >= 0:
            os.fsync(self._mark_descriptor)
            os.close(self._mark_descriptor)
            self._mark_descriptor = -1
        self._lock.release()

    def _open(self) -> None:
        for unfinished in self.directory.glob("*.tmp"):
            unfinished.unlink()
        paths = sorted(self.directory.glob("*.seg"))
        mark_path = self.directory / _MARK_NAME
        durable = self._open_mark(mark_path)
        # A mark of 0 alone is what a process leaves that died while it made the log.
        if not paths and durable > 0:
            raise StorageError(
                f"segments in {self.directory}",
                f"none, but a durable mark of {durable} records",
                "Restore the directory from a copy.",
            )
        for number, path in enumerate(paths):
            self._open_segment(path, durable, is_last=number == len(paths) - 1)
        if not paths:
            self._begin_segment(0)
        if self.end_position < durable:
            raise StorageError(
                f"{durable} records in {self.directory}, as many as were acknowledged",
                f"{self.end_position}; {self._segments[-1].path.name} was cut short",
                "Restore the directory from a copy.",
            )
        os.pwrite(self._mark_descriptor, encode_mark(self.end_position), 0)

    def _open_mark(self, path: Path) -> int:
        is_new = not path.exists()
        self._mark_descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if is_new:
            os.pwrite(self._mark_descriptor, encode_mark(0), 0)
            os.fsync(self._mark_descriptor)
            sync_directory(self.directory)
            return 0
        try:
            return decode_mark(os.pread(self._mark_descriptor, 64, 0))
        except DamagedRecordError as error:
            raise StorageError(
                f"an intact {path}", f"a wrong {error}", "Restore the directory from a copy."
            ) from error

    def _open_segment(self, path: Path, durable: int, *, is_last: bool) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        segment = _Segment(path, descriptor, 0)
        expected = self._segments[-1].end_position if self._segments else 0
        self._segments.append(segment)
        try:
            segment.first_position = decode_segment_header(os.pread(descriptor, SEGMENT_HEADER_BYTES, 0))
        except DamagedRecordError as error:
            raise self._damaged(segment, expected, error) from error
        if not segment.first_position == int(path.stem) == expected:
            raise StorageError(
                f"a segment that starts at record {expected} in {self.directory}",
                f"{path.name}, which starts at {segment.first_position}",
                "A segment is missing or misnamed; restore the directory from a copy.",
            )
        size = os.fstat(descriptor).st_size
        while segment.end < size:
            position = segment.end_position
            try:
                record_bytes = self._scan_record(segment, size, with_payload=is_last)
            except (DamagedRecordError, ValueError) as error:
                if position < durable or not is_last:
                    raise self._damaged(segment, position, error) from error
                self._cut(segment, size)
                return
            segment.add(self._metas[-1], record_bytes)

    def _scan_record(self, segment: _Segment, size: int, *, with_payload: bool) -> int:
        """Check the record at the segment's end, note its facts, return its length."""
        data = os.pread(segment.descriptor, HEADER_BYTES, segment.end)
        if len(data) < HEADER_BYTES:
            raise DamagedRecordError("length: the file ends within the header")
        header = RecordHeader.decode(data)
        if header.position != segment.end_position:
            raise DamagedRecordError(f"position: {header.position}")
        if segment.end + header.record_bytes > size:
            raise DamagedRecordError("length: the file ends within the record")
        if with_payload:
            record, _ = _read_body(segment, header, segment.end)
        else:
            record = decode_meta(
                header, os.pread(segment.descriptor, header.meta_bytes, segment.end + HEADER_BYTES)
            )
        self._metas.append(record)
        return header.record_bytes

    def _cut(self, segment: _Segment, size: int) -> None:
        _LOGGER.warning(
            "cut %d bytes of an unfinished, never acknowledged record off %s",
            size - segment.end,
            segment.path,
        )
        os.ftruncate(segment.descriptor, segment.end)
        os.fsync(segment.descriptor)

    def _begin_segment(self, first_position: int) -> _Segment:
        path = self.directory / f"{first_position:020d}.seg"
        unfinished = path.with_suffix(".tmp")
        try:
            descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            os.pwrite(descriptor, encode_segment_header(first_position), 0)
            os.fsync(descriptor)
            reach("log.segment-rename")
            unfinished.rename(path)
            reach("log.segment-renamed")
            sync_directory(self.directory)
        except OSError as error:
            raise self._refused("a new log segment", error) from error
        segment = _Segment(path, descriptor, first_position)
        self._segments.append(segment)
        return segment

    def _write(self, segment: _Segment, data: bytes) -> None:
        reach("log.write")
        try:
            _write_all(segment.descriptor, data, segment.end)
        except OSError as error:
            os.ftruncate(segment.descriptor, segment.end)
            raise self._refused("a record written to the log", error) from error
        reach("log.sync")
        try:
            os.fdatasync(segment.descriptor)
        except OSError as error:
            self._failure = error
            raise self._refused("a record synced to disk", error) from error
        reach("log.synced")

    def _segment_of(self, position: int) -> _Segment:
        for segment in reversed(self._segments):
            if segment.first_position <= position < segment.end_position:
                return segment
        raise StorageError(
            f"a log record from {self.first_position} to {self.end_position - 1} in {self.directory}",
            str(position),
            "The record was never written, or its segment has been dropped.",
        )

    def _damaged(self, segment: _Segment, position: int, error: Exception) -> StorageError:
        return StorageError(
            f"an intact record {position} in {segment.path}",
            f"a wrong {error}",
            "Check the disk; restore the segment from a copy.",
            metadata={"segment": segment.path.name, "record": str(position)},
        )

    def _refused(self, wanted: str, error: OSError) -> StorageError:
        return StorageError(
            f"{wanted} ({self.directory})", error.strerror or str(error), "Check the disk and its free space."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_body(segment: _Segment, header: RecordHeader, offset: int) -> tuple[LogRecord, bytes]:
    body = os.pread(segment.descriptor, header.record_bytes - HEADER_BYTES, offset + HEADER_BYTES)
    record = decode_meta(header, body[: header.meta_bytes])
    payload = body[header.meta_bytes :]
    if len(payload) != header.payload_bytes or google_crc32c.value(payload) != header.payload_crc:
        raise DamagedRecordError("payload checksum")
    return record, payload
