"""Running the engine on a scan, frame by frame, with its defaults."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from streamdgp.config import SceneConfig
from streamdgp.frames import DepthFrame, Frame, FrameReport
from streamdgp.parts import one_ahead
from streamdgp.reconstructor import Reconstructor
from streamdgp.store._tables import stage_table, write_array, write_columns
from streamdgp.surface import Mesh, weld_tiles

__all__ = [
    "STORED_PARTS",
    "Reconstruction",
    "depth_frames",
    "map_bytes",
    "map_split",
    "reconstruct",
    "warm_up",
]

STORED_PARTS = ("charts", "support", "evidence", "shared")
# Columns of a chart that say which part of its domain is backed, and by how much.
_SUPPORT_COLUMNS = ("support", "hits", "passes", "fit_mass", "fresh_mass")


@dataclass(frozen=True)
class Reconstruction:
    """A streamed scan: the engine after it, the mesh, a report per frame and what it took."""

    engine: Reconstructor
    mesh: Mesh
    reports: list[FrameReport]
    seconds: float
    """All frames together, without the mesh."""
    mesh_s: float

    @property
    def ms_per_frame(self) -> float:
        """Mean time of a frame."""
        return 1e3 * self.seconds / max(1, len(self.reports))


def reconstruct(frames: Iterable[Frame], config: SceneConfig | None = None) -> Reconstruction:
    """Stream frames through the engine and extract the surface at the resolution it chose."""
    engine = Reconstructor(config)
    frames = list(frames)
    started = time.perf_counter()
    reports = [engine.integrate(points.result()) for points in one_ahead(engine.prepare, frames)]
    applied = time.perf_counter()
    mesh = weld_tiles(engine.surface().tiles())
    return Reconstruction(engine, mesh, reports, applied - started, time.perf_counter() - applied)


def warm_up(frames: Iterable[Frame]) -> None:
    """Compile the kernels, so that no measurement contains it; two frames are enough."""
    reconstruct(frames)


def map_bytes(engine: Reconstructor) -> int:
    """Bytes of the whole map as a commit stores it: charts, support, surfels, shared weights."""
    return sum(map_split(engine)[part] for part in STORED_PARTS)


def map_split(engine: Reconstructor) -> dict[str, int]:
    """Bytes of the map by what they are for.

    ``charts`` (frames, weights, statistics), ``support``, ``evidence`` and ``shared`` (random features)
    are what is stored, as the pages of a first commit, ``map_bytes`` in sum; ``state`` is the same as it
    lies in memory. ``indexes`` (hash tables, grids) and ``rasters`` (charts as they are looked up) are
    made from it in memory, spare room of growing arrays included.
    """
    changes = engine.changes()
    split = dict.fromkeys((*STORED_PARTS, "state", "indexes", "rasters"), 0)
    for table, change in changes.tables.items():
        pages = _stored_bytes(lambda root, t=table, c=change: write_columns(root, stage_table(t, c, {}), {}))
        for name, column in change.columns.items():
            split["state"] += column.nbytes
            part = "support" if name in _SUPPORT_COLUMNS else "charts"
            split[part if table == "charts" else "evidence"] += pages[name]
    for name, array in changes.arrays.items():
        split["state"] += array.nbytes
        split["shared"] += _stored_bytes(lambda root, n=name, a=array: write_array(root, n, a, {}))[name]
    inner = engine._map
    if inner is not None:
        split["indexes"] = sum(
            array.nbytes
            for holder in (vars(inner.evidence), dict(enumerate(inner.atlas.grid)))
            for array in holder.values()
            if isinstance(array, np.ndarray)
        )
        split["rasters"] = sum(array.nbytes for array in (*inner.atlas.rasters, *inner.atlas.supports))
    return split


def _stored_bytes(write: Callable[[zarr.AsyncGroup], Coroutine[Any, Any, object]]) -> dict[str, int]:
    """Bytes of every array that ``write`` puts into a group, compressed and with their metadata."""
    stored: dict[str, Any] = {}

    async def written() -> None:
        await write(await zarr.api.asynchronous.create_group(store=zarr.storage.MemoryStore(stored)))

    asyncio.run(written())
    found: dict[str, int] = defaultdict(int)
    for path, data in stored.items():
        # arrays/NAME/... or tables/TABLE/NAME/...
        parts = path.split("/")
        depth = 1 if parts[0] == "arrays" else 2
        if len(parts) > depth + 1:
            found[parts[depth]] += len(data)
    return found


def depth_frames(frames: Iterable[Frame]) -> list[DepthFrame]:
    """The depth images among the frames: all of a depth camera's."""
    return [frame for frame in frames if isinstance(frame, DepthFrame)]
