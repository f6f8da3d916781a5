"""``make demo`` with fewer frames, and stopped half way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamdgp._demo_object import make_teapot
from streamdgp.demo import running_server
from streamdgp.errors import ServerUnavailableError
from streamdgp.meshes import RayScene, read_mesh


def _demo(out: Path, frames: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "streamdgp.demo", "--out", str(out), "--frames", str(frames)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_teapot_faces_outwards() -> None:
    teapot = make_teapot()
    middle = (teapot.vertices.min(0) + teapot.vertices.max(0)) / 2
    way = np.random.default_rng(0).normal(size=(500, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    hit = RayScene(teapot).cast(middle + 3 * way, -way)
    seen = np.isfinite(hit.t)
    assert seen.mean() > 0.9
    assert np.isfinite(hit.normals[seen]).all()
    assert ((hit.normals[seen] * way[seen]).sum(axis=1) > 0).mean() > 0.99


def test_the_demo_prints_scores_and_writes_mesh_and_picture(tmp_path: Path) -> None:
    process = _demo(tmp_path / "out", 8)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for text in ("while it streams", "at the end: revision", "F-score", "TSDF 4 mm", "8 applied"):
        assert text in output
    assert "nan" not in output
    assert len(read_mesh(tmp_path / "out" / "mesh.ply").triangles) > 10_000
    with Image.open(tmp_path / "out" / "mesh.png") as picture:
        assert picture.width == 3 * 620


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_no_server(tmp_path: Path, number: signal.Signals) -> None:
    process = _demo(tmp_path / "out", 30)
    assert process.stdout is not None
    while "Stream" not in process.stdout.readline():
        assert process.poll() is None
    data = str(tmp_path / "out" / "data")
    assert _processes_with(data)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not _processes_with(data)


def test_a_server_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ServerUnavailableError, match="ready"), running_server(tmp_path / "file"):
        pytest.fail("it started")


def _processes_with(argument: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if os.fsencode(argument) in words:
            found.append(entry.parent.name)
    return found
