"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import grpc

from streamdgp.errors import InvalidConfigError, ServerUnavailableError
from streamdgp.v1 import (
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    scene_service_pb2,
    scene_service_pb2_grpc,
    surface_service_pb2,
    surface_service_pb2_grpc,
)
from streamdgp.wire import (
    Tile,
    check_name,
    check_tag_name,
    config_to_proto,
    error_from_rpc,
    parse_tag_name,
    scene_resource_name,
    tag_resource_name,
    tile_from_proto,
)
from streamdgp_client._backlog import DEFAULT_BUFFER_BYTES
from streamdgp_client._connection import DEFAULT_KEEPALIVE_S, channel_options
from streamdgp_client._mesh import Mesh, box_from_roi, crop, weld
from streamdgp_client._retry import RetryPolicy
from streamdgp_client._spool import DEFAULT_SPOOL_BYTES, Spool
from streamdgp_client._stream import FrameStream
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

if TYPE_CHECKING:
    from streamdgp.v1.ingest_service_pb2_grpc import IngestServiceAsyncStub
    from streamdgp.v1.scene_service_pb2_grpc import SceneServiceAsyncStub
    from streamdgp.v1.surface_service_pb2_grpc import SurfaceServiceAsyncStub

__all__ = ["DEFAULT_SERVER", "AsyncClient"]

DEFAULT_SERVER: Final = "127.0.0.1:50051"
_T = TypeVar("_T")


