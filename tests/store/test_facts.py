"""Facts of records in columns are the records."""

from __future__ import annotations

from streamdgp.store import LogRecord, RecordKind, TextColumn
from streamdgp.store._facts import RecordFacts


def test_texts_of_any_kind_and_length() -> None:
    texts = ["", "a", "", "ä漢🙂", "x" * 10_000, "\0", ""]
    column = TextColumn()
    for text in texts:
        column.append(text)
    assert [column[k] for k in range(len(column))] == texts


def test_records_without_their_payloads() -> None:
    facts = RecordFacts()
    records = [
        LogRecord(RecordKind.EPOCH, "a", 2**64 - 1, 0, position=7),
        LogRecord(RecordKind.FRAME, "b-ä", 1, 2**63, "frame-ö", 2**64 - 1, b"payload", 8),
        LogRecord(RecordKind.REJECTION, "a", 0, 3, "", 0, b"why", 9),
        LogRecord(RecordKind.DROPPED, "b-ä", 1, 4, "x", 5, b"", 10),
        LogRecord(RecordKind.FRAME, "a", 1, 5, "y", 6, b"payload", 11),
    ]
    for record in records:
        facts.append(record)
    found = [facts[k] for k in range(len(facts))]
    assert [one.payload for one in found] == [b""] * 5
    assert [
        (o.kind, o.producer, o.epoch, o.sequence, o.source, o.source_checksum, o.position) for o in found
    ] == [(o.kind, o.producer, o.epoch, o.sequence, o.source, o.source_checksum, o.position) for o in records]
    assert facts.last_dropped() == 3
    facts.mark_dropped(2)
    facts.mark_dropped(4)
    assert [facts.kind(k) for k in (2, 4)] == [RecordKind.REJECTION, RecordKind.DROPPED]
    assert facts.last_dropped() == 4
    assert RecordFacts().last_dropped() == -1
