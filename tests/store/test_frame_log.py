"""The frame log on real files: what was appended comes back, or the damage is named."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from streamdgp.errors import InvalidInputError, StorageError
from streamdgp.store import FrameLog, LogRecord, RecordKind
from streamdgp.store._records import HEADER_BYTES, SEGMENT_HEADER_BYTES


def make_record(sequence: int, size: int = 100) -> LogRecord:
    payload = bytes((sequence * 7 + i) % 251 for i in range(size))
    return LogRecord(
        RecordKind.FRAME, "robot", 3, sequence, f"frame-{sequence:06d}", 2**40 + sequence, payload
    )


def fill(directory: Path, count: int, segment_bytes: int = 1000) -> None:
    with FrameLog(directory, segment_bytes=segment_bytes) as log:
        for sequence in range(count):
            log.append([make_record(sequence)])


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.seg"))


def test_records_come_back_across_segments_and_restarts(tmp_path: Path) -> None:
    with FrameLog(tmp_path, segment_bytes=1000) as log:
        placed = log.append([make_record(0), make_record(1)])
        assert [record.position for record in placed] == [0, 1]
        log.append([LogRecord(RecordKind.REJECTION, "other-ä", 0, 0, payload=b"why")])
        for sequence in range(2, 30):
            log.append([make_record(sequence)])
        expected = list(log.records())
    assert len(segments(tmp_path)) > 3
    with FrameLog(tmp_path, segment_bytes=1000) as log:
        assert log.end_position == 31
        assert list(log.records()) == expected
        assert [record.position for record in log.records(29)] == [29, 30]
        assert log.read(2).payload == b"why"
        assert log.read(2).producer == "other-ä"
        facts = list(log.records_without_payload())
        assert [f.sequence for f in facts if f.producer == "robot"] == list(range(30))
        assert facts[5].source_checksum == expected[5].source_checksum
        assert log.verify() == 31
        log.append([make_record(30)])
        assert log.read(31).payload == make_record(30).payload


def test_an_empty_log(tmp_path: Path) -> None:
    with FrameLog(tmp_path) as log:
        assert (log.first_position, log.end_position, log.verify()) == (0, 0, 0)
        with pytest.raises(StorageError, match="a log record"):
            log.read(0)
    with FrameLog(tmp_path) as log:
        assert log.append([make_record(0, size=0)])[0].position == 0
        assert log.read(0).payload == b""


def test_one_writer(tmp_path: Path) -> None:
    with FrameLog(tmp_path), pytest.raises(StorageError, match="one writer"):
        FrameLog(tmp_path)


def lower_mark(directory: Path, count: int) -> None:
    """Make the log as it would be if only ``count`` records had been acknowledged."""
    from streamdgp.store._records import encode_mark

    (directory / "DURABLE").write_bytes(encode_mark(count))


@pytest.mark.parametrize("kept", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 10, HEADER_BYTES + 100])
def test_a_torn_tail_that_was_never_acknowledged_is_cut(tmp_path: Path, kept: int) -> None:
    fill(tmp_path, 5, segment_bytes=10_000)
    (path,) = segments(tmp_path)
    record_bytes = (path.stat().st_size - SEGMENT_HEADER_BYTES) // 5
    os.truncate(path, SEGMENT_HEADER_BYTES + 4 * record_bytes + kept)
    lower_mark(tmp_path, 4)
    with FrameLog(tmp_path) as log:
        assert log.end_position == 4
        log.append([make_record(4)])
        assert log.verify() == 5
    with FrameLog(tmp_path) as log:
        assert log.end_position == 5


def test_zeros_after_the_mark_are_cut(tmp_path: Path) -> None:
    fill(tmp_path, 3, segment_bytes=10_000)
    with segments(tmp_path)[0].open("ab") as file:
        file.write(bytes(500))
    with FrameLog(tmp_path) as log:
        assert log.verify() == 3


def test_a_whole_record_after_the_mark_is_kept(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    lower_mark(tmp_path, 2)
    with FrameLog(tmp_path) as log:
        assert log.end_position == 3


def test_a_missing_acknowledged_tail_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, 5, segment_bytes=10_000)
    (path,) = segments(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StorageError, match=r"record 4 in .*00000.seg.*ends within the record"):
        FrameLog(tmp_path)
    record_bytes = (path.stat().st_size + 1 - SEGMENT_HEADER_BYTES) // 5
    os.truncate(path, SEGMENT_HEADER_BYTES + 4 * record_bytes)
    with pytest.raises(StorageError, match=r"5 records .* as many as were acknowledged; got 4"):
        FrameLog(tmp_path)


@pytest.mark.parametrize("segment_index", [0, -1])
def test_every_flipped_byte_is_detected_and_named(tmp_path: Path, segment_index: int) -> None:
    fill(tmp_path, 12, segment_bytes=500)
    path = segments(tmp_path)[segment_index]
    intact = path.read_bytes()
    for offset in range(0, len(intact), 3):
        data = bytearray(intact)
        data[offset] ^= 0x40
        path.write_bytes(bytes(data))
        with pytest.raises(StorageError, match=rf"intact record \d+ in .*{path.name}") as caught:
            with FrameLog(tmp_path) as log:
                log.verify()
        assert caught.value.metadata["segment"] == path.name
    path.write_bytes(intact)
    with FrameLog(tmp_path) as log:
        assert log.verify() == 12


def test_dropped_frames_leave_their_facts(tmp_path: Path) -> None:
    with FrameLog(tmp_path, segment_bytes=1000) as log:
        for sequence in range(20):
            log.append([make_record(sequence)])
            log.append([LogRecord(RecordKind.REJECTION, "other", 0, sequence, payload=b"why")])
        before = list(log.records())
        assert log.kept_from == 0
        freed = log.drop_payloads(21)
        kept = log.kept_from
        assert 0 < kept <= 21 < log.end_position
        assert freed > 100 * (kept // 2 - 1)
        assert log.drop_payloads(21) == 0
        assert log.drop_payloads(10_000) > 0, "all but the segment that is written to"
    with FrameLog(tmp_path, segment_bytes=1000) as log:
        assert log.verify() == 40
        assert log.end_position - 20 < log.kept_from < log.end_position
        for old, new in zip(before, log.records(), strict=True):
            if old.kind is RecordKind.FRAME and old.position < log.kept_from:
                assert new == replace(old, kind=RecordKind.DROPPED, payload=b"")
                with pytest.raises(StorageError, match=f"the frame of log record {old.position}"):
                    log.read(old.position)
            else:
                assert new == log.read(old.position) == old
        facts = list(log.records_without_payload())
        assert [(f.sequence, f.source_checksum) for f in facts] == [
            (r.sequence, r.source_checksum) for r in before
        ]
        log.append([make_record(20)])
        assert log.read(40).payload == make_record(20).payload


def test_every_flipped_byte_of_a_stripped_segment_is_detected(tmp_path: Path) -> None:
    fill(tmp_path, 12, segment_bytes=500)
    with FrameLog(tmp_path) as log:
        log.drop_payloads(log.end_position)
    path = segments(tmp_path)[0]
    intact = path.read_bytes()
    for offset in range(len(intact)):
        data = bytearray(intact)
        data[offset] ^= 0x40
        path.write_bytes(bytes(data))
        with (
            pytest.raises(StorageError, match=rf"intact record \d+ in .*{path.name}"),
            FrameLog(tmp_path) as log,
        ):
            log.verify()
    path.write_bytes(intact)
    with FrameLog(tmp_path) as log:
        assert log.verify() == 12


def test_a_drop_that_the_disk_refuses_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 12, segment_bytes=500)
    with FrameLog(tmp_path) as log:
        before = list(log.records())
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "pwrite", refuse)
            with pytest.raises(StorageError, match="without its frames"):
                log.drop_payloads(log.end_position)
        assert list(log.records()) == before
    with FrameLog(tmp_path) as log:
        assert list(log.records()) == before
        assert log.drop_payloads(log.end_position) > 0


def test_a_flipped_byte_of_the_mark_is_detected(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    mark = tmp_path / "DURABLE"
    data = bytearray(mark.read_bytes())
    data[9] ^= 1
    mark.write_bytes(bytes(data))
    with pytest.raises(StorageError, match=r"intact .*DURABLE"):
        FrameLog(tmp_path)


def test_missing_segments_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 20, segment_bytes=500)
    paths = segments(tmp_path)
    moved = tmp_path / "moved"
    paths[1].rename(moved)
    with pytest.raises(StorageError, match="a segment that starts at record"):
        FrameLog(tmp_path)
    moved.rename(paths[1])
    for path in paths:
        path.unlink()
    with pytest.raises(StorageError, match="none, but a durable mark of 20 records"):
        FrameLog(tmp_path)


def test_a_mark_without_segments_is_a_log_that_was_being_made(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    (path,) = segments(tmp_path)
    path.unlink()
    with FrameLog(tmp_path) as log:
        assert log.end_position == 0
        log.append([make_record(0)])
    with FrameLog(tmp_path) as log:
        assert log.verify() == 1


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FrameLog(tmp_path) as log:
        log.append([make_record(0)])
        real = os.pwrite

        def write_half_then_refuse(descriptor: int, data: memoryview, offset: int) -> int:
            if len(data) > 60:
                return real(descriptor, bytes(data[:50]), offset)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("streamdgp.store.frame_log.os.pwrite", write_half_then_refuse)
        with pytest.raises(StorageError, match="No space left on device"):
            log.append([make_record(1)])
        monkeypatch.undo()
        assert log.append([make_record(1)])[0].position == 1
    with FrameLog(tmp_path) as log:
        assert log.verify() == 2


def test_a_failed_sync_ends_all_appending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with FrameLog(tmp_path) as log:
        monkeypatch.setattr("streamdgp.store.frame_log.os.fdatasync", refuse)
        with pytest.raises(StorageError, match=r"synced to disk.*Input/output error"):
            log.append([make_record(0)])
        monkeypatch.undo()
        with pytest.raises(StorageError, match="last sync succeeded"):
            log.append([make_record(0)])


def test_names_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with FrameLog(tmp_path) as log:
        with pytest.raises(InvalidInputError, match="at most 255"):
            log.append([make_record(0), LogRecord(RecordKind.FRAME, "x" * 300, 0, 0)])
        assert log.end_position == 0
