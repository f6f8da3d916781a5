"""The power goes at any moment: what was not synced is gone, and nothing acknowledged is.

``kill -9`` leaves everything that was written; a power cut does not. A scene's log, its atlas and the real
fit worker run on recorded files; many recorded moments (``make crash``), or a few (``make test``), are laid
out on a fresh disk, opened, and streamed to the end.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from streamdgp.config import SceneConfig
from streamdgp.reconstructor import Reconstructor
from streamdgp.store import LogRecord, RecordKind
from streamdgp_server.fit_worker import CommitPolicy, FitCallbacks, FitWorker
from streamdgp_server.scene_engine import OpenedScene, decode_frame, open_scene
from streamdgp_server.scene_files import create_scene
from tests.crash.power import Cut, PowerRecorder
from tests.server.harness import make_frame

_FRAMES = 9
_SEGMENT_BYTES = 4000
_IS_LONG = int(os.environ.get("STREAMDGP_CRASH_ROUNDS", "3")) >= 50
_MOMENTS = 120 if _IS_LONG else 10
_POLICY = CommitPolicy(idle_seconds=0.0, max_frames=2, keep_revisions=2)


def record(number: int) -> LogRecord:
    payload = make_frame(number).SerializeToString()
    return LogRecord(RecordKind.FRAME, "robot", 1, number, f"frame-{number}", number, payload)


class Running:
    """A scene with its fit worker, without a server around it."""

    def __init__(self, scene: OpenedScene) -> None:
        self.scene = scene
        self._errors: list[object] = []
        self._applied = threading.Condition()
        self._position = scene.published.applied_position
        self._worker = FitWorker(
            "test",
            scene.log,
            scene.store,
            scene.reconstructor,
            scene.published,
            decode=decode_frame,
            slot=threading.Semaphore(1),
            give_way=lambda: None,
            prepare=lambda _: None,
            callbacks=FitCallbacks(
                published=lambda revision: self._note(revision.applied_position),
                rejected=lambda *what: self._errors.append(what),
                failed=self._errors.append,
            ),
            policy=_POLICY,
        )
        self._worker.start()

    def _note(self, position: int) -> None:
        with self._applied:
            self._position = position
            self._applied.notify_all()

    def append(self, number: int) -> int:
        (placed,) = self.scene.log.append([record(number)])
        self._worker.notify()
        return placed.position + 1

    def wait_applied(self, position: int) -> None:
        with self._applied:
            done = self._applied.wait_for(lambda: self._position >= position or bool(self._errors), 60)
        assert done, "timeout"
        assert not self._errors, self._errors

    def close(self) -> None:
        self._worker.stop()
        assert not self._errors, self._errors
        self.scene.close()


def fingerprint(engine: Reconstructor) -> str:
    """Of everything that a commit holds."""
    digest = hashlib.sha256()
    for _, table in sorted(engine.changes().tables.items()):
        for name, values in sorted(table.columns.items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


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


def test_nothing_acknowledged_is_lost(
    recorded: tuple[Path, list[Cut], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
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
            running = Running(open_scene(directory, "cpu", _SEGMENT_BYTES))
            where = f"moment {k} of {len(cuts)}, {objects}"
            log = running.scene.log
            assert log.end_position >= cuts[k].acknowledged, where
            found = [one.sequence for one in log.records()]
            assert found == list(range(1, log.end_position + 1)), where
            for number in range(log.end_position + 1, _FRAMES + 1):
                running.append(number)
            running.wait_applied(_FRAMES)
            running.close()
            assert fingerprint(running.scene.reconstructor) == wanted, where
            tried += 1
    assert tried >= (50 if _IS_LONG else 10)
