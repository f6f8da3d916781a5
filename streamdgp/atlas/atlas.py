"""The atlas: charts with frames, weights, support and statistics, in columns; spatial look-up by grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.atlas.free_cells import REACH, count_votes, inherit_passes
from streamdgp.atlas.refits import MASS_BITS, has_changed
from streamdgp.atlas.support import settle_cells, show_cells
from streamdgp.evidence.free_space import farthest_per_tile
from streamdgp.evidence.patches import DIRTY_CELLS, SUPPORT_CELLS
from streamdgp.evidence.precision import rounded
from streamdgp.evidence.runs import Runs
from streamdgp.evidence.surfels import SurfelMap
from streamdgp.fitting.raster import RASTER
from streamdgp.frames.view import SensorView
from streamdgp.levels import LEVELS, RATIOS
from streamdgp.memory import ArrayMemory, Arrays, HeapMemory
from streamdgp.parts import in_parts
from streamdgp.sampling.anchors import insert_charts
from streamdgp.sampling.shrinking import move_charts

__all__ = ["NORMAL_STEPS", "Atlas", "tangent_frames"]

_CELLS = DIRTY_CELLS * DIRTY_CELLS
# Charts, a few microseconds each.
_LEAST_PART = 200
NORMAL_STEPS = 32767
"""A unit in a component of a stored normal."""


def tangent_frames(normals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Right-handed rotations (K, 3, 3) whose third columns are the unit normals (K, 3).

    Duff et al., "Building an orthonormal basis, revisited", JCGT 2017: continuous but for the pole.
    """
    x, y, z = normals.T
    sign = np.where(z >= 0, 1.0, -1.0)
    a = -1.0 / (sign + z)
    b = x * y * a
    first = np.stack([1.0 + sign * x * x * a, sign * b, -sign * x], 1)
    second = np.stack([b, sign + y * y * a, -y], 1)
    return np.stack([first, second, normals], 2)


