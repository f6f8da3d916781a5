"""The blocking client against an ingest service in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from streamdgp.errors import ServerUnavailableError, StreamdgpError
from streamdgp_client import Client, FrameRecord, Progress
from tests.client.fake_server import FakeIngest, serve
from tests.client.test_stream import QUICK, depth_frame


def run_beside_server(ingest: FakeIngest, work: Callable[[str], None]) -> None:
    """Run blocking work in a thread while the service runs here."""

    async def both() -> None:
        async with serve(ingest) as server:
            await asyncio.wait_for(asyncio.to_thread(work, server), 60)

    asyncio.run(both())


def test_frames_and_status() -> None:
    ingest, seen = FakeIngest(credit=2), list[Progress]()

    def work(server: str) -> None:
        with Client(server) as client:
            with client.stream("room", "robot", on_progress=seen.append) as stream:
                assert stream.epoch == 1
                for number in range(1, 8):
                    assert stream.next_sequence_number == number
                    assert stream.send(depth_frame(), source_id=f"f{number}", source_crc32c=number) == number
                stream.skip(source_id="broken")
                assert stream.wait("durable").durable == 8
            assert stream.progress.applied == 8
            status = client.get_ingest_status("room", "robot")
        assert (status.durable, status.applied, status.epoch) == (8, 8, 1)
        assert status.records[6] == FrameRecord(7, "f7", 7)
        assert status.records[7] == FrameRecord(8, "broken", 0, "INVALID_FRAME")
        assert seen[-1] == stream.progress

    run_beside_server(ingest, work)
    assert len(ingest.frames) == 8


def test_an_exception_in_the_block_drops_what_is_not_sent_and_comes_out() -> None:
    ingest = FakeIngest()

    def work(server: str) -> None:
        with Client(server) as client, client.stream("room", "robot") as stream:
            stream.send(depth_frame())
            stream.wait()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_beside_server(ingest, work)
    assert len(ingest.frames) == 1


def test_closing_twice_and_durable_only() -> None:
    ingest = FakeIngest()

    def work(server: str) -> None:
        with Client(server) as client:
            with client.stream("room", "robot") as stream:
                stream.send(depth_frame())
                assert stream.close("durable").durable == 1
                with pytest.raises(StreamdgpError, match="one that has ended"):
                    stream.send(depth_frame())
            client.close()

    run_beside_server(ingest, work)


def test_calls_that_the_server_lacks_and_servers_that_lack() -> None:
    def work(server: str) -> None:
        with Client(server) as client, pytest.raises(StreamdgpError, match="UNIMPLEMENTED"):
            client.list_scenes()

    run_beside_server(FakeIngest(), work)
    with Client("127.0.0.1:1", retry=QUICK) as client:
        with pytest.raises(ServerUnavailableError, match="an answer of 127"):
            client.query_mesh("room")
        with pytest.raises(ServerUnavailableError, match="an answer of 127"):
            client.stream("room", "robot").__enter__()
