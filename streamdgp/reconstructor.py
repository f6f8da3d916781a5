"""The engine: frames in, an atlas of charts kept up to date, the surface out.

The same engine serves ``streamdgp reconstruct`` and the server. It is deterministic: the state after
n frames depends on the frames, their order and the configuration, not on when anybody asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streamdgp.atlas.atlas import Atlas
from streamdgp.atlas.changes import AtlasChanges, AtlasState, TableChange
from streamdgp.atlas.placing import add_anchors, shrink_charts
from streamdgp.atlas.support import followed_cells
from streamdgp.config import SceneConfig
from streamdgp.consistency.sweep import make_consistent
from streamdgp.errors import StorageError
from streamdgp.evidence.patches import DIRTY_CELLS, SUPPORT_CELLS, gather_patches
from streamdgp.evidence.surfels import FREE_MARGIN_VOX, SurfelMap, TouchedSurfels
from streamdgp.evidence.survey import survey_touched
from streamdgp.fitting.batches import ChartsToFit, as_worker, fit_groups, map_batches, rasters_of
from streamdgp.fitting.features import SharedFeatures
from streamdgp.fitting.regimes import make_regime
from streamdgp.fitting.types import Regime
from streamdgp.foresight import Foresight
from streamdgp.frames.orient import OrientedPoints, PreparedFrame, prepare_frame
from streamdgp.frames.types import Frame, FrameReport
from streamdgp.levels import largest_level
from streamdgp.memory import ArrayMemory, HeapMemory
from streamdgp.scale import resolve_scale
from streamdgp.surface.snapshot import SurfaceSnapshot
from streamdgp.turns import Schedule, Turns

__all__ = ["Reconstructor"]

_SCHEMA = 5


@dataclass(frozen=True)
class _Patches:
    """Evidence of some charts: rows, observations per support cell, weight per dirty cell."""

    points: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    observations: npt.NDArray[np.float32]
    mass: npt.NDArray[np.float32]
    thickness: npt.NDArray[np.float32]


class _Map:
    """What exists once the scale of the scene is known: evidence, atlas, regime."""

    def __init__(self, config: SceneConfig, device: torch.device, memory: ArrayMemory) -> None:
        assert config.anchor_radius_m is not None
        assert config.evidence_voxel_m is not None
        self.config = config
        self.regime: Regime = make_regime(config, device)
        self.memory = memory
        self.evidence = SurfelMap(config.evidence_voxel_m, config.evidence, memory)
        scale_m = config.neighbourhood_ratio * config.anchor_radius_m
        self.min_cos = float(np.cos(np.deg2rad(config.normal_angle_deg)))
        self.atlas = Atlas(config.anchor_radius_m, scale_m, self.regime.parameter_count, memory)
        self.largest_level = largest_level(config.largest_radius_ratio)
        self.turns = Turns(Schedule(config.fit.most_waiting, config.anchor_radius_m))
        self.changed_surfels: list[npt.NDArray[np.int64]] = []
        self.changed_charts: list[npt.NDArray[np.int64]] = []
        self.committed_views = 0


class Reconstructor:
    """Keep a surface up to date while frames come in.

    Parameters
    ----------
    config
        Settings of the scene; automatic lengths are chosen from the first frame with points.
    device
        Where charts are fitted: "cpu" or a CUDA device.
    memory
        Where the map's arrays live: on the heap, or under a budget (``streamdgp.memory``), the same map.
    """

    def __init__(
        self,
        config: SceneConfig | None = None,
        device: torch.device | str = "cpu",
        memory: ArrayMemory | None = None,
    ) -> None:
        self.config = config or SceneConfig()
        self.device = torch.device(device)
        self._memory = memory or HeapMemory()
        self.frame_count = 0
        self._map: _Map | None = None
        self._foresight = Foresight()

    def prepare(self, frame: Frame) -> PreparedFrame:
        """The part of ``integrate`` that needs nothing but the frame; from any thread, best in order.

        Raises
        ------
        InvalidFrameError
            The frame cannot be used.
        """
        prepared = prepare_frame(frame, self.config.evidence.min_incidence_cos)
        prepared.find_points(is_sparse=self._foresight.expect(prepared))
        return prepared

    def integrate(self, frame: Frame | PreparedFrame) -> FrameReport:
        """Take in one frame: fuse, add anchors, fit what is new or changed, make it consistent.

        A frame that shows what the one before showed is fused, a large image in part; the rest waits (see
        ``streamdgp.turns``).

        What ``prepare`` made of a frame serves as well as the frame.

        Raises
        ------
        InvalidFrameError
            The frame cannot be used; the state is as before.
        """
        clock = _Clock()
        prepared = frame if isinstance(frame, PreparedFrame) else self.prepare(frame)
        try:
            look_frames, is_repetition = 1, False
            if self._map is not None:
                schedule = self._map.turns.schedule
                look_frames = schedule.look_frames(prepared)
                is_repetition = schedule.is_repetition(prepared)
            points = prepared.points(is_sparse=is_repetition)
            clock.lap("orient")
            with self._memory.writing():
                report = self._integrate(points, look_frames, clock)
        finally:
            self._foresight.settle(prepared, None if self._map is None else self._map.turns.schedule)
        self._memory.relieve()
        return report

    def _integrate(self, points: OrientedPoints, look_frames: int, clock: _Clock) -> FrameReport:
        index = self.frame_count
        if not len(points):
            self.frame_count += 1
            return FrameReport(index, dropped=points.dropped, charts_untouched=self.chart_count)
        m = self._map_for(points)
        touched = m.evidence.integrate(points, index, look_frames)
        self.frame_count += 1
        m.changed_surfels.append(touched.index)
        if m.memory.is_limited:
            m.memory.touch("surfels", touched.index)
            m.memory.touch("blocks", m.evidence.blocks_of(touched.index))
        report = FrameReport(
            index, len(points), points.dropped, len(touched.index), charts_untouched=self.chart_count
        )
        waited = m.turns.take(points, touched, m.evidence, look_frames)
        clock.lap("evidence")
        if waited is not None:
            with as_worker():
                report = self._take_turn(m, points, waited, look_frames, report, clock)
        return replace(report, seconds=clock.total, stages_s=clock.laps)

    def _take_turn(
        self,
        m: _Map,
        points: OrientedPoints,
        touched: TouchedSurfels,
        look_frames: int,
        report: FrameReport,
        clock: _Clock,
    ) -> FrameReport:
        """Look at the charts about touched surfels: anchors, votes, fits, consistency."""
        index, growth = report.frame_index, m.config.fit.refit_growth
        seen, uncovered = self._survey(m, touched)
        clock.lap("survey")
        exposed = shrink_charts(m.atlas, m.evidence, seen, m.atlas.dirty(seen, growth), m.min_cos)
        uncovered = np.union1d(uncovered, exposed)
        new = add_anchors(m.atlas, m.evidence, uncovered, m.largest_level, m.min_cos, index)
        clock.lap("anchors")
        seen = np.concatenate([seen, new])
        opened = self._see_through(m, points, look_frames, index)
        clock.lap("free space")
        dirty = m.atlas.dirty(seen, growth)
        patches = self._gather(m, dirty)
        clock.lap("gather")
        cold = self._is_cold(m, dirty, patches)
        self._fit(m, dirty, patches, cold, index)
        clock.lap("fit")
        make_consistent(m.atlas, m.regime, dirty, m.config.consistency)
        clock.lap("consistency")
        if m.memory.is_limited:
            m.memory.touch("charts", seen)
        m.changed_charts.append(np.concatenate([seen, opened]))
        return replace(
            report,
            charts_created=len(new),
            charts_warm=int((~cold).sum()),
            charts_cold=int(cold.sum()) - len(new),
            charts_untouched=self.chart_count - len(dirty),
        )

    @property
    def chart_count(self) -> int:
        """Charts in the atlas."""
        return 0 if self._map is None else len(self._map.atlas)

    @property
    def surfel_count(self) -> int:
        """Surfels in the evidence."""
        return 0 if self._map is None else len(self._map.evidence)

    def surface(self) -> SurfaceSnapshot:
        """An immutable view of the surface as of now; cheap. Any thread may use it; call as ``integrate``."""
        surface = self.config.surface
        if self._map is None:
            empty, none = np.zeros((0, 3)), HeapMemory().array_list("none", ())
            return SurfaceSnapshot(
                empty, np.zeros((0, 3, 3)), np.zeros(0), np.zeros(0, np.int64), none, none,
                self.config.resolution_m, surface.blend_radius, surface.tile_cells,
            )  # fmt: skip
        atlas = self._map.atlas
        return SurfaceSnapshot(
            # Written once, when a chart is made.
            anchor_m=atlas.column("anchor"),
            rotation=atlas.column("rotation"),
            scale_m=atlas.scale_of(np.arange(len(atlas))),
            version=atlas.column("version").astype(np.int64),
            rasters=atlas.rasters.held(),
            supports=atlas.supports.held(),
            resolution_m=self._map.config.resolution_m,
            blend_radius=surface.blend_radius,
            tile_cells=surface.tile_cells,
        )

    # --- steps -----------------------------------------------------------------------------------

    def _map_for(self, points: Any) -> _Map:  # noqa: ANN401
        if self._map is None:
            config = resolve_scale(self.config, points)
            m = _Map(config, self.device, self._memory)
            m.evidence.check_reach(points)
            self.config, self._map = config, m
        return self._map

    def _survey(
        self, m: _Map, touched: TouchedSurfels
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Charts that see touched surfels (their gain is noted there), and surfels that no chart covers."""
        # What had its full weight from where the sensor is gained none: nothing about it has changed.
        has_changed = touched.gained != 0
        index, gained = touched.index[has_changed], touched.gained[has_changed]
        charts, covered = survey_touched(
            index, gained, m.atlas.columns, m.atlas.radii_m, m.atlas.scales_m, m.min_cos,
            m.evidence.voxel_size_m, m.evidence.look_up, m.atlas.grid,
        )  # fmt: skip
        return charts, index[~covered]

    def _see_through(
        self, m: _Map, points: OrientedPoints, look_frames: int, index: int
    ) -> npt.NDArray[np.int64]:
        """Charts with new votes: what a look that stands for so many frames sees, and sees through."""
        if points.view is None or not m.config.evidence.free_space:
            return np.zeros(0, np.int64)
        return m.atlas.see_through(points.view, FREE_MARGIN_VOX * m.evidence.voxel_size_m, index, look_frames)

    def _gather(self, m: _Map, charts: npt.NDArray[np.int64]) -> _Patches:
        k, n = len(charts), m.config.fit.max_samples
        patches = _Patches(
            np.empty((k, n, 3), np.float32),
            np.empty((k, n), np.float32),
            np.empty((k, SUPPORT_CELLS, SUPPORT_CELLS), np.float32),
            np.empty((k, DIRTY_CELLS * DIRTY_CELLS), np.float32),
            np.empty(k, np.float32),
        )
        e, a = m.evidence, m.atlas.columns

        def gather(part: slice) -> None:
            gather_patches(
                charts[part], a["anchor"], a["rotation"], a["level"], m.atlas.scales_m, m.min_cos,
                e.voxel_size_m, e.look_up, patches.points[part], patches.weights[part],
                patches.observations[part], patches.mass[part], patches.thickness[part],
            )  # fmt: skip

        map_batches(gather, k, is_chartwise=True)
        return patches

    def _is_cold(self, m: _Map, charts: npt.NDArray[np.int64], patches: _Patches) -> npt.NDArray[np.bool_]:
        """New charts, and those whose seen area has doubled since they were fitted cold, or last.

        A chart that lost its evidence and finds some again knows nothing of it.
        """
        a = m.atlas.columns
        backed, before = (patches.mass > 0).sum(1), (a["fit_mass"][charts] > 0).sum(1)
        cold: npt.NDArray[np.bool_] = (
            (a["fits"][charts] == 0) | (backed >= 2 * a["backed_at_cold"][charts]) | (backed >= 2 * before)
        )
        return cold

    def _fit(
        self,
        m: _Map,
        charts: npt.NDArray[np.int64],
        patches: _Patches,
        cold: npt.NDArray[np.bool_],
        frame_index: int,
    ) -> None:
        """Fit the dirty charts, cold or warm, and put them into the atlas."""
        # Cold fits take longest: first, so that no core waits for another in the end.
        groups = [rows for rows in (np.flatnonzero(cold), np.flatnonzero(~cold)) if len(rows)]
        to_fit = [
            ChartsToFit(
                patches.points[rows],
                patches.weights[rows],
                patches.thickness[rows],
                None if cold[rows[0]] else m.atlas.parameters(charts[rows]),
                None if cold[rows[0]] else m.atlas.rasters.addresses(charts[rows]),
            )
            for rows in groups
        ]
        for rows, fit in zip(groups, fit_groups(m.regime, to_fit, self.device), strict=True):
            done = 0
            for block in fit.blocks:
                part = slice(done, done + len(block))
                m.atlas.store_weights(charts[rows[part]], fit.parameters[part], block)
                done = part.stop
            m.atlas.columns["residual"][charts[rows]] = fit.residual
            m.atlas.columns["ridge"][charts[rows]] = fit.ridge
        followed = followed_cells(patches.points, patches.weights, m.atlas.rasters.addresses(charts))
        m.atlas.store_fit(
            charts, patches.observations * followed, patches.mass, cold, frame_index, m.evidence
        )

    # --- commits ---------------------------------------------------------------------------------

    def changes(self) -> AtlasChanges:
        """What changed since ``mark_committed``; arrays are live, read them before the next frame."""
        metadata: dict[str, Any] = {
            "schema": _SCHEMA,
            "frame_count": self.frame_count,
            "config": self.config.to_dict(),
            "has_map": self._map is not None,
        }
        if self._map is None:
            return AtlasChanges({}, {}, metadata)
        m = self._map
        evidence, atlas = m.evidence, m.atlas
        metadata["chart_count"] = len(atlas)
        metadata["turns"] = m.turns.facts()
        cells = evidence.view_cells
        tables = {
            "charts": TableChange(atlas.stored_columns(), _union(m.changed_charts, len(atlas))),
            "surfels": TableChange(
                {k: evidence.column(k) for k in evidence.columns}, _union(m.changed_surfels, len(evidence))
            ),
            "blocks": TableChange(
                {"passes": evidence.passes[: evidence.block_count]}, evidence.blocks_with_new_passes
            ),
            "views": TableChange({"cell": cells}, np.arange(m.committed_views, len(cells))),
        }
        return AtlasChanges(tables, m.regime.shared_arrays() | m.turns.arrays(), metadata)

    def mark_committed(self) -> None:
        """Start collecting changes anew."""
        if self._map is not None:
            self._map.changed_charts.clear()
            self._map.changed_surfels.clear()
            self._map.evidence.forget_new_passes()
            self._map.committed_views = len(self._map.evidence.view_cells)

    @classmethod
    def restore(
        cls,
        state: AtlasState,
        device: torch.device | str = "cpu",
        memory: ArrayMemory | None = None,
    ) -> Reconstructor:
        """Continue from a committed state: the next frame gives the same bits as without the restart.

        Raises
        ------
        StorageError
            The state was written by a newer schema or does not fit its own configuration.
        """
        schema = state.metadata.get("schema")
        if schema != _SCHEMA:
            raise StorageError(
                f"an atlas of schema {_SCHEMA}", f"schema {schema}", "Use the version that wrote it."
            )
        self = cls(SceneConfig.from_dict(state.metadata["config"]), device, memory)
        self.frame_count = int(state.metadata["frame_count"])
        if state.metadata["has_map"]:
            with self._memory.writing():
                self._map = self._restored_map(state)
        return self

    def _restored_map(self, state: AtlasState) -> _Map:
        m = _Map(self.config, self.device, self._memory)
        drawn = m.regime.shared_arrays()
        if any(not np.array_equal(values, state.arrays.get(name, ())) for name, values in drawn.items()):
            m.regime = make_regime(self.config, self.device, SharedFeatures.stored(state.arrays, drawn))
        if m.regime.parameter_count != state.tables["charts"]["parameters"].shape[1]:
            raise StorageError(
                f"charts of {m.regime.parameter_count} weights, as the shared ones and the configuration say",
                f"{state.tables['charts']['parameters'].shape[1]}",
                "Another version wrote the atlas; reconstruct it from its log.",
            )
        m.evidence = SurfelMap.restore(
            m.evidence.voxel_size_m,
            self.config.evidence,
            state.tables["surfels"],
            state.tables["blocks"]["passes"],
            state.tables["views"]["cell"],
            self._memory,
        )
        m.turns.restore(state.metadata["turns"], state.arrays, len(m.evidence))
        m.atlas = Atlas.restore(
            m.atlas.radii_m[0],
            m.atlas.scales_m[0],
            state.tables["charts"],
            lambda parameters: rasters_of(m.regime, torch.from_numpy(parameters).to(self.device)),
            self._memory,
        )
        return m


class _Clock:
    """Wall time per stage of one frame."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return self._last - self._start


def _union(parts: list[npt.NDArray[np.int64]], count: int) -> npt.NDArray[np.int64]:
    """The distinct row numbers below ``count``, ascending."""
    flags = np.zeros(count, np.bool_)
    for part in parts:
        flags[part] = True
    return np.flatnonzero(flags)
