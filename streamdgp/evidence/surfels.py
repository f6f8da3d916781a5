"""The surfel map: fused evidence whose memory grows with the area seen, not with time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.config import EvidenceConfig
from streamdgp.errors import InvalidFrameError
from streamdgp.evidence import kernels
from streamdgp.evidence.free_space import carve, farthest_per_tile
from streamdgp.evidence.precision import OFFSET_STEP_VOX
from streamdgp.evidence.runs import Runs
from streamdgp.frames.orient import OrientedPoints
from streamdgp.memory import ArrayMemory, HeapMemory
from streamdgp.parts import in_parts

__all__ = ["FREE_MARGIN_VOX", "SurfelMap", "TouchedSurfels"]

_COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "key": (np.int32, (3,)),
    "weight": (np.float32, ()),
    "offset": (np.int16, (3,)),
    "normal": (np.int8, (3,)),
    "color": (np.uint8, (3,)),
    "count": (np.uint16, ()),
    "first_frame": (np.int32, ()),
    "last_frame": (np.int32, ()),
    "view_id": (np.uint16, (4,)),
    "view_seen": (np.uint8, (4,)),
    "streak": (np.uint8, ()),
}
_VIEW_CELL_VOX = 25.0
_MAX_VOXEL = 2**30
_CELLS_PER_BLOCK = 64
_VOXELS_PER_BLOCK = 512
_BLOCK_EDGE_VOX = 8
_MOST_VIEWS = 65535
FREE_MARGIN_VOX = 3.0
"""How far in front of a return, beyond its noise, is not free space yet."""


@dataclass(frozen=True)
class TouchedSurfels:
    """Surfels that frames changed: numbers (K,) int64, weight gained (K,), negative where seen through."""

    index: npt.NDArray[np.int64]
    gained: npt.NDArray[np.float64]


class SurfelMap:
    """Voxel hash of surfels.

    A surfel holds inverse-variance-weighted means of position (from the voxel centre), normal and colour
    in the steps of ``streamdgp.evidence.precision``, plus weight (1/m^2), observation count, first and last
    frame, and how often each of the last viewpoints saw it. Numbers are given in order of creation and
    never change.
    """

    def __init__(
        self, voxel_size_m: float, config: EvidenceConfig, memory: ArrayMemory | None = None
    ) -> None:
        self.voxel_size_m = voxel_size_m
        self._config = config
        self._memory = memory or HeapMemory()
        self._counters = np.zeros(3, np.int64)
        # Rows get their values when they are taken into use: room that nothing uses costs nothing.
        self.columns: dict[str, npt.NDArray[Any]] = {
            name: np.zeros((0, *shape), dtype) for name, (dtype, shape) in _COLUMNS.items()
        }
        self.chain = np.zeros(0, np.int32)
        self._stamp = np.zeros(0, np.int64)
        self.block_keys = np.zeros((0, 3), np.int32)
        self.cells = np.zeros((0, _VOXELS_PER_BLOCK), np.int32)
        self.passes = np.zeros((0, _CELLS_PER_BLOCK), np.uint8)
        self._has_new_passes = np.zeros(64, np.uint8)
        self._block_runs = Runs()
        self.table = np.full(256, -1, np.int32)
        self._reserve_surfels(1024)
        self._reserve_blocks(64)
        self._views: dict[tuple[int, int, int], int] = {}

    def __len__(self) -> int:
        return int(self._counters[0])

    def column(self, name: str) -> npt.NDArray[Any]:
        """The live values of one column, (len(self), ...)."""
        return self.columns[name][: len(self)]

    @property
    def look_up(self) -> tuple[npt.NDArray[Any], ...]:
        """What the compiled queries need: hash table, block keys, cells, chain, and five columns."""
        c = self.columns
        columns = (c["key"], c["weight"], c["offset"], c["normal"], c["count"])
        return (self.table, self.block_keys, self.cells, self.chain, *columns)

    @property
    def block_count(self) -> int:
        """Blocks of 8 x 8 x 8 voxels; their order follows from that of the surfels."""
        return int(self._counters[1])

    @property
    def blocks_with_new_passes(self) -> npt.NDArray[np.int64]:
        """Blocks whose passes changed since ``forget_new_passes``, and those that came since."""
        return np.flatnonzero(self._has_new_passes[: self.block_count])

    def forget_new_passes(self) -> None:
        """Start noting anew."""
        self._has_new_passes[:] = 0

    def positions_m(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """World positions (K, 3) of surfels."""
        key = self.columns["key"][index].astype(np.float64)
        positions: npt.NDArray[np.float64] = (
            key + 0.5 + OFFSET_STEP_VOX * self.columns["offset"][index]
        ) * self.voxel_size_m
        return positions

    def blocks_of(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Blocks (B,) that surfels lie in, ascending."""
        is_met = np.zeros(self.block_count, np.bool_)
        kernels.mark_blocks(index, self.columns["key"], self.table, self.block_keys, is_met)
        return np.flatnonzero(is_met)

    def check_reach(self, points: OrientedPoints) -> None:
        """Raise InvalidFrameError if the points are too far from the world origin for this voxel size."""
        limit_m = _MAX_VOXEL * self.voxel_size_m
        farthest_m = (
            max(float(points.positions_m.max()), -float(points.positions_m.min())) if len(points) else 0.0
        )
        if farthest_m > limit_m:
            raise InvalidFrameError(
                f"points within {limit_m:.3g} m of the world origin",
                f"{farthest_m:.3g} m",
                "Check the pose's unit or use a larger evidence voxel.",
            )

    def integrate(self, points: OrientedPoints, frame_index: int, look_frames: int = 1) -> TouchedSurfels:
        """Fuse a frame's points, and take from surfels what it sees through.

        Parameters
        ----------
        look_frames
            For so many frames it sees through them, those since the last that did (see
            ``streamdgp.turns``); 0: not in this frame.

        Raises
        ------
        InvalidFrameError
            The points lie too far from the world origin for this voxel size.
        """
        self.check_reach(points)
        n, c = len(points), self.columns
        voxels, offsets = np.empty((n, 3), np.int32), np.empty((n, 3), np.float32)
        weights = np.empty(n)
        pose_error_m = self._config.pose_error_vox * self.voxel_size_m

        def weigh(begin: int, end: int) -> None:
            kernels.weigh_points(
                begin, end, points.positions_m, points.sigma_m, points.incidence_cos, self.voxel_size_m,
                pose_error_m, voxels, offsets, weights,
            )  # fmt: skip

        in_parts(weigh, n)
        color = np.zeros((n, 3), np.uint8) if points.color is None else points.color
        touched, observed, gained = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n)
        sums = np.empty((n, 9))
        self._counters[2] = 0
        done = 0
        while done < n:
            c = self.columns
            done += kernels.sum_points(
                voxels, offsets, points.normals, weights, color, done,
                self._view_number(points), self._config.most_per_view, frame_index,
                self.table, self.block_keys, self.cells, self._counters,
                c["key"], self.chain, c["weight"], c["normal"], c["count"], c["first_frame"],
                c["view_id"], c["view_seen"], self._stamp, touched, observed, gained, sums,
            )  # fmt: skip
            if done < n:
                self._grow()
        k = int(self._counters[2])

        def fuse(begin: int, end: int) -> None:
            kernels.fuse_sums(
                begin, end, frame_index, touched, observed, gained, sums, c["weight"], c["offset"],
                c["normal"], c["color"], c["count"], c["last_frame"], c["streak"],
            )  # fmt: skip

        in_parts(fuse, k)
        lost = self._carve(points, frame_index, look_frames)
        return TouchedSurfels(
            np.concatenate([touched[:k], lost.index]), np.concatenate([gained[:k], lost.gained])
        )

    def joined(self, first: TouchedSurfels, more: TouchedSurfels) -> TouchedSurfels:
        """What two frames changed: distinct surfels, those of the first one first, with the sums of gains."""
        most = len(first.index) + len(more.index)
        index, gained, count = np.empty(most, np.int64), np.empty(most), 0
        for part in (first, more):
            count = kernels.join_touched(part.index, part.gained, self._stamp, index, gained, count)
        return TouchedSurfels(index[:count], gained[:count])

    def _carve(self, points: OrientedPoints, frame_index: int, look_frames: int) -> TouchedSurfels:
        """Take observations from surfels that the frame sees through; their gain is negative."""
        if not look_frames or points.view is None or not self._config.free_space:
            return TouchedSurfels(np.zeros(0, np.int64), np.zeros(0))
        view, c = points.view, self.columns
        far = farthest_per_tile(view.seen_m)
        edge_m = _BLOCK_EDGE_VOX * self.voxel_size_m
        new = self.block_keys[len(self._block_runs) : self.block_count].astype(np.float64)
        self._block_runs.extend((new + 0.5) * edge_m, edge_m)
        blocks = self._block_runs.in_view(view, float(far.max()))

        def judge(begin: int, end: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
            # No block holds more than two surfels per voxel; untouched memory costs nothing.
            most = min(len(self), 1024 * (end - begin))
            index, gained = np.empty(most, np.int64), np.empty(most)
            k = carve(
                blocks[begin:end], view.seen_m, far, view.is_pinhole, view.camera, view.window, view.noise,
                view.rotation, view.origin_m, self.voxel_size_m, FREE_MARGIN_VOX * self.voxel_size_m,
                frame_index, look_frames, self.block_keys, self.cells, self.chain, c["weight"], c["offset"],
                c["normal"], c["count"], c["last_frame"], c["view_seen"], c["streak"], self.passes,
                self._has_new_passes, index, gained,
            )  # fmt: skip
            return index[:k].copy(), gained[:k].copy()

        parts = in_parts(judge, len(blocks))
        index = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
        return TouchedSurfels(index, np.concatenate([np.zeros(0), *(part[1] for part in parts)]))

    @property
    def view_cells(self) -> npt.NDArray[np.int32]:
        """Cells (V, 3) of the viewpoints so far, in the order of their numbers."""
        return np.array(list(self._views), np.int32).reshape(-1, 3)

    def _view_number(self, points: OrientedPoints) -> int:
        """Number of the viewpoint's cell on a fixed lattice of 25 voxels, from 1; past 65535 they come again.

        The lattice is shifted so that a sensor at the world origin, where sessions start, is in the
        middle of its cell and not on the border of eight.
        """
        cell = (_MAX_VOXEL, _MAX_VOXEL, _MAX_VOXEL)
        if points.sensor_origin_m is not None:
            scaled = points.sensor_origin_m / (_VIEW_CELL_VOX * self.voxel_size_m) + 0.5
            x, y, z = (int(v) for v in np.clip(np.floor(scaled), -_MAX_VOXEL, _MAX_VOXEL))
            cell = (x, y, z)
        return self._views.setdefault(cell, len(self._views) % _MOST_VIEWS + 1)

    def _grow(self) -> None:
        """Double whichever buffer is full."""
        surfels, blocks = int(self._counters[0]), int(self._counters[1])
        if surfels >= len(self.chain):
            self._reserve_surfels(2 * len(self.chain))
        if blocks >= len(self.block_keys):
            self._reserve_blocks(2 * len(self.block_keys))
        if 2 * blocks >= len(self.table):
            self.table = np.full(4 * len(self.table), -1, np.int32)
            kernels.rehash(blocks, self.table, self.block_keys)

    def _reserve_surfels(self, rows: int) -> None:
        grown = self._memory.grown
        for name, values in self.columns.items():
            self.columns[name] = grown(f"surfels/{name}", values, rows)
        self.chain = grown("surfels/chain", self.chain, rows)
        self._stamp = grown("surfels/stamp", self._stamp, rows)

    def _reserve_blocks(self, rows: int) -> None:
        grown = self._memory.grown
        self.block_keys = grown("blocks/key", self.block_keys, rows)
        self.cells = grown("blocks/cells", self.cells, rows)
        self.passes = grown("blocks/passes", self.passes, rows)
        self._has_new_passes = np.concatenate(
            [self._has_new_passes, np.zeros(rows - len(self._has_new_passes), np.uint8)]
        )

    @classmethod
    def restore(
        cls,
        voxel_size_m: float,
        config: EvidenceConfig,
        columns: dict[str, npt.NDArray[Any]],
        passes: npt.NDArray[np.uint8],
        view_cells: npt.NDArray[np.int32],
        memory: ArrayMemory | None = None,
    ) -> SurfelMap:
        """Rebuild from stored columns: the same numbers, the same bits."""
        surfels = cls(voxel_size_m, config, memory)
        n, blocks = len(columns["key"]), len(passes)
        surfels._reserve_surfels(_capacity(1024, n))
        surfels._reserve_blocks(_capacity(64, blocks))
        surfels.table = np.full(4 * _capacity(64, blocks), -1, np.int32)
        for part in surfels._memory.slices(n):
            for name in _COLUMNS:
                surfels.columns[name][part] = columns[name][part]
            surfels._counters[:] = (
                part.stop,
                kernels.insert_existing(
                    part.start, part.stop, surfels.columns["key"], surfels.chain, surfels.table,
                    surfels.block_keys, surfels.cells, surfels.block_count,
                ),
                0,
            )  # fmt: skip
        for part in surfels._memory.slices(blocks):
            surfels.passes[part] = passes[part]
        for number, (x, y, z) in enumerate(view_cells.tolist()):
            surfels._views[x, y, z] = number % _MOST_VIEWS + 1
        return surfels


def _capacity(least: int, rows: int) -> int:
    """The first of ``least``, twice that, ... that holds more than these rows."""
    while least <= rows:
        least *= 2
    return least
