"""All scenes of a data directory; each is opened when first needed, and once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from streamdgp.config import SceneConfig
from streamdgp.errors import NotFoundError, ServerUnavailableError, StorageError, StreamdgpError
from streamdgp.memory import MemoryBudget
from streamdgp.store import DirectoryLock
from streamdgp_server.options import ServerOptions
from streamdgp_server.priority import QueryPriority
from streamdgp_server.scene_engine import SceneEngine, open_scene
from streamdgp_server.scene_files import create_scene, remove_scene, scene_ids, sweep_unfinished

__all__ = ["SceneRegistry"]

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class SceneRegistry:
    """The scenes under ``options.data``. For the event loop.

    Raises
    ------
    StorageError
        Another server holds the directory, or it cannot be written.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._lock = DirectoryLock(options.data)
        self._scenes = options.data / "scenes"
        try:
            self._scenes.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"a writable directory {options.data}", str(error), "Choose another directory."
            ) from error
        sweep_unfinished(self._scenes)
        self._engines: dict[str, SceneEngine] = {}
        self._guards: dict[str, asyncio.Lock] = {}
        self._slot = threading.Semaphore(1)
        self.priority = QueryPriority()
        self._budget = MemoryBudget(options.map_budget_bytes) if options.memory_budget_bytes else None
        self._closing = False
        self.failed = asyncio.Event()
        """Set when a disk refused frames: what it holds is unknown, so the process must end."""
        self.failure: StorageError | None = None
        self.io_executor = ThreadPoolExecutor(4, thread_name_prefix="io")
        """Decoding, log writes, reading scenes."""
        self.mesh_executor = ThreadPoolExecutor(2, thread_name_prefix="mesh")
        """Extraction of surfaces."""

    def scene_ids(self) -> list[str]:
        """Names of all scenes, sorted."""
        return list(scene_ids(self._scenes))

    async def get(self, scene_id: str) -> SceneEngine:
        """An open scene.

        Raises
        ------
        NotFoundError
            There is none of this name.
        StorageError
            Its files are damaged.
        """
        self._require_exists(scene_id)
        async with self._guard(scene_id):
            self._require_open()
            engine = self._engines.get(scene_id)
            return engine or await self._open(scene_id)

    async def create(self, scene_id: str, config: SceneConfig) -> SceneEngine:
        """Make a scene and open it; raises :class:`AlreadyExistsError` when the name is taken."""
        async with self._guard(scene_id):
            self._require_open()
            await self._in_io(create_scene, self._scenes, scene_id, config)
            return await self._open(scene_id)

    async def delete(self, scene_id: str) -> int:
        """Delete a scene with everything in it; returns the last revision it had.

        A scene whose files are damaged can be deleted too (revision 0).
        """
        self._require_exists(scene_id)
        async with self._guard(scene_id):
            self._require_open()
            self._require_exists(scene_id)
            engine = self._engines.pop(scene_id, None)
            revision = 0
            if engine is None:
                try:
                    engine = await self._open(scene_id)
                    del self._engines[scene_id]
                except StorageError as error:
                    _LOGGER.warning("deleting scene %s unread: %s", scene_id, error)
            if engine is not None:
                revision = engine.published.revision
                await engine.close(_unknown_scene(scene_id))
            await self._in_io(remove_scene, self._scenes, scene_id)
            return revision

    async def open_all(self) -> None:
        """Open every scene, so that frames left in a log by a crash are fitted without being asked."""
        for scene_id in self.scene_ids():
            try:
                await self.get(scene_id)
            except StreamdgpError as error:
                _LOGGER.error("scene %s cannot be opened: %s", scene_id, error)

    async def close(self) -> None:
        """End ingest streams, finish the frames in hand, commit, close the scenes."""
        self._closing = True
        reason = ServerUnavailableError(
            "a running server", "one that is shutting down", "Reconnect; it resumes where it stood."
        )
        engines, self._engines = self._engines, {}
        await asyncio.gather(*(engine.close(reason) for engine in engines.values()))

    def release(self) -> None:
        """End the threads and give the directory up; after :meth:`close`, when no call is running."""
        self.io_executor.shutdown()
        self.mesh_executor.shutdown()
        self._lock.release()

    def _on_log_failure(self, error: StorageError) -> None:
        self.failure = error
        self.failed.set()

    def _guard(self, scene_id: str) -> asyncio.Lock:
        return self._guards.setdefault(scene_id, asyncio.Lock())

    def _require_open(self) -> None:
        if self._closing:
            raise ServerUnavailableError("a running server", "one that is shutting down", "Try again later.")

    def _require_exists(self, scene_id: str) -> None:
        if not (self._scenes / scene_id).is_dir():
            raise _unknown_scene(scene_id)

    async def _open(self, scene_id: str) -> SceneEngine:
        self._require_exists(scene_id)
        opened = await self._in_io(
            open_scene,
            self._scenes / scene_id,
            self.options.device,
            self.options.segment_bytes,
            self._budget,
        )
        if self._closing:
            opened.close()
            self._require_open()
        opened.store.keep_for_s = self.options.keep_revisions_for_s
        engine = SceneEngine(
            opened,
            self.options,
            self.io_executor,
            self._slot,
            self.priority,
            self._on_log_failure,
            self._budget,
        )
        self._engines[scene_id] = engine
        backlog = engine.log.end_position - engine.published.applied_position
        _LOGGER.info(
            "scene %s: revision %d, %d log records to apply", scene_id, engine.published.revision, backlog
        )
        return engine

    async def _in_io(self, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.io_executor, function, *arguments)


def _unknown_scene(scene_id: str) -> NotFoundError:
    return NotFoundError(
        f"a scene named {scene_id}",
        "none",
        "Create it, or list the scenes with streamdgp-client scenes list.",
    )
