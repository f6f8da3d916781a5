"""The blocking client: the asynchronous one on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from streamdgp.frames import Frame
from streamdgp_client._async_client import DEFAULT_SERVER, AsyncClient
from streamdgp_client._backlog import DEFAULT_BUFFER_BYTES
from streamdgp_client._connection import DEFAULT_KEEPALIVE_S
from streamdgp_client._mesh import Mesh
from streamdgp_client._retry import RetryPolicy
from streamdgp_client._spool import DEFAULT_SPOOL_BYTES
from streamdgp_client._stream import FrameStream, WaitFor
from streamdgp_client._types import (
    ConnectionChange,
    FrameRecord,
    IngestStatus,
    Progress,
    Rejection,
    RevisionInfo,
    SceneInfo,
    SceneStatistics,
)

__all__ = ["Client", "StreamHandle"]

_T = TypeVar("_T")


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="streamdgp client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run to the end; an exception in the waiting thread (Ctrl-C) cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Client:
    """Talks to a streamdgp server; use with ``with``.

    The methods are those of ``AsyncClient``, where they are described; each blocks until done.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        timeout_s: float = 60.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  (immutable)
        keepalive_s: float = DEFAULT_KEEPALIVE_S,
    ) -> None:
        self._loop = _Loop()
        self._closed = False

        async def make() -> AsyncClient:  # grpc.aio binds a channel to the running loop
            return AsyncClient(server, timeout_s=timeout_s, retry=retry, keepalive_s=keepalive_s)

        self._client = self._loop.run(make())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; nothing happens when it is closed already."""
        if not self._closed:
            self._closed = True
            self._loop.run(self._client.close())
            self._loop.stop()

    def create_scene(self, scene: str, config: Mapping[str, Any] | None = None) -> SceneInfo:
        """See ``AsyncClient.create_scene``."""
        return self._loop.run(self._client.create_scene(scene, config))

    def get_scene(self, scene: str) -> SceneInfo:
        """See ``AsyncClient.get_scene``."""
        return self._loop.run(self._client.get_scene(scene))

    def list_scenes(self) -> list[SceneInfo]:
        """See ``AsyncClient.list_scenes``."""
        return self._loop.run(self._client.list_scenes())

    def delete_scene(self, scene: str) -> None:
        """See ``AsyncClient.delete_scene``."""
        self._loop.run(self._client.delete_scene(scene))

    def list_revisions(self, scene: str) -> list[RevisionInfo]:
        """See ``AsyncClient.list_revisions``."""
        return self._loop.run(self._client.list_revisions(scene))

    def create_tag(self, scene: str, tag: str, revision: int | None = None) -> RevisionInfo:
        """See ``AsyncClient.create_tag``."""
        return self._loop.run(self._client.create_tag(scene, tag, revision))

    def list_tags(self, scene: str) -> dict[str, RevisionInfo]:
        """See ``AsyncClient.list_tags``."""
        return self._loop.run(self._client.list_tags(scene))

    def delete_tag(self, scene: str, tag: str) -> int:
        """See ``AsyncClient.delete_tag``."""
        return self._loop.run(self._client.delete_tag(scene, tag))

    def get_scene_statistics(self, scene: str, revision: int | str | None = None) -> SceneStatistics:
        """See ``AsyncClient.get_scene_statistics``."""
        return self._loop.run(self._client.get_scene_statistics(scene, revision))

    def get_ingest_status(self, scene: str, producer_id: str) -> IngestStatus:
        """See ``AsyncClient.get_ingest_status``."""
        return self._loop.run(self._client.get_ingest_status(scene, producer_id))

    def stream(
        self,
        scene: str,
        producer_id: str,
        *,
        create: bool = True,
        config: Mapping[str, Any] | None = None,
        epoch: int = 0,
        buffer_bytes: int = DEFAULT_BUFFER_BYTES,
        spool: Path | None = None,
        spool_bytes: int = DEFAULT_SPOOL_BYTES,
        retry: RetryPolicy | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_rejected: Callable[[Rejection], None] | None = None,
        on_connection: Callable[[ConnectionChange], None] | None = None,
    ) -> StreamHandle:
        """See ``AsyncClient.stream``; the callbacks run in the client's thread."""

        async def make() -> FrameStream:
            return self._client.stream(
                scene,
                producer_id,
                create=create,
                config=config,
                epoch=epoch,
                buffer_bytes=buffer_bytes,
                spool=spool,
                spool_bytes=spool_bytes,
                retry=retry,
                on_progress=on_progress,
                on_rejected=on_rejected,
                on_connection=on_connection,
            )

        return StreamHandle(self._loop.run(make()), self._loop)

    def query_mesh(
        self,
        scene: str,
        *,
        roi_m: Sequence[float] | None = None,
        resolution_m: float | None = None,
        revision: int | str | None = None,
        on_tile: Callable[[int, int], None] | None = None,
    ) -> Mesh:
        """See ``AsyncClient.query_mesh``."""
        return self._loop.run(
            self._client.query_mesh(
                scene, roi_m=roi_m, resolution_m=resolution_m, revision=revision, on_tile=on_tile
            )
        )


class StreamHandle:
    """A stream of frames; use with ``with``. The methods are those of ``FrameStream``."""

    def __init__(self, stream: FrameStream, loop: _Loop) -> None:
        self._stream = stream
        self._loop = loop

    @property
    def progress(self) -> Progress:
        """How far the stream has come."""
        return self._stream.progress

    @property
    def next_sequence_number(self) -> int:
        """Number that the next frame gets."""
        return self._stream.next_sequence_number

    @property
    def is_numbered(self) -> bool:
        """Whether the numbers are the server's; at first they may not be, with a spool."""
        return self._stream.is_numbered

    @property
    def waiting_count(self) -> int:
        """How many frames are kept because they are not known to be durable."""
        return self._stream.waiting_count

    @property
    def epoch(self) -> int:
        """The epoch in force, as the server said."""
        return self._stream.epoch

    def __enter__(self) -> Self:
        self._loop.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.run(self._stream.__aexit__(kind, error, traceback))

    def send(
        self, frame: Frame, *, source_id: str = "", source_crc32c: int = 0, wait_for_room: bool = True
    ) -> int:
        """See ``FrameStream.send``."""
        return self._loop.run(
            self._stream.send(
                frame, source_id=source_id, source_crc32c=source_crc32c, wait_for_room=wait_for_room
            )
        )

    def skip(self, *, source_id: str = "", source_crc32c: int = 0) -> int:
        """See ``FrameStream.skip``."""
        return self._loop.run(self._stream.skip(source_id=source_id, source_crc32c=source_crc32c))

    def last_waiting(self) -> FrameRecord | None:
        """See ``FrameStream.last_waiting``."""
        return self._loop.run(self._stream.last_waiting())

    def wait(self, until: WaitFor = "applied") -> Progress:
        """See ``FrameStream.wait``."""
        return self._loop.run(self._stream.wait(until))

    def close(self, wait_for: WaitFor = "applied") -> Progress:
        """See ``FrameStream.close``."""
        return self._loop.run(self._stream.close(wait_for))

    def cancel(self) -> None:
        """See ``FrameStream.cancel``."""
        self._loop.run(self._stream.cancel())
