"""Clients that break off, stall or flood: others do not notice, and what they held becomes free."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from streamdgp.errors import InvalidInputError, SequenceError, ServerUnavailableError
from streamdgp.v1 import frame_pb2, ingest_service_pb2, ingest_service_pb2_grpc
from tests.crash.proxy import Proxy
from tests.server.harness import TIMEOUT_S, ServerProcess, Stream, make_frame
from tests.server.raw_http2 import RawIngest

_ALLOWED_GROWTH_BYTES = 64 * 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("hostile")
    with ServerProcess(folder / "data", "-v", "--keepalive", "1", "--patience", "2") as process:
        yield process


@pytest.fixture(scope="module")
def bystander(server: ServerProcess) -> Iterator[Callable[[], None]]:
    """Another producer, with one stream all the time; its next frame is applied whenever this is called."""
    stream = Stream(server, "scenes/bystander", "bystander")
    numbers = iter(range(1, 100))

    def go_on() -> None:
        number = next(numbers)
        stream.send_frames(make_frame(number))
        stream.wait_applied(number)

    go_on()
    yield go_on
    stream.finish()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(int(TIMEOUT_S / 0.05)):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"not in time: {what}")


def has_ended(server: ServerProcess, producer: str, epoch: int = 1) -> bool:
    return f"{producer}: stream of epoch {epoch} has ended" in server.stderr()


def connections(server: ServerProcess) -> set[str]:
    """Names of the sockets that the server process has open."""
    names = set()
    for entry in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            names.add(os.readlink(entry))
    return {name for name in names if name.startswith("socket:")}


def open_request(producer: str) -> ingest_service_pb2.IngestRequest:
    return ingest_service_pb2.IngestRequest(
        open=ingest_service_pb2.IngestOpen(
            scene="scenes/hostile", producer_id=producer, create_if_missing=True
        )
    )


def batch(*frames: frame_pb2.Frame) -> ingest_service_pb2.IngestRequest:
    return ingest_service_pb2.IngestRequest(frames=ingest_service_pb2.FrameBatch(frames=frames))


def test_answers_that_are_never_read(server: ServerProcess, bystander: Callable[[], None]) -> None:
    """Frames with a wrong number, each to be answered; nobody reads the answers."""
    before = server.resident_bytes()
    has_enough = threading.Event()

    def requests() -> Iterator[ingest_service_pb2.IngestRequest]:
        yield open_request("deaf")
        gap = [frame_pb2.Frame(sequence_number=5)] * 10_000
        while not has_enough.is_set():
            yield batch(*gap)

    call = server.ingest.Ingest(requests())
    wait_until(lambda: "answers not read within 2 s" in server.stderr(), "the end of its patience")
    bystander()
    wait_until(lambda: has_ended(server, "deaf"), "the end of the stream")
    has_enough.set()
    with pytest.raises(grpc.RpcError, match="answers not read within 2 s"):
        list(call)
    assert server.resident_bytes() - before < _ALLOWED_GROWTH_BYTES


def test_half_a_frame_and_then_nothing(server: ServerProcess, bystander: Callable[[], None]) -> None:
    """The bystander is as silent, with nothing half done, and stays."""
    stream = Stream(server, "scenes/hostile", "half")
    data = make_frame(1).SerializeToString()
    part = ingest_service_pb2.FramePart(sequence_number=1, total_bytes=len(data), data=data[:1000])
    stream.send(ingest_service_pb2.IngestRequest(part=part))
    error = stream.wait_ended()
    assert isinstance(error, ServerUnavailableError), error
    assert "half a frame, and no more within 2 s" in str(error)
    assert has_ended(server, "half")
    bystander()
    again = Stream(server, "scenes/hostile", "half")
    assert again.opened().next_sequence_number == 1
    again.send_frames(make_frame(1))
    assert again.finish().progress.applied_sequence_number == 1


def test_no_first_request(server: ServerProcess) -> None:
    may_end = threading.Event()

    def requests() -> Iterator[ingest_service_pb2.IngestRequest]:
        may_end.wait(TIMEOUT_S)
        yield from ()

    call = server.ingest.Ingest(requests())
    with pytest.raises(grpc.RpcError, match="no first request within 2 s"):
        next(call)
    may_end.set()


def test_a_client_that_vanishes_while_a_newer_run_of_it_connects(
    server: ServerProcess, bystander: Callable[[], None]
) -> None:
    with Proxy(server.address) as proxy, grpc.insecure_channel(proxy.address) as channel:
        through_proxy = ingest_service_pb2_grpc.IngestServiceStub(channel)
        before = connections(server)
        old = Stream(server, "scenes/vanished", "twin", stub=through_proxy)
        old.send_frames(make_frame(1))
        old.wait_durable(1)
        dead = connections(server) - before
        assert dead
        proxy.strike("silence")
        bystander()
        new = Stream(server, "scenes/vanished", "twin")
        assert new.opened().next_sequence_number == 2
        new.send_frames(make_frame(2))
        wait_until(lambda: has_ended(server, "twin", epoch=1), "the end of the old stream")
        assert new.finish().progress.applied_sequence_number == 2
        wait_until(lambda: not dead & connections(server), "the end of the dead connection")
        proxy.strike("rst")
        assert isinstance(old.wait_ended(), ServerUnavailableError | SequenceError)


def test_a_client_that_vanishes_for_good(server: ServerProcess, bystander: Callable[[], None]) -> None:
    """It reads nothing and answers no ping, with its socket open."""
    with RawIngest(server.address) as client:
        client.send(open_request("gone"))
        client.send(batch(make_frame(1)))
        client.wait_closed()
    bystander()
    wait_until(lambda: has_ended(server, "gone"), "the end of the stream")
    again = Stream(server, "scenes/hostile", "gone")
    assert again.opened().next_sequence_number == 2
    again.finish()


def test_a_message_after_the_half_close(server: ServerProcess, bystander: Callable[[], None]) -> None:
    with RawIngest(server.address) as client:
        client.send(open_request("after"))
        client.send(batch(make_frame(1)), is_last=True)
        client.send(batch(make_frame(2)))
        client.send(open_request("after"))
        wait_until(lambda: has_ended(server, "after"), "the end of the stream")
        bystander()
        client.wait_closed()
    again = Stream(server, "scenes/hostile", "after")
    assert again.opened().next_sequence_number <= 2
    again.finish()


def test_thousands_of_empty_messages(server: ServerProcess, bystander: Callable[[], None]) -> None:
    before = server.resident_bytes()
    stream = Stream(server, "scenes/hostile", "empty")
    for _ in range(5000):
        stream.send_frames()
    bystander()
    stream.send_frames(*[frame_pb2.Frame()] * 1000)
    stream.send_frames(make_frame(1))
    stream.wait_applied(1)
    assert len(stream.rejected) == 1000
    stream.send(ingest_service_pb2.IngestRequest())
    assert isinstance(stream.wait_ended(), InvalidInputError)
    assert server.resident_bytes() - before < _ALLOWED_GROWTH_BYTES
