"""SurfaceService: the mesh of a pinned revision, tile by tile, while fitting goes on."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from streamdgp.errors import InvalidInputError, ResourceLimitError
from streamdgp.surface import SurfaceSnapshot, TileMesh
from streamdgp.v1 import common_pb2, surface_service_pb2, surface_service_pb2_grpc
from streamdgp.wire import decode_array, parse_scene_name
from streamdgp_server.fit_worker import PublishedRevision
from streamdgp_server.handling import streams_errors
from streamdgp_server.registry import SceneRegistry
from streamdgp_server.scene_engine import SceneEngine

__all__ = ["MeshQuery", "SurfaceServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]
_TileIndex = tuple[int, int, int]
_BATCH_S = 0.05
_BATCH_TILES = 64
_NO_CHANGES: tuple[surface_service_pb2.WatchSurfaceResponse, ...] = ()
_NOT_YET = "Not offered by this version of the server; poll GetMesh with known_tiles."


@dataclass(frozen=True)
class MeshQuery:
    """A request for a mesh, checked. ``region_m`` is x0, y0, z0, x1, y1, z1."""

    region_m: tuple[float, ...] | None
    resolution_m: float | None
    known: dict[_TileIndex, int]

    @classmethod
    def parse(cls, request: surface_service_pb2.GetMeshRequest) -> MeshQuery:
        """Raise :class:`InvalidInputError` for a region or resolution that makes no sense."""
        resolution_m = request.resolution_m if request.HasField("resolution_m") else None
        if resolution_m is not None and not (math.isfinite(resolution_m) and resolution_m > 0):
            raise InvalidInputError(
                "a finite resolution_m above 0",
                str(resolution_m),
                "Leave it out for the scene's own resolution.",
                metadata={"field": "resolution_m"},
            )
        region = _region(request.region) if request.HasField("region") else None
        return cls(region, resolution_m, _known(request.known_tiles))

    def covers(self, index: _TileIndex, tile_edge_m: float) -> bool:
        """Whether a tile touches the region."""
        if self.region_m is None:
            return True
        low, high = self.region_m[:3], self.region_m[3:]
        return all(
            low[axis] <= (index[axis] + 1) * tile_edge_m and index[axis] * tile_edge_m <= high[axis]
            for axis in range(3)
        )


class SurfaceServicer(surface_service_pb2_grpc.SurfaceServiceServicer):
    """Answers questions about the surface. See the comments of ``surface_service.proto``."""

    def __init__(self, registry: SceneRegistry) -> None:
        self._registry = registry
        self._executor = registry.mesh_executor

    @streams_errors
    async def GetMesh(
        self, request: surface_service_pb2.GetMeshRequest, context: _Context
    ) -> AsyncIterator[surface_service_pb2.GetMeshResponse]:
        """Stream the tiles of one revision."""
        query = MeshQuery.parse(request)
        loop = asyncio.get_running_loop()
        engine = await self._registry.get(parse_scene_name(request.scene))
        revision = engine.named_revision(request.revision, request.revision_tag)
        seen = await loop.run_in_executor(self._executor, engine.revision_at, revision)
        header = common_pb2.ResponseHeader(revision=seen.revision)
        resolution_m = query.resolution_m or seen.surface.resolution_m or 0.0
        if seen.surface.chart_count:
            await loop.run_in_executor(self._executor, self._check_cost, seen.surface, resolution_m, query)
        yield surface_service_pb2.GetMeshResponse(
            header=header, start=surface_service_pb2.MeshStart(resolution_m=resolution_m)
        )
        cancelled = threading.Event()
        messages = _messages(engine, seen, query, resolution_m, cancelled)
        tile_count = 0
        try:
            while True:
                # Only while tiles are made: a client that reads slowly must not hold up fitting.
                with self._registry.priority.query():
                    batch = await loop.run_in_executor(self._executor, _next_batch, messages)
                    await loop.run_in_executor(self._executor, engine.relieve_memory)
                if not batch:
                    break
                for message in batch:
                    tile_count += message.HasField("tile")
                    yield message
        finally:
            cancelled.set()
        yield surface_service_pb2.GetMeshResponse(
            header=header, end=surface_service_pb2.MeshEnd(tile_count=tile_count)
        )

    async def WatchSurface(
        self, request: surface_service_pb2.WatchSurfaceRequest, context: _Context
    ) -> AsyncIterator[surface_service_pb2.WatchSurfaceResponse]:
        """Refuse: laid out in the contract, not offered yet."""
        for response in _NO_CHANGES:
            yield response
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NOT_YET)

    async def Query(
        self, request: surface_service_pb2.QueryRequest, context: _Context
    ) -> surface_service_pb2.QueryResponse:
        """Refuse: laid out in the contract, not offered yet."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NOT_YET)

    def _check_cost(self, surface: SurfaceSnapshot, resolution_m: float, query: MeshQuery) -> None:
        limit = self._registry.options.max_cells
        try:
            cost: float = surface.estimate_cells(resolution_m, query.region_m)
        except (OverflowError, ZeroDivisionError):
            cost = math.inf
        if cost > limit:
            raise ResourceLimitError(
                f"a mesh of at most {limit:,} lattice cells",
                f"about {cost:,} at a resolution of {resolution_m:g} m",
                "Ask for a coarser resolution or a smaller region.",
                metadata={"cost": str(cost), "limit": str(limit), "subject": "lattice cells"},
            )


