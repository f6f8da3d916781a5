"""``streamdgp-client stream`` through a network that fails: every frame is applied once, and it says so."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamdgp.v1 import ingest_service_pb2, scene_service_pb2
from tests.crash.proxy import Proxy
from tests.datasets.builders import write_png
from tests.server.harness import (
    INTRINSICS,
    TIMEOUT_S,
    ServerProcess,
    get_mesh,
    mesh_bytes,
    pose_around,
    sphere_depth,
)

FRAMES = 16
NOBODY = "127.0.0.1:1"
MIDDLE_BYTES = 30_000
"""About half of what a client sends."""
KEEPALIVE = ("--keepalive", "1")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A walk around a sphere; the depth is noisy, so that frames do not become small on the way."""
    folder = tmp_path_factory.mktemp("scan") / "walk"
    folder.mkdir()
    camera = [[INTRINSICS.fx, 0, INTRINSICS.cx], [0, INTRINSICS.fy, INTRINSICS.cy], [0, 0, 1]]
    np.savetxt(folder / "camera-intrinsics.txt", camera)
    rng = np.random.default_rng(0)
    for number in range(FRAMES):
        pose = pose_around(0.15 * number)
        depth_mm = 1000 * sphere_depth(pose)
        noise_mm = np.where(depth_mm > 0, rng.normal(0, 2, depth_mm.shape), 0)
        write_png(folder / f"frame-{number:06d}.depth.png", (depth_mm + noise_mm).astype(np.uint16))
        np.savetxt(folder / f"frame-{number:06d}.pose.txt", pose)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("network") / "data", *KEEPALIVE) as process:
        yield process


@pytest.fixture(scope="module")
def mesh(server: ServerProcess, scan: Path) -> bytes:
    """What the scan becomes when nothing happens."""
    _, said = finish(start(scan, server.address, "undisturbed"))
    assert said.strip() == ""
    return mesh_bytes(get_mesh(server, "scenes/undisturbed"))[1]


