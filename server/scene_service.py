"""SceneService: create, describe, list and delete scenes; revisions and statistics."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from streamdgp.config import SceneConfig
from streamdgp.errors import NotFoundError, StorageError
from streamdgp.surface import SurfaceSnapshot
from streamdgp.v1 import common_pb2, scene_service_pb2, scene_service_pb2_grpc
from streamdgp.wire import (
    check_name,
    config_from_proto,
    config_to_proto,
    dict_to_struct,
    parse_scene_name,
    scene_resource_name,
)
from streamdgp_server.handling import page_bounds, reports_errors
from streamdgp_server.registry import SceneRegistry
from streamdgp_server.scene_engine import SceneEngine

__all__ = ["SceneServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]


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
            revisions=[
                scene_service_pb2.Revision(
                    number=info.revision,
                    commit_time=_timestamp(info.created),
                    frame_count=info.frames,
                    chart_count=info.charts,
                )
                for info in revisions[start:stop]
            ],
            next_page_token=token,
        )

    @reports_errors
    async def GetSceneStatistics(
        self, request: scene_service_pb2.GetSceneStatisticsRequest, context: _Context
    ) -> scene_service_pb2.GetSceneStatisticsResponse:
        """Count and measure one revision."""
        engine = await self._registry.get(parse_scene_name(request.scene))
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(self._registry.mesh_executor, engine.revision_at, request.revision)
        directory = engine.log.directory
        log_bytes = await loop.run_in_executor(self._registry.io_executor, _directory_bytes, directory)
        atlas_bytes = await loop.run_in_executor(
            self._registry.io_executor, _directory_bytes, engine.store.path
        )
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


def _header(revision: int) -> common_pb2.ResponseHeader:
    return common_pb2.ResponseHeader(revision=revision)


def _timestamp(moment: datetime.datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


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