class AsyncClient:
    """Talks to a streamdgp server from asyncio code; use with ``async with``.

    Every method raises a ``StreamdgpError``: NotFoundError for unknown scenes, ServerUnavailableError
    when the server does not answer in time, and so on; never a grpc error.

    Parameters
    ----------
    server
        HOST:PORT.
    timeout_s
        Longest time for a call, and for each next message of a mesh.
    retry
        How streams of frames come back after a lost connection. Other calls are not repeated.
    keepalive_s
        A connection with a call on it that is silent for so long is asked for a sign of life, and given up
        when there is none within twice that time. At least 10 s where the server is not told otherwise
        (``streamdgp-server serve --keepalive``).
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        timeout_s: float = 60.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  (immutable)
        keepalive_s: float = DEFAULT_KEEPALIVE_S,
    ) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._retry = retry
        self._channel = grpc.aio.insecure_channel(server, options=channel_options(keepalive_s))
        self._scenes = cast("SceneServiceAsyncStub", scene_service_pb2_grpc.SceneServiceStub(self._channel))
        self._ingest = cast(
            "IngestServiceAsyncStub", ingest_service_pb2_grpc.IngestServiceStub(self._channel)
        )
        self._surface = cast(
            "SurfaceServiceAsyncStub", surface_service_pb2_grpc.SurfaceServiceStub(self._channel)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def create_scene(self, scene: str, config: Mapping[str, Any] | None = None) -> SceneInfo:
        """Create an empty scene; ``config`` as ``streamdgp.SceneConfig.to_dict``, missing means automatic."""
        request = scene_service_pb2.CreateSceneRequest(
            scene_id=check_name(scene), config=config_to_proto(config or {})
        )
        response = await self._call(self._scenes.CreateScene(request, timeout=self._timeout_s))
        return SceneInfo.from_proto(response.scene, response.header.revision)

    async def get_scene(self, scene: str) -> SceneInfo:
        """Describe a scene."""
        request = scene_service_pb2.GetSceneRequest(name=scene_resource_name(scene))
        response = await self._call(self._scenes.GetScene(request, timeout=self._timeout_s))
        return SceneInfo.from_proto(response.scene, response.header.revision)

    async def list_scenes(self) -> list[SceneInfo]:
        """List all scenes, by name."""

        async def page(token: str) -> tuple[list[SceneInfo], str]:
            request = scene_service_pb2.ListScenesRequest(page_token=token)
            response = await self._call(self._scenes.ListScenes(request, timeout=self._timeout_s))
            return [SceneInfo.from_proto(scene) for scene in response.scenes], response.next_page_token

        return await _all_pages(page)

    async def delete_scene(self, scene: str) -> None:
        """Delete a scene with everything in it, for good."""
        request = scene_service_pb2.DeleteSceneRequest(name=scene_resource_name(scene))
        await self._call(self._scenes.DeleteScene(request, timeout=self._timeout_s))

    async def list_revisions(self, scene: str) -> list[RevisionInfo]:
        """List the revisions that can be read, newest first."""
        name = scene_resource_name(scene)

        async def page(token: str) -> tuple[list[RevisionInfo], str]:
            request = scene_service_pb2.ListRevisionsRequest(scene=name, page_size=1000, page_token=token)
            response = await self._call(self._scenes.ListRevisions(request, timeout=self._timeout_s))
            return [RevisionInfo.from_proto(one) for one in response.revisions], response.next_page_token

        return await _all_pages(page)

    async def create_tag(self, scene: str, tag: str, revision: int | None = None) -> RevisionInfo:
        """Name a revision (None: the newest); it is kept until the name is taken away.

        Raises AlreadyExistsError when the name stands for another revision.
        """
        request = scene_service_pb2.CreateTagRequest(
            scene=scene_resource_name(scene), tag_id=check_tag_name(tag), revision=revision or 0
        )
        response = await self._call(self._scenes.CreateTag(request, timeout=self._timeout_s))
        return RevisionInfo.from_proto(response.tag.revision)

    async def list_tags(self, scene: str) -> dict[str, RevisionInfo]:
        """Return the revision of every tag, by name."""
        name = scene_resource_name(scene)

        async def page(token: str) -> tuple[list[scene_service_pb2.Tag], str]:
            request = scene_service_pb2.ListTagsRequest(scene=name, page_size=1000, page_token=token)
            response = await self._call(self._scenes.ListTags(request, timeout=self._timeout_s))
            return list(response.tags), response.next_page_token

        tags = await _all_pages(page)
        return {parse_tag_name(tag.name)[1]: RevisionInfo.from_proto(tag.revision) for tag in tags}

    async def delete_tag(self, scene: str, tag: str) -> int:
        """Take a name away; returns the revision that had it, which is kept no longer than others then."""
        request = scene_service_pb2.DeleteTagRequest(name=tag_resource_name(scene, tag))
        response = await self._call(self._scenes.DeleteTag(request, timeout=self._timeout_s))
        return response.header.revision

    async def get_scene_statistics(self, scene: str, revision: int | str | None = None) -> SceneStatistics:
        """Counts and sizes of a revision (a number, a tag, or None: the newest)."""
        number, tag = _number_and_tag(revision)
        request = scene_service_pb2.GetSceneStatisticsRequest(
            scene=scene_resource_name(scene), revision=number, revision_tag=tag
        )
        response = await self._call(self._scenes.GetSceneStatistics(request, timeout=self._timeout_s))
        return SceneStatistics.from_proto(response.statistics, response.header.revision)

    async def get_ingest_status(self, scene: str, producer_id: str) -> IngestStatus:
        """Where a producer's stream stands, and which frame each number was."""
        name = scene_resource_name(scene)
        newest = IngestStatus()

        async def page(token: str) -> tuple[list[FrameRecord], str]:
            nonlocal newest
            request = ingest_service_pb2.GetIngestStatusRequest(
                scene=name, producer_id=check_name(producer_id, "a producer id"), page_token=token
            )
            response = await self._call(self._ingest.GetIngestStatus(request, timeout=self._timeout_s))
            newest = IngestStatus(
                response.progress.durable_sequence_number,
                response.progress.applied_sequence_number,
                response.header.revision,
                response.epoch,
            )
            return [FrameRecord.from_proto(one) for one in response.records], response.next_page_token

        records = await _all_pages(page)
        return IngestStatus(
            newest.durable, newest.applied, newest.revision, newest.epoch, records=tuple(records)
        )

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
    ) -> FrameStream:
        """Return a stream of frames into a scene; enter it with ``async with``.

        Parameters
        ----------
        scene
            Scene name.
        producer_id
            Who sends; frames are numbered per producer, over all its streams.
        create
            Create the scene when there is none, with ``config``.
        config
            Settings of a scene that is created.
        epoch
            Run of the producer; 0: the server gives the next one. See ``IngestOpen``.
        buffer_bytes
            Frames in memory that the server has not made durable yet, >= 0; one frame may always be there.
            ``send`` waits while they are more, and while the server gives no credit.
        spool
            A folder on the robot's disk for these frames instead. ``send`` then writes a frame there and does
            not need the server: the robot goes on while the server cannot be reached, and what it left there
            when it ended or was killed is sent by the next stream with this folder. The folder is removed
            when all that is in it is durable.
        spool_bytes
            Most that the spool may take, >= 1; ``send`` waits while it is full.
        retry
            Instead of the client's policy. Default with a spool: never give up.
        on_progress, on_rejected, on_connection
            Called as the server reports, and when the connection is opened or lost; must return at once.
        """
        if buffer_bytes < 0 or spool_bytes < 1:
            raise InvalidConfigError(
                "buffer_bytes >= 0 and spool_bytes >= 1", f"{buffer_bytes} and {spool_bytes}", "Change them."
            )
        message = ingest_service_pb2.IngestOpen(
            scene=scene_resource_name(scene),
            producer_id=check_name(producer_id, "a producer id"),
            epoch=epoch,
            create_if_missing=create,
        )
        if config is not None:
            message.config.CopyFrom(config_to_proto(config))
        if retry is None:
            retry = self._retry if spool is None else replace(self._retry, max_attempts=None)
        return FrameStream(
            self._ingest,
            message,
            server=self._server,
            retry=retry,
            buffer_bytes=buffer_bytes,
            open_spool=None if spool is None else partial(Spool, spool, scene, producer_id, spool_bytes),
            on_progress=on_progress,
            on_rejected=on_rejected,
            on_connection=on_connection,
        )

    async def query_mesh(
        self,
        scene: str,
        *,
        roi_m: Sequence[float] | None = None,
        resolution_m: float | None = None,
        revision: int | str | None = None,
        on_tile: Callable[[int, int], None] | None = None,
    ) -> Mesh:
        """Return the mesh of one revision.

        Parameters
        ----------
        scene
            Scene name.
        roi_m
            Only triangles with a corner in this box ``x0, y0, z0, x1, y1, z1``, metres, world frame.
        resolution_m
            Spacing of the extraction lattice. None: the scene's own.
        revision
            A number or a tag. None: the newest.
        on_tile
            Called with tiles received and tiles expected (0: not known).
        """
        number, tag = _number_and_tag(revision)
        request = surface_service_pb2.GetMeshRequest(
            scene=scene_resource_name(scene), revision=number, revision_tag=tag, resolution_m=resolution_m
        )
        if roi_m is not None:
            request.region.CopyFrom(box_from_roi(roi_m))
        tiles: list[Tile] = []
        start, shown, complete = surface_service_pb2.MeshStart(), 0, False
        async with aclosing(self._mesh_responses(request)) as responses:
            async for response in responses:
                shown = response.header.revision
                match response.WhichOneof("response"):
                    case "start":
                        start = response.start
                    case "tile":
                        tiles.append(tile_from_proto(response.tile))
                        if on_tile is not None:
                            on_tile(len(tiles), start.estimated_tile_count)
                    case "end":
                        complete = response.end.tile_count == len(tiles)
                    case _:
                        pass
        if not complete:
            raise ServerUnavailableError("a whole mesh", f"{len(tiles)} tiles and no end", "Ask again.")
        mesh = weld(tiles, shown, start.resolution_m)
        return mesh if roi_m is None else crop(mesh, roi_m)

    async def _mesh_responses(
        self, request: surface_service_pb2.GetMeshRequest
    ) -> AsyncGenerator[surface_service_pb2.GetMeshResponse, None]:
        call = self._surface.GetMesh(request)
        try:
            while True:
                response = await asyncio.wait_for(call.read(), self._timeout_s)
                if not isinstance(response, surface_service_pb2.GetMeshResponse):
                    return
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, self._server) from error
        except TimeoutError as error:
            raise ServerUnavailableError(
                f"the next part of the mesh from {self._server} within {self._timeout_s:g} s",
                "nothing",
                "Ask for a coarser resolution or a smaller region, or try again later.",
            ) from error
        finally:
            call.cancel()

    async def _call(self, call: Awaitable[_T]) -> _T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, self._server) from error


def _number_and_tag(revision: int | str | None) -> tuple[int, str]:
    """Return what a request takes: a number, 0 for the newest, or a tag."""
    return (0, check_tag_name(revision)) if isinstance(revision, str) else (revision or 0, "")


async def _all_pages(page: Callable[[str], Awaitable[tuple[list[_T], str]]]) -> list[_T]:
    """Collect the items of all pages."""
    items, token = await page("")
    while token:
        more, token = await page(token)
        items += more
    return items
