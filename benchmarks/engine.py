"""Running the engine on a scan, frame by frame, with its defaults."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from streamdgp.config import SceneConfig
from streamdgp.frames import DepthFrame, Frame, FrameReport
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import Mesh, weld_tiles

__all__ = ["Reconstruction", "depth_frames", "map_bytes", "map_split", "reconstruct", "warm_up"]

# Columns of a chart that say which part of its domain is backed, and by how much.
_SUPPORT_COLUMNS = ("support", "fit_mass", "fresh_mass")


@dataclass(frozen=True)
class Reconstruction:
    """A streamed scan: the engine after it, the mesh, a report per frame and what it took."""

    engine: Reconstructor
    mesh: Mesh
    reports: list[FrameReport]
    mesh_s: float

    @property
    def seconds(self) -> float:
        """All frames together, without the mesh."""
        return sum(report.seconds for report in self.reports)

    @property
    def ms_per_frame(self) -> float:
        """Mean time of a frame."""
        return 1e3 * self.seconds / max(1, len(self.reports))


def reconstruct(frames: Iterable[Frame], config: SceneConfig | None = None) -> Reconstruction:
    """Stream frames through the engine and extract the surface at the resolution it chose."""
    engine = Reconstructor(config)
    reports = [engine.integrate(frame) for frame in frames]
    started = time.perf_counter()
    mesh = weld_tiles(engine.surface().tiles())
    return Reconstruction(engine, mesh, reports, time.perf_counter() - started)


def warm_up(frames: Iterable[Frame]) -> None:
    """Compile the kernels, so that no measurement contains it; two frames are enough."""
    reconstruct(frames)


def map_bytes(engine: Reconstructor) -> int:
    """Bytes of the whole map as it would be stored uncompressed: charts, surfels, shared weights."""
    changes = engine.changes()
    tables = sum(column.nbytes for table in changes.tables.values() for column in table.columns.values())
    return tables + sum(array.nbytes for array in changes.arrays.values())


def map_split(engine: Reconstructor) -> dict[str, int]:
    """Bytes of the map by what they are for.

    ``charts`` (frames, weights, statistics), ``support``, ``evidence`` and ``shared`` (random features)
    are what is stored, ``map_bytes`` in sum. ``indexes`` (hash tables, grids) and ``rasters`` (charts as
    they are looked up) are made from it in memory, spare room of growing arrays included.
    """
    changes = engine.changes()
    split = dict.fromkeys(("charts", "support", "evidence", "shared", "indexes", "rasters"), 0)
    for table, change in changes.tables.items():
        for name, column in change.columns.items():
            part = "support" if name in _SUPPORT_COLUMNS else "charts"
            split["evidence" if table == "surfels" else part] += column.nbytes
    split["shared"] = sum(array.nbytes for array in changes.arrays.values())
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


def depth_frames(frames: Iterable[Frame]) -> list[DepthFrame]:
    """The depth images among the frames: all of a depth camera's."""
    return [frame for frame in frames if isinstance(frame, DepthFrame)]
