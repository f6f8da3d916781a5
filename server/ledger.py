"""Which numbers each producer has used, and for what. Plain memory; rebuilt from the log at start.

Only the event loop touches a ledger, so there is nothing to lock. Numbers are kept in columns, for there is
one for every frame of a session of hours.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamdgp.errors import SequenceError
from streamdgp.store import LogRecord, RecordKind, TextColumn

__all__ = ["FrameEntry", "ProducerLedger"]

_IN_FLIGHT = 2**62


@dataclass(frozen=True, slots=True)
class FrameEntry:
    """What one sequence number was. ``rejected_reason`` is empty for an accepted frame."""

    source_id: str
    source_crc32c: int
    rejected_reason: str
    position: int


@dataclass(slots=True)
class ProducerLedger:
    """The numbers 1, 2, ... of one producer in one scene, and its newest epoch."""

    epoch: int = 0
    _positions: array[int] = field(default_factory=lambda: array("q"))
    _checksums: array[int] = field(default_factory=lambda: array("Q"))
    _sources: TextColumn = field(default_factory=TextColumn)
    _reasons: dict[int, str] = field(default_factory=dict)

    def entries(self, start: int = 1, stop: int | None = None) -> list[FrameEntry]:
        """What the numbers from ``start`` up to but without ``stop`` (default: the next one) were."""
        return [self.entry(number) for number in range(start, self.next_sequence if stop is None else stop)]

    def entry(self, sequence: int) -> FrameEntry:
        """What a number that was taken was."""
        index = sequence - 1
        return FrameEntry(
            self._sources[index],
            self._checksums[index],
            self._reasons.get(sequence, ""),
            self._positions[index],
        )

    @property
    def rejected_count(self) -> int:
        """Frames that were refused."""
        return len(self._reasons)

    @property
    def next_sequence(self) -> int:
        """The number the next new frame must have."""
        return len(self._positions) + 1

    @property
    def durable_sequence(self) -> int:
        """Every number up to this is on disk."""
        return self.applied_sequence(_IN_FLIGHT)

    def applied_sequence(self, log_position: int) -> int:
        """Every number up to this lies before a log position."""
        return bisect.bisect_left(self._positions, log_position)

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
        entry = self.entry(sequence)
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

    def take(self, source_id: str, source_crc32c: int, rejected_reason: str = "") -> int:
        """Use up the next number and return it; it is in flight until :meth:`settle`."""
        self._positions.append(_IN_FLIGHT)
        self._checksums.append(source_crc32c)
        self._sources.append(source_id)
        sequence = len(self._positions)
        if rejected_reason:
            self.reject(sequence, rejected_reason)
        return sequence

    def settle(self, sequence: int, position: int) -> None:
        """A number's record is durable at this position of the log."""
        self._positions[sequence - 1] = position

    def reject(self, sequence: int, reason: str) -> None:
        """A number's frame is not used, and why."""
        self._reasons[sequence] = reason

    def replay(self, record: LogRecord, reason: str = "") -> None:
        """Note a record of the log (in order of position)."""
        self.epoch = max(self.epoch, record.epoch)
        if record.kind is RecordKind.EPOCH:
            return
        if record.sequence < self.next_sequence:  # a frame that turned out to be unusable when applied
            self.reject(record.sequence, reason)
            return
        self.settle(self.take(record.source, record.source_checksum, reason), record.position)

    @classmethod
    def from_log(cls, records: Iterable[tuple[LogRecord, str]]) -> dict[str, ProducerLedger]:
        """The ledgers of all producers, from ``(record, rejection reason)`` in order."""
        ledgers: dict[str, ProducerLedger] = {}
        for record, reason in records:
            ledgers.setdefault(record.producer, cls()).replay(record, reason)
        return ledgers
