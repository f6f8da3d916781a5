"""A robot that goes on scanning while the server is away, and dies meanwhile: every frame is applied once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.crash.test_failpoints import check, frame_count
from tests.server.harness import TIMEOUT_S, ServerProcess, get_mesh, mesh_bytes, send_scan

FRAMES = 9


def start_robot(address: str, spool: Path, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.crash.robot", address, str(spool), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(robot: subprocess.Popen[str], line: str) -> None:
    assert robot.stdout is not None
    lines = list(iter(lambda: robot.stdout.readline().strip(), line))  # type: ignore[union-attr]
    assert "" not in lines


def kill(robot: subprocess.Popen[str]) -> None:
    robot.send_signal(signal.SIGKILL)
    robot.wait(TIMEOUT_S)
    assert robot.stdout is not None
    robot.stdout.close()


def test_server_away_and_robot_killed_meanwhile(tmp_path: Path) -> None:
    data, spool = tmp_path / "data", tmp_path / "spool"
    server = ServerProcess(data)
    at_same_address = ("--listen", server.address)
    robot = start_robot(server.address, spool, 1, 6)
    wait_for(robot, "spooled 3")
    server.kill()
    wait_for(robot, "spooled 6")
    kill(robot)
    assert list(spool.glob("*.seg"))
    robot = start_robot(server.address, spool, 7, FRAMES)
    wait_for(robot, f"spooled {FRAMES}")
    with ServerProcess(data, *at_same_address) as server:
        wait_for(robot, f"applied {FRAMES}")
        assert robot.stdout is not None
        robot.stdout.close()
        assert robot.wait(TIMEOUT_S) == 0
        assert frame_count(server) == FRAMES
        mesh = mesh_bytes(get_mesh(server))[1]
    assert not spool.exists()
    assert "test: intact" in check(data)
    with ServerProcess(tmp_path / "uninterrupted") as server:
        send_scan(server, 1, FRAMES)
        assert mesh_bytes(get_mesh(server))[1] == mesh
