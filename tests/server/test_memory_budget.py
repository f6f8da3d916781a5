"""A server under a memory budget shows the same surface as one without."""

from __future__ import annotations

import resource
from pathlib import Path

from streamdgp.frames import DepthFrame
from streamdgp.v1 import frame_pb2
from streamdgp.wire import frame_to_proto
from tests.server.harness import (
    INTRINSICS,
    ServerProcess,
    Stream,
    get_mesh,
    mesh_bytes,
    pose_around,
    sphere_depth,
)
from tests.server.test_restart import run_server

_MOST_FILE_BYTES = 64 << 20


def _sphere_elsewhere(number: int) -> frame_pb2.Frame:
    """Every frame shows one more sphere: a map of some thousand charts, larger than the least budget."""
    pose = pose_around(0.0)
    depth_m = sphere_depth(pose)
    pose[0, 3] += 1.5 * number
    return frame_to_proto(DepthFrame(depth_m, INTRINSICS, pose), sequence_number=number)


def test_the_surface_is_the_same_also_after_a_restart(tmp_path: Path) -> None:
    shown = []
    for name, arguments in (("limited", ("--memory-budget", "24")), ("free", ())):
        with ServerProcess(tmp_path / name, *arguments) as server:
            stream = Stream(server)
            stream.send_frames(*(_sphere_elsewhere(number) for number in range(1, 13)))
            stream.wait_applied(12)
            stream.finish()
            shown.append(mesh_bytes(get_mesh(server))[1])
        with ServerProcess(tmp_path / name, *arguments) as server:
            shown.append(mesh_bytes(get_mesh(server))[1])
    assert len(set(shown)) == 1
    assert shown[0]


def test_a_budget_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    done = run_server("serve", "--data", str(tmp_path / "data"), "--memory-budget", "5")
    assert done.returncode == 2
    assert "--memory-budget" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_refuses_is_told_once_and_frames_go_on(tmp_path: Path) -> None:
    """Parts of maps lie far from each other in their file: all but the first beyond its greatest size."""
    shown = []
    for name in ("refused", "free"):
        arguments = () if name == "free" else ("--memory-budget", "24")
        with ServerProcess(tmp_path / name, *arguments) as server:
            if name == "refused":
                limits = (_MOST_FILE_BYTES, resource.RLIM_INFINITY)
                resource.prlimit(server._process.pid, resource.RLIMIT_FSIZE, limits)
            stream = Stream(server)
            stream.send_frames(*(_sphere_elsewhere(number) for number in range(1, 13)))
            stream.wait_applied(12)
            stream.finish()
            shown.append(mesh_bytes(get_mesh(server))[1])
            told = server.stderr().count("memory cannot be put on disk ([Errno 27] File too large)")
            assert told == (name == "refused")
    assert shown[0] == shown[1]
