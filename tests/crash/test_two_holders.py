"""A data directory has one holder: a server or a check; whoever comes second is told who holds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamdgp.store import DirectoryLock
from tests.server.harness import ServerProcess
from tests.server.test_restart import run_server


@pytest.mark.parametrize("command", [("serve", "--listen", "127.0.0.1:0", "--data"), ("check",)])
def test_a_directory_that_is_being_checked(tmp_path: Path, command: tuple[str, ...]) -> None:
    """``check`` holds the same lock as a server for as long as it reads."""
    (tmp_path / "scenes").mkdir()
    with DirectoryLock(tmp_path):
        done = run_server(*command, str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"Error: one writer for {tmp_path}; got a lock held by process {os.getpid()}. "
    )
    assert "Stop that process" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_killed_server_holds_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ServerProcess(data).kill()
    assert (data / "LOCK").exists()
    assert run_server("check", str(data)).returncode == 0
