"""Streams of frames against an ingest service in memory, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdgp.errors import (
    DatasetError,
    InvalidFrameError,
    SequenceError,
    ServerUnavailableError,
    StreamdgpError,
)
from streamdgp.frames import DepthFrame, Frame, Intrinsics, PointFrame
from streamdgp.v1 import frame_pb2
from streamdgp.wire import PART_BYTES
from streamdgp_client import AsyncClient, Progress, Rejection, RetryPolicy, upload
from streamdgp_client._spool import Spool
from tests.client.fake_server import FakeIngest, serve

QUICK = RetryPolicy(max_attempts=5, initial_delay_s=0.01, max_delay_s=0.02)


def depth_frame(value_m: float = 1.0, size: int = 8) -> DepthFrame:
    return DepthFrame(np.full((size, size), value_m, np.float32), Intrinsics(8, 8, 4, 4), np.eye(4))


def large_frame() -> PointFrame:
    """Random points do not compress: 6 MiB, two parts."""
    points = np.random.default_rng(0).normal(size=(2**19, 3)).astype(np.float32)
    return PointFrame(points, np.eye(4))


class Scan:
    """A recorded scan in memory; frames whose name is in ``broken`` cannot be read."""

    def __init__(self, names: list[str], broken: frozenset[str] = frozenset()) -> None:
        self.frame_names = names
        self.broken = broken
        self.was_read: list[str] = []

    def __len__(self) -> int:
        return len(self.frame_names)

    def read(self, index: int) -> Frame:
        self.was_read.append(self.frame_names[index])
        if self.frame_names[index] in self.broken:
            raise DatasetError("a depth image that decodes", "a truncated file", "Copy it again.")
        return depth_frame(1.0 + 0.001 * index)

    def checksum(self, index: int) -> int:
        return sum(self.frame_names[index].encode())


def names(count: int, every: int = 1) -> list[str]:
    return [f"frame-{i * every:06d}" for i in range(count)]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_frames_arrive_in_order_and_progress_only_grows() -> None:
    async def work() -> None:
        ingest, seen = FakeIngest(), list[Progress]()
        async with serve(ingest) as server, AsyncClient(server) as client:
            async with client.stream("room", "robot", on_progress=seen.append) as stream:
                numbers = [await stream.send(depth_frame(), source_id=name) for name in names(20)]
                assert numbers == list(range(1, 21))
            assert stream.progress == Progress(20, 20, 20, 20)
        assert [frame.source_id for frame in ingest.frames] == names(20)
        for name in ("sent", "durable", "applied", "revision"):
            values = [getattr(progress, name) for progress in seen]
            assert values == sorted(values)

    run(work())


def test_no_more_frames_are_in_flight_than_the_server_gives_credit_for() -> None:
    async def work() -> None:
        ingest = FakeIngest(credit=3, hold=asyncio.Event())
        async with serve(ingest) as server, AsyncClient(server) as client:
            async with client.stream("room", "robot") as stream:
                for _ in range(3):
                    await stream.send(depth_frame())
                fourth = asyncio.create_task(stream.send(depth_frame()))
                while not ingest.frames:
                    await asyncio.sleep(0.01)
                assert not fourth.done()
                assert stream.progress.durable == 0
                assert ingest.hold is not None
                ingest.hold.set()
                assert await fourth == 4
        assert len(ingest.frames) == 4

    run(work())


def test_a_large_frame_is_split_among_small_ones() -> None:
    async def work() -> None:
        ingest = FakeIngest(credit=16, hold=asyncio.Event())
        async with serve(ingest) as server, AsyncClient(server) as client:
            async with client.stream("room", "robot") as stream:
                await stream.send(depth_frame())
                await stream.send(large_frame())
                for _ in range(4):
                    await stream.send(depth_frame())
                assert ingest.hold is not None
                ingest.hold.set()
        assert [frame.sequence_number for frame in ingest.frames] == [1, 2, 3, 4, 5, 6]
        parts = [request.part for request in ingest.requests if request.HasField("part")]
        assert [part.offset for part in parts] == [PART_BYTES * i for i in range(len(parts))]
        assert len(parts) == 2

    run(work())


def test_a_broken_connection_is_opened_again_and_nothing_is_lost_or_doubled() -> None:
    async def work() -> None:
        ingest = FakeIngest(credit=4, cut_after=[2, 0, 3], end_after=9)
        async with serve(ingest) as server, AsyncClient(server, retry=QUICK) as client:
            async with client.stream("room", "robot") as stream:
                for name in names(30):
                    await stream.send(depth_frame(), source_id=name)
        assert [frame.source_id for frame in ingest.frames] == names(30)
        assert len(ingest.opens) == 5
        assert [request.open.epoch for request in ingest.opens] == [0, 1, 1, 1, 1]

    run(work())


def test_a_server_that_never_comes_ends_the_stream_with_its_address() -> None:
    async def work() -> None:
        async with serve(FakeIngest()) as server:
            pass
        async with AsyncClient(server, retry=QUICK) as client:
            with pytest.raises(ServerUnavailableError, match=server):
                async with client.stream("room", "robot"):
                    pass

    run(work())


def test_a_run_that_was_replaced_ends() -> None:
    async def send_twice(client: AsyncClient, ingest: FakeIngest) -> None:
        async with client.stream("room", "robot") as stream:
            await stream.send(depth_frame())
            await stream.wait()
            ingest.epoch = 7
            await stream.send(depth_frame())
            await stream.wait()

    async def work() -> None:
        ingest = FakeIngest(cut_after=[1])
        async with serve(ingest) as server, AsyncClient(server, retry=QUICK) as client:
            with pytest.raises(SequenceError, match="an epoch of at least 7; got 1"):
                await send_twice(client, ingest)

    run(work())


def test_a_frame_larger_than_the_server_takes_is_refused_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        ingest = FakeIngest()
        async with serve(ingest) as server, AsyncClient(server) as client:
            async with client.stream("room", "robot") as stream:
                with pytest.raises(InvalidFrameError, match="at most 1048576 bytes"):
                    await stream.send(large_frame())
                assert await stream.send(depth_frame()) == 1
        assert len(ingest.frames) == 1

    monkeypatch.setattr("streamdgp_client._stream.MAX_FRAME_BYTES", 2**20)
    run(work())


def test_a_stream_that_was_cancelled_says_so() -> None:
    async def work() -> None:
        async with serve(FakeIngest()) as server, AsyncClient(server) as client:
            async with client.stream("room", "robot") as stream:
                await stream.cancel()
                with pytest.raises(StreamdgpError, match="an open stream; got one that has ended"):
                    await stream.send(depth_frame())

    run(work())


def test_an_upload_sends_what_is_missing() -> None:
    async def work() -> None:
        ingest = FakeIngest()
        async with serve(ingest) as server, AsyncClient(server) as client:
            first = await upload(client, Scan(names(5)), "room", "robot")
            again = await upload(client, Scan(names(5)), "room", "robot")
            more = await upload(client, Scan(names(9)), "room", "robot")
        assert [(r.already_durable, r.sent, r.progress.applied) for r in (first, again, more)] == [
            (0, 5, 5),
            (5, 0, 5),
            (5, 4, 9),
        ]
        assert [frame.source_id for frame in ingest.frames] == names(9)
        assert len(ingest.opens) == 2

    run(work())


@pytest.mark.parametrize(
    ("other", "got"),
    [(Scan(names(5, every=5)), "got 'frame-000005'"), (Scan(names(5)), "other content or pose")],
)
def test_an_upload_of_other_frames_under_the_same_numbers_is_refused(
    other: Scan, got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        ingest = FakeIngest()
        async with serve(ingest) as server, AsyncClient(server) as client:
            await upload(client, Scan(names(3)), "room", "robot")
            if "content" in got:
                monkeypatch.setattr(other, "checksum", lambda index: 99)
            with pytest.raises(SequenceError, match=got) as caught:
                await upload(client, other, "room", "robot")
        assert "--every" in str(caught.value)
        assert len(ingest.frames) == 3

    run(work())


def test_an_upload_with_a_spool_reads_on_and_the_next_one_sends_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    append = Spool.append

    def keep(self: Spool, frame: frame_pb2.Frame) -> int:
        kept.append(append(self, frame))
        return kept[-1]

    monkeypatch.setattr(Spool, "append", keep)

    async def work() -> None:
        spool = tmp_path / "spool"
        ingest = FakeIngest(credit=2, hold=asyncio.Event())
        async with serve(ingest) as server, AsyncClient(server) as client:
            scan = Scan(names(6))
            first = asyncio.create_task(upload(client, scan, "room", "robot", spool=spool))
            # One that was read is not in the spool yet.
            while len(kept) < 6:
                await asyncio.sleep(0.01)
            assert scan.was_read == names(6)
            first.cancel()
            await asyncio.wait([first])
            async with AsyncClient("127.0.0.1:1") as nobody:
                with pytest.raises(SequenceError, match="got 'frame-000010'"):
                    await upload(nobody, Scan(names(6, every=2)), "room", "robot", spool=spool)
            ingest.hold.set()
            scan = Scan(names(9))
            second = await upload(client, scan, "room", "robot", spool=spool)
        assert not set(scan.was_read) & set(names(5))
        assert second.already_durable + second.sent == second.progress.applied == 9
        assert [frame.source_id for frame in ingest.frames] == names(9)
        assert not spool.exists()

    run(work())


def test_an_unreadable_frame_uses_up_its_number_and_the_upload_goes_on() -> None:
    async def work() -> None:
        ingest, unreadable, rejected = FakeIngest(), list[str](), list[Rejection]()
        scan = Scan(names(5), broken=frozenset({"frame-000002"}))
        async with serve(ingest) as server, AsyncClient(server) as client:
            report = await upload(
                client,
                scan,
                "room",
                "robot",
                on_rejected=rejected.append,
                on_unreadable=lambda name, error: unreadable.append(f"{name}: {error}"),
            )
            again = await upload(client, scan, "room", "robot")
        assert (report.progress.applied, report.rejected) == (5, 1)
        assert again.sent == 0
        assert unreadable == [
            "frame-000002: a depth image that decodes; got a truncated file. Copy it again."
        ]
        assert rejected == []
        assert ingest.rejected == {3: "INVALID_FRAME"}

    run(work())
