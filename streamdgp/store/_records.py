"""The bytes of the frame log: segment headers, records and the durable mark.

All integers are little-endian. A record is::

    header    magic 'SDGR' | meta length u32 | payload length u32 | meta crc32c u32 |
              payload crc32c u32 | position u64 | header crc32c u32                      (32 bytes)
    meta      kind u8 | producer length u8 | source length u16 | epoch u64 | sequence u64 |
              source checksum u64 | producer utf-8 | source utf-8
    payload   bytes

Three checksums, so that opening a log needs to read no payloads, and so that a damaged length is not
taken for a record that was cut short.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

import google_crc32c

from streamdgp.errors import InvalidInputError

__all__ = [
    "HEADER_BYTES",
    "MARK_BYTES",
    "MAX_PAYLOAD_BYTES",
    "SEGMENT_HEADER_BYTES",
    "DamagedRecordError",
    "LogRecord",
    "RecordHeader",
    "RecordKind",
    "decode_mark",
    "decode_meta",
    "decode_segment_header",
    "encode_mark",
    "encode_record",
    "encode_segment_header",
]

_HEADER = struct.Struct("<4sIIIIQI")
_META = struct.Struct("<BBHQQQ")
_SEGMENT = struct.Struct("<8sQI")
_RECORD_MAGIC = b"SDGR"
_SEGMENT_MAGIC = b"SDGPLOG1"
_MARK_MAGIC = b"SDGPMRK1"

HEADER_BYTES = _HEADER.size
SEGMENT_HEADER_BYTES = _SEGMENT.size
MARK_BYTES = _SEGMENT.size
MAX_PAYLOAD_BYTES = 1 << 30
_MAX_META_BYTES = _META.size + 255 + 65535


class DamagedRecordError(Exception):
    """Some bytes are not what was written; the text says which part. Internal to the store."""


class RecordKind(enum.IntEnum):
    """What a record is."""

    FRAME = 1
    """A frame; the payload is what the server received, complete enough to replay it alone."""
    REJECTION = 2
    """A frame that was refused; the payload is the reason as UTF-8. It consumes the number."""
    EPOCH = 3
    """A producer opened with this epoch; consumes no number."""
    DROPPED = 4
    """A frame that two durable revisions include; its payload has been dropped."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record. ``position`` is given by the log when it is appended (-1 before).

    ``sequence`` counts within ``producer``; ``source`` and ``source_checksum`` say which frame of
    the producer's scan it is (for example ``frame-000012`` and the CRC of its bytes).
    """

    kind: RecordKind
    producer: str
    epoch: int
    sequence: int
    source: str = ""
    source_checksum: int = 0
    payload: bytes = b""
    position: int = -1


@dataclass(frozen=True)
class RecordHeader:
    """A record's fixed part."""

    meta_bytes: int
    payload_bytes: int
    meta_crc: int
    payload_crc: int
    position: int

    @property
    def record_bytes(self) -> int:
        """Length of the whole record."""
        return HEADER_BYTES + self.meta_bytes + self.payload_bytes

    @classmethod
    def decode(cls, data: bytes) -> RecordHeader:
        """Raise :class:`DamagedRecordError` unless the header is intact."""
        magic, meta, payload, meta_crc, payload_crc, position, crc = _HEADER.unpack(data)
        if magic != _RECORD_MAGIC or google_crc32c.value(data[: HEADER_BYTES - 4]) != crc:
            raise DamagedRecordError("header checksum")
        return cls(meta, payload, meta_crc, payload_crc, position)


def encode_record(record: LogRecord, position: int) -> bytes:
    """The bytes of a record at a position.

    Raises
    ------
    InvalidInputError
        A name or the payload is too long, or a number is out of range.
    """
    producer, source = record.producer.encode(), record.source.encode()
    if len(producer) > 255 or len(source) > 65535 or len(record.payload) > MAX_PAYLOAD_BYTES:
        raise InvalidInputError(
            f"producer names of at most 255, source names of at most 65535 and frames of at most "
            f"{MAX_PAYLOAD_BYTES} bytes",
            f"{len(producer)}, {len(source)} and {len(record.payload)}",
            "Shorten them.",
        )
    meta = _META.pack(
        record.kind, len(producer), len(source), record.epoch, record.sequence, record.source_checksum
    )
    meta += producer + source
    head = _HEADER.pack(
        _RECORD_MAGIC,
        len(meta),
        len(record.payload),
        google_crc32c.value(meta),
        google_crc32c.value(record.payload),
        position,
        0,
    )[: HEADER_BYTES - 4]
    return b"".join((head, struct.pack("<I", google_crc32c.value(head)), meta, record.payload))


def decode_meta(header: RecordHeader, meta: bytes) -> LogRecord:
    """The record without its payload; raises :class:`DamagedRecordError`."""
    if google_crc32c.value(meta) != header.meta_crc or header.meta_bytes > _MAX_META_BYTES:
        raise DamagedRecordError("meta checksum")
    kind, producer_bytes, source_bytes, epoch, sequence, checksum = _META.unpack_from(meta)
    start = _META.size
    producer = meta[start : start + producer_bytes].decode()
    source = meta[start + producer_bytes : start + producer_bytes + source_bytes].decode()
    return LogRecord(RecordKind(kind), producer, epoch, sequence, source, checksum, position=header.position)


def encode_segment_header(first_position: int) -> bytes:
    """The start of a segment file."""
    return _sealed(_SEGMENT_MAGIC, first_position)


def decode_segment_header(data: bytes) -> int:
    """The first position of a segment; raises :class:`DamagedRecordError`."""
    return _unsealed(_SEGMENT_MAGIC, data, "segment header checksum")


def encode_mark(position: int) -> bytes:
    """The durable mark: every record before ``position`` is on disk."""
    return _sealed(_MARK_MAGIC, position)


def decode_mark(data: bytes) -> int:
    """The position of a durable mark; raises :class:`DamagedRecordError`."""
    return _unsealed(_MARK_MAGIC, data, "durable mark checksum")


def _sealed(magic: bytes, position: int) -> bytes:
    head = _SEGMENT.pack(magic, position, 0)[:-4]
    return head + struct.pack("<I", google_crc32c.value(head))


def _unsealed(magic: bytes, data: bytes, what: str) -> int:
    if len(data) != _SEGMENT.size:
        raise DamagedRecordError(what)
    found, position, crc = _SEGMENT.unpack(data)
    if found != magic or google_crc32c.value(data[:-4]) != crc:
        raise DamagedRecordError(what)
    return int(position)