def _frames_of(normal: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    return tangent_frames(normal / np.linalg.norm(normal.astype(np.float64), axis=1, keepdims=True))


class Atlas:
    """Charts of one scene. Numbers are given in order of creation and never reused.

    Columns: anchor (3,) float64 m; level uint8, which of ``scales_m`` (LEVELS,) is the radius of its ball;
    normal (3,) int16 in NORMAL_STEPS and, made from it, rotation (3, 3) float64 (columns: tangents, normal);
    parameters (P,) float16; support (16, 16) uint8, how far each cell is surface in 255ths; hits and passes
    (16, 16) uint8, what was seen there and what went through; fit_mass and fresh_mass (64,) float32 of few
    significant bits, evidence weight per cell at and since the last fit; residual, ridge float32;
    backed_at_cold int32, cells backed at the last cold fit; version, created, fits int32.
    """

    def __init__(
        self, radius_m: float, scale_m: float, parameter_count: int, memory: ArrayMemory | None = None
    ) -> None:
        self.radii_m = radius_m * RATIOS
        self.scales_m = scale_m * RATIOS
        self.columns: dict[str, npt.NDArray[Any]] = {
            "anchor": np.zeros((0, 3)),
            "level": np.zeros(0, np.uint8),
            "normal": np.zeros((0, 3), np.int16),
            "rotation": np.zeros((0, 3, 3)),
            "parameters": np.zeros((0, parameter_count), np.float16),
            "support": np.zeros((0, SUPPORT_CELLS, SUPPORT_CELLS), np.uint8),
            "hits": np.zeros((0, SUPPORT_CELLS, SUPPORT_CELLS), np.uint8),
            "passes": np.zeros((0, SUPPORT_CELLS, SUPPORT_CELLS), np.uint8),
            "fit_mass": np.zeros((0, _CELLS), np.float32),
            "fresh_mass": np.zeros((0, _CELLS), np.float32),
            "residual": np.zeros(0, np.float32),
            "ridge": np.zeros(0, np.float32),
            "backed_at_cold": np.zeros(0, np.int32),
            "version": np.zeros(0, np.int32),
            "created": np.zeros(0, np.int32),
            "fits": np.zeros(0, np.int32),
        }
        self._memory = memory or HeapMemory()
        self.rasters = self._memory.array_list("charts/raster", (RASTER, RASTER, 3))
        self.supports = self._memory.array_list("charts/shown", (SUPPORT_CELLS, SUPPORT_CELLS))
        self._count = 0
        self._runs = Runs()
        self.grid = self._empty_grid(256)
        self._reserve(256)

    def __len__(self) -> int:
        return self._count

    @property
    def capacity(self) -> int:
        """Charts that fit without growing."""
        return len(self.columns["anchor"])

    def column(self, name: str) -> npt.NDArray[Any]:
        """The live values of one column, (len(self), ...)."""
        return self.columns[name][: self._count]

    @staticmethod
    def _empty_grid(capacity: int) -> tuple[npt.NDArray[Any], ...]:
        return (
            np.full(4 * capacity, -1, np.int32),
            np.zeros((2 * capacity, 3), np.int64),
            np.full(2 * capacity, -1, np.int32),
            np.full(capacity, -1, np.int32),
            np.zeros(1 + LEVELS, np.int64),
        )

    def _reserve(self, capacity: int) -> None:
        for name, values in self.columns.items():
            self.columns[name] = self._memory.grown(f"charts/{name}", values, capacity)
        self._fill_grid()

    def _fill_grid(self) -> None:
        self.grid = self._empty_grid(self.capacity)
        insert_charts(self._count, self.columns["anchor"], self.columns["level"], self.scales_m, self.grid)

    def tidy_grid(self) -> None:
        """Make room in the anchor grid: cells that lost their last chart keep their entries."""
        if self.grid[-1][0] > self.capacity:
            self._fill_grid()

    def grow(self) -> None:
        """Double the capacity."""
        self._reserve(2 * self.capacity)

    def appended(self, count: int, frame_index: int) -> npt.NDArray[np.int64]:
        """Take in anchors written behind the last chart (and already in the grid); return their numbers."""
        new = np.arange(self._count, count)
        self._count = count
        self.columns["created"][new] = frame_index
        self.rasters.extend_empty(len(new))
        self.supports.extend_empty(len(new))
        return new

    def face(self, charts: npt.NDArray[np.int64], normals: npt.NDArray[np.float64]) -> None:
        """Turn charts so that their normals are these unit vectors (K, 3), in the steps that are stored."""
        self.columns["normal"][charts] = np.rint(NORMAL_STEPS * normals)
        self.columns["rotation"][charts] = _frames_of(self.columns["normal"][charts])

    def shrink(self, charts: npt.NDArray[np.int64], levels: npt.NDArray[np.uint8]) -> None:
        """Give charts (K,) smaller balls (K,); they are to be fitted cold.

        Votes stay where they are in the world, as far as the smaller ball reaches.
        """
        c = self.columns
        before = c["level"][charts]
        ratio = RATIOS[levels] / RATIOS[before]
        middles = (np.arange(SUPPORT_CELLS) + 0.5) * 2 / SUPPORT_CELLS - 1
        cell = np.floor((ratio[:, None] * middles + 1) * 0.5 * SUPPORT_CELLS).astype(np.int64)
        for name in ("support", "hits", "passes"):
            c[name][charts] = c[name][charts[:, None, None], cell[:, :, None], cell[:, None, :]]
        for name in ("fit_mass", "fresh_mass", "backed_at_cold", "fits"):
            c[name][charts] = 0
        c["level"][charts] = levels
        if self.grid[-1][0] + len(charts) > len(self.grid[1]):
            self._fill_grid()
        else:
            move_charts(charts, c["anchor"], before, levels, self.scales_m, self.grid)

    def stored_columns(self) -> dict[str, npt.NDArray[Any]]:
        """What a commit keeps of every chart; the rest is made from it."""
        return {name: self.column(name) for name in self.columns if name != "rotation"}

    def scale_of(self, charts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Radii (K,) of the charts' balls, metres."""
        scale_m: npt.NDArray[np.float64] = self.scales_m[self.columns["level"][charts]]
        return scale_m

    def parameters(self, charts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Weights (K, P) of charts."""
        return self.columns["parameters"][charts].astype(np.float32)

    def dirty(self, touched: npt.NDArray[np.int64], growth: float) -> npt.NDArray[np.int64]:
        """Of the touched charts, those whose evidence changed enough to be fitted again, ascending."""
        c = self.columns
        return np.sort(touched[has_changed(touched, c["fit_mass"], c["fresh_mass"], c["fits"], growth)])

    def store_fit(
        self,
        charts: npt.NDArray[np.int64],
        observations: npt.NDArray[np.float32],
        mass: npt.NDArray[np.float32],
        cold: npt.NDArray[np.bool_],
        frame_index: int,
        evidence: SurfelMap,
    ) -> None:
        """Record what evidence the charts were fitted to; to be called after ``store_weights``."""
        c = self.columns
        # A cell that got its place takes what the evidence remembers of it.
        is_new = settle_cells(charts, observations, c["support"], c["hits"], c["passes"])
        addresses = self.rasters.addresses(charts)

        def inherit(begin: int, end: int) -> None:
            inherit_passes(
                charts[begin:end], is_new[begin:end], c["anchor"], c["rotation"], c["level"],
                self.scales_m, addresses[begin:end], evidence.voxel_size_m, evidence.table,
                evidence.block_keys, evidence.passes, c["passes"],
            )  # fmt: skip

        in_parts(inherit, len(charts), _LEAST_PART)
        c["fit_mass"][charts] = rounded(mass, MASS_BITS)
        c["fresh_mass"][charts] = 0
        c["fits"][charts] += 1
        c["version"][charts] = frame_index
        c["backed_at_cold"][charts[cold]] = (mass[cold] > 0).sum(1)
        self._show_support(charts)

    def see_through(
        self, view: SensorView, margin_m: float, frame_index: int, look_frames: int = 1
    ) -> npt.NDArray[np.int64]:
        """Count what a look, after so many frames, sees and sees through; return charts with new votes."""
        c = self.columns
        new = np.arange(len(self._runs), self._count)
        self._runs.extend(c["anchor"][new], REACH * self.scale_of(new))
        far = farthest_per_tile(view.seen_m)
        charts = self._runs.in_view(view, float(far.max()) + margin_m)
        addresses = np.where(c["fits"][charts] > 0, self.rasters.addresses(charts), 0)
        is_counted, shifts = np.zeros(len(charts), np.uint8), np.zeros(len(charts), np.uint8)

        def judge(begin: int, end: int) -> None:
            part = slice(begin, end)
            count_votes(
                charts[part], view.seen_m, far, view.is_pinhole, view.camera, view.noise, view.rotation,
                view.origin_m, margin_m, c["anchor"], c["rotation"], c["level"], self.scales_m,
                addresses[part], c["support"], c["hits"], c["passes"], look_frames, is_counted[part],
                shifts[part],
            )  # fmt: skip

        in_parts(judge, len(charts))
        shifted = charts[shifts > 0]
        c["version"][shifted] = frame_index
        self._show_support(shifted)
        return charts[is_counted > 0]

    def _show_support(self, charts: npt.NDArray[np.int64]) -> None:
        """Make the supports of charts anew; old ones stay untouched for the snapshots that hold them."""
        c = self.columns
        self.supports.put(charts, show_cells(charts, c["hits"], c["passes"], c["support"]))

    def _publish_support(self, charts: npt.NDArray[np.int64]) -> None:
        self.supports.put(charts, self.columns["support"][charts].astype(np.float32) / np.float32(255))

    def store_weights(
        self,
        charts: npt.NDArray[np.int64],
        parameters: npt.NDArray[np.float32],
        rasters: Arrays,
    ) -> None:
        """Replace weights and rasters; old rasters stay untouched for the snapshots that hold them."""
        self.columns["parameters"][charts] = parameters
        self.rasters.put(charts, rasters)

    @classmethod
    def restore(
        cls,
        radius_m: float,
        scale_m: float,
        columns: dict[str, npt.NDArray[Any]],
        make_rasters: Callable[[npt.NDArray[np.float32]], Arrays],
        memory: ArrayMemory | None = None,
    ) -> Atlas:
        """Rebuild from stored columns; ``make_rasters`` gives the rasters of weights (K, P)."""
        count, parameter_count = columns["parameters"].shape
        atlas = cls(radius_m, scale_m, parameter_count, memory)
        capacity = 256
        while capacity <= count:
            capacity *= 2
        atlas._reserve(capacity)
        atlas._count = count
        atlas.rasters.extend_empty(count)
        atlas.supports.extend_empty(count)
        for part in atlas._memory.slices(count):
            charts = np.arange(part.start, part.stop)
            for name, values in columns.items():
                atlas.columns[name][part] = values[part]
            atlas.columns["rotation"][part] = _frames_of(atlas.columns["normal"][part])
            atlas.rasters.put(charts, make_rasters(atlas.parameters(charts)))
            atlas._publish_support(charts)
        atlas._fill_grid()
        return atlas
