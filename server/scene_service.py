"""SceneService: create, describe, list and delete scenes; revisions, tags and statistics."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from streamdgp.config import SceneConfig
from streamdgp.errors import NotFoundError, StorageError
from streamdgp.store import RevisionInfo
from streamdgp.surface import SurfaceSnapshot
from streamdgp.v1 import common_pb2, scene_service_pb2, scene_service_pb2_grpc
from streamdgp.wire import (
    check_name,
    check_tag_name,
    config_from_proto,
    config_to_proto,
    dict_to_struct,
    parse_scene_name,
    parse_tag_name,
    scene_resource_name,
    tag_resource_name,
)
from streamdgp_server.handling import page_bounds, reports_errors
from streamdgp_server.registry import SceneRegistry
from streamdgp_server.scene_engine import SceneEngine

__all__ = ["SceneServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class SceneServicer(scene_service_pb2_grpc.SceneServiceServicer):
    """Keeps scenes. See the comments of ``scene_service.proto``."""

    def __init__(self, registry: SceneRegistry) -> None:
        self._registry = registry

    @reports_errors
    async def CreateScene(
        self, request: scene_service_pb2.CreateSceneRequest, context: _Context
    ) -> scene_service_pb2.CreateSceneResponse:
        """Create an empty scene."""
        config = SceneConfig.from_dict(config_from_proto(request.config))
        engine = await self._registry.create(check_name(request.scene_id), config)
        return scene_service_pb2.CreateSceneResponse(header=_header(0), scene=_describe(engine))

    @reports_errors
    async def GetScene(
        self, request: scene_service_pb2.GetSceneRequest, context: _Context
    ) -> scene_service_pb2.GetSceneResponse:
        """Describe a scene as of its newest revision."""
        engine = await self._registry.get(parse_scene_name(request.name))
        return scene_service_pb2.GetSceneResponse(
            header=_header(engine.published.revision), scene=_describe(engine)
        )

    @reports_errors
    async def ListScenes(
        self, request: scene_service_pb2.ListScenesRequest, context: _Context
    ) -> scene_service_pb2.ListScenesResponse:
        """List scenes by name; one whose files are damaged is listed by its name alone."""
        scene_ids = self._registry.scene_ids()
        start, stop, token = page_bounds(
            request.page_size, request.page_token, len(scene_ids), default=100, maximum=1000
        )
        scenes = []
        for scene_id in scene_ids[start:stop]:
            try:
                scenes.append(_describe(await self._registry.get(scene_id)))
            except StorageError:
                scenes.append(scene_service_pb2.Scene(name=scene_resource_name(scene_id)))
            except NotFoundError:  # deleted meanwhile
                continue
        return scene_service_pb2.ListScenesResponse(header=_header(0), scenes=scenes, next_page_token=token)

    @reports_errors
    async def DeleteScene(
        self, request: scene_service_pb2.DeleteSceneRequest, context: _Context
    ) -> scene_service_pb2.DeleteSceneResponse:
        """Delete a scene for good."""
        revision = await self._registry.delete(parse_scene_name(request.name))
        return scene_service_pb2.DeleteSceneResponse(header=_header(revision))

    @reports_errors
    async def ListRevisions(
        self, request: scene_service_pb2.ListRevisionsRequest, context: _Context
    ) -> scene_service_pb2.ListRevisionsResponse:
        """List revisions, newest first."""
        engine = await self._registry.get(parse_scene_name(request.scene))
        revisions = engine.revisions()[::-1]
        start, stop, token = page_bounds(
            request.page_size, request.page_token, len(revisions), default=100, maximum=1000
        )
        return scene_service_pb2.ListRevisionsResponse(
            header=_header(engine.published.revision),
            revisions=[_revision(info) for info in revisions[start:stop]],
            next_page_token=token,
        )

    @reports_errors
    async def CreateTag(
        self, request: scene_service_pb2.CreateTagRequest, context: _Context
    ) -> scene_service_pb2.CreateTagResponse:
        """Name a revision, durably."""
        engine = await self._registry.get(parse_scene_name(request.scene))
        tag = check_tag_name(request.tag_id)
        # The store may be a commit ahead of what has been shown.
        newest = engine.published.revision
        number = request.revision or newest
        if not 1 <= number <= newest:
            raise NotFoundError(
                f"a revision from 1 to {newest}" if newest else "a committed revision",
                str(number) if newest else "none yet",
                "List the revisions, or leave it out." if newest else "Send frames first.",
            )
        info = await self._in_io(engine.store.tag, tag, number)
        return scene_service_pb2.CreateTagResponse(header=_header(info.revision), tag=_tag(engine, tag, info))

    @reports_errors
    async def ListTags(
        self, request: scene_service_pb2.ListTagsRequest, context: _Context
    ) -> scene_service_pb2.ListTagsResponse:
        """List tags by name."""
        engine = await self._registry.get(parse_scene_name(request.scene))
        tags = sorted((tag, info) for info in engine.revisions() for tag in info.tags)
        start, stop, token = page_bounds(
            request.page_size, request.page_token, len(tags), default=100, maximum=1000
        )
        return scene_service_pb2.ListTagsResponse(
            header=_header(engine.published.revision),
            tags=[_tag(engine, tag, info) for tag, info in tags[start:stop]],
            next_page_token=token,
        )

    @reports_errors
    async def DeleteTag(
        self, request: scene_service_pb2.DeleteTagRequest, context: _Context
    ) -> scene_service_pb2.DeleteTagResponse:
        """Take a name away."""
        scene_id, tag = parse_tag_name(request.name)
        engine = await self._registry.get(scene_id)
        return scene_service_pb2.DeleteTagResponse(header=_header(await self._in_io(engine.store.untag, tag)))

    @reports_errors
    async def GetSceneStatistics(
        self, request: scene_service_pb2.GetSceneStatisticsRequest, context: _Context
    ) -> scene_service_pb2.GetSceneStatisticsResponse:
        """Count and measure one revision."""
        engine = await self._registry.get(parse_scene_name(request.scene))
        loop = asyncio.get_running_loop()
        revision = engine.named_revision(request.revision, request.revision_tag)
        seen = await loop.run_in_executor(self._registry.mesh_executor, engine.revision_at, revision)
        log_bytes = await self._in_io(_directory_bytes, engine.log.directory)
        atlas_bytes = await self._in_io(_directory_bytes, engine.store.path)
        return scene_service_pb2.GetSceneStatisticsResponse(
            header=_header(seen.revision),
            statistics=scene_service_pb2.SceneStatistics(
                frame_count=seen.frame_count,
                rejected_frame_count=engine.rejected_count(),
                chart_count=seen.surface.chart_count,
                surfel_count=seen.surfel_count,
                bounds=_box(seen.surface),
                resolution_m=seen.surface.resolution_m or 0.0,
                atlas_bytes=atlas_bytes,
                log_bytes=log_bytes,
            ),
        )

    async def _in_io(self, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        return await asyncio.get_running_loop().run_in_executor(
            self._registry.io_executor, function, *arguments
        )


def _header(revision: int) -> common_pb2.ResponseHeader:
    return common_pb2.ResponseHeader(revision=revision)


def _timestamp(moment: datetime.datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _revision(info: RevisionInfo) -> scene_service_pb2.Revision:
    return scene_service_pb2.Revision(
        number=info.revision,
        commit_time=_timestamp(info.created),
        frame_count=info.frames,
        chart_count=info.charts,
        tags=info.tags,
        message=info.message,
    )


def _tag(engine: SceneEngine, tag: str, info: RevisionInfo) -> scene_service_pb2.Tag:
    return scene_service_pb2.Tag(name=tag_resource_name(engine.scene_id, tag), revision=_revision(info))


def _describe(engine: SceneEngine) -> scene_service_pb2.Scene:
    published = engine.published
    return scene_service_pb2.Scene(
        name=scene_resource_name(engine.scene_id),
        create_time=_timestamp(engine.file.created),
        config=config_to_proto(engine.file.config.to_dict()),
        resolved_config=dict_to_struct(published.config),
        frame_count=published.frame_count,
        chart_count=published.surface.chart_count,
        bounds=_box(published.surface),
    )


def _box(surface: SurfaceSnapshot) -> common_pb2.Box | None:
    bounds = surface.bounds_m
    if bounds is None:
        return None
    x0, y0, z0, x1, y1, z1 = (float(value) for value in bounds)
    return common_pb2.Box(
        min_m=common_pb2.Vector3(x=x0, y=y0, z=z0), max_m=common_pb2.Vector3(x=x1, y=y1, z=z1)
    )


def _directory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
