"""Frames that the server has not made durable yet, on the robot's disk: they outlive the robot's process.

Files in the directory: ``<index of the first record, 20 digits>.seg`` (records, see ``_spool_file``),
``SPOOL`` (JSON: scene, producer, and which number record 0 has, once the server has said so), ``DURABLE``
(how many records need not be sent again; a hint that may lag) and ``LOCK``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import threading
from pathlib import Path
from typing import Any, Final

import google_crc32c

from streamdgp.errors import InvalidInputError, StorageError
from streamdgp.v1 import frame_pb2
from streamdgp_client._spool_file import HEADER_BYTES, Segment

__all__ = ["DEFAULT_SPOOL_BYTES", "Spool"]

DEFAULT_SPOOL_BYTES: Final = 4 * 2**30
_SEGMENT_BYTES: Final = 16 * 2**20
_FORMAT: Final = "streamdgp-spool"
_VERSION: Final = 1
_MARK: Final = struct.Struct("<QI")
_GIVE_UP: Final = "Deleting the folder of the spool gives its frames up."


class Spool:
    """A backlog on disk. A frame is on disk when :meth:`append` has returned.

    ``append`` and ``read`` block, and may run in two threads at a time.

    Parameters
    ----------
    directory
        Made if missing; locked while the spool is open.
    scene, producer
        Whose frames these are.
    max_bytes
        Most that the segments may take; one frame may always be kept.

    Raises
    ------
    InvalidInputError
        The spool holds frames of another scene or producer.
    StorageError
        Another process holds it, it is damaged, or the disk refused.
    """

    def __init__(
        self, directory: Path, scene: str, producer: str, max_bytes: int = DEFAULT_SPOOL_BYTES
    ) -> None:
        self.directory = Path(directory)
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // 4)
        self._facts: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "scene": scene,
            "producer": producer,
            "first_number": None,
        }
        self._appending = threading.Lock()
        self._guard = threading.Lock()  # of the segments
        self._segments: list[Segment] = []
        self._durable = 0  # so many records need not be sent again
        self._failure: OSError | None = None
        self._mark = -1
        self._lock = self._take_lock()
        try:
            self._open()
        except BaseException:
            self._release()
            raise

    @property
    def is_bound(self) -> bool:
        return self._facts["first_number"] is not None

    @property
    def oldest_number(self) -> int:
        return self._first_number + self._durable

    @property
    def next_number(self) -> int:
        return self._first_number + self._stop_index

    def bind(self, next_number: int) -> None:
        """See ``Backlog.bind``; on disk when this returns, before anything is sent. Raises StorageError."""
        self._facts["first_number"] = next_number - self._durable
        try:
            self._write_facts()
        except OSError as error:
            raise self._refused(error) from error

    def has_room(self, frame_bytes: int) -> bool:
        with self._guard:
            kept = [segment for segment in self._segments if segment.stop_index > self._durable]
            return not kept or sum(one.end for one in kept) + HEADER_BYTES + frame_bytes <= self._max_bytes

    def append(self, frame: frame_pb2.Frame) -> int:
        """See ``Backlog.append``.

        Raises
        ------
        StorageError
            The disk refused; the frame is not in the spool.
        """
        with self._appending:
            if self._lock < 0:
                raise StorageError(
                    f"an open spool {self.directory}", "one that is closed", "Open a new stream."
                )
            if self._failure is not None:
                raise self._refused(self._failure)
            try:
                self._remove_durable()
                segment = self._segments[-1] if self._segments else None
                if segment is None or segment.end >= self._segment_bytes:
                    segment = self._begin_segment()
                end = self._write(segment, frame.SerializeToString())
            except OSError as error:
                raise self._refused(error) from error
            with self._guard:
                number = self.next_number
                segment.add(end)
        frame.sequence_number = number
        return number

    def read(self, first_number: int, stop_number: int, max_bytes: int) -> list[frame_pb2.Frame]:
        """See ``Backlog.read``; raises StorageError for a damaged record."""
        frames: list[frame_pb2.Frame] = []
        for number in range(first_number, stop_number):
            index = number - self._first_number
            try:
                with self._guard:
                    segment = next(one for one in reversed(self._segments) if one.first_index <= index)
                    payload = segment.read(index)
            except OSError as error:
                raise self._refused(error) from error
            frame = frame_pb2.Frame.FromString(payload)
            frame.sequence_number = number
            frames.append(frame)
            max_bytes -= len(payload)
            if max_bytes <= 0:
                break
        return frames

    def discard(self, last_number: int) -> None:
        count = min(last_number - self._first_number + 1, self._stop_index)
        if count > self._durable:
            self._durable = count
            mark = struct.pack("<Q", count)
            # Not synced, and no matter if it fails: what it forgets is sent again, and known to the server.
            with contextlib.suppress(OSError):
                os.pwrite(self._mark, _MARK.pack(count, google_crc32c.value(mark)), 0)

    def close(self) -> None:
        """Close the files; removes them when everything in them is durable."""
        with self._appending, self._guard:
            if self._mark >= 0 and self._durable == self._stop_index:
                self._remove_all()
            self._release()

    @property
    def _first_number(self) -> int:
        return int(self._facts["first_number"] or 1)

    @property
    def _stop_index(self) -> int:
        return self._segments[-1].stop_index if self._segments else self._durable

    def _take_lock(self) -> int:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.directory / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(
                f"a writable folder {self.directory}", str(error), "Choose another folder."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StorageError(
                f"one stream for the spool {self.directory}",
                "one that another process or stream has open",
                "Stop that one, or use another folder.",
            ) from error
        return descriptor

    def _open(self) -> None:
        try:
            paths = sorted(self.directory.glob("*.seg"))
            found = self._read_facts(has_frames=bool(paths))
            for path in paths:
                self._segments.append(Segment.open(path, is_last=path == paths[-1]))
                if len(self._segments) > 1 and self._segments[-2].stop_index != int(path.stem):
                    raise StorageError(
                        f"a segment from record {self._segments[-2].stop_index} on in {self.directory}",
                        path.name,
                        f"A file is missing. {_GIVE_UP}",
                    )
            self._read_mark()
            if self._durable == self._stop_index:
                self._begin_anew()
        except (OSError, ValueError) as error:
            raise StorageError(f"a readable spool {self.directory}", str(error), _GIVE_UP) from error
        if self._durable < self._stop_index:
            self._require_same_stream(found)

    def _read_facts(self, *, has_frames: bool) -> dict[str, Any]:
        path = self.directory / "SPOOL"
        if not path.exists() and not has_frames:
            self._write_facts()
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict) or (found.get("format"), found.get("version")) != (_FORMAT, _VERSION):
            raise ValueError(f"{path} is of another format")
        self._facts["first_number"] = found.get("first_number")
        return found

    def _require_same_stream(self, found: dict[str, Any]) -> None:
        for name in ("scene", "producer"):
            if found.get(name) != self._facts[name]:
                raise InvalidInputError(
                    f"the {name} of the frames in the spool {self.directory}, {found.get(name)}",
                    str(self._facts[name]),
                    f"Use a folder of its own. {_GIVE_UP}",
                )

    def _write_facts(self) -> None:
        path = self.directory / "SPOOL"
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(self._facts, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        self._sync_directory()

    def _read_mark(self) -> None:
        self._mark = os.open(self.directory / "DURABLE", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        oldest = self._segments[0].first_index if self._segments else 0
        self._durable = oldest
        data = os.pread(self._mark, _MARK.size, 0)
        if len(data) == _MARK.size:
            count, crc = _MARK.unpack(data)
            if google_crc32c.value(data[:-4]) == crc:
                # A power cut may have taken records back that were durable on the server already.
                self._durable = max(oldest, min(count, self._stop_index))

    def _begin_anew(self) -> None:
        """All that was kept is durable: forget it, and let the server name the number of what comes next."""
        for segment in self._segments:
            segment.path.unlink()
            segment.close()
        self._segments, self._durable = [], 0
        self._facts["first_number"] = None
        self._write_facts()
        os.ftruncate(self._mark, 0)

    def _begin_segment(self) -> Segment:
        segment = Segment.create(self.directory, self._stop_index)
        self._sync_directory()
        with self._guard:
            self._segments.append(segment)
        return segment

    def _write(self, segment: Segment, payload: bytes) -> int:
        try:
            return segment.write(payload)
        except OSError as error:
            try:
                segment.undo()
            except OSError:
                self._failure = error
            raise

    def _remove_durable(self) -> None:
        """Delete segments whose frames are all durable, but for the last, which tells the next index."""
        with self._guard:
            while len(self._segments) > 1 and self._segments[0].stop_index <= self._durable:
                segment = self._segments.pop(0)
                segment.path.unlink()
                segment.close()

    def _remove_all(self) -> None:
        with contextlib.suppress(OSError):  # what is left is known to be durable, at the next start
            for segment in self._segments:
                segment.path.unlink()
            for name in ("SPOOL", "DURABLE", "LOCK"):
                (self.directory / name).unlink(missing_ok=True)
            self.directory.rmdir()

    def _release(self) -> None:
        for segment in self._segments:
            segment.close()
        self._segments = []
        for descriptor in (self._mark, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._mark = self._lock = -1

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"frames kept in the spool {self.directory}",
            error.strerror or str(error),
            "Check the disk and its free space.",
        )
