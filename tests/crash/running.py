"""A scene with its fit worker, without a server around it, and what it comes to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

import numpy as np

from streamdgp.atlas.changes import AtlasState
from streamdgp.reconstructor import Reconstructor
from streamdgp.store import LogRecord, RecordKind
from streamdgp.surface import SurfaceSnapshot
from streamdgp_server.fit_worker import CommitPolicy, FitCallbacks, FitWorker
from streamdgp_server.scene_engine import OpenedScene, decode_frame
from tests.server.harness import make_frame

__all__ = ["Running", "fingerprint", "state_fingerprint"]

_POLICY = CommitPolicy(idle_seconds=0.0, max_frames=2, keep_revisions=2)


class Running:
    """A scene that applies what its log holds."""

    def __init__(
        self,
        scene: OpenedScene,
        policy: CommitPolicy = _POLICY,
        settle: Callable[[SurfaceSnapshot, Callable[[], bool]], None] = lambda *_: None,
    ) -> None:
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
            settle=settle,
            callbacks=FitCallbacks(
                published=lambda revision: self._note(revision.applied_position),
                rejected=lambda *what: self._fail(what),
                failed=self._fail,
            ),
            policy=policy,
        )
        self._worker.start()

    def _note(self, position: int) -> None:
        with self._applied:
            self._position = position
            self._applied.notify_all()

    def _fail(self, what: object) -> None:
        with self._applied:
            self._errors.append(what)
            self._applied.notify_all()

    def append(self, number: int) -> int:
        """Log frame ``number``; returns the position after it."""
        payload = make_frame(number).SerializeToString()
        record = LogRecord(RecordKind.FRAME, "robot", 1, number, f"frame-{number}", number, payload)
        (placed,) = self.scene.log.append([record])
        self._worker.notify()
        return placed.position + 1

    def wait_applied(self, position: int) -> None:
        with self._applied:
            done = self._applied.wait_for(lambda: self._position >= position or bool(self._errors), 60)
        assert done, "timeout"
        assert not self._errors, self._errors

    def close(self) -> None:
        self._worker.stop()
        self.scene.close()
        assert not self._errors, self._errors


def fingerprint(engine: Reconstructor) -> str:
    """Of everything that a commit holds."""
    changes = engine.changes()
    tables = {name: table.columns for name, table in changes.tables.items()}
    return state_fingerprint(AtlasState(tables, dict(changes.arrays), dict(changes.metadata)))


def state_fingerprint(state: AtlasState) -> str:
    """Of a revision as it was read."""
    digest = hashlib.sha256(repr(sorted(state.metadata.items())).encode())
    for name, columns in sorted({**state.tables, "": state.arrays}.items()):
        for column, values in sorted(columns.items()):
            digest.update(f"{name} {column} {values.shape} {values.dtype.str}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
