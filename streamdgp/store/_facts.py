"""Facts of many records in memory: columns of numbers, texts one behind the other.

A session of hours has a million frames; an object for each would take ten times as much.
"""

from __future__ import annotations

from array import array

from streamdgp.store._records import LogRecord, RecordKind

__all__ = ["RecordFacts", "TextColumn"]


class TextColumn:
    """Texts that are appended and read, about as large in memory as their UTF-8."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, text: str) -> None:
        """Add a text behind the others."""
        self._bytes += text.encode()
        self._ends.append(len(self._bytes))

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].decode()


class RecordFacts:
    """Records without their payloads, by number from 0. One thread appends, any may read."""

    def __init__(self) -> None:
        self._kinds = bytearray()
        self._producers: list[str] = []
        self._number_of: dict[str, int] = {}
        self._producer = array("I")
        self._epoch = array("Q")
        self._sequence = array("Q")
        self._checksum = array("Q")
        self._position = array("q")
        self._source = TextColumn()

    def __len__(self) -> int:
        return len(self._kinds)

    def append(self, record: LogRecord) -> None:
        """Note a record behind the others; its payload is left out."""
        number = self._number_of.get(record.producer)
        if number is None:
            number = self._number_of[record.producer] = len(self._producers)
            self._producers.append(record.producer)
        self._producer.append(number)
        self._epoch.append(record.epoch)
        self._sequence.append(record.sequence)
        self._checksum.append(record.source_checksum)
        self._position.append(record.position)
        self._source.append(record.source)
        self._kinds.append(record.kind)

    def __getitem__(self, index: int) -> LogRecord:
        return LogRecord(
            self.kind(index),
            self._producers[self._producer[index]],
            self._epoch[index],
            self._sequence[index],
            self._source[index],
            self._checksum[index],
            position=self._position[index],
        )

    def kind(self, index: int) -> RecordKind:
        """What a record is."""
        return RecordKind(self._kinds[index])

    def mark_dropped(self, index: int) -> None:
        """A frame has lost its payload."""
        if self._kinds[index] == RecordKind.FRAME:
            self._kinds[index] = RecordKind.DROPPED

    def last_dropped(self) -> int:
        """The last record whose payload has been dropped; -1: none."""
        return self._kinds.rfind(RecordKind.DROPPED)
