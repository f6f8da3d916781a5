"""An immutable view of the atlas that answers queries while fitting goes on."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidInputError
from streamdgp.memory import ArrayList, BoundedCache
from streamdgp.parts import cores, share_out
from streamdgp.surface.clipping import clip_triangles
from streamdgp.surface.kernels import march, refine_vertices
from streamdgp.surface.marching import EDGE_AXIS, EDGE_CORNER, triangle_table
from streamdgp.surface.mesh import TileMesh
from streamdgp.surface.nodes import evaluate_nodes
from streamdgp.surface.plan import TilePlan, plan_tiles, tiles_of

__all__ = ["SurfaceSnapshot", "TileCache"]

_TILES_PER_GROUP = 16
_BAND_CELLS = 1.9
_MIN_SUPPORT = 0.5
# Processor time of a tile, before one was timed.
_TILE_S = 1.5e-3


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Extraction threads; the kernels release the interpreter lock."""
    return ThreadPoolExecutor(cores(), "streamdgp-tiles")


class TileCache:
    """Least-recently-used tiles by (resolution, index), bounded in bytes. Thread-safe."""

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self._tiles: BoundedCache[tuple[float, tuple[int, int, int], int], TileMesh] = BoundedCache(max_bytes)
        self._timing = threading.Lock()
        self._extracted, self._took_s = 1, _TILE_S

    def get(self, resolution_m: float, index: tuple[int, int, int], signature: int) -> TileMesh | None:
        """The tile with this content, if it is still held."""
        return self._tiles.get((resolution_m, index, signature))

    @property
    def is_full(self) -> bool:
        """Whether another tile would cost one that is held."""
        return self._tiles.is_full

    @property
    def mean_extraction_s(self) -> float:
        """Processor time that a tile has taken so far; a guess before there was one."""
        return self._took_s / self._extracted

    def put(self, tile: TileMesh, took_s: float) -> None:
        """Hold a tile that took so much processor time; the least recently used ones make room."""
        with self._timing:
            self._extracted += 1
            self._took_s += took_s
        self._tiles.put((tile.resolution_m, tile.index, tile.signature), tile, tile.byte_count)