def _next_batch(
    messages: Iterator[surface_service_pb2.GetMeshResponse],
) -> list[surface_service_pb2.GetMeshResponse]:
    """Some messages; none at the end. Blocks; runs in a thread.

    Every change of threads may wait for the fit thread to let the interpreter go, so there should be
    few; but the first tiles should not wait for the last.
    """
    batch = []
    deadline_s = time.monotonic() + _BATCH_S
    for message in messages:
        batch.append(message)
        if len(batch) >= _BATCH_TILES or time.monotonic() > deadline_s:
            break
    return batch


def _messages(
    engine: SceneEngine,
    seen: PublishedRevision,
    query: MeshQuery,
    resolution_m: float,
    cancelled: threading.Event,
) -> Iterator[surface_service_pb2.GetMeshResponse]:
    """The messages between start and end. Blocks; runs in a thread."""
    header = common_pb2.ResponseHeader(revision=seen.revision)
    known = dict(query.known)
    tiles: Iterator[TileMesh] = iter(())
    if seen.surface.chart_count:
        tiles = seen.surface.tiles(
            resolution_m=resolution_m,
            roi_m=query.region_m,
            cache=engine.tile_cache,
            cancelled=cancelled.is_set,
        )
    for tile in tiles:
        i, j, k = (int(axis) for axis in tile.index)
        if known.pop((i, j, k), None) == tile.signature:
            unchanged = surface_service_pb2.TileId(i=i, j=j, k=k, signature=tile.signature)
            yield surface_service_pb2.GetMeshResponse(header=header, unchanged=unchanged)
        else:
            yield surface_service_pb2.GetMeshResponse(header=header, tile=engine.encoded_tiles.message(tile))
    tile_edge_m = resolution_m * int(seen.config.get("surface", {}).get("tile_cells", 0))
    for (i, j, k), signature in known.items():
        if query.covers((i, j, k), tile_edge_m):
            removed = surface_service_pb2.TileId(i=i, j=j, k=k, signature=signature)
            yield surface_service_pb2.GetMeshResponse(header=header, removed=removed)


def _region(box: common_pb2.Box) -> tuple[float, ...]:
    low = (box.min_m.x, box.min_m.y, box.min_m.z)
    high = (box.max_m.x, box.max_m.y, box.max_m.z)
    if not all(math.isfinite(value) for value in low + high):
        raise InvalidInputError(
            "a region of finite corners", f"{low}..{high}", "Send metres.", metadata={"field": "region"}
        )
    if any(a > b for a, b in zip(low, high, strict=True)):
        raise InvalidInputError(
            "a region with min <= max in every axis",
            f"min {low}, max {high}",
            "Swap the corners.",
            metadata={"field": "region"},
        )
    return low + high


def _known(tiles: surface_service_pb2.KnownTiles) -> dict[_TileIndex, int]:
    if not tiles.HasField("indices"):
        return {}
    indices = decode_array(
        tiles.indices,
        "known tile indices",
        dtypes=("int32",),
        ndims=(2,),
        last_axis=3,
        error=InvalidInputError,
    )
    signatures = decode_array(
        tiles.signatures, "known tile signatures", dtypes=("uint64",), ndims=(1,), error=InvalidInputError
    )
    if len(indices) != len(signatures):
        raise InvalidInputError(
            "one signature for each known tile",
            f"{len(indices)} tiles and {len(signatures)} signatures",
            "Send both arrays with the same length.",
        )
    keys = [(int(i), int(j), int(k)) for i, j, k in np.asarray(indices)]
    return dict(zip(keys, np.asarray(signatures).tolist(), strict=True))
