"""What README.md tells a newcomer to type, typed: every command and every snippet, in its order.

The scan is made smaller and the server takes a free port; all else runs as printed. Outputs are
compared with their numbers masked.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FRAMES = "--frames 40"
FEWER_FRAMES = "--frames 5"
ADDRESS = "127.0.0.1:50051"
_FENCE = re.compile(r"^```(sh|python)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Something to run, and what README says it prints."""

    language: str
    code: str
    output: str

    @property
    def is_setup(self) -> bool:
        """Whether it installs or builds, which this suite is the result of."""
        return self.code.startswith(("make ", "pip "))

    @property
    def is_server(self) -> bool:
        return self.code.startswith("streamdgp-server serve")


BLOCKS = [Block(*(part or "" for part in match.groups())) for match in _FENCE.finditer(README)]


def masked(text: str) -> list[str]:
    """Lines without blanks around and within, numbers and rulers of tables."""
    lines = (re.sub(r"[━─\s]+", " ", re.sub(r"\d+([.,:-]\d+)*", "#", line)) for line in text.splitlines())
    return [line.strip() for line in lines if line.strip()]


def assert_prints(block: Block, printed: str) -> None:
    """Every line that README shows must be printed, in this order."""
    lines = iter(masked(printed))
    for wanted in masked(block.output):
        if wanted != "…":
            assert any(line == wanted for line in lines), f"no line {wanted!r} in:\n{printed}"


class Session:
    """A newcomer's terminal: one folder, and a server in another terminal once it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "120",
        }
        self.server: subprocess.Popen[str] | None = None
        self.address = ADDRESS

    def run(self, block: Block) -> None:
        """Run a block to its end and compare what it prints."""
        code = block.code.replace(FRAMES, FEWER_FRAMES).replace(ADDRESS, self.address)
        command = ["bash", "-euo", "pipefail", "-c", code]
        if block.language == "python":
            command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
        assert_prints(block, done.stdout)

    def serve(self, block: Block) -> None:
        """Start the server of a block on a free port, and let clients know it."""
        words = [*block.code.split(), "--listen", "127.0.0.1:0"]
        self.server = subprocess.Popen(
            words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert_prints(block, line)
        self.address = line.split()[3].rstrip(",")
        self.environment["STREAMDGP_SERVER"] = self.address

    def stop(self) -> int:
        """End the server as Ctrl-C does; its exit code."""
        assert self.server is not None
        assert self.server.stdout is not None
        self.server.send_signal(signal.SIGINT)
        code = self.server.wait()
        self.server.stdout.close()
        return code


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    try:
        yield session
    finally:
        if session.server is not None and session.server.poll() is None:
            session.server.kill()
            session.stop()


def test_everything_that_readme_shows_runs(session: Session) -> None:
    for block in BLOCKS:
        if block.is_server:
            session.serve(block)
        elif not block.is_setup:
            session.run(block)
    assert session.stop() == 0
    assert {path.name for path in session.folder.iterdir()} >= {"room.ply", "corner.glb", "data", "room-scan"}


def test_the_blocks_are_found() -> None:
    assert [block.language for block in BLOCKS].count("python") == 2
    assert sum(block.is_server for block in BLOCKS) == 1
    assert FRAMES in README
    assert ADDRESS in README


def test_set_up_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE)
    assert set(used) >= {"demo", "test"}
    assert set(used) <= targets
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"pip install '\.\[(\w+)\]'", README)) <= set(extras)


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []
