"""Disks that fill up, revisions that cannot be read, frames that are no longer needed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from streamdgp.errors import ServerUnavailableError, StorageError
from streamdgp.store import FrameLog, RecordKind
from streamdgp_server.disk_guard import DiskGuard
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes, send_scan
from tests.server.test_restart import run_server

_BALLAST_BYTES = 800_000_000


def test_no_frames_are_taken_while_the_disk_is_full(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data, "--min-free", "1e9") as server:
        error = Stream(server).wait_ended()
        assert isinstance(error, ServerUnavailableError)
        assert "free on the server's disk" in str(error)
    with ServerProcess(data) as server:
        assert send_scan(server, 1, 2).progress.applied_sequence_number == 2


def test_a_stream_waits_for_space_and_goes_on(tmp_path: Path) -> None:
    ballast = tmp_path / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _BALLAST_BYTES)
    free = shutil.disk_usage(tmp_path).free
    with ServerProcess(tmp_path / "data", "--min-free", str((free - 200_000_000) / 1e6)) as server:
        stream = Stream(server)
        stream.send_frames(make_frame(1))
        stream.wait_applied(1)
        with (tmp_path / "more").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 500_000_000)
        stream.send_frames(make_frame(2))
        stream.wait(lambda: stream.progress.credit_count == 0)
        assert stream.progress.durable_sequence_number == 1
        ballast.unlink()
        (tmp_path / "more").unlink()
        stream.wait_durable(2)
        assert stream.progress.credit_count > 0
        assert stream.finish().progress.applied_sequence_number == 2
        assert "no frames are taken" in server.stderr()
        assert "frames are taken again" in server.stderr()


def test_the_guard_has_a_margin(tmp_path: Path) -> None:
    """Full below the limit; room again only 50 MB above it, not just at it."""
    ballast = tmp_path / "ballast"

    def weigh_down(size: int) -> None:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    assert DiskGuard(tmp_path, 0).has_room()
    guard = DiskGuard(tmp_path, shutil.disk_usage(tmp_path).free - 400_000_000)
    assert guard.has_room()
    weigh_down(500_000_000)
    assert not guard.has_room()
    weigh_down(375_000_000)
    assert not guard.has_room()
    assert guard.is_full
    ballast.unlink()
    assert guard.has_room()
    weigh_down(375_000_000)
    assert guard.has_room()


def test_a_server_stopped_with_a_full_disk_says_so(tmp_path: Path) -> None:
    data, free = tmp_path / "data", shutil.disk_usage(tmp_path).free
    with ServerProcess(data, "--min-free", str((free - 200_000_000) / 1e6)) as server:
        stream = Stream(server)
        stream.send_frames(make_frame(1))
        stream.wait_applied(1)
        with (tmp_path / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 500_000_000)
        stream.send_frames(make_frame(2))
        stream.wait(lambda: stream.progress.credit_count == 0)
        assert server.stop() == 1
        assert "room on the disk for the frames in hand" in server.stderr()
        assert "Traceback" not in server.stderr()
    (tmp_path / "ballast").unlink()
    with ServerProcess(data) as server:
        stream = Stream(server)
        assert stream.opened().next_sequence_number == 2
        stream.finish()


def test_frames_that_two_revisions_include_are_dropped(tmp_path: Path) -> None:
    """What they were stays known: numbers, names, checksums; and streams go on."""
    data, arguments = tmp_path / "data", ("--segment-size", "0.002")
    with ServerProcess(data, *arguments) as server:
        for number in range(1, 9):
            send_scan(server, number, number)
        before = mesh_bytes(get_mesh(server))
    with FrameLog(data / "scenes" / "test" / "log") as log:
        records = list(log.records())
        kept = log.kept_from
    assert 0 < kept <= records[-1].position
    kinds = [record.kind for record in records if record.kind is not RecordKind.EPOCH]
    assert [record.sequence for record in records if record.sequence] == list(range(1, 9))
    assert kinds[0] is RecordKind.DROPPED
    assert kinds[-1] is RecordKind.FRAME
    with ServerProcess(data, *arguments) as server:
        assert mesh_bytes(get_mesh(server)) == before
        stream = Stream(server)
        assert stream.opened().next_sequence_number == 9
        stream.send_frames(make_frame(3), make_frame(9))
        assert stream.finish().rejected == []
        assert stream.progress.applied_sequence_number == 9
    assert run_server("check", str(data), "--all-revisions").returncode == 0


def test_keep_frames_keeps_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data, "--segment-size", "0.002", "--keep-frames") as server:
        for number in range(1, 6):
            send_scan(server, number, number)
    with FrameLog(data / "scenes" / "test" / "log") as log:
        kinds = {record.kind for record in log.records()}
        assert log.kept_from == 0
    assert kinds == {RecordKind.EPOCH, RecordKind.FRAME}


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, tuple[int, bytes]]:
    """A data directory whose newest revision has a flipped bit; what it showed before."""
    data = tmp_path / "data"
    chunks = data / "scenes" / "test" / "atlas" / "icechunk" / "chunks"
    with ServerProcess(data, "--segment-size", "0.002") as server:
        for number in range(1, 6):
            send_scan(server, number, number)
        known = {path.name for path in chunks.iterdir()}
        send_scan(server, 6, 6)
        before = mesh_bytes(get_mesh(server))
    chunk = max((p for p in chunks.iterdir() if p.name not in known), key=lambda p: p.stat().st_size)
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    return data, before


def test_a_newest_revision_that_cannot_be_read_is_made_again(damaged: tuple[Path, tuple[int, bytes]]) -> None:
    data, (revision, mesh) = damaged
    with ServerProcess(data) as server:
        stream = Stream(server)
        stream.wait_applied(6)
        stream.finish()
        assert mesh_bytes(get_mesh(server)) == (revision, mesh)
        assert f"Going on from revision {revision - 1}" in server.stderr()
    assert run_server("check", str(data)).returncode == 0


def test_check_repairs_what_a_start_would(damaged: tuple[Path, tuple[int, bytes]]) -> None:
    data, before = damaged
    assert run_server("check", str(data)).returncode == 1
    repaired = run_server("check", str(data), "--repair")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert "Traceback" not in repaired.stderr
    assert run_server("check", str(data), "--all-revisions").returncode == 0
    with ServerProcess(data) as server:
        stream = Stream(server)
        stream.wait_applied(6)
        stream.finish()
        assert mesh_bytes(get_mesh(server)) == before


def test_without_the_frames_it_is_an_error(damaged: tuple[Path, tuple[int, bytes]]) -> None:
    data, _ = damaged
    with FrameLog(data / "scenes" / "test" / "log", segment_bytes=1) as log:
        end = log.end_position
        log.append([log.read(log.kept_from)])  # so that the segment before is not the last one
        log.drop_payloads(end)
    with ServerProcess(data) as server:
        with pytest.raises(StorageError, match="read"):
            get_mesh(server)
