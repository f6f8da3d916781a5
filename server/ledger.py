"""Which numbers each producer has used, and for what. Plain memory; rebuilt from the log at start.

Only the event loop touches a ledger, so there is nothing to lock.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from streamdgp.errors import SequenceError
from streamdgp.store import LogRecord, RecordKind

__all__ = ["FrameEntry", "ProducerLedger"]

_IN_FLIGHT = 2**62


@dataclass(slots=True)
class FrameEntry:
    """What one sequence number was. ``rejected_reason`` is empty for an accepted frame."""

    source_id: str
    source_crc32c: int
    rejected_reason: str = ""
    position: int = _IN_FLIGHT


@dataclass(slots=True)
class ProducerLedger:
    """The numbers 1, 2, ... of one producer in one scene, and its newest epoch."""

    epoch: int = 0
    entries: list[FrameEntry] = field(default_factory=list)

    @property
    def next_sequence(self) -> int:
        """The number the next new frame must have."""
        return len(self.entries) + 1

    @property
    def durable_sequence(self) -> int:
        """Every number up to this is on disk."""
        return self.applied_sequence(_IN_FLIGHT)

    def applied_sequence(self, log_position: int) -> int:
        """Every number up to this lies before a log position."""
        return bisect.bisect_left(self.entries, log_position, key=attrgetter("position"))

    def is_new(self, sequence: int, source_id: str, source_crc32c: int) -> bool:
        """Whether a number is the next one; False for a repetition of the same frame.

        Raises
        ------
        SequenceError
            A gap, or a number that stands for another frame. The metadata has ``expected_sequence``.
        """
        expected = self.next_sequence
        facts = {"expected_sequence": str(expected)}
        if sequence < 1 or sequence > expected:
            raise SequenceError(
                f"sequence number {expected} next", str(sequence), f"Send from {expected} on.", metadata=facts
            )
        if sequence == expected:
            return True
        entry = self.entries[sequence - 1]
        same_source = source_id == entry.source_id or not source_id or not entry.source_id
        same_checksum = source_crc32c == entry.source_crc32c or not source_crc32c or not entry.source_crc32c
        if not (same_source and same_checksum):
            raise SequenceError(
                f"for sequence number {sequence} the frame it stands for, {entry.source_id or 'unnamed'!r} "
                f"(checksum {entry.source_crc32c:08x})",
                f"{source_id or 'unnamed'!r} (checksum {source_crc32c:08x})",
                "Stream the same frames in the same order, or use another scene or producer.",
                metadata=facts,
            )
        return False

    def take(self, source_id: str, source_crc32c: int, rejected_reason: str = "") -> FrameEntry:
        """Use up the next number; the caller sets the entry's position once it is durable."""
        entry = FrameEntry(source_id, source_crc32c, rejected_reason)
        self.entries.append(entry)
        return entry

    def replay(self, record: LogRecord, reason: str = "") -> None:
        """Note a record of the log (in order of position)."""
        self.epoch = max(self.epoch, record.epoch)
        if record.kind is RecordKind.EPOCH:
            return
        if record.sequence < self.next_sequence:  # a frame that turned out to be unusable when applied
            self.entries[record.sequence - 1].rejected_reason = reason
            return
        self.take(record.source, record.source_checksum, reason).position = record.position

    @classmethod
    def from_log(cls, records: Iterable[tuple[LogRecord, str]]) -> dict[str, ProducerLedger]:
        """The ledgers of all producers, from ``(record, rejection reason)`` in order."""
        ledgers: dict[str, ProducerLedger] = {}
        for record, reason in records:
            ledgers.setdefault(record.producer, cls()).replay(record, reason)
        return ledgers
