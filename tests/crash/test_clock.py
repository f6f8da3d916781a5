"""A real server whose clock is set, while it runs and between its runs: same mesh, and old revisions go."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import libfaketime

from streamdgp.v1 import scene_service_pb2
from tests.crash.test_failpoints import _IS_LONG, check, frame_count
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes
from tests.store.clock import written_ahead

# First frame of a further run, and how far the clock was ahead until then; ``make crash`` has them all.
SHORT = ((9, datetime.timedelta(hours=1)),)
RUNS = (*SHORT, (11, datetime.timedelta(days=-1))) if _IS_LONG else SHORT
ARGUMENTS = ("--segment-size", "0.004", "--keep-revisions", "2")
_LOOKS_EVERY_S = 1
_PRELOADED = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


def send(server: ServerProcess, first: int, last: int) -> None:
    """Two frames at a time, so that there are several commits."""
    stream = Stream(server)
    assert stream.opened().next_sequence_number == first
    for number in range(first, last + 1):
        stream.send_frames(make_frame(number))
        if number % 2 == 0:
            stream.wait_applied(number)
    stream.finish()
    assert stream.rejected == []


def revisions(server: ServerProcess) -> list[int]:
    request = scene_service_pb2.ListRevisionsRequest(scene="scenes/test")
    return sorted(one.number for one in server.scenes.ListRevisions(request).revisions)


def test_the_clock_is_set_while_a_server_runs_and_between_two_runs(tmp_path: Path) -> None:
    """Files get the machine's time here, and Icechunk wants it within ten minutes of the faked one."""
    clock, data = tmp_path / "clock", tmp_path / "data"
    clock.write_text("+9m\n")
    environment = {
        "LD_PRELOAD": f"{_PRELOADED} {os.environ.get('LD_PRELOAD', '')}".strip(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": str(_LOOKS_EVERY_S),  # a look at every call takes half a minute
        "DONT_FAKE_MONOTONIC": "1",
    }
    with ServerProcess(data, *ARGUMENTS, environment=environment) as server:
        send(server, 1, 4)
        clock.write_text("-9m\n")
        time.sleep(_LOOKS_EVERY_S + 0.5)
        send(server, 5, 8)
        assert server.stderr().count("the clock has been set back by 10") == 1
    for frame, ahead in RUNS:
        written_ahead(data / "scenes" / "test" / "atlas", ahead)
        with ServerProcess(data, *ARGUMENTS) as server:
            send(server, frame, frame + 1)
            assert server.stderr().count("the clock has been set back by") == 2
            mesh = mesh_bytes(get_mesh(server))[1]
            assert frame_count(server) == frame + 1
            kept = revisions(server)
            assert kept[-1] >= 5  # else there was nothing to clear away
            assert kept == list(range(kept[0], kept[-1] + 1))
            assert 2 <= len(kept) <= 3
    assert "test: intact" in check(data)
    with ServerProcess(tmp_path / "uninterrupted", *ARGUMENTS) as server:
        send(server, 1, frame + 1)
        assert mesh_bytes(get_mesh(server))[1] == mesh
