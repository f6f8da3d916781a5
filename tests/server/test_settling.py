"""When a scan pauses, what was left for a query is extracted, until frames come again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from streamdgp.config import SceneConfig
from streamdgp.surface import SurfaceSnapshot
from streamdgp_server import fit_worker
from streamdgp_server.scene_engine import open_scene
from streamdgp_server.scene_files import create_scene
from tests.crash.running import Running


def test_a_pause_settles_once_and_gives_way_to_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_worker, "_SETTLED_S", 0.05)
    settled: list[int] = []
    has_begun, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def settle(surface: SurfaceSnapshot, has_work: Callable[[], bool]) -> None:
        assert not has_work()
        settled.append(surface.chart_count)
        has_begun.release()
        assert may_end.acquire(timeout=60)
        # Frames that came meanwhile are what it stops for.
        assert has_work() == (len(settled) == 1)

    scene = open_scene(create_scene(tmp_path, "test", SceneConfig()), "cpu", 1 << 20)
    running = Running(scene, settle=settle)
    running.wait_applied(running.append(1))
    assert has_begun.acquire(timeout=60)
    position = running.append(2)
    may_end.release()
    running.wait_applied(position)
    assert has_begun.acquire(timeout=60), "there is something new to settle"
    may_end.release()
    # Nothing has come since: it is not done again.
    assert not has_begun.acquire(timeout=0.5)
    running.close()
    assert len(settled) == 2
    assert settled[0] > 0
