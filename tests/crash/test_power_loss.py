"""The power goes at any moment: what was not synced is gone, and nothing acknowledged is.

``kill -9`` leaves everything that was written; a power cut does not. A scene's log, its atlas and the real
fit worker run on recorded files; many recorded moments (``make crash``), or a few (``make test``), are laid
out on a fresh disk, opened, and streamed to the end.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from streamdgp.config import SceneConfig
from streamdgp_server.scene_engine import open_scene
from streamdgp_server.scene_files import create_scene
from tests.crash.power import Cut, PowerRecorder
from tests.crash.report import CrashReport
from tests.crash.running import Running, fingerprint

_FRAMES = 9
_SEGMENT_BYTES = 4000
_IS_LONG = int(os.environ.get("STREAMDGP_CRASH_ROUNDS", "3")) >= 50
_MOMENTS = 120 if _IS_LONG else 10


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cut], str]:
    """The scene's directory, every moment of a session, and what it came to."""
    root = tmp_path_factory.mktemp("session")
    scratch = tmp_path_factory.mktemp("copies")
    directory = create_scene(root, "test", SceneConfig())
    with pytest.MonkeyPatch.context() as patch:
        recorder = PowerRecorder(directory, scratch, patch)
        running = Running(open_scene(directory, "cpu", _SEGMENT_BYTES))
        for number in range(1, _FRAMES + 1):
            recorder.acknowledged = running.append(number)
            if number % 2 == 0:
                running.wait_applied(number)
        running.wait_applied(_FRAMES)
        running.close()
    return directory, recorder.cuts, fingerprint(running.scene.reconstructor)


def lay_out(directory: Path, session: Path, cut: Cut, objects: Path | None) -> None:
    """A fresh disk with what the cut left."""
    directory.mkdir(parents=True)
    shutil.copyfile(session / "scene.json", directory / "scene.json")
    (directory / "log").mkdir()
    for path, content in cut.files.items():
        target = directory / path.relative_to(session)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if objects is not None:
        shutil.copytree(objects, directory / "atlas", dirs_exist_ok=True)


@pytest.mark.timeout(3600 if _IS_LONG else 300)
def test_nothing_acknowledged_is_lost(
    recorded: tuple[Path, list[Cut], str], tmp_path: Path, crash_report: CrashReport
) -> None:
    session, cuts, wanted = recorded
    assert len(cuts) > 60
    assert cuts[-1].acknowledged == _FRAMES
    torn = [k for k, cut in enumerate(cuts) if cut.torn is not None]
    chosen = {round(k) for k in np.linspace(0, len(cuts) - 1, _MOMENTS)}
    chosen |= set(torn if _IS_LONG else torn[1 :: max(1, len(torn) // 3)])
    tried = 0
    for k in sorted(chosen):
        for objects in {cuts[k].objects, cuts[k].torn or cuts[k].objects}:
            directory = tmp_path / f"{k}-{tried}"
            lay_out(directory, session, cuts[k], objects)
            with crash_report.opening("power cuts"):
                running = Running(open_scene(directory, "cpu", _SEGMENT_BYTES))
            where = f"moment {k} of {len(cuts)}, {objects}"
            log = running.scene.log
            found = [one.sequence for one in log.records()]
            crash_report(
                "power cuts",
                cases=1,
                acknowledged=cuts[k].acknowledged,
                lost=max(0, cuts[k].acknowledged - log.end_position),
                twice=len(found) - len(set(found)),
            )
            assert log.end_position >= cuts[k].acknowledged, where
            assert found == list(range(1, log.end_position + 1)), where
            for number in range(log.end_position + 1, _FRAMES + 1):
                running.append(number)
            running.wait_applied(_FRAMES)
            running.close()
            is_same = fingerprint(running.scene.reconstructor) == wanted
            crash_report("power cuts", meshes_equal=int(is_same))
            assert is_same, where
            tried += 1
    assert tried >= (50 if _IS_LONG else 10)
