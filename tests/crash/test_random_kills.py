"""Kills at random moments, again and again, in one scene. ``make crash`` does it 200 times."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamdgp.errors import StreamdgpError
from tests.crash.test_failpoints import check, frame_count
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes

_LOGGER = logging.getLogger(__name__)
_ROUNDS = int(os.environ.get("STREAMDGP_CRASH_ROUNDS", "3"))
_FRAMES_PER_ROUND = 4
_ARGUMENTS = ("--segment-size", "0.01", "--keep-revisions", "3")


def _stream_and_kill(server: ServerProcess, last: int, after_s: float) -> tuple[int, int]:
    """Send what is missing up to ``last``, kill after a while; (first number sent, last acknowledged)."""
    stream = Stream(server)
    try:
        first = stream.opened().next_sequence_number
        for number in range(first, last + 1):
            stream.send_frames(make_frame(number, angle_rad=0.02 * number))
        time.sleep(after_s)
    finally:
        server.kill()
    acknowledged = stream.progress.durable_sequence_number
    stream.wait_ended()
    return first, acknowledged


@pytest.mark.timeout(30 * (_ROUNDS + 5))
def test_killed_at_random_moments(tmp_path: Path, crash_report: Callable[..., None]) -> None:
    seed = int.from_bytes(os.urandom(4))
    _LOGGER.info("moments of seed %d", seed)
    rng = np.random.default_rng(seed)
    data, count = tmp_path / "data", _ROUNDS * _FRAMES_PER_ROUND
    acknowledged = 0
    for number in range(1, _ROUNDS + 1):
        server = ServerProcess(data, *_ARGUMENTS)
        try:
            first, now = _stream_and_kill(server, number * _FRAMES_PER_ROUND, rng.uniform(0.0, 0.6))
        except (AssertionError, StreamdgpError) as error:
            raise AssertionError(f"round {number}: {server.stderr()}") from error
        crash_report("random kills", cases=1, lost=max(0, acknowledged + 1 - first))
        assert first > acknowledged, f"round {number}: frames up to {acknowledged} had been acknowledged"
        crash_report("random kills", acknowledged=max(0, now - acknowledged))
        acknowledged = max(acknowledged, now)
        _LOGGER.info("kill %d: from frame %d, %d acknowledged", number, first, acknowledged)
    with ServerProcess(data, *_ARGUMENTS) as server:
        stream = Stream(server)
        for number in range(stream.opened().next_sequence_number, count + 1):
            stream.send_frames(make_frame(number, angle_rad=0.02 * number))
        assert stream.finish().rejected == []
        applied = frame_count(server)
        crash_report("random kills", twice=max(0, applied - count))
        assert applied == count
        mesh = mesh_bytes(get_mesh(server))[1]
    assert "test: intact" in check(data)
    with ServerProcess(tmp_path / "uninterrupted", *_ARGUMENTS) as server:
        stream = Stream(server)
        for number in range(1, count + 1):
            stream.send_frames(make_frame(number, angle_rad=0.02 * number))
        stream.finish()
        uninterrupted = mesh_bytes(get_mesh(server))[1]
    crash_report("random kills", meshes_equal=int(mesh == uninterrupted))
    assert mesh == uninterrupted
    _LOGGER.info(
        "%d kills: %d frames acknowledged before them, 0 lost, %d applied once, same mesh",
        _ROUNDS, acknowledged, count,
    )  # fmt: skip