@dataclass(frozen=True)
class SurfaceSnapshot:
    """The surface as of one moment. Arrays are private copies or never written again.

    anchor_m (K, 3) float64, rotation (K, 3, 3) float64, scale_m, version (K,) int64,
    rasters and supports: K arrays each, never written again.
    """

    anchor_m: npt.NDArray[np.float64]
    rotation: npt.NDArray[np.float64]
    scale_m: npt.NDArray[np.float64]
    version: npt.NDArray[np.int64]
    rasters: ArrayList
    supports: ArrayList
    resolution_m: float | None
    blend_radius: float
    tile_cells: int

    @property
    def chart_count(self) -> int:
        """Number of charts."""
        return len(self.rasters)

    @property
    def bounds_m(self) -> tuple[float, float, float, float, float, float] | None:
        """x0, y0, z0, x1, y1, z1 of the charts' balls, or None when there is no chart."""
        if not self.rasters:
            return None
        reach = (self.scale_m * self.blend_radius)[:, None]
        lo, hi = (self.anchor_m - reach).min(0), (self.anchor_m + reach).max(0)
        return tuple(float(x) for x in (*lo, *hi))  # type: ignore[return-value]

    def estimate_cells(self, resolution_m: float | None = None, roi_m: Sequence[float] | None = None) -> int:
        """Cells that extraction would look at: the cost of a query, before paying it."""
        step = self._step(resolution_m)
        if step is None:
            return 0
        keep = self._in_roi(_roi(roi_m))
        area = float((math.pi * (self.scale_m[keep] * self.blend_radius) ** 2).sum()) / 3.0
        return int(min(area / step / step * (2 * _BAND_CELLS + 1), 2.0**62))

    def tiles(
        self,
        resolution_m: float | None = None,
        roi_m: Sequence[float] | None = None,
        cache: TileCache | None = None,
        cancelled: Callable[[], bool] | None = None,
        is_wanted: Callable[[tuple[int, int, int], int], bool] | None = None,
        only: npt.NDArray[np.int64] | None = None,
    ) -> Iterator[TileMesh]:
        """Yield the non-empty tiles of the surface, in lattice order.

        Parameters
        ----------
        resolution_m
            Edge of a marching-cubes cell; None = the scene's default.
        roi_m
            x0, y0, z0, x1, y1, z1: only tiles that meet this box.
        cache
            Tiles whose charts did not change are taken from here.
        cancelled
            Asked between tiles; extraction stops when it returns True.
        is_wanted
            Asked with a tile's index and signature; tiles for which it returns False are left out.
        only
            Places (T, 3) of tiles: these and no others.

        Raises
        ------
        InvalidInputError
            A resolution that is not a positive number, or a box with min > max.
        """
        step = self._step(resolution_m)
        roi = _roi(roi_m)
        if step is None or not len(self.rasters):
            return

        def make(plan: TilePlan) -> TileMesh:
            tile = cache.get(step, plan.index, plan.signature) if cache is not None else None
            if tile is None:
                started_s = time.thread_time()
                tile = self._extract(plan, step)
                if cache is not None:
                    cache.put(tile, time.thread_time() - started_s)
            return tile

        plans: Iterator[TilePlan] = self._plan(step, roi, only)
        if is_wanted is not None:
            plans = (plan for plan in plans if is_wanted(plan.index, plan.signature))
        while group := list(itertools.islice(plans, _TILES_PER_GROUP)):
            if cancelled is not None and cancelled():
                return
            for tile in share_out(make, group, _pool()):
                if len(tile.triangles):
                    yield tile

    def signatures(self) -> dict[tuple[int, int, int], int]:
        """What each tile at the default resolution is made from: equal signatures, equal tiles."""
        step = self._step(None)
        if step is None or not len(self.rasters):
            return {}
        return {plan.index: plan.signature for plan in self._plan(step, None)}

    def stale_tiles(
        self, version_before: npt.NDArray[np.int64], scale_before_m: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """Tiles (T, 3) at the default resolution that changed since charts had these versions and scales."""
        step, known = self._step(None), len(version_before)
        if step is None or not self.chart_count:
            return np.zeros((0, 3), np.int64)
        changed = np.ones(self.chart_count, np.bool_)
        changed[:known] = self.version[:known] != version_before
        scale_m = self.scale_m.copy()
        # What a chart that has become smaller leaves is stale as well.
        scale_m[:known] = np.maximum(scale_m[:known], scale_before_m)
        charts = np.flatnonzero(changed)
        return tiles_of(*self._boxes(step, None, charts, scale_m[charts]))

    # --- planning --------------------------------------------------------------------------------

    def _step(self, resolution_m: float | None) -> float | None:
        if resolution_m is None:
            return self.resolution_m
        if not (math.isfinite(resolution_m) and resolution_m > 0):
            raise InvalidInputError(
                "a resolution in metres, greater than 0", str(resolution_m), "Leave it out for the default."
            )
        return float(resolution_m)

    def _in_roi(self, roi: npt.NDArray[np.float64] | None) -> npt.NDArray[np.bool_]:
        if roi is None:
            return np.ones(self.chart_count, np.bool_)
        reach = (self.scale_m * self.blend_radius)[:, None]
        inside = (self.anchor_m + reach >= roi[:3]) & (self.anchor_m - reach <= roi[3:])
        return np.asarray(inside.all(1))

    def _boxes(
        self,
        step: float,
        roi: npt.NDArray[np.float64] | None,
        charts: npt.NDArray[np.int64],
        scale_m: npt.NDArray[np.float64],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Lowest and highest tile (K, 3) that each of charts of these scales influences, in the region."""
        edge = step * self.tile_cells
        anchor_m, reach = self.anchor_m[charts], (scale_m * self.blend_radius)[:, None]
        # One cell of margin: a vertex may move off its edge when it is put on the zero set.
        lo = np.floor((anchor_m - reach - step) / edge).astype(np.int64)
        hi = np.floor((anchor_m + reach + step) / edge).astype(np.int64)
        if roi is not None and len(charts):
            # "Everything" may be asked for with huge corners: no tile is farther than the bounds.
            roi = np.clip(roi, (anchor_m - reach).min() - edge, (anchor_m + reach).max() + edge)
            lo = np.maximum(lo, np.floor(roi[:3] / edge).astype(np.int64))
            hi = np.minimum(hi, np.floor(roi[3:] / edge).astype(np.int64))
        return lo, hi

    def _plan(
        self, step: float, roi: npt.NDArray[np.float64] | None, only: npt.NDArray[np.int64] | None = None
    ) -> Iterator[TilePlan]:
        """Tiles with the charts that influence them and a signature of those charts' versions."""
        if not self.chart_count:
            return iter(())
        charts = self._near(step, roi, only)
        return plan_tiles(*self._boxes(step, roi, charts, self.scale_m[charts]), charts, self.version, only)

    def _near(
        self, step: float, roi: npt.NDArray[np.float64] | None, only: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.int64]:
        """Charts (K,), ascending, that may influence what is asked for: a plan costs what it covers."""
        low, high = np.full(3, -np.inf), np.full(3, np.inf)
        if roi is not None:
            low, high = roi[:3].copy(), roi[3:].copy()
        if only is not None:
            if not len(only):
                return np.zeros(0, np.int64)
            edge = step * self.tile_cells
            low, high = np.maximum(low, edge * only.min(0)), np.minimum(high, edge * (only.max(0) + 1))
        # Tiles that meet the region go on beyond it.
        margin = float(self.scale_m.max()) * self.blend_radius + step * (self.tile_cells + 2)
        inside = (self.anchor_m >= low - margin) & (self.anchor_m <= high + margin)
        return np.flatnonzero(inside.all(1))

    # --- extraction ------------------------------------------------------------------------------

    def _gather(self, members: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
        return (
            self.anchor_m[members],
            self.rotation[members],
            self.scale_m[members],
            self.rasters.addresses(members),
            self.supports.addresses(members),
        )

    def _extract(self, plan: TilePlan, step: float) -> TileMesh:
        charts = self._gather(plan.members)
        corner = np.array(plan.index, np.int64) * self.tile_cells
        n = self.tile_cells + 1
        value = np.zeros((n, n, n))
        valid = np.zeros((n, n, n), np.uint8)
        band = _BAND_CELLS * step
        evaluate_nodes(corner, step, band, self.blend_radius, charts, value, valid)
        vertices, keys, triangles = march(
            corner, step, value, valid, triangle_table(), EDGE_CORNER, EDGE_AXIS
        )
        normals = np.zeros((len(vertices), 3), np.float32)
        support = np.zeros(len(vertices), np.float32)
        refine_vertices(vertices, step, band, self.blend_radius, charts, normals, support)
        vertices, keys, normals, triangles = clip_triangles(
            vertices, keys, normals, support, triangles, _MIN_SUPPORT
        )
        used = np.zeros(len(vertices), np.bool_)
        used[triangles] = True
        renumber = np.cumsum(used) - 1
        origin = (corner * step).astype(np.float64)
        return TileMesh(
            index=plan.index,
            resolution_m=step,
            origin_m=origin,
            signature=plan.signature,
            vertices=(vertices[used] - origin).astype(np.float32),
            normals=normals[used],
            triangles=renumber[triangles].astype(np.int32),
            vertex_keys=keys[used],
        )


def _roi(roi_m: Sequence[float] | None) -> npt.NDArray[np.float64] | None:
    if roi_m is None:
        return None
    roi = np.asarray(roi_m, np.float64)
    if roi.shape != (6,) or not np.isfinite(roi).all() or (roi[:3] > roi[3:]).any():
        raise InvalidInputError(
            "a region x0,y0,z0,x1,y1,z1 in metres with min <= max",
            str(list(np.ravel(roi_m))),
            "Swap the corners.",
        )
    return roi