def start(scan: Path, address: str, scene: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from streamdgp_client.cli import main; main()", "stream", str(scan)]
    return subprocess.Popen(
        [*command, "--scene", scene, "--server", address, *KEEPALIVE, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(client: subprocess.Popen[str]) -> tuple[str, str]:
    """Standard output, and the lines of the error stream that are not progress bars."""
    out, error = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == 0, error
    bars = re.compile(r"^\s*(sent|durable|applied) .*$\n?", re.MULTILINE)
    return out, bars.sub("", error)


def wait_for_line(client: subprocess.Popen[str], words: str) -> None:
    assert client.stderr is not None
    while words not in client.stderr.readline():
        assert client.poll() is None


def frame_numbers(said: str, words: str) -> list[int]:
    """Of the lines that say where the stream goes on."""
    return [int(number) for number in re.findall(rf"^{words} (\d+)$", said, re.MULTILINE)]


def wait_durable(server: ServerProcess, scene: str) -> None:
    """Until the server has something of a stream in its log."""
    request = ingest_service_pb2.GetIngestStatusRequest(scene=f"scenes/{scene}", producer_id="walk")
    deadline_s = time.monotonic() + TIMEOUT_S
    while server.ingest.GetIngestStatus(request).progress.durable_sequence_number < 1:
        assert time.monotonic() < deadline_s, "nothing became durable"
        time.sleep(0.05)


def assert_complete(server: ServerProcess, scene: str, mesh: bytes) -> None:
    """Every frame is there once, under its number, and the surface is that of an undisturbed stream."""
    name = f"scenes/{scene}"
    request = scene_service_pb2.GetSceneStatisticsRequest(scene=name)
    statistics = server.scenes.GetSceneStatistics(request).statistics
    assert (statistics.frame_count, statistics.rejected_frame_count) == (FRAMES, 0)
    status = server.ingest.GetIngestStatus(
        ingest_service_pb2.GetIngestStatusRequest(scene=name, producer_id="walk")
    )
    assert status.progress.applied_sequence_number == FRAMES
    assert [(record.sequence_number, record.source_id) for record in status.records] == [
        (number + 1, f"frame-{number:06d}") for number in range(FRAMES)
    ]
    assert mesh_bytes(get_mesh(server, name))[1] == mesh


@pytest.mark.parametrize("fault", ["rst", "fin", "silence"])
def test_a_connection_that_breaks_or_falls_silent(
    server: ServerProcess, scan: Path, mesh: bytes, fault: str
) -> None:
    scene = f"broken-{fault}"
    with Proxy(server.address) as proxy:
        proxy.trap(MIDDLE_BYTES, fault)
        client = start(scan, proxy.address, scene)
        proxy.wait_for_trap()
        out, said = finish(client)
    assert f"{FRAMES} frames sent, 0 were there before, 0 rejected" in out
    assert re.search(
        r"^warning: connection lost \((UNAVAILABLE|INTERNAL): .*\), trying again$", said, re.M
    ), said
    assert frame_numbers(said, "connected again, going on with frame")
    assert_complete(server, scene, mesh)


def test_a_client_that_is_killed_and_run_again(server: ServerProcess, scan: Path, mesh: bytes) -> None:
    with Proxy(server.address) as proxy:
        proxy.trap(MIDDLE_BYTES, "silence")  # so that it is killed in the middle
        client = start(scan, proxy.address, "killed-client")
        proxy.wait_for_trap()
        client.send_signal(signal.SIGKILL)
        client.communicate(timeout=TIMEOUT_S)
    out, said = finish(start(scan, server.address, "killed-client"))
    found = re.search(
        rf"(\d+) frames sent, (\d+) were there before, 0 rejected; {FRAMES} frames durable", out
    )
    assert found is not None, out
    sent, before = int(found[1]), int(found[2])
    assert sent > 0
    assert before > 0
    assert sent + before == FRAMES
    assert frame_numbers(said, "resumed at frame") == [before + 1]
    assert_complete(server, "killed-client", mesh)


def test_a_spool_outlives_the_client_and_waits_for_the_server(
    server: ServerProcess, scan: Path, mesh: bytes, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    with Proxy(server.address) as proxy:
        proxy.trap(MIDDLE_BYTES, "rst", next_target=NOBODY)
        client = start(scan, proxy.address, "spooled", "--spool", str(spool))
        wait_for_line(client, "connection lost")
        client.send_signal(signal.SIGKILL)
        client.communicate(timeout=TIMEOUT_S)
        assert list(spool.glob("*.seg"))
        client = start(scan, proxy.address, "spooled", "--spool", str(spool))
        wait_for_line(client, "server not reached")
        proxy.target = server.address
        out, said = finish(client)
    found = re.search(r"(\d+) frames sent, (\d+) were there before, 0 rejected", out)
    assert found is not None, out
    assert int(found[1]) + int(found[2]) == FRAMES
    assert len(frame_numbers(said, "connected, going on with frame")) == 1
    assert not spool.exists()
    assert_complete(server, "spooled", mesh)


def test_ctrl_c_while_it_waits_for_the_server_is_clean(server: ServerProcess, scan: Path) -> None:
    with Proxy(server.address) as proxy:
        proxy.trap(MIDDLE_BYTES, "rst", next_target=NOBODY)
        client = start(scan, proxy.address, "interrupted")
        proxy.wait_for_trap()
        wait_for_line(client, "connection lost")
        client.send_signal(signal.SIGINT)
        out, error = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == 130
    assert out == ""
    last = error.splitlines()[-1]
    assert last.startswith("interrupted: stopped; ")
    assert last.endswith("The same command goes on from there.")
    assert "Traceback" not in error


def test_a_server_that_is_killed_and_one_that_is_stopped(
    server: ServerProcess, scan: Path, mesh: bytes
) -> None:
    """The last one here: it ends the server of the others, for starting one takes seconds."""
    data = server.data
    with Proxy(server.address) as proxy:
        proxy.trap(MIDDLE_BYTES // 2, "silence")
        patient = ("--keepalive", "60")  # or silence may be noticed before the server has said why it ends
        client = start(scan, proxy.address, "restarted", *patient)
        proxy.wait_for_trap()
        server.kill()
        proxy.trap(MIDDLE_BYTES // 2, "hold")  # what the server says as it ends is still heard
        proxy.strike("rst")
        server = ServerProcess(data)
        proxy.target = server.address
        proxy.wait_for_trap()
        assert server.stop(signal.SIGTERM) == 0
        proxy.strike("rst")
        with ServerProcess(data) as server:
            proxy.target = server.address
            _, said = finish(client)
            lost = re.findall(r"^warning: connection lost \((.*)\), trying again$", said, re.MULTILINE)
            assert len(lost) == 2, said
            assert "shut" in lost[1]
            first, second = frame_numbers(said, "connected again, going on with frame")
            assert 1 < first <= second <= FRAMES  # the second time perhaps nothing came through
            assert_complete(server, "restarted", mesh)
