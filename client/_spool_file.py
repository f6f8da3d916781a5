"""The bytes of a spool: records of frames in segment files, each with checksums.

All integers are little-endian. A record is, with a header of 24 bytes::

    header    magic 'SDGS' | payload length u32 | payload crc32c u32 | index u64 | header crc32c u32
    payload   streamdgp.v1.Frame, serialised

The index counts the frames of a spool from 0, over all its segments.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import google_crc32c

from streamdgp.errors import StorageError

__all__ = ["HEADER_BYTES", "Segment"]

_HEADER: Final = struct.Struct("<4sIIQI")
_MAGIC: Final = b"SDGS"
HEADER_BYTES: Final = _HEADER.size


@dataclass
class Segment:
    """An open segment file: where each of its records starts, and where the next one will."""

    path: Path
    descriptor: int
    first_index: int
    offsets: list[int] = field(default_factory=list)
    end: int = 0

    @property
    def stop_index(self) -> int:
        """Index of the record that comes next."""
        return self.first_index + len(self.offsets)

    @classmethod
    def create(cls, directory: Path, first_index: int) -> Segment:
        """Begin a segment; raises OSError."""
        path = directory / f"{first_index:020d}.seg"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return cls(path, os.open(path, flags, 0o644), first_index)

    @classmethod
    def open(cls, path: Path, *, is_last: bool) -> Segment:
        """Open a segment and find its records; what a killed writer left unfinished at the end is cut.

        Raises
        ------
        StorageError
            A record is damaged that was written to its end.
        OSError
            The disk refused.
        """
        segment = cls(path, os.open(path, os.O_RDWR | os.O_CLOEXEC), int(path.stem))
        try:
            segment._scan(is_last=is_last)
        except BaseException:
            os.close(segment.descriptor)
            raise
        return segment

    def _scan(self, *, is_last: bool) -> None:
        size = os.fstat(self.descriptor).st_size
        while self.end < size:
            payload_bytes = self._payload_bytes(self.end, self.stop_index)
            stop = self.end + HEADER_BYTES + payload_bytes if payload_bytes is not None else size + 1
            # Only the record that was being written can be unfinished: it is the last one of all.
            if stop > size or (stop == size and not self._is_intact(self.end)):
                if not is_last or self._is_followed(size):
                    raise self._damaged(self.stop_index)
                os.ftruncate(self.descriptor, self.end)
                os.fsync(self.descriptor)
                return
            self.offsets.append(self.end)
            self.end = stop

    def _payload_bytes(self, offset: int, index: int) -> int | None:
        """Length of the payload of the record at an offset; None unless its header is intact."""
        header = os.pread(self.descriptor, HEADER_BYTES, offset)
        if len(header) < HEADER_BYTES or header[:4] != _MAGIC:
            return None
        _, payload_bytes, _, found, crc = _HEADER.unpack(header)
        if google_crc32c.value(header[:-4]) != crc or found != index:
            return None
        return int(payload_bytes)

    def _is_intact(self, offset: int) -> bool:
        """Whether the payload of the record at an offset is as it was written."""
        _, payload_bytes, payload_crc, _, _ = _HEADER.unpack(os.pread(self.descriptor, HEADER_BYTES, offset))
        payload = os.pread(self.descriptor, payload_bytes, offset + HEADER_BYTES)
        return (len(payload), int(google_crc32c.value(payload))) == (payload_bytes, payload_crc)

    def _is_followed(self, size: int) -> bool:
        """Whether another record follows the one at the end: then that one is damaged, not unfinished."""
        rest = os.pread(self.descriptor, size - self.end, self.end)
        at = rest.find(_MAGIC, 1)
        while at >= 0:
            for index in range(self.stop_index + 1, self.stop_index + 3):
                if self._payload_bytes(self.end + at, index) is not None:
                    return True
            at = rest.find(_MAGIC, at + 1)
        return False

    def write(self, payload: bytes) -> int:
        """Put a record at the end, on disk; returns where it ends. Not part of the segment until :meth:`add`.

        Raises
        ------
        OSError
            The disk refused.
        """
        header = _HEADER.pack(_MAGIC, len(payload), google_crc32c.value(payload), self.stop_index, 0)[:-4]
        header += struct.pack("<I", google_crc32c.value(header))
        _write_all(self.descriptor, header + payload, self.end)
        os.fdatasync(self.descriptor)
        return self.end + HEADER_BYTES + len(payload)

    def add(self, end: int) -> None:
        """Count the record that ends there as one of the segment."""
        self.offsets.append(self.end)
        self.end = end

    def undo(self) -> None:
        """Cut what :meth:`write` could not finish; raises OSError."""
        os.ftruncate(self.descriptor, self.end)

    def read(self, index: int) -> bytes:
        """The payload of a record.

        Raises
        ------
        StorageError
            It is damaged.
        """
        offset = self.offsets[index - self.first_index]
        if self._payload_bytes(offset, index) is None or not self._is_intact(offset):
            raise self._damaged(index)
        number = index - self.first_index
        stop = self.offsets[number + 1] if number + 1 < len(self.offsets) else self.end
        return os.pread(self.descriptor, stop - offset - HEADER_BYTES, offset + HEADER_BYTES)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def _damaged(self, index: int) -> StorageError:
        return StorageError(
            f"an intact record {index} in {self.path}",
            "one whose checksum is wrong",
            "Check the disk. Deleting the folder of the spool gives its frames up.",
        )


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write at an offset, however little the kernel takes at a time; raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
