"""The spool: frames on the robot's disk, through kills, torn writes, full disks and mix-ups."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from pathlib import Path

import pytest

from streamdgp.errors import InvalidInputError, ResourceLimitError, SequenceError, StorageError
from streamdgp.v1 import frame_pb2
from streamdgp_client import AsyncClient, ConnectionChange, FrameStream, RetryPolicy
from streamdgp_client._spool import Spool
from tests.client.fake_server import FakeIngest, serve
from tests.client.test_stream import QUICK, depth_frame, names, run

FRAME_BYTES = 1000


def frame(index: int) -> frame_pb2.Frame:
    """A frame that says which it is."""
    return frame_pb2.Frame(source_id=f"{index:06d}" + "x" * FRAME_BYTES)


def open_spool(path: Path, max_bytes: int = 10**6, producer: str = "robot") -> Spool:
    return Spool(path, "room", producer, max_bytes)


def kept(spool: Spool) -> list[tuple[int, int]]:
    """Number and index of every frame that would be sent."""
    frames = [
        spool.read(number, spool.next_number, 1)[0]
        for number in range(spool.oldest_number, spool.next_number)
    ]
    return [(one.sequence_number, int(one.source_id[:6])) for one in frames]


def kill(spool: Spool) -> None:
    """What a killed process does: its files are closed, and nothing else happens."""
    spool._release()


def test_frames_outlive_the_process_in_order_with_their_numbers(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool", 40 * FRAME_BYTES)  # segments of ten frames
    assert [spool.append(frame(i)) for i in range(25)] == list(range(1, 26))
    kill(spool)
    spool = open_spool(tmp_path / "spool", 40 * FRAME_BYTES)
    assert not spool.is_bound
    spool.bind(101)  # the server knows this producer already
    assert kept(spool) == [(101 + i, i) for i in range(25)]
    spool.discard(112)
    assert spool.append(frame(25)) == 126
    kill(spool)
    spool = open_spool(tmp_path / "spool", 40 * FRAME_BYTES)
    assert spool.is_bound
    assert kept(spool) == [(101 + i, i) for i in range(12, 26)]
    assert len(list((tmp_path / "spool").glob("*.seg"))) == 2
    assert [one.sequence_number for one in spool.read(113, 127, 2500)] == [113, 114, 115]
    spool.discard(126)
    spool.close()
    assert not (tmp_path / "spool").exists()


def test_a_killed_process_that_had_nothing_left_begins_anew(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append(frame(0))
    spool.bind(7)
    spool.discard(7)
    kill(spool)
    spool = open_spool(tmp_path / "spool", producer="another")
    assert (spool.is_bound, kept(spool), spool.next_number) == (False, [], 1)


@pytest.mark.parametrize("cut", [1, FRAME_BYTES, FRAME_BYTES + 20])
def test_what_was_being_written_is_cut(tmp_path: Path, cut: int) -> None:
    spool = open_spool(tmp_path / "spool")
    for i in range(3):
        spool.append(frame(i))
    kill(spool)
    (segment,) = (tmp_path / "spool").glob("*.seg")
    os.truncate(segment, segment.stat().st_size - cut)
    spool = open_spool(tmp_path / "spool")
    assert kept(spool) == [(1, 0), (2, 1)]
    assert spool.append(frame(2)) == 3
    kill(spool)
    assert kept(open_spool(tmp_path / "spool")) == [(1, 0), (2, 1), (3, 2)]


def test_zeros_that_a_power_cut_left_are_cut(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append(frame(0))
    kill(spool)
    (segment,) = (tmp_path / "spool").glob("*.seg")
    segment.write_bytes(segment.read_bytes() + bytes(5000))
    assert kept(open_spool(tmp_path / "spool")) == [(1, 0)]


@pytest.mark.parametrize("offset", [2, 10, 40], ids=["magic", "header", "payload"])
@pytest.mark.parametrize("record", [0, 1])
def test_a_flipped_bit_is_an_error_and_nothing_after_it_is_lost_silently(
    tmp_path: Path, offset: int, record: int
) -> None:
    spool = open_spool(tmp_path / "spool")
    for i in range(3):
        spool.append(frame(i))
    kill(spool)
    (segment,) = (tmp_path / "spool").glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[record * (len(content) // 3) + offset] ^= 1
    segment.write_bytes(content)
    with pytest.raises(StorageError, match=rf"an intact record {record} in .*Deleting the folder"):
        kept(open_spool(tmp_path / "spool"))


def test_a_lost_segment_or_description_is_an_error(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool", 40 * FRAME_BYTES)
    for i in range(30):
        spool.append(frame(i))
    kill(spool)
    second = sorted((tmp_path / "spool").glob("*.seg"))[1]
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(StorageError, match="A file is missing"):
        open_spool(tmp_path / "spool")
    second.write_bytes(content)
    (tmp_path / "spool" / "SPOOL").unlink()
    with pytest.raises(StorageError, match=r"a readable spool .*SPOOL"):
        open_spool(tmp_path / "spool")


def test_it_is_bounded_and_room_comes_back(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool", 20 * FRAME_BYTES)
    spool.bind(1)
    count = 0
    while spool.has_room(FRAME_BYTES):
        spool.append(frame(count))
        count += 1
        if count > 100:
            break
    assert 15 <= count < 20
    for number in range(1, 200):  # a server that is always a few frames behind
        spool.discard(number + count // 2)
        assert spool.has_room(FRAME_BYTES)
        spool.append(frame(0))
        used = sum(path.stat().st_size for path in (tmp_path / "spool").glob("*.seg"))
        assert used < 26 * FRAME_BYTES
    spool.discard(spool.next_number - 1)
    assert spool.has_room(10**9)  # a single frame always fits


def test_one_stream_at_a_time_and_of_one_producer(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append(frame(0))
    with pytest.raises(StorageError, match="one stream for the spool"):
        open_spool(tmp_path / "spool")
    kill(spool)
    with pytest.raises(InvalidInputError, match=r"the producer of the frames .*, robot; got another"):
        open_spool(tmp_path / "spool", producer="another")
    with pytest.raises(StorageError, match="a writable folder"):
        open_spool(tmp_path / "spool" / "LOCK")


def test_a_full_disk_refuses_the_frame_and_the_next_one_may_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append(frame(0))

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", refuse)
        with pytest.raises(StorageError, match="No space left"):
            spool.append(frame(1))
    assert spool.append(frame(2)) == 2
    assert kept(spool) == [(1, 0), (2, 2)]
    kill(spool)
    assert kept(open_spool(tmp_path / "spool")) == [(1, 0), (2, 2)]


def test_a_stream_goes_on_without_a_server_and_another_one_sends_what_it_left(tmp_path: Path) -> None:
    async def work() -> None:
        ingest, changes = FakeIngest(credit=3, cut_after=[4]), list[ConnectionChange]()
        async with serve(FakeIngest()) as nowhere:
            pass
        async with AsyncClient(nowhere, retry=QUICK) as client:
            stream = client.stream("room", "robot", spool=tmp_path / "spool", on_connection=changes.append)
            async with stream:
                for name in names(20):
                    await stream.send(depth_frame(), source_id=name)
                while len(changes) <= 2 * (QUICK.max_attempts or 0):
                    await asyncio.sleep(0.01)  # it does not give up
                await stream.cancel()
        async with serve(ingest) as server, AsyncClient(server, retry=QUICK) as client:
            async with client.stream("room", "robot", spool=tmp_path / "spool") as stream:
                assert await stream.send(depth_frame(), source_id="last") == 21
                assert (await stream.wait("durable")).durable == 21
            assert stream.progress.applied == 21
        assert [frame.source_id for frame in ingest.frames] == [*names(20), "last"]
        assert [frame.sequence_number for frame in ingest.frames] == list(range(1, 22))
        assert not (tmp_path / "spool").exists()

    run(work())


def test_frames_spooled_before_the_server_was_reached_get_its_numbers(tmp_path: Path) -> None:
    async def work() -> None:
        ingest = FakeIngest()
        async with serve(ingest) as server, AsyncClient(server, retry=QUICK) as client:
            async with client.stream("room", "robot") as stream:
                for name in names(5):
                    await stream.send(depth_frame(), source_id=name)
            spool = open_spool(tmp_path / "spool")
            for i in range(3):
                spool.append(frame_pb2.Frame(source_id=f"spooled-{i}"))
            spool.close()
            async with client.stream("room", "robot", spool=tmp_path / "spool") as stream:
                assert (await stream.wait("durable")).durable == 8
        assert [frame.sequence_number for frame in ingest.frames] == list(range(1, 9))

    run(work())


def test_a_server_that_lost_frames_ends_the_stream_and_the_spool_stays(tmp_path: Path) -> None:
    async def work() -> None:
        spool = open_spool(tmp_path / "spool")
        spool.append(frame(0))
        spool.bind(50)
        spool.close()
        async with serve(FakeIngest()) as server, AsyncClient(server, retry=QUICK) as client:
            with pytest.raises(SequenceError, match=r"between frame 50 and 51; got frame 1\..*another spool"):
                async with client.stream("room", "robot", spool=tmp_path / "spool"):
                    pass

    run(work())
    assert kept(open_spool(tmp_path / "spool")) == [(50, 0)]


async def fill(stream: FrameStream) -> int:
    """Send frames until one is refused; how many were taken."""
    sent = 0
    with contextlib.suppress(ResourceLimitError):
        while sent < 50:
            await stream.send(depth_frame(), wait_for_room=False)
            sent += 1
    with pytest.raises(ResourceLimitError, match=f"{sent} frames that wait for it already"):
        await stream.send(depth_frame(), wait_for_room=False)
    return sent


@pytest.mark.parametrize("is_spooled", [False, True], ids=["memory", "spool"])
def test_a_full_backlog_waits_or_refuses(tmp_path: Path, is_spooled: bool) -> None:
    async def work() -> None:
        ingest = FakeIngest(credit=100, hold=asyncio.Event())
        async with serve(ingest) as server, AsyncClient(server, retry=RetryPolicy(0)) as client:
            spool = tmp_path / "spool" if is_spooled else None
            stream = client.stream("room", "robot", buffer_bytes=1000, spool=spool, spool_bytes=1000)
            async with stream:
                sent = await fill(stream)
                assert 1 <= sent < 20
                waiting = asyncio.create_task(stream.send(depth_frame()))
                while not ingest.frames:
                    await asyncio.sleep(0.01)
                assert not waiting.done()
                assert ingest.hold is not None
                ingest.hold.set()
                assert await waiting == sent + 1
        assert len(ingest.frames) == sent + 1

    run(work())
