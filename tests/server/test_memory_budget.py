"""A server under a memory budget shows the same surface as one without."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes
from tests.server.test_restart import run_server

_MOST_FILE_BYTES = 64 << 20


def test_the_surface_is_the_same_also_after_a_restart(tmp_path: Path) -> None:
    shown = []
    for name, arguments in (("limited", ("--memory-budget", "24")), ("free", ())):
        with ServerProcess(tmp_path / name, *arguments) as server:
            stream = Stream(server)
            stream.send_frames(*(make_frame(number) for number in range(1, 13)))
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
            stream.send_frames(*(make_frame(number, angle_rad=0.1 * number) for number in range(1, 9)))
            stream.wait_applied(8)
            stream.finish()
            shown.append(mesh_bytes(get_mesh(server))[1])
            told = server.stderr().count("memory cannot be put on disk ([Errno 27] File too large)")
            assert told == (name == "refused")
    assert shown[0] == shown[1]
