"""The rules of sequence numbers, without a server."""

from __future__ import annotations

import pytest

from streamdgp.errors import InvalidInputError, SequenceError
from streamdgp.store import LogRecord, RecordKind
from streamdgp_server.handling import page_bounds
from streamdgp_server.ledger import ProducerLedger


def make_ledger(count: int) -> ProducerLedger:
    ledger = ProducerLedger()
    for number in range(1, count + 1):
        assert ledger.is_new(number, f"f{number}", number)
        assert ledger.take(f"f{number}", number) == number
        ledger.settle(number, 10 * number)
    return ledger


def test_numbers_are_contiguous() -> None:
    ledger = make_ledger(3)
    assert (ledger.next_sequence, ledger.durable_sequence) == (4, 3)
    for wrong in (0, -1, 5, 100):
        with pytest.raises(SequenceError, match="sequence number 4 next") as caught:
            ledger.is_new(wrong, "", 0)
        assert caught.value.metadata == {"expected_sequence": "4"}


def test_a_repetition_must_be_the_same_frame() -> None:
    ledger = make_ledger(3)
    assert not ledger.is_new(2, "f2", 2)
    assert not ledger.is_new(2, "", 0)
    assert not ledger.is_new(2, "f2", 0)
    for source_id, checksum in (("f3", 2), ("f2", 3), ("f4", 0), ("", 9)):
        with pytest.raises(SequenceError, match="the frame it stands for, 'f2'"):
            ledger.is_new(2, source_id, checksum)


def test_progress_follows_log_positions() -> None:
    ledger = make_ledger(3)
    assert [ledger.applied_sequence(p) for p in (0, 10, 11, 30, 31)] == [0, 0, 1, 2, 3]
    ledger.take("in flight", 0)
    assert (ledger.next_sequence, ledger.durable_sequence) == (5, 3)


def test_a_ledger_is_rebuilt_from_the_log() -> None:
    def record(
        position: int, kind: RecordKind, sequence: int, producer: str = "a", epoch: int = 1
    ) -> LogRecord:
        return LogRecord(kind, producer, epoch, sequence, f"f{sequence}", sequence, b"", position)

    ledgers = ProducerLedger.from_log(
        [
            (record(0, RecordKind.EPOCH, 0), ""),
            (record(1, RecordKind.FRAME, 1), ""),
            (record(2, RecordKind.FRAME, 1, "b"), ""),
            (record(3, RecordKind.REJECTION, 2), "bad pose"),
            (record(4, RecordKind.REJECTION, 1), "no use"),
            (record(5, RecordKind.EPOCH, 0, epoch=7), ""),
        ]
    )
    assert (ledgers["a"].epoch, ledgers["b"].epoch) == (7, 1)
    assert [e.rejected_reason for e in ledgers["a"].entries()] == ["no use", "bad pose"]
    assert [e.position for e in ledgers["a"].entries()] == [1, 3]
    assert ledgers["b"].next_sequence == 2


def test_pages() -> None:
    assert page_bounds(0, "", 25, default=10, maximum=20) == (0, 10, "10")
    assert page_bounds(99, "10", 25, default=10, maximum=20) == (10, 25, "")
    assert page_bounds(99, "", 25, default=10, maximum=20) == (0, 20, "20")
    assert page_bounds(5, "25", 25, default=10, maximum=20) == (25, 25, "")
    with pytest.raises(InvalidInputError, match="page_size"):
        page_bounds(-1, "", 25, default=10, maximum=20)
    with pytest.raises(InvalidInputError, match="next_page_token"):
        page_bounds(1, "x", 25, default=10, maximum=20)
