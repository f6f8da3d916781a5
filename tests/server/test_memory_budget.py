"""A server under a memory budget shows the same surface as one without."""

from __future__ import annotations

from pathlib import Path

from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes
from tests.server.test_restart import run_server


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
